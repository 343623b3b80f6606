"""Conformance checks that plug-ins can run in their own tests.

from onnxprune.testing import check_backend, check_criterion

def test_my_criterion():
    check_criterion("my-criterion")

def test_my_backend():
    check_backend("my-device")
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from onnxprune.backends.conformance import check_backend
from onnxprune.criteria.registry import Criterion, Inapplicable, get, registered
from onnxprune.criteria.slices import F64, InputStatistics, UnitSlice

__all__ = ["check_backend", "check_criterion", "sample_slices"]

_GROWTH = 4.0
"""How much a unit's weights grow in the check of monotonicity."""


def check_criterion(subject: str | Callable[..., Any], *, trials: int = 4, seed: int = 0) -> None:
    """Hold a registered criterion to its contract, on groups made of random numbers.

    Scores must be float64 ``[units]``, finite (dead units and constant inputs included), the same
    on every call with the same seed, and follow the units when they are listed in another order.
    The inputs must be left alone. If it claims to be monotone, scaling all the weights of a unit
    up must not lower the unit's rank; if it claims to measure damage, scores must not be negative
    and must add up over tensors. A group without any tensor may only be answered by
    :class:`~onnxprune.criteria.Inapplicable`.

    Args:
        subject: the criterion's name, or the decorated function.
        trials: how many random groups to try.
        seed: of those groups.

    Raises:
        AssertionError: it breaks the contract; the message says how.
        OnnxpruneError: it is not registered.
    """
    chosen = _criterion(subject)
    for trial in range(trials):
        random = np.random.default_rng([seed, trial])
        for slices in (sample_slices(random), sample_slices(random, dead=True)):
            _check_scores(chosen, slices)
            _check_order(chosen, slices, random)
            if "monotone" in chosen.claims:
                _check_monotone(chosen, slices, random)
            if "damage" in chosen.claims:
                _check_damage(chosen, slices)
    try:
        _run(chosen, [])
    except Inapplicable:
        return
    raise AssertionError(f"{chosen.name}: a group without tensors must raise Inapplicable")


def sample_slices(
    random: np.random.Generator, *, units: int = 9, dead: bool = False
) -> list[UnitSlice]:
    """A made-up group of every kind of tensor: a filter, a BatchNormalization, three consumers.

    Args:
        random: where the numbers come from.
        units: the size of the group.
        dead: let one unit's weights and inputs be all zero.
    """
    order = random.permutation(units)
    wide = random.permutation(2 * units + 3)[: 2 * units].reshape(units, 2)
    grouped = np.stack([order, order + units], axis=1)
    return [
        _slice(random, "filter", "writes", order[:, None], (units, 12), dead=dead),
        _slice(random, "gain", "scales", order[:, None], (units, 1), dead=dead),
        _slice(random, "linear", "reads", order[:, None], (units, 5), dead=dead, covariance=False),
        _slice(random, "patches", "reads", wide, (2 * units + 3, 4), dead=dead),
        _slice(random, "grouped", "reads", grouped, (2 * units, 3), dead=dead, blocks=2),
    ]


def _slice(
    random: np.random.Generator,
    name: str,
    role: Any,  # noqa: ANN401  a Role
    features: np.ndarray[Any, Any],
    shape: tuple[int, int],
    *,
    dead: bool,
    covariance: bool = True,
    blocks: int = 1,
) -> UnitSlice:
    matrix = random.standard_normal(shape).astype(np.float32)
    rows = random.standard_normal((64, shape[0])) * random.uniform(0.1, 2, shape[0]) + 0.5
    if dead:
        matrix[features[0]] = 0
        rows[:, features[0]] = 0
    inputs = None
    if role == "reads":
        mean = rows.mean(axis=0)
        split = (rows - mean).reshape(len(rows), blocks, -1)
        inputs = InputStatistics(
            count=len(rows),
            mean=mean,
            var=rows.var(axis=0),
            mean_abs=np.abs(rows).mean(axis=0),
            covariance=np.einsum("rbi,rbj->bij", split, split) / len(rows) if covariance else None,
            blocks=blocks,
        )
    use = {"gain": "BatchNormalization.scale", "filter": "Conv.W"}.get(name, "MatMul.B")
    axis = 1 if role == "reads" else 0
    return UnitSlice(name, axis, role, use, matrix, features.astype(np.int64), inputs)


def _criterion(subject: str | Callable[..., Any]) -> Criterion:
    if isinstance(subject, str):
        return get(subject)
    found = registered(subject)
    if found is None:
        name = getattr(subject, "__name__", subject)
        raise AssertionError(f"{name} is not registered: decorate it with @criterion(...)")
    return found


def _run(chosen: Criterion, slices: Sequence[UnitSlice]) -> F64:
    options = {"seed": 7} if "seed" in chosen.needs else {}
    return np.asarray(chosen.function(list(slices), **options))


def _check_scores(chosen: Criterion, slices: Sequence[UnitSlice]) -> None:
    """Type, shape, finiteness, determinism, and that nothing given is changed."""
    before = [(s.matrix.copy(), s.features.copy(), _arrays(s.inputs)) for s in slices]
    first = _run(chosen, slices)
    units = len(slices[0].features)
    _require(chosen, first.dtype == np.float64, f"scores are {first.dtype}, not float64")
    _require(chosen, first.shape == (units,), f"{units} units got scores of shape {first.shape}")
    _require(chosen, bool(np.isfinite(first).all()), f"scores are not finite: {first}")
    for one, (matrix, features, inputs) in zip(slices, before, strict=True):
        same = np.array_equal(one.matrix, matrix) and np.array_equal(one.features, features)
        now = _arrays(one.inputs)
        same = same and all(np.array_equal(a, b) for a, b in zip(now, inputs, strict=True))
        _require(chosen, same, f"it changed the arrays of {one.tensor!r}")
    again = _run(chosen, slices)
    _require(chosen, np.array_equal(first, again), "the same call gave other scores")


def _check_order(
    chosen: Criterion, slices: Sequence[UnitSlice], random: np.random.Generator
) -> None:
    """Listing the units in another order lists the scores in that order."""
    order = random.permutation(len(slices[0].features))
    moved = _run(chosen, [replace(s, features=s.features[order]) for s in slices])
    expected = _run(chosen, slices)[order]
    close = np.allclose(moved, expected, rtol=1e-9, atol=1e-12 * float(np.abs(expected).max()))
    _require(chosen, close, "scores do not follow the units when they are reordered")


def _check_monotone(
    chosen: Criterion, slices: Sequence[UnitSlice], random: np.random.Generator
) -> None:
    """A unit that beats others still beats them after all its weights grew."""
    unit = int(random.integers(len(slices[0].features)))
    before = _run(chosen, slices)
    grown = []
    for one in slices:
        matrix = one.matrix.copy()
        matrix[one.features[unit]] *= _GROWTH
        grown.append(replace(one, matrix=matrix))
    after = _run(chosen, grown)
    slack = 1e-9 * float(np.abs(after).max())
    beaten = before < before[unit]
    kept = bool((after[beaten] <= after[unit] + slack).all())
    _require(chosen, kept, "a unit fell in rank when its weights grew, though it claims otherwise")


def _check_damage(chosen: Criterion, slices: Sequence[UnitSlice]) -> None:
    """What is lost is never less than nothing, and twice as much with every tensor twice there."""
    once = _run(chosen, slices)
    _require(chosen, bool((once >= 0).all()), f"damage is negative: {once.min()}")
    twice = _run(chosen, [*slices, *slices])
    _require(chosen, np.allclose(twice, 2 * once), "damage does not add up over tensors")


def _arrays(inputs: InputStatistics | None) -> list[F64]:
    """Copies of the statistics."""
    if inputs is None:
        return []
    held = (inputs.mean, inputs.var, inputs.mean_abs, inputs.covariance)
    return [a.copy() for a in held if a is not None]


def _require(chosen: Criterion, condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(f"{chosen.name}: {message}")
