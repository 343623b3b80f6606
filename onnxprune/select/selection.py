"""Which units go, under a ratio or a budget, given how important they are."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError, spelled
from onnxprune.graph.cost import CostMeasure, CostModel, StaticCost
from onnxprune.quantities import Budget
from onnxprune.select.allocate import (
    CandidateWidths,
    CostFunction,
    alignments,
    allocate,
    axes_of,
    find_widths,
    repair_widths,
)
from onnxprune.select.allocate.alignment import CHOICES
from onnxprune.select.allocate.allocate_budget import allocate_budget
from onnxprune.select.allocate.allocation import UnmetError, divide_shares, unmet
from onnxprune.select.allocate.ranking import Ranking, ranked
from onnxprune.select.importance.bypass import inside
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.units import Importance, Problem, rises_of, score_groups
from onnxprune.select.refusal import advice, helpful_options
from onnxprune.select.reserve import STORED_COSTS, recovers, vectors_of_recovery
from onnxprune.solve.coupled import PROBES, Branch, Curve
from onnxprune.solve.group_obs import Elimination


@dataclass(frozen=True, eq=False)
class Selection:
    """Units and blocks to remove, and how they were chosen.

    Attributes:
        removed: unit indices, by group.
        criterion: how units were scored; empty if none were.
        allocation: how removals were divided among groups, ``uniform`` or ``global``.
        declined: why a group stays whole, by group.
        bypassed: blocks that are removed too.
        unchanged: why a ratio removes nothing from a group that could be cut, by group.
        notes: sentences on how units were priced.
    """

    removed: Mapping[str, tuple[int, ...]]
    criterion: str
    allocation: str
    declined: Mapping[str, str]
    bypassed: tuple[str, ...] = ()
    unchanged: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


def select(problem: Problem) -> Selection:
    """Choose units under a ratio or a budget of multiplications, parameters or bytes.

    Raises:
        OnnxpruneError: the criterion needs data, or the budget cannot be met.
    """
    importance = score_groups(problem)
    return replace(_within_target(problem, importance), notes=importance.curves.notes)


def _within_target(problem: Problem, importance: Importance) -> Selection:
    target = problem.config.target
    widths = allowed_widths(problem, importance)
    model = CostModel(problem.analysis)
    if target is not None:
        model.require_counted(target.kind)
    cost = model.only("macs" if target is None else target.kind)
    dense = cost.measure()
    if target is not None and not dense:
        raise OnnxpruneError(
            f"{target} cannot be met: the model has no {target.kind} that can be counted",
            hint="limit another cost, as in --target params=50%, or remove a share, as in --ratio",
        )
    if target is None:
        return _by_ratio(problem, widths, importance, cost, dense)
    if not _needs_reserve(problem, widths, dense <= target.limit(dense)):
        return _chosen(problem, widths, importance, cost, dense)
    vectors = vectors_of_recovery(problem.analysis)
    cost = CostModel(problem.analysis, vectors).only(cost.kind)
    try:
        return _chosen(problem, widths, importance, cost, dense)
    except OnnxpruneError as error:
        if vectors:
            room = f"this counts {len(vectors)} vectors that recovery may add (--recover none: 0)"
            error.hint = "; ".join(filter(None, (error.hint, room)))
        raise


def _by_ratio(
    problem: Problem,
    widths: CandidateWidths,
    importance: Importance,
    cost: CostMeasure,
    dense: int,
) -> Selection:
    """Units under the ratio of the options, or why they cannot go."""
    try:
        return choose(problem, widths, importance, None, cost, dense)
    except UnmetError as error:
        limit = 1 - (problem.config.ratio or 0.0)
        hint = advice(problem, importance, widths.declined, least_share, limit, 1.0)
        raise OnnxpruneError(error.message, hint=hint) from None


def least_share(problem: Problem, importance: Importance) -> float:
    """The least that remains of the units that may go, as a share of them."""
    widths = allowed_widths(problem, importance)
    removed = narrowest(widths, importance).removed
    units = sum(widths.units[name] for name in widths.free)
    return 1 - sum(len(removed.get(name, ())) for name in widths.free) / max(units, 1)


def missing_options(problem: Problem, declined: Mapping[str, str]) -> str:
    """The options that let units go where none does; empty where none would.

    Args:
        problem: what units were chosen from.
        declined: why a group stays whole, by group.
    """
    nothing = Importance("l2", {}, Curves({}, {}), {})
    return helpful_options(problem, nothing, declined, least_share, math.nextafter(1.0, 0.0), 1.0)


def removal_advice(problem: Problem) -> str:
    """What lets units go where none does: options that are tried, a larger ratio, or the reasons.

    Args:
        problem: what units were chosen from.
    """
    nothing = Importance("l2", {}, Curves({}, {}), {})
    widths = allowed_widths(problem, nothing)
    below = [
        1 - int(allowed[-2]) / widths.units[name]
        for name in widths.free
        if len(allowed := widths.widths[name]) > 1
    ]
    if not below:
        some = math.nextafter(1.0, 0.0)
        return advice(problem, nothing, widths.declined, least_share, some, 1.0)
    enough = f"--ratio {math.ceil(100 * min(below)) / 100:g} removes units"
    finer = ", and so may --round-to 1" * (problem.config.round_to != 1)
    return spelled(enough + finer)


def _chosen(
    problem: Problem,
    widths: CandidateWidths,
    importance: Importance,
    cost: CostMeasure,
    dense: int,
) -> Selection:
    """Widths and units under the target of the options, or why it cannot be met."""
    target = problem.config.target
    assert target is not None
    limit = target.limit(dense)

    def least(other: Problem, importance: Importance) -> int:
        narrow = narrowest(allowed_widths(other, importance), importance)
        same = other.analysis is problem.analysis
        measure = cost if same else CostModel(other.analysis).only(cost.kind)
        return measure.measure(narrow.removed, other.bypassed)

    try:
        return choose(problem, widths, importance, target, cost, dense)
    except OnnxpruneError as error:
        lowest = least(problem, importance)
        if lowest <= limit:
            raise
        message = error.message
        if not importance.curves.blocks:  # else bypasses make it smaller still
            message = unmet(target, lowest, limit, dense)
        hint = advice(problem, importance, widths.declined, least, limit, dense)
        raise OnnxpruneError(message, hint=hint) from None


def _needs_reserve(problem: Problem, widths: CandidateWidths, met: bool) -> bool:  # noqa: FBT001
    """Whether recovery may add to what the target limits; ``met``: by the dense model already."""
    config = problem.config
    if config.target is None or config.target.kind not in STORED_COSTS:
        return False
    untouched = not problem.bypassed and widths.dense() == dict(widths.units)
    if met and untouched and config.sparsity is None:
        return False  # nothing is cut, so nothing is recovered
    return recovers(config, data=bool(problem.fit))


def allowed_widths(problem: Problem, importance: Importance) -> CandidateWidths:
    """The widths that the limits and the provider's kernels allow.

    Under a latency budget these are candidates, to be timed: see `latency`.

    Args:
        problem: what units are chosen from.
        importance: groups without scores are left alone; errors divide shares of several groups.
    """
    analysis, config, state = problem.analysis, problem.config, problem.state
    shapes = {t.name: [a.size or 0 for a in t.axes] for t in analysis.tensors}
    ops = {call.name: call.op for _, call in analysis.walk.calls}
    alignment = alignments(
        shapes,
        ops,
        provider=config.platform,
        round_to=None if config.round_to == "auto" else config.round_to,
        choices=1 if config.target is None else CHOICES,
        timed=config.target is not None and config.target.timed,
    )
    eliminations = _weighed(config, importance)
    together = {*eliminations, *state.removed} if eliminations else set[str]()
    if config.allocation == "global" and not eliminations:
        together = set(importance.scores)
    widths = find_widths(
        analysis.groups,
        axes_of(analysis.groups, shapes, alignment),
        problem.limits,
        unscored=importance.declined,
        known=[b.name for b in analysis.blocks],
        together=together,
    )
    widths = state.narrowed(widths, importance.curves.groups)
    if widths.shares:
        widths = widths.decided(
            divide_shares(widths, _ranking(importance), _curves(widths, eliminations))
        )
    return widths


def choose(
    problem: Problem,
    widths: CandidateWidths,
    importance: Importance,
    target: Budget | None,
    cost: CostMeasure,
    dense: int | None = None,
) -> Selection:
    """Choose widths and units.

    Args:
        problem: what units are chosen from.
        widths: the allowed widths.
        importance: importance of the units.
        target: upper bound on ``cost``; None removes by ratio.
        cost: measure of the quantity that the target limits.
        dense: what a relative target is a part of; None for the cost with nothing removed.

    Raises:
        OnnxpruneError: the budget cannot be met.
    """
    config, bypassed = problem.config, problem.bypassed
    eliminations = _weighed(config, importance)
    dense = cost.measure() if dense is None else dense
    if eliminations and target is not None:
        return _by_curves(problem, widths, importance, cost, target.limit(dense))
    allocation = allocate(
        widths,
        importance.scores,
        ratio=config.ratio,
        target=target,
        cost=lambda removed: cost.measure(removed, bypassed),
        change=_change_of(cost, bypassed),
        policy=config.allocation,
        comparable="comparable" in importance.claims,
        additive="pruning error" in importance.claims,
        stairs=cost.stairs,
        dense=dense,
    )
    overall = target is not None or (config.ratio is None and bool(eliminations))
    policy = config.allocation or ("global" if overall else "uniform")
    return Selection(
        allocation.removed,
        importance.criterion,
        policy,
        allocation.declined,
        unchanged=allocation.unchanged,
    )


def _change_of(cost: CostMeasure, bypassed: Sequence[str]) -> CostFunction | None:
    """The cost once some groups lose other units; None where only whole removals are priced."""
    if not isinstance(cost, StaticCost):
        return None
    return lambda removed: cost.change(removed, bypassed)


def narrowest(widths: CandidateWidths, importance: Importance) -> Selection:
    """As many units removed as the limits allow, and no blocks."""
    ranking = _ranking(importance)
    kept = repair_widths(widths, ranking, widths.smallest())
    return Selection(ranking.removed(kept), importance.criterion, "global", widths.declined)


def _weighed(config: Options, importance: Importance) -> Mapping[str, Elimination]:
    """The curves that groups are weighed against each other by; none where all are cut alike."""
    return {} if config.allocation == "uniform" else importance.curves.groups


def _ranking(importance: Importance) -> Ranking:
    """The order in which units leave: that of their elimination, where there was one."""
    by_score = ranked(importance.scores, comparable="comparable" in importance.claims)
    eliminations = importance.curves.groups
    return Ranking(
        {**by_score.order, **{g: e.order for g, e in eliminations.items()}},
        {**by_score.keys, **{g: rises_of(e) for g, e in eliminations.items()}},
    )


def _curves(widths: CandidateWidths, eliminations: Mapping[str, Elimination]) -> dict[str, Curve]:
    """Errors at the allowed widths."""
    return {
        g: Curve(w, eliminations[g].error[w]) for g, w in widths.widths.items() if g in eliminations
    }


def _by_curves(
    problem: Problem,
    widths: CandidateWidths,
    importance: Importance,
    cost: CostMeasure,
    limit: int,
) -> Selection:
    """Widths and bypasses by a knapsack over errors; groups that have no choice as they are."""
    analysis = problem.analysis

    def cost_of(removed: Mapping[str, Sequence[int]], dropped: Sequence[str]) -> float:
        return float(cost.measure(removed, (*problem.bypassed, *dropped)))

    def change_of(removed: Mapping[str, Sequence[int]], dropped: Sequence[str]) -> float:
        assert isinstance(cost, StaticCost)
        return float(cost.change(removed, (*problem.bypassed, *dropped)))

    budget_choice = allocate_budget(
        widths,
        _ranking(importance),
        _curves(widths, importance.curves.groups),
        cost_of,
        limit,
        change=change_of if isinstance(cost, StaticCost) else None,
        branches={
            name: Branch(inside(analysis.groups, analysis.block(name)), error)
            for name, error in importance.curves.blocks.items()
        },
        most=problem.config.max_blocks,
        probes=max(map(len, widths.widths.values()), default=1) if cost.stairs else PROBES,
    )
    return Selection(
        budget_choice.removed,
        importance.criterion,
        "global",
        widths.declined,
        budget_choice.dropped,
    )
