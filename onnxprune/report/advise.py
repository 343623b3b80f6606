"""Advice on a terminal."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Group, RenderableType
from rich.text import Text

from onnxprune.jobs.advise.evidence import CONTRACTIONS, Evidence, Spent
from onnxprune.jobs.advise.methods import Advice
from onnxprune.quantities import measured, percent, plural, quantity, size
from onnxprune.report.tables import inset, spaced, table, titled

_STYLES = {"pays": "green", "may pay": "yellow", "does not pay": "dim"}
_SHOWN = 5


def shown(known: Evidence, advice: tuple[Advice, ...]) -> RenderableType:
    """Where time goes, what to do about it, and what to run next."""
    sizes = known.sizes
    head = (
        f"{known.model}  {quantity(sizes.macs)} MACs, {quantity(sizes.params)} parameters, "
        f"{size(sizes.bytes)}; {percent(sizes.reachable)} of the parameters can be removed"
    )
    parts: list[RenderableType] = [Text(head)]
    parts += [_spent(each) for each in known.spent]
    parts += [
        Text.assemble((backend, "bold"), "  not measured: ", reason)
        for backend, reason in known.unmeasured
    ]
    parts.append(titled("Advice", listed(advice)))
    commands = dict.fromkeys(each.command for each in advice if each.command)
    if commands:
        lines = [Text(line, no_wrap=True, overflow="ignore") for line in commands]
        parts.append(titled("Next", Group(*lines)))
    known_facts = dict.fromkeys(each.fact for each in advice if each.word != "does not pay")
    if known_facts:
        told = [Text.assemble(f"{fact.says} ", (f"({fact.source})", "dim")) for fact in known_facts]
        parts.append(titled("Because", Group(*told)))
    if known.busy:
        note = "the machine was busy: shares of a run are rough, look again when it is not"
        parts.append(Text.assemble(("note: ", "bold cyan"), note))
    return Group(*spaced(parts))


def listed(advice: Iterable[Advice]) -> RenderableType:
    """One line for each method and backend."""
    drawn = table("", "method", "on", "latency>", "weights>", "why")
    for each in advice:
        word = "leave it" if each.method == "nothing" else each.word
        drawn.add_row(
            Text(word, _STYLES[each.word]),
            each.method,
            each.backend,
            "" if each.estimate is None else f"{each.estimate:.2f}x",
            "" if each.bytes_left is None else f"{each.bytes_left:.2f}x",
            Text(each.why),
        )
    return Group(drawn, Text("latency and weights: what is left at best", "dim"))


def _spent(spent: Spent) -> RenderableType:
    head = Text.assemble(
        (spent.backend, "bold"),
        f"  {measured(spent.run_s, 'seconds')} a run, {spent.precision}; "
        f"{percent(spent.contractions)} in convolutions and products, "
        f"{percent(spent.overhead)} between operators",
    )
    drawn = table("operator", "calls>", "time>", "share>", "")
    for row in spent.operators[:_SHOWN]:
        shrinks = "shrinks with its sizes" if row.op in CONTRACTIONS else ""
        share = percent(row.seconds / spent.undisturbed_s)
        drawn.add_row(row.op, str(row.calls), measured(row.seconds, "seconds"), share, shrinks)
    left = len(spent.operators) - _SHOWN
    under = [Text(f"and {plural(left, 'kind')} more", "dim")] if left > 0 else []
    return Group(head, inset(Group(drawn, *under)))
