"""Which units go: by group elimination where there are data to price them, else by a criterion."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from onnxprune import criteria
from onnxprune import model as models
from onnxprune.allocate import (
    CostLike,
    Lattice,
    Limits,
    allocate,
    axes_of,
    grains,
    lattice,
    settle,
)
from onnxprune.allocate.cache import Curves, damage_curves, known_curves
from onnxprune.allocate.curves import choose_widths
from onnxprune.allocate.knapsack import PROBES
from onnxprune.allocate.ranking import Ranking, ranked
from onnxprune.allocate.rounding import CHOICES
from onnxprune.allocate.sensitivity import JOINT, repairable
from onnxprune.amounts import Budget
from onnxprune.analysis import Analysis
from onnxprune.consumers import use_of
from onnxprune.cost import CostModel
from onnxprune.criteria.slices import F64
from onnxprune.errors import OnnxpruneError
from onnxprune.inputs import Feeds
from onnxprune.options import Options
from onnxprune.recover.elimination import Elimination
from onnxprune.statistics import input_statistics
from onnxprune.units import Group

Tell = Callable[[str], None]

ELIMINATION = "elimination"
"""The name of the default with data: units are priced by what is lost after refitting the rest."""


CostOf = Callable[[Mapping[str, Sequence[int]], Sequence[str]], CostLike]
"""What is left of the model without some units and blocks; see `CostModel`."""


@dataclass(frozen=True, eq=False)
class Selection:
    """What goes, by which criterion, and what was declined and why."""

    removed: Mapping[str, tuple[int, ...]]
    criterion: str
    declined: Mapping[str, str]


@dataclass(frozen=True, eq=False)
class Worth:
    """What the units of every group are worth: found once, for every budget.

    Attributes:
        criterion: its name.
        scores: by group, one per unit.
        curves: by group, the damage of losing its units one by one, where data could tell.
        declined: by group, why it has no scores.
    """

    criterion: str
    scores: Mapping[str, F64]
    curves: Mapping[str, Elimination]
    declined: Mapping[str, str]


def select(
    analysis: Analysis,
    asked: Options,
    limits: Limits,
    fit: Sequence[Feeds],
    bypassed: Sequence[str],
    tell: Tell,
    curves: Curves | None = None,
) -> Selection:
    """Choose units under a ratio or a budget.

    Args:
        analysis: of the dense model.
        asked: the options.
        limits: guard rails made from them.
        fit: the calibration feeds that may be fitted to; empty without data.
        bypassed: blocks that go anyway; their layers cost nothing.
        tell: hears the progress.
        curves: damage curves, where they are known already; else they are measured if need be.

    Raises:
        OnnxpruneError: the criterion needs data, or the budget cannot be met.
    """
    worth = worth_of(analysis, asked, limits, fit, tell, curves)
    widths = allowed(analysis, asked, limits, worth)
    return choose(widths, worth, asked, asked.target, CostModel(analysis), bypassed)


def worth_of(
    analysis: Analysis,
    asked: Options,
    limits: Limits,
    fit: Sequence[Feeds],
    tell: Tell,
    curves: Curves | None = None,
) -> Worth:
    """Find out what units are worth; see :func:`select`."""
    name = ELIMINATION if curves is not None else _criterion(asked, fit)
    groups = _groups(analysis, allow_inexact=limits.allow_inexact)
    if name != ELIMINATION:
        declined: dict[str, str] = {}
        return Worth(name, _scores(analysis, groups, name, asked, fit, declined), {}, declined)
    found = curves if curves is not None else priced(analysis, asked, fit, tell)
    assert found is not None
    swept, unpriced = found
    values = {g: _ranks(e) for g, e in swept.items()}
    spare = [g for g in groups if g.name in unpriced]
    values |= _scores(analysis, spare, "l2", asked, fit, {})
    if asked.target is None:
        return Worth(name, values, {}, {})
    if asked.recover == "auto" and asked.sensitivity is None:
        swept = _repaired(analysis, groups, swept)
    return Worth(name, values, swept, unpriced)


def choose(
    widths: Lattice,
    worth: Worth,
    asked: Options,
    target: Budget | None,
    cost: CostOf,
    bypassed: Sequence[str] = (),
    *,
    stairs: bool = False,
) -> Selection:
    """Choose widths and units.

    Args:
        widths: those allowed.
        worth: what units are worth.
        asked: the options.
        target: what may be left, in the unit of ``cost``; None removes by ratio.
        cost: of the model without some units and blocks.
        bypassed: blocks that go anyway.
        stairs: whether costs climb in stairs, so that every width has to be worth.

    Raises:
        OnnxpruneError: the budget cannot be met.
    """
    if worth.curves and target is not None:
        return _by_curves(widths, worth, target, cost, bypassed, stairs=stairs)
    name = worth.criterion
    claims = criteria.get(name).claims if name != ELIMINATION else {"comparable", "damage"}
    allocation = allocate(
        widths,
        worth.scores,
        ratio=asked.ratio,
        target=target,
        cost=lambda removed: cost(removed, bypassed),
        policy=asked.allocation,
        comparable="comparable" in claims,
        damage="damage" in claims,
    )
    return Selection(allocation.removed, name, allocation.declined)


def narrowest(widths: Lattice, worth: Worth) -> Selection:
    """As much removed as the limits allow."""
    ranking = _ranking(worth)
    kept = settle(widths, ranking, widths.smallest())
    return Selection(ranking.removed(kept), worth.criterion, widths.declined)


def priced(analysis: Analysis, asked: Options, fit: Sequence[Feeds], tell: Tell) -> Curves | None:
    """The damage curves that a selection is made by; None where a criterion decides instead."""
    if _criterion(asked, fit) != ELIMINATION:
        return None
    return damage_curves(
        analysis,
        _groups(analysis, allow_inexact=asked.allow_inexact),
        fit,
        provider=asked.provider,
        seed=asked.seed,
        cache=asked.cache,
        tell=tell,
    )


def removal_orders(
    analysis: Analysis, asked: Options, fit: Sequence[Feeds], tell: Tell
) -> tuple[dict[str, npt.NDArray[np.int64]], str]:
    """By group, its units in the order in which they would leave, and what decides that.

    Args:
        analysis: of the dense model.
        asked: the criterion, and whether inexact groups count.
        fit: the calibration feeds that may be fitted to; empty without data.
        tell: hears the progress.

    Raises:
        OnnxpruneError: the criterion needs data.
    """
    name, orders = _criterion(asked, fit), {}
    groups = _groups(analysis, allow_inexact=asked.allow_inexact)
    by = name
    if name == ELIMINATION:
        swept, _ = known_curves(
            analysis, groups, fit, provider=asked.provider, seed=asked.seed, cache=asked.cache,
            tell=tell,
        )  # fmt: skip
        orders = {g: e.order for g, e in swept.items()}
        groups, by = [g for g in groups if g.name not in orders], "l2"
    scores = _scores(analysis, groups, by, asked, fit, {})
    return orders | {g: np.argsort(s, kind="stable") for g, s in scores.items()}, name


def _criterion(asked: Options, fit: Sequence[Feeds]) -> str:
    if asked.criterion == ELIMINATION and not fit:
        raise OnnxpruneError(
            "elimination prices units by what layers read", hint="give inputs with --calib"
        )
    return asked.criterion or (ELIMINATION if fit else "l2")


def _groups(analysis: Analysis, *, allow_inexact: bool) -> list[Group]:
    """The groups that are priced."""
    return [g for g in analysis.groups if g.exact or allow_inexact]


def _repaired(
    analysis: Analysis, groups: Sequence[Group], swept: Mapping[str, Elimination]
) -> dict[str, Elimination]:
    """The damage that the recovery to come is expected to leave."""
    joint = repairable(analysis, groups)
    return {
        name: replace(one, damage=one.damage * JOINT) if name in joint else one
        for name, one in swept.items()
    }


def _by_curves(
    widths: Lattice,
    worth: Worth,
    target: Budget,
    cost: CostOf,
    bypassed: Sequence[str],
    *,
    stairs: bool,
) -> Selection:
    """Widths by a knapsack over damage curves; groups with a ratio of their own as they are."""
    swept, ranking = worth.curves, _ranking(worth)
    limit = target.limit(int(getattr(cost({}, ()), target.kind)))

    def settled(chosen: Mapping[str, Sequence[int]]) -> dict[str, tuple[int, ...]]:
        kept = widths.dense() | {g: widths.units[g] - len(u) for g, u in chosen.items()}
        return ranking.removed(settle(widths, ranking, kept))

    def taken(chosen: Mapping[str, Sequence[int]]) -> float:
        return float(getattr(cost(settled(chosen), bypassed), target.kind))

    free = {g: widths.widths[g] for g in widths.free if g in swept}
    probes = max(map(len, free.values()), default=1) if stairs else PROBES
    chosen, _ = choose_widths({g: swept[g] for g in free}, free, taken, limit, probes=probes)
    return Selection(settled(chosen), ELIMINATION, widths.declined)


def _ranking(worth: Worth) -> Ranking:
    """The order in which units leave."""
    by_score = ranked(worth.scores)
    swept = worth.curves
    return Ranking(
        {**by_score.order, **{g: e.order for g, e in swept.items()}},
        {**by_score.keys, **{g: _rises(e) for g, e in swept.items()}},
    )


def _ranks(swept: Elimination) -> F64:
    """Scores ``[units]``: what the damage rises by when the unit goes, never falling."""
    out = np.empty(len(swept.order))
    out[swept.order] = _rises(swept)
    return out


def _rises(swept: Elimination) -> F64:
    """The same in the order in which units leave."""
    return np.maximum.accumulate(np.maximum(np.diff(swept.damage[::-1]), 0))


def _scores(
    analysis: Analysis,
    groups: Sequence[Group],
    name: str,
    asked: Options,
    fit: Sequence[Feeds],
    declined: dict[str, str],
) -> dict[str, F64]:
    chosen = criteria.get(name)
    statistics = None
    if chosen.calibrated and fit:
        wide = "covariance" in chosen.needs or name == "output-error"
        statistics = input_statistics(
            analysis, groups, fit, covariance=wide, provider=asked.provider
        )
    found = criteria.score(
        groups,
        name,
        lambda tensor: content(analysis, tensor),
        statistics=statistics,
        use=use_of(analysis),
        seed=asked.seed,
    )
    declined.update(found.declined)
    return dict(found.values)


def allowed(analysis: Analysis, asked: Options, limits: Limits, worth: Worth) -> Lattice:
    """The widths that the limits and the provider's kernels allow.

    Under a latency budget these are candidates, to be timed: see `latency`.

    Args:
        analysis: of the dense model.
        asked: the options.
        limits: guard rails made from them.
        worth: groups without scores are left alone.
    """
    shapes = {t.name: [a.size or 0 for a in t.axes] for t in analysis.tensors}
    ops = {call.name: call.op for _, call in analysis.walk.calls}
    round_to = None if asked.round_to == "auto" else asked.round_to
    grain = grains(
        shapes,
        ops,
        provider=asked.provider,
        round_to=round_to,
        choices=1 if asked.target is None else CHOICES,
        timed=asked.target is not None and asked.target.kind == "latency",
    )
    axes = axes_of(analysis.groups, shapes, grain)
    known = [b.name for b in analysis.blocks]
    return lattice(analysis.groups, axes, limits, unscored=worth.declined, known=known)


def content(analysis: Analysis, name: str) -> np.ndarray:
    """What a stored tensor holds, or a ConstantOfShape that stands for one."""
    value = analysis.constants.get(name)
    tensor = models.constant(value) if value is not None else None
    if tensor is not None:
        return tensor.numpy()
    fact = analysis.facts[name]
    return np.ones(fact.sizes or (), fact.dtype.numpy() if fact.dtype else np.float32)
