"""What every backend must do, tried on the networks that come with onnxprune."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import zoo
from onnxprune.backends.interface import Backend, Runner
from onnxprune.backends.registry import backend
from onnxprune.errors import OnnxpruneError

Array = npt.NDArray[Any]

TOLERANCE = {"f64": 1e-4, "f32": 1e-4, "tf32": 1e-2, "f16": 2e-2, "bf16": 1e-1}
"""Largest ``||other - cpu|| / ||cpu||`` of an output, by the precision a backend computes in."""
_LOOSEST = 1e-1
BATCHES = (1, 3)


def check_backend(subject: str | Backend, *, models: tuple[str, ...] = zoo.names()) -> None:
    """Hold a backend to its contract, on real trained networks with an open batch size.

    A runner has the model's inputs and outputs by name, element type and rank; says its precision;
    gives what onnxruntime gives on the CPU within the tolerance of that precision
    (:data:`TOLERANCE`), at every batch size, again and again the same; leaves the feeds alone;
    refuses feeds that lack an input, have one too many, or differ in element type, rank or a fixed
    size, by an ``OnnxpruneError``; and runs no more once it is closed, which may be done twice.

    Args:
        subject: the backend, or its name.
        models: names in the zoo to try it on.

    Raises:
        AssertionError: it breaks the contract; the message says how.
        OnnxpruneError: there is no such backend, or it is not available here.
    """
    chosen = backend(subject) if isinstance(subject, str) else subject
    _require(
        chosen, chosen.name and chosen.summary and chosen.install, "it does not say what it is"
    )
    found = chosen.available()
    _require(chosen, found.ok or found.reason, "it is not available and does not say why")
    _require(chosen, not found.ok or found.version, "it does not say its version")
    for name in models:
        entry = zoo.get(name)
        data = zoo.calibration(entry)
        feeds = [{key: array[:size] for key, array in data.items()} for size in BATCHES]
        shapes = [{key: array.shape for key, array in each.items()} for each in feeds]
        reference = backend("cpu").open(entry.model, threads=1)
        runner = chosen.open(entry.model, threads=1, shapes=shapes)
        _check_signature(chosen, reference, runner)
        for each in feeds:
            _check_outputs(chosen, name, reference.run(each), runner, each)
        _check_refusals(chosen, runner, feeds[0])
        reference.close()
        runner.close()
        runner.close()
        _must_refuse(chosen, runner, feeds[0], "it still runs after it was closed")


def _check_signature(chosen: Backend, reference: Runner, runner: Runner) -> None:
    for kind in ("inputs", "outputs"):
        want, have = (
            [(spec.name, spec.dtype, len(spec.shape)) for spec in getattr(each, kind)]
            for each in (reference, runner)
        )
        _require(chosen, want == have, f"its {kind} are {have}, not {want}")
    _require(chosen, runner.precision, "its runner does not say the precision")


def _check_outputs(
    chosen: Backend,
    name: str,
    want: Mapping[str, Array],
    runner: Runner,
    feeds: Mapping[str, Array],
) -> None:
    before = {key: array.copy() for key, array in feeds.items()}
    first = runner.run(feeds)
    held = {key: array.copy() for key, array in first.items()}
    again = runner.run(feeds)
    same = all(np.array_equal(before[key], array) for key, array in feeds.items())
    _require(chosen, same, "it changes its feeds")
    stays = all(np.array_equal(held[key], array) for key, array in first.items())
    _require(chosen, stays, "a second run changes the arrays of the first")
    equal = all(np.array_equal(held[key], again[key]) for key in held)
    _require(chosen, equal, "two runs on the same feeds differ")
    _require(chosen, list(first) == list(want), f"it puts out {list(first)}, not {list(want)}")
    limit = TOLERANCE.get(runner.precision, _LOOSEST)
    for key, array in want.items():
        shapes = (first[key].shape, array.shape)
        _require(chosen, shapes[0] == shapes[1], f"{name}: '{key}' is {shapes[0]}, not {shapes[1]}")
        wide = array.astype(np.float64)
        error = float(np.linalg.norm(first[key] - wide) / np.linalg.norm(wide))
        _require(chosen, error <= limit, f"{name}: '{key}' is off by {error:.2g}, above {limit:g}")


def _check_refusals(chosen: Backend, runner: Runner, feeds: Mapping[str, Array]) -> None:
    name = next(iter(feeds))
    array = feeds[name]
    other = np.float64 if array.dtype != np.float64 else np.float32
    wrong = {
        "a missing input": {},
        "an unknown input": {**feeds, "no such input": array},
        "another element type": {**feeds, name: array.astype(other)},
        "another rank": {**feeds, name: array[None]},
    }
    fixed = [spec for spec in runner.inputs if any(isinstance(d, int) for d in spec.shape)]
    for spec in fixed[:1]:
        axis = next(k for k, size in enumerate(spec.shape) if isinstance(size, int))
        longer = np.concatenate([feeds[spec.name]] * 2, axis)
        wrong["another fixed size"] = {**feeds, spec.name: longer}
    for what, given in wrong.items():
        _must_refuse(chosen, runner, given, f"it takes feeds with {what}")


def _must_refuse(chosen: Backend, runner: Runner, feeds: Mapping[str, Array], message: str) -> None:
    try:
        runner.run(feeds)
    except OnnxpruneError:
        return
    raise AssertionError(f"{chosen.name}: {message}")


def _require(chosen: Backend, condition: object, message: str) -> None:
    if not condition:
        raise AssertionError(f"{chosen.name}: {message}")
