"""Error curves of groups that are not read by linear layers alone: the model is run without units.

Group OBS needs the moments of every layer that reads a group. The gates of a recurrent layer, the
operands of an Einsum, stacks of experts, weights in bodies, quantized weights and weights that
several nodes read have none, and recovery does not refit them. So units are removed and the outputs
are looked at: first a few units at a time, which orders them, then more and more in that order,
which prices every width. What linear layers read of the same units is refitted as recovery
would. Errors are those of the outputs, the currency of all other curves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.memory import MemoryBudget
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostModel
from onnxprune.graph.layers.sources import content, use_of
from onnxprune.graph.reference import UnitMasks, mask_model
from onnxprune.graph.surgery import cut
from onnxprune.graph.units import Group
from onnxprune.select import criteria
from onnxprune.select.importance.curves import Feeds, Reader
from onnxprune.select.importance.downstream import DownstreamError
from onnxprune.select.importance.output_errors import WORST, affordable, scaled, without
from onnxprune.solve.group_obs import Elimination

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

_SHARES = (0.75, 0.5, 0.25)
"""The shares of its units that a group keeps when it is priced."""
_PARTS = (4, 64)
"""Fewest and most parts of a group that are removed alone."""
_RUNS, _MACS = 192, 2.5e11
"""Models that are run for all groups together, and the multiplications that they may take, where
the fewest parts and inputs allow; half of them to order units, half to price widths."""
_FEWEST, _ORDERING = 4, 64
"""Fewest inputs looked at, and most of those that units are ordered by."""
_NOTHING = 1e-12
"""Errors below are rounding."""
_EVEN = 1e-3
"""Part of its mean that every unit is taken to cost at least: parts that change nothing alone may
do so together."""


@dataclass(frozen=True, eq=False)
class Removals:
    """What groups are measured by.

    Attributes:
        analysis: analysis of the dense model.
        readers: moments of the linear layers that read units and have their weights to themselves.
        fit: feeds that units are ordered on.
        holdout: feeds that widths are priced on.
        provider: what runs the models.
        memory: the memory budget.
    """

    analysis: Analysis
    readers: Mapping[str, Reader]
    fit: Sequence[Feeds]
    holdout: Sequence[Feeds]
    provider: str = "cpu"
    memory: MemoryBudget = field(default_factory=MemoryBudget)

    def model(self, group: Group, units: Sequence[int] | Index) -> models.Model:
        """The dense model without units: masked, or cut where a cut is another function.

        Args:
            group: group of the analysis.
            units: units that are gone; linear layers that read the others are refitted.
        """
        removed = {group.name: [int(unit) for unit in units]}
        analysis = self.analysis
        if self._refits(group):
            refitted = without(analysis, group, removed[group.name], self.readers)
            analysis = replace(analysis, model=refitted)
        return mask_model(analysis, removed) if group.exact else cut(analysis, removed)

    def _refits(self, group: Group) -> bool:
        """Whether a linear layer that can be refitted reads the group."""
        return any(
            node in self.readers
            for part in group.slices
            if part.role == "reads"
            for node in part.nodes
        )

    def errors(self, group: Group, error: DownstreamError) -> Callable[[Index], float]:
        """A function from units that are gone to the error of the outputs without them."""
        if self._refits(group) or not group.exact:
            return lambda units: error.of(self.model(group, units))
        masks = UnitMasks(self.analysis, group.name)
        opened = error.opened(masks.model, masks.values)
        return lambda units: opened(masks.tensors([int(unit) for unit in units]))


def masked_curves(
    removals: Removals,
    groups: Sequence[Group],
    *,
    priced: bool = True,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Elimination], dict[str, str]]:
    """The order of removal and the error at every width, by what removal does to the outputs.

    Args:
        removals: what they are measured by.
        groups: groups of the analysis.
        priced: whether widths are measured too; else errors only rise in the order of removal.
        progress: told which group is being measured.

    Returns:
        ``{group: elimination}``, and ``{group: why there is none}``.
    """
    curves: dict[str, Elimination] = {}
    declined: dict[str, str] = {}
    if not groups:
        return curves, declined
    analysis, provider = removals.analysis, removals.provider
    # Of a model without units, what lies in front of these does not run: half of it on average.
    macs = max(CostModel(analysis)().macs, 1) * _FEWEST / 2
    most = int(np.clip(min(_RUNS, _MACS / 2 / macs) / len(groups), *_PARTS))
    parts = sum(min(len(group), most) for group in groups)
    fit = affordable(
        removals.fit, analysis, parts / 2, macs=_MACS / 2, fewest=_FEWEST, most=_ORDERING
    )
    runs = len(groups) * (len(_SHARES) + 2)  # two orders are compared as well
    holdout = affordable(removals.holdout, analysis, runs / 2, macs=_MACS / 2, fewest=_FEWEST)
    try:
        ordering, pricing = (
            DownstreamError(
                analysis.model, feeds, provider=provider, worst=WORST, memory=removals.memory
            )
            for feeds in (fit, holdout)
        )
    except OnnxpruneError as error:
        return curves, dict.fromkeys((group.name for group in groups), str(error))
    for group in groups:
        progress(f"measuring what {group.name} does to the outputs")
        try:
            one = _ordered(removals, group, ordering, pricing, most)
            curves[group.name] = _priced(removals, group, one, pricing) if priced else one
        except OnnxpruneError as error:
            declined[group.name] = f"the model does not run without some of its units: {error}"
    return curves, declined


def _ordered(
    removals: Removals, group: Group, error: DownstreamError, judge: DownstreamError, most: int
) -> Elimination:
    """Units in the order in which they leave, and the sum of what their parts cost alone.

    Parts are units of similar weights. What a part costs alone says little where units make up for
    each other, so the order by weights is kept if half of the units cost less in that. Parts are
    many and are compared on few inputs, ``error``; two orders on those that widths are priced by.
    """
    prior = _prior(removals.analysis, group)
    parts = np.array_split(prior, min(len(group), most))
    alone = replace(removals, readers={})  # few units: a refit would hide which of them count
    of = alone.errors(group, error)
    costs = np.array([of(part) / len(part) for part in parts])
    if not costs.any():
        costs = np.ones(len(parts))
    costs = costs + _EVEN * costs.mean()
    measured, half = np.argsort(costs, kind="stable"), len(group) // 2
    order = np.concatenate([parts[at] for at in measured])
    if half and {*order[:half]} != {*prior[:half]}:
        of = removals.errors(group, judge)
        halves = [of(units[:half]) for units in (order, prior)]
        measured = measured if halves[0] <= halves[1] else np.arange(len(parts))
    rises = np.concatenate([np.full(len(parts[at]), costs[at]) for at in measured])
    order = np.concatenate([parts[at] for at in measured])
    return Elimination(order, np.append(np.cumsum(rises)[::-1], 0.0))


def _prior(analysis: Analysis, group: Group) -> Index:
    """Units by the size of their weights, the smallest first; units of one size as they come."""
    scores = criteria.score(
        [group], "l2", lambda tensor: content(analysis, tensor), use=use_of(analysis)
    )
    values = scores.values.get(group.name, np.zeros(len(group)))
    return np.argsort(values, kind="stable")


def _priced(
    removals: Removals, group: Group, one: Elimination, error: DownstreamError
) -> Elimination:
    """The curve brought to what the outputs lose at a few widths."""
    units = len(group)
    widths = [w for w in sorted({max(round(units * s), 1) for s in _SHARES}) if w < units]
    if not widths:
        return one
    of = removals.errors(group, error)
    errors = [of(one.order[: units - width]) for width in widths]
    factors = np.maximum(errors, _NOTHING) / one.error[widths]
    return scaled(one, (np.array(widths, float), factors))
