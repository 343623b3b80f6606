"""Which units go, under a ratio or a budget, given how important they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnxprune.config import Options
from onnxprune.graph.cost import CostMeasure, CostModel
from onnxprune.quantities import Budget
from onnxprune.select.allocate import (
    Lattice,
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
from onnxprune.select.importance.units import Importance, Problem, rises_of, score_groups
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


def select(problem: Problem) -> Selection:
    """Choose units under a ratio or a budget of multiplications, parameters or bytes.

    Raises:
        OnnxpruneError: the criterion needs data, or the budget cannot be met.
    """
    importance, target = score_groups(problem), problem.config.target
    widths = allowed_widths(problem, importance)
    cost = CostModel(problem.analysis).only("macs" if target is None else target.kind)
    return choose(problem, widths, importance, target, cost)


def allowed_widths(problem: Problem, importance: Importance) -> Lattice:
    """The widths that the limits and the provider's kernels allow.

    Under a latency budget these are candidates, to be timed: see `latency`.

    Args:
        problem: what units are chosen from.
        importance: groups without scores are left alone; errors divide shares of several groups.
    """
    analysis, asked, state = problem.analysis, problem.config, problem.state
    shapes = {t.name: [a.size or 0 for a in t.axes] for t in analysis.tensors}
    ops = {call.name: call.op for _, call in analysis.walk.calls}
    grain = grains(
        shapes,
        ops,
        provider=asked.provider,
        round_to=None if asked.round_to == "auto" else asked.round_to,
        choices=1 if asked.target is None else CHOICES,
        timed=asked.target is not None and asked.target.timed,
    )
    swept = _weighed(asked, importance)
    together = {*swept, *state.removed} if swept else set[str]()
    if asked.allocation == "global" and not swept:
        together = set(importance.scores)
    widths = lattice(
        analysis.groups,
        axes_of(analysis.groups, shapes, grain),
        problem.limits,
        unscored=importance.declined,
        known=[b.name for b in analysis.blocks],
        together=together,
    )
    widths = state.narrowed(widths, importance.curves.swept)
    if widths.shares:
        widths = widths.decided(divide(widths, _ranking(importance), _curves(widths, swept)))
    return widths


def choose(
    problem: Problem,
    widths: Lattice,
    importance: Importance,
    target: Budget | None,
    cost: CostMeasure,
) -> Selection:
    """Choose widths and units.

    Args:
        problem: what units are chosen from.
        widths: those allowed.
        importance: of the units.
        target: what may be left, in the unit of ``cost``; None removes by ratio.
        cost: what the target limits.

    Raises:
        OnnxpruneError: the budget cannot be met.
    """
    asked, bypassed = problem.config, problem.bypassed
    swept = _weighed(asked, importance)
    if swept and target is not None:
        return _by_curves(problem, widths, importance, target, cost)
    allocation = allocate(
        widths,
        importance.scores,
        ratio=asked.ratio,
        target=target,
        cost=lambda removed: cost.measure(removed, bypassed),
        policy=asked.allocation,
        comparable="comparable" in importance.claims,
        damage="damage" in importance.claims,
        stairs=cost.stairs,
    )
    anywhere = target is not None or (asked.ratio is None and bool(swept))
    policy = asked.allocation or ("global" if anywhere else "uniform")
    return Selection(allocation.removed, importance.criterion, policy, allocation.declined)


def narrowest(widths: Lattice, importance: Importance) -> Selection:
    """As many units removed as the limits allow, and no blocks."""
    ranking = _ranking(importance)
    kept = settle(widths, ranking, widths.smallest())
    return Selection(ranking.removed(kept), importance.criterion, "global", widths.declined)


def _weighed(asked: Options, importance: Importance) -> Mapping[str, Elimination]:
    """The curves that groups are weighed against each other by; none where all are cut alike."""
    return {} if asked.allocation == "uniform" else importance.curves.swept


def _ranking(importance: Importance) -> Ranking:
    """The order in which units leave: that of their elimination, where there was one."""
    by_score = ranked(importance.scores, comparable="comparable" in importance.claims)
    swept = importance.curves.swept
    return Ranking(
        {**by_score.order, **{g: e.order for g, e in swept.items()}},
        {**by_score.keys, **{g: rises_of(e) for g, e in swept.items()}},
    )


def _curves(widths: Lattice, swept: Mapping[str, Elimination]) -> dict[str, Curve]:
    """Damage at the widths that are allowed."""
    return {g: Curve(w, swept[g].damage[w]) for g, w in widths.widths.items() if g in swept}


def _by_curves(
    problem: Problem, widths: Lattice, importance: Importance, target: Budget, cost: CostMeasure
) -> Selection:
    """Widths and bypasses by a knapsack over errors; groups that have no choice as they are."""
    analysis = problem.analysis

    def taken(removed: Mapping[str, Sequence[int]], dropped: Sequence[str]) -> float:
        return float(cost.measure(removed, (*problem.bypassed, *dropped)))

    found = spend(
        widths,
        _ranking(importance),
        _curves(widths, importance.curves.swept),
        taken,
        target.limit(cost.measure()),
        branches={
            name: Branch(inside(analysis.groups, analysis.block(name)), damage)
            for name, damage in importance.curves.blocks.items()
        },
        most=problem.config.max_blocks,
        probes=max(map(len, widths.widths.values()), default=1) if cost.stairs else PROBES,
    )
    return Selection(found.removed, importance.criterion, "global", widths.declined, found.dropped)
