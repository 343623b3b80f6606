"""Which units go, under a ratio or a budget, given what they are worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxprune.config import Options
from onnxprune.data.dataset import Feeds
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostMeasure, CostModel
from onnxprune.quantities import Budget
from onnxprune.select.allocate import (
    Lattice,
    Limits,
    allocate,
    axes_of,
    grains,
    lattice,
    settle,
)
from onnxprune.select.allocate.alignment import CHOICES
from onnxprune.select.allocate.allocate_budget import spend
from onnxprune.select.allocate.allocation import divide
from onnxprune.select.allocate.ranking import Ranking, ranked
from onnxprune.select.importance.bypass import inside
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.progress import Progress
from onnxprune.select.importance.units import Tell, Worth, rises_of, worth_of
from onnxprune.solve.coupled import PROBES, Branch, Curve
from onnxprune.solve.group_obs import Elimination


@dataclass(frozen=True, eq=False)
class Selection:
    """What goes, and how that was chosen.

    Attributes:
        removed: by group, unit indices.
        criterion: how units were scored; empty if none were.
        allocation: how what goes was divided, ``uniform`` or ``global``.
        declined: by group, why it stays whole.
        bypassed: blocks that go as well.
    """

    removed: Mapping[str, tuple[int, ...]]
    criterion: str
    allocation: str
    declined: Mapping[str, str]
    bypassed: tuple[str, ...] = ()


def select(
    analysis: Analysis,
    asked: Options,
    limits: Limits,
    fit: Sequence[Feeds],
    bypassed: Sequence[str],
    tell: Tell,
    curves: Curves | None = None,
    so_far: Progress | None = None,
) -> Selection:
    """Choose units under a ratio or a budget of multiplications, parameters or bytes.

    Args:
        analysis: of the dense model.
        asked: the options.
        limits: guard rails made from them.
        fit: the calibration feeds that may be fitted to; empty without data.
        bypassed: blocks that go anyway; their layers cost nothing.
        tell: hears the progress.
        curves: damage curves, where they are known already; else they are measured if need be.
        so_far: what earlier steps have left, to measure damage on; what they took is chosen again.

    Raises:
        OnnxpruneError: the criterion needs data, or the budget cannot be met.
    """
    worth = worth_of(analysis, asked, limits, fit, bypassed, tell, curves, so_far)
    widths = allowed(analysis, asked, limits, worth, so_far)
    kind = asked.target.kind if asked.target is not None else "macs"
    cost = CostModel(analysis).only(kind)
    return choose(analysis, widths, worth, asked, asked.target, cost, bypassed)


def allowed(
    analysis: Analysis,
    asked: Options,
    limits: Limits,
    worth: Worth,
    so_far: Progress | None = None,
) -> Lattice:
    """The widths that the limits and the provider's kernels allow.

    Under a latency budget these are candidates, to be timed: see `latency`.

    Args:
        analysis: of the dense model.
        asked: the options.
        limits: guard rails made from them.
        worth: groups without scores are left alone; damage divides shares of several groups.
        so_far: what earlier steps have left.
    """
    shapes = {t.name: [a.size or 0 for a in t.axes] for t in analysis.tensors}
    ops = {call.name: call.op for _, call in analysis.walk.calls}
    grain = grains(
        shapes,
        ops,
        provider=asked.backend,
        round_to=None if asked.round_to == "auto" else asked.round_to,
        choices=1 if asked.target is None else CHOICES,
        timed=asked.target is not None and asked.target.timed,
    )
    so_far = so_far or Progress(analysis)
    swept = _weighed(asked, worth)
    together = {*swept, *so_far.removed} if swept else set[str]()
    if asked.allocation == "global" and not swept:
        together = set(worth.scores)
    widths = lattice(
        analysis.groups,
        axes_of(analysis.groups, shapes, grain),
        limits,
        unscored=worth.declined,
        known=[b.name for b in analysis.blocks],
        together=together,
    )
    widths = so_far.narrowed(widths, worth.curves.swept)
    if widths.shares:
        widths = widths.decided(divide(widths, _ranking(worth), _curves(widths, swept)))
    return widths


def choose(
    analysis: Analysis,
    widths: Lattice,
    worth: Worth,
    asked: Options,
    target: Budget | None,
    cost: CostMeasure,
    bypassed: Sequence[str] = (),
) -> Selection:
    """Choose widths and units.

    Args:
        analysis: of the dense model.
        widths: those allowed.
        worth: what units are worth.
        asked: the options.
        target: what may be left, in the unit of ``cost``; None removes by ratio.
        cost: what the target limits.
        bypassed: blocks that go anyway.

    Raises:
        OnnxpruneError: the budget cannot be met.
    """
    swept = _weighed(asked, worth)
    if swept and target is not None:
        return _by_curves(analysis, widths, worth, target, cost, bypassed, most=asked.max_blocks)
    allocation = allocate(
        widths,
        worth.scores,
        ratio=asked.ratio,
        target=target,
        cost=lambda removed: cost.measure(removed, bypassed),
        policy=asked.allocation,
        comparable="comparable" in worth.claims,
        damage="damage" in worth.claims,
        stairs=cost.stairs,
    )
    anywhere = target is not None or (asked.ratio is None and bool(swept))
    how = asked.allocation or ("global" if anywhere else "uniform")
    return Selection(allocation.removed, worth.criterion, how, allocation.declined)


def narrowest(widths: Lattice, worth: Worth) -> Selection:
    """As many units removed as the limits allow, and no blocks."""
    ranking = _ranking(worth)
    kept = settle(widths, ranking, widths.smallest())
    return Selection(ranking.removed(kept), worth.criterion, "global", widths.declined)


def _weighed(asked: Options, worth: Worth) -> Mapping[str, Elimination]:
    """The curves that groups are weighed against each other by; none where all are cut alike."""
    return {} if asked.allocation == "uniform" else worth.curves.swept


def _ranking(worth: Worth) -> Ranking:
    """The order in which units leave: that of their elimination, where there was one."""
    by_score = ranked(worth.scores, comparable="comparable" in worth.claims)
    swept = worth.curves.swept
    return Ranking(
        {**by_score.order, **{g: e.order for g, e in swept.items()}},
        {**by_score.keys, **{g: rises_of(e) for g, e in swept.items()}},
    )


def _curves(widths: Lattice, swept: Mapping[str, Elimination]) -> dict[str, Curve]:
    """Damage at the widths that are allowed."""
    return {g: Curve(w, swept[g].damage[w]) for g, w in widths.widths.items() if g in swept}


def _by_curves(
    analysis: Analysis,
    widths: Lattice,
    worth: Worth,
    target: Budget,
    cost: CostMeasure,
    bypassed: Sequence[str],
    *,
    most: int | None,
) -> Selection:
    """Widths and bypasses by a knapsack over damage; groups that have no choice as they are."""

    def taken(removed: Mapping[str, Sequence[int]], dropped: Sequence[str]) -> float:
        return float(cost.measure(removed, (*bypassed, *dropped)))

    found = spend(
        widths,
        _ranking(worth),
        _curves(widths, worth.curves.swept),
        taken,
        target.limit(cost.measure()),
        branches={
            name: Branch(inside(analysis.groups, analysis.block(name)), damage)
            for name, damage in worth.curves.blocks.items()
        },
        most=most,
        probes=max(map(len, widths.widths.values()), default=1) if cost.stairs else PROBES,
    )
    return Selection(found.removed, worth.criterion, "global", widths.declined, found.dropped)
