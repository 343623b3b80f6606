"""What a ratio has removed, and of what: units, parameters and multiply-accumulates.

The share of the units, of the parameters and of the arithmetic are three different numbers, and
widths are rounded; a result that names only the option would leave open which of them it met.
"""

from __future__ import annotations

import math

from onnxprune.config import Options
from onnxprune.errors import spelled
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostModel
from onnxprune.quantities import percent, plural
from onnxprune.select.selection import Selection

_NEAR = 0.005
"""Difference between the ratio and the share removed from which on the reason is said."""


def removed_shares(analysis: Analysis, config: Options, selection: Selection) -> tuple[str, ...]:
    """A sentence on what a ratio removes; none where no ratio is given or nothing is removed.

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
