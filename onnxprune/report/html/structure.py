"""What stays of every group, in the order of the network, and why the rest cannot go."""

from __future__ import annotations

from onnxprune import quantities as numbers
from onnxprune.jobs.results.schema import Report
from onnxprune.report.html.markup import Content, Markup, Row, code, join, table, tag
from onnxprune.report.html.tools import tools


def section(run: Report, key: str, couplings: str, most: int) -> Markup:
    """Kept bars, bypassed blocks, and pinned axes.

    Args:
        run: what was pruned.
        key: of the section, unique on the page.
        couplings: key of the section that says what leaves with a unit.
        most: rows of a table.
    """
    gone = sum(row.units - row.kept for row in run.groups)
    groups = numbers.plural(len(run.groups), "group")
    told = f"{numbers.plural(gone, 'unit')} of {groups} removed; bars are what is kept"
    if run.command == "inspect":
        told = f"{groups} can lose units"
    parts = [tag("p", f"{told}, in the order of the network. {_reach(run)}")]
    if run.groups:
        kinds = dict.fromkeys(row.kind for row in run.groups)
        parts += [tools(key, "groups", kinds=list(kinds)), _groups(run, key, couplings, most)]
    if run.blocks:
        parts += [tag("h4", "Blocks"), _blocks(run, most)]
    if run.pinned:
        parts += [tag("h4", "Pinned"), _pinned(run, most)]
    return join(parts)


def reasons(run: Report) -> dict[str, str]:
    """Why a group was left alone or is not exact, by group: its own reason, or what a note says."""
    found = {row.name: row.reason for row in run.groups if row.reason}
    for note in run.notes:
        for row in run.groups:
            if note.startswith(f"{row.name}: "):
                found[row.name] = note.removeprefix(f"{row.name}: ")
    return found


def _reach(run: Report) -> str:
    """How much of the model pruning can touch."""
    whole = max(run.reach.params, 1)
    exact, inexact = (numbers.percent(n / whole) for n in (run.reach.exact, run.reach.inexact))
    more = f", and {inexact} more with --allow-inexact" if run.reach.inexact else ""
    return f"Reachable: {exact} of {numbers.quantity(run.reach.params)} parameters{more}."


def _groups(run: Report, key: str, couplings: str, most: int) -> Markup:
    why = reasons(run)
    described = {row.group for row in run.couplings}
    rows = []
    for k, row in enumerate(run.groups):
        kept = row.kept / max(row.units, 1)
        name = code(row.name)
        if row.name in described:
            name = tag("a", name, href=f"#{couplings}-{k}")
        cells: list[Content] = [
            name,
            row.kind,
            [
                tag("span", class_="bar", style=f"--kept:{kept:.4f}"),
                f"{row.kept:,} / {row.units:,}",
            ],
            numbers.percent(1 - kept),
            numbers.quantity(row.params),
            numbers.quantity(row.macs),
            *([why.get(row.name, "")] if why else []),
        ]
        rows.append(Row(cells, {"data_name": row.name, "data_kind": row.kind}))
    heads = ["group", "kind", "kept", "removed>", "params/unit>", "MACs/unit>"]
    return table(
        [*heads, *(["remark"] if why else [])],
        rows,
        caption="Units kept per group",
        tall=True,
        most=most,
        class_="groups",
        id=f"{key}-rows",
    )


def _blocks(run: Report, most: int) -> Markup:
    return table(
        ("block", "", "nodes>", "params>", "MACs>"),
        [
            (
                code(row.name),
                "bypassed" if row.bypassed else "stays",
                str(row.nodes),
                numbers.quantity(row.params),
                numbers.quantity(row.macs),
            )
            for row in run.blocks
        ],
        caption="Residual branches",
        tall=True,
        most=most,
    )


def _pinned(run: Report, most: int) -> Markup:
    return table(
        ("because", "axes>", "params>", "for example"),
        [
            (row.reason, f"{row.axes:,}", numbers.quantity(row.params), code(row.example))
            for row in run.pinned
        ],
        caption="Axes that stay, and why",
        most=most,
        class_="prose",
    )
