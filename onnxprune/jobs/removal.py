"""What a run removed of what its options ask for: the shares, or the reasons for nothing."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping

from onnxprune.config import Options
from onnxprune.errors import spelled
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import Cost, CostModel
from onnxprune.graph.plan import Plan
from onnxprune.model import Model
from onnxprune.quantities import percent, plural
from onnxprune.select.selection import Selection
from onnxprune.sparse.targets import FLOAT_FIRST, integer_layers
from onnxprune.types import NOTHING_REMOVED, Check

OWN_FLAGS = {"vocabulary": "--vocab", "class": "--keep-outputs"}
"""Options that alone remove units of a kind: which of them go is for the user to say."""
_REASONS = 3
"""Most reasons for axes that stay: `inspect` lists all of them."""
_NEAR = 0.005
"""Difference between the ratio and the share removed from which on the reason is said."""


def requests(config: Options, dense: Cost) -> list[str]:
    """The options that ask to remove something, by name.

    A share of 0 asks for nothing, and so does a budget that the dense model keeps.

    Args:
        config: the options.
        dense: the cost of the dense model.
    """
    target = config.target
    amounts = {
        "ratio": bool(config.ratio),
        "heads": bool(config.heads),
        "ratios": any(share for _, share in config.ratios),
        "blocks": bool(config.blocks),
        "sparsity": config.sparsity is not None,
        "max-drop": config.searches,
    }
    if target is not None and target.timed:
        # Whether the dense model is within an absolute time is the business of its own check.
        amounts["target"] = target.relative and target.value < 1
    elif target is not None:
        whole = dense.of(target.kind)
        amounts["target"] = target.limit(whole) < whole
    return [name for name, asks in amounts.items() if asks]


def is_empty(plan: Plan) -> bool:
    """Whether a plan removes no unit, block, id or class, and sets no weight to zero."""
    zeros = any(mask.kept < mask.size for mask in plan.zeroed.values())
    return not (any(plan.removed.values()) or plan.bypassed or plan.interface or zeros)


def check_removal(config: Options, dense: Cost, plan: Plan) -> tuple[Check, ...]:
    """A failed check where something is to be removed and the plan removes nothing at all."""
    number = len(requests(config, dense))
    if not (number and is_empty(plan)):
        return ()
    return (Check(NOTHING_REMOVED, ok=False, value=float(number), limit=0.0),)


def reasons(
    config: Options, analysis: Analysis, plan: Plan, unchanged: Mapping[str, str]
) -> tuple[str, ...]:
    """Sentences on why no unit was removed though some were to go; empty where any was.

    Args:
        config: the options.
        analysis: of the dense model.
        plan: what was removed.
        unchanged: why groups that could be cut stay whole, by group; groups that cannot be cut
            have notes of their own.
    """
    opened = config.interface and plan.interface
    if any(plan.removed.values()) or plan.bypassed or opened or not config.removes_units:
        return ()
    sentences = _by_group(unchanged) if analysis.groups else _by_axis(analysis)
    return tuple(f"no unit was removed: {each}" for each in sentences)


def removed_shares(analysis: Analysis, config: Options, selection: Selection) -> tuple[str, ...]:
    """A sentence on what a ratio removes; none where no ratio is given or nothing is removed.

    The shares of the units, of the parameters and of the arithmetic are three different numbers,
    and widths are rounded; a result that names only the option leaves open which of them it met.

    Args:
        analysis: of the dense model.
        config: the options.
        selection: the units that leave.

    Example:
        >>> from onnxprune.data import zoo
        >>> from onnxprune.graph.analysis import analyse
        >>> analysis = analyse(zoo.get("digits_mlp").model)
        >>> removed = {group.name: tuple(range(len(group) // 4)) for group in analysis.groups}
        >>> selection = Selection(removed, "l2", "uniform", {})
        >>> print(removed_shares(analysis, Options(ratio=0.25), selection)[0].partition(":")[0])
        25 % of the units of 3 groups were removed
    """
    free = [g for g in analysis.groups if g.name not in selection.declined]
    removed = {g.name: units for g in free if (units := selection.removed.get(g.name))}
    if not (config.ratio and removed):
        return ()
    share = sum(map(len, removed.values())) / sum(map(len, free))
    cost = CostModel(analysis)
    dense, rest = cost(), cost(removed)
    parts = [f"{percent(1 - rest.params / max(dense.params, 1))} of the parameters"]
    if dense.macs:
        parts.append(f"{percent(1 - rest.macs / dense.macs)} of the MACs")
    note = f"{percent(share)} of the units of {plural(len(free), 'group')} were removed: "
    note += " and ".join(parts)
    widths = [len(g) - len(removed[g.name]) for g in free if g.name in removed]
    multiple = math.gcd(*widths)
    multiple &= -multiple  # widths that are fast are multiples of powers of two
    if multiple > 1:
        note += f"; widths are multiples of {multiple}"
    if abs(share - config.ratio) >= _NEAR:
        note += f"; no allowed widths come nearer to {percent(config.ratio)}"
        note += "" if config.round_to == 1 else " (--round-to 1 allows any)"
    return (spelled(note),)


def quantized_note(model: Model) -> tuple[str, ...]:
    """A sentence on a model whose layers multiply in integers, and what to prune instead."""
    integers = integer_layers(model)
    return (f"{integers}: {FLOAT_FIRST}",) if integers else ()


def _by_group(unchanged: Mapping[str, str]) -> Iterator[str]:
    """Every reason once, with the first group it holds for."""
    for reason, count in Counter(unchanged.values()).items():
        first = next(name for name, why in unchanged.items() if why == reason)
        others = f" and {plural(count - 1, 'other group')}" if count > 1 else ""
        yield f"{reason} ({first}{others})"


def _by_axis(analysis: Analysis) -> Iterator[str]:
    """The commonest reasons why no axis of a stored tensor can lose an index."""
    counts = Counter(each.reason for each in analysis.pinned)
    for reason, count in counts.most_common(_REASONS):
        first = next(each for each in analysis.pinned if each.reason == reason)
        stay = "axis stays" if count == 1 else "axes stay"
        yield f"{count} {stay} because {reason} ({first.tensor}, axis {first.axis})"
    if len(counts) > _REASONS:
        yield f"{plural(len(counts) - _REASONS, 'other reason')}, as `onnxprune inspect` lists them"
    if not counts:
        yield "the model stores no tensor that can be cut"
