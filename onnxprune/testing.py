"""Conformance checks that plug-ins can run in their own tests.

from onnxprune.testing import check_backend, check_criterion

def test_my_criterion():
    check_criterion("my-criterion")

def test_my_backend():
    check_backend("my-device")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data import zoo
from onnxprune.data.activations.groups import InputStatistics
from onnxprune.errors import OnnxpruneError
from onnxprune.model import load
from onnxprune.runtime import open_session
from onnxprune.runtime.interface import Backend, Profiled, Session
from onnxprune.runtime.registry import backend
from onnxprune.select.criteria.registry import Criterion, Inapplicable, get, registered
from onnxprune.select.criteria.slices import F64, UnitSlice

__all__ = ["check_backend", "check_criterion", "sample_slices"]

Array = npt.NDArray[Any]

_GROWTH = 4.0
"""How much a unit's weights grow in the check of monotonicity."""


def check_criterion(subject: str | Callable[..., Any], *, trials: int = 4, seed: int = 0) -> None:
    """Hold a registered criterion to its contract, on groups made of random numbers.

    Scores must be float64 ``[units]``, finite (dead units and constant inputs included), the same
    on every call with the same seed, and follow the units when they are listed in another order.
    The inputs must be left alone. If it claims to be monotone, scaling all the weights of a unit
    up must not lower the unit's rank; if it claims to measure a pruning error, scores must not be
    negative and must add up over tensors. A group without any tensor may only be answered by
    :class:`~onnxprune.select.criteria.Inapplicable`.

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
            if "pruning error" in chosen.claims:
                _check_pruning_error(chosen, slices)
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


def _check_pruning_error(chosen: Criterion, slices: Sequence[UnitSlice]) -> None:
    """What is lost is never less than nothing, and twice as much with every tensor twice there."""
    once = _run(chosen, slices)
    _require(chosen, bool((once >= 0).all()), f"the pruning error is negative: {once.min()}")
    twice = _run(chosen, [*slices, *slices])
    _require(chosen, np.allclose(twice, 2 * once), "the pruning error does not add up over tensors")


def _arrays(inputs: InputStatistics | None) -> list[F64]:
    """Copies of the statistics."""
    if inputs is None:
        return []
    held = (inputs.mean, inputs.var, inputs.mean_abs, inputs.covariance)
    return [a.copy() for a in held if a is not None]


def _require(chosen: Criterion, condition: bool, message: str) -> None:  # noqa: FBT001
    if not condition:
        raise AssertionError(f"{chosen.name}: {message}")


TOLERANCE = {"f64": 1e-4, "f32": 1e-4, "tf32": 1e-2, "f16": 2e-2, "bf16": 1e-1}
"""Largest ``||other - cpu|| / ||cpu||`` of an output, by the precision a backend computes in."""
_LOOSEST = 1e-1
BATCHES = (1, 3)


def check_backend(subject: str | Backend, *, models: tuple[str, ...] = zoo.names()) -> None:
    """Hold a backend to its contract, on real trained networks with an open batch size.

    A session has the model's inputs and outputs by name, element type and rank; says its precision;
    gives what onnxruntime gives on the CPU within the tolerance of that precision
    (:data:`TOLERANCE`), at every batch size, again and again the same; leaves the feeds alone;
    refuses feeds that lack an input, have one too many, or differ in element type, rank or a fixed
    size, by an ``OnnxpruneError``; and runs no more once it is closed, which may be done twice.
    A backend that claims to tap returns values inside a model, alone where only they are wanted;
    one that claims a profile names nodes and their times.

    Args:
        subject: the backend, or its name.
        models: names in the zoo to try it on.

    Raises:
        AssertionError: it breaks the contract; the message says how.
        OnnxpruneError: there is no such backend, or it is not available here.
    """
    chosen = backend(subject) if isinstance(subject, str) else subject
    _backend_must(
        chosen, chosen.name and chosen.summary and chosen.install, "it does not say what it is"
    )
    found = chosen.available()
    _backend_must(chosen, found.ok or found.reason, "it is not available and does not say why")
    _backend_must(chosen, not found.ok or found.version, "it does not say its version")
    for name in models:
        entry = zoo.get(name)
        data = zoo.calibration(entry)
        feeds = [{key: array[:size] for key, array in data.items()} for size in BATCHES]
        shapes = [{key: array.shape for key, array in each.items()} for each in feeds]
        reference = backend("cpu").open(entry.model, threads=1)
        session = chosen.open(entry.model, threads=1, shapes=shapes)
        _check_signature(chosen, reference, session)
        for each in feeds:
            _check_outputs(chosen, name, reference.run(each), session, each)
        _check_refusals(chosen, session, feeds[0])
        reference.close()
        session.close()
        session.close()
        _must_refuse(chosen, session, feeds[0], "it still runs after it was closed")
        _check_capabilities(chosen, entry.model, feeds[0])


def _check_signature(chosen: Backend, reference: Session, session: Session) -> None:
    for kind in ("inputs", "outputs"):
        want, have = (
            [(spec.name, spec.dtype, len(spec.shape)) for spec in getattr(each, kind)]
            for each in (reference, session)
        )
        _backend_must(chosen, want == have, f"its {kind} are {have}, not {want}")
    _backend_must(chosen, session.precision, "its session does not say the precision")


def _check_outputs(
    chosen: Backend,
    name: str,
    want: Mapping[str, Array],
    session: Session,
    feeds: Mapping[str, Array],
) -> None:
    before = {key: array.copy() for key, array in feeds.items()}
    first = session.run(feeds)
    held = {key: array.copy() for key, array in first.items()}
    again = session.run(feeds)
    same = all(np.array_equal(before[key], array) for key, array in feeds.items())
    _backend_must(chosen, same, "it changes its feeds")
    stays = all(np.array_equal(held[key], array) for key, array in first.items())
    _backend_must(chosen, stays, "a second run changes the arrays of the first")
    equal = all(np.array_equal(held[key], again[key]) for key in held)
    _backend_must(chosen, equal, "two runs on the same feeds differ")
    _backend_must(chosen, list(first) == list(want), f"it puts out {list(first)}, not {list(want)}")
    limit = TOLERANCE.get(session.precision, _LOOSEST)
    for key, array in want.items():
        shapes = (first[key].shape, array.shape)
        _backend_must(
            chosen, shapes[0] == shapes[1], f"{name}: '{key}' is {shapes[0]}, not {shapes[1]}"
        )
        wide = array.astype(np.float64)
        error = float(np.linalg.norm(first[key] - wide) / np.linalg.norm(wide))
        _backend_must(
            chosen, error <= limit, f"{name}: '{key}' is off by {error:.2g}, above {limit:g}"
        )


def _check_capabilities(chosen: Backend, path: Path, feeds: Mapping[str, Array]) -> None:
    """What a backend claims beyond running whole models."""
    shapes = ({key: array.shape for key, array in feeds.items()},)
    if "taps" in chosen.capabilities:
        inner = next(node.outputs[0].name or "" for node in load(path).ir.graph)
        expected = open_session(path, threads=1, outputs=[inner]).run(feeds, [inner])
        session = chosen.open(path, threads=1, shapes=shapes, outputs=[inner])
        values = session.run(feeds, [inner])
        session.close()
        _backend_must(chosen, list(values) == [inner], f"it puts out {list(values)}, not {inner}")
        alike = values[inner].shape == expected[inner].shape
        _backend_must(chosen, alike, f"the value '{inner}' that it taps has another shape")
    if "profile" in chosen.capabilities:
        session = chosen.open(path, threads=1, shapes=shapes, profile=True)
        runs = session.profiled(feeds, 2) if isinstance(session, Profiled) else []
        session.close()
        complete = len(runs) == 2 and all(run for run in runs)
        _backend_must(chosen, complete, "it claims a profile and does not give one")


def _check_refusals(chosen: Backend, session: Session, feeds: Mapping[str, Array]) -> None:
    name = next(iter(feeds))
    array = feeds[name]
    other = np.float64 if array.dtype != np.float64 else np.float32
    wrong = {
        "a missing input": {},
        "an unknown input": {**feeds, "no such input": array},
        "another element type": {**feeds, name: array.astype(other)},
        "another rank": {**feeds, name: array[None]},
    }
    fixed = [spec for spec in session.inputs if any(isinstance(d, int) for d in spec.shape)]
    for spec in fixed[:1]:
        axis = next(k for k, size in enumerate(spec.shape) if isinstance(size, int))
        longer = np.concatenate([feeds[spec.name]] * 2, axis)
        wrong["another fixed size"] = {**feeds, spec.name: longer}
    for what, given in wrong.items():
        _must_refuse(chosen, session, given, f"it takes feeds with {what}")


def _must_refuse(
    chosen: Backend, session: Session, feeds: Mapping[str, Array], message: str
) -> None:
    try:
        session.run(feeds)
    except OnnxpruneError:
        return
    raise AssertionError(f"{chosen.name}: {message}")


def _backend_must(chosen: Backend, condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(f"{chosen.name}: {message}")
