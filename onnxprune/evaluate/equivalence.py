"""The equivalence check: a cut model computes what its masked original does, on given inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError
from onnxprune.model import Model, constant, constants
from onnxprune.runtime import Session, open_session
from onnxprune.types import Check

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

TOLERANCE = {"float64": 1e-10, "float32": 1e-5, "float16": 1e-2, "bfloat16": 5e-2}
"""Largest relative error of an output, by element type: rounding of reordered sums, no more."""
_EPSILON = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10, "bfloat16": 2.0**-7}
_FLIPS = 0.01
"""Largest fraction of an integer output that may differ: ties that rounding decides."""
_CODES = {ir.DataType.INT8, ir.DataType.UINT8}
_PART = 1 << 18
"""Elements that are changed at a time, in double precision."""
NOISE = 4.0
"""Multiple of the runtime's own noise that is allowed where it is more than the tolerance: of what
the masked original differs from itself by, with graph optimisations off and inputs off by half a
unit in the last place."""


def difference(a: Array, b: Array) -> float:
    """``||a - b|| / ||b||`` in float64 for floats, the fraction of unequal entries otherwise.

    What is not a number, or infinite, at the same places in both counts as equal there (padding);
    the result is infinite if shapes differ, or if only one is finite somewhere.
    """
    if a.shape != b.shape:
        return float("inf")
    if not is_float(b):
        return float(np.mean(a != b)) if b.size else 0.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    finite = np.isfinite(y)
    if not np.array_equal(np.isfinite(x), finite):
        return float("inf")
    if not np.array_equal(x[~finite], y[~finite], equal_nan=True):
        return float("inf")
    x, y = x[finite], y[finite]
    size = float(np.linalg.norm(y))
    gap = float(np.linalg.norm(x - y))
    return gap / size if size > 0 else gap


def tolerance(array: Array) -> float:
    """The largest difference that counts as equal for this element type."""
    return TOLERANCE.get(array.dtype.name, _FLIPS) if is_float(array) else _FLIPS


def is_float(array: Array) -> bool:
    """Whether an array holds floating-point numbers, bfloat16 among them."""
    return array.dtype.kind == "f" or array.dtype == np.dtype(ml_dtypes.bfloat16)


def noisy(feeds: Feeds, seed: int = 0) -> dict[str, Array]:
    """Floats off by half a unit in the last place, up or down; what is zero stays zero."""
    rng = np.random.default_rng(seed)
    result = dict(feeds)
    for name, array in feeds.items():
        if is_float(array):
            result[name] = np.empty_like(array, order="C")
            flat, other = array.reshape(-1), result[name].reshape(-1)
            for start in range(0, array.size, _PART):
                part = flat[start : start + _PART]
                factor = 1 + epsilon(array) * rng.choice([-1.0, 1.0], part.shape)
                with np.errstate(over="ignore", invalid="ignore"):
                    moved = (part * factor).astype(array.dtype)
                other[start : start + _PART] = np.where(np.isfinite(moved), moved, part)
    return result


def epsilon(array: Array) -> float:
    """One unit in the last place of 1, of a floating array's type."""
    return _EPSILON.get(array.dtype.name, 2.0**-7)


def arrays_of(outputs: Mapping[str, Any]) -> dict[str, Array]:
    """Outputs as arrays by label: what sequences, maps and optionals hold, one by one."""
    result: dict[str, Array] = {}
    for name, value in outputs.items():
        if isinstance(value, np.ndarray | np.generic):
            result[name] = np.asarray(value)
        elif isinstance(value, Mapping):
            keys = sorted(value)
            result[f"{name}: keys"] = np.array(keys)
            result |= arrays_of({f"{name}[{key!r}]": value[key] for key in keys})
        elif isinstance(value, list | tuple):
            result[f"{name}: length"] = np.array(len(value))
            result |= arrays_of({f"{name}[{k}]": each for k, each in enumerate(value)})
        else:
            result[name] = np.asarray(value)
    return result


def check_equivalence(
    cut: Model, masked: Model, batches: Iterable[Feeds], provider: str = "cpu"
) -> Check:
    """Run two models on the same inputs; every output must agree.

    Args:
        cut: the pruned model.
        masked: the masked original.
        batches: feeds to check on.
        provider: the execution provider both run on.

    Returns:
        The check of the output closest to (or furthest beyond) its limit.

    Raises:
        OnnxpruneError: a model does not run, or there are no inputs to run it on.
    """
    return compare_outputs(cut, masked, batches, provider)[0]


def compare_outputs(
    cut: Model, masked: Model, batches: Iterable[Feeds], provider: str = "cpu"
) -> tuple[Check, bool]:
    """As :func:`check_equivalence`; and whether every output reacts to the runtime's own noise.

    One that does not is saturated, or holds positions: it may hide what goes on before it.
    """
    feeds = list(batches)
    if not feeds:
        raise OnnxpruneError("there are no inputs to verify the cut with")
    wanted = _outputs(masked, feeds, provider, optimise=True)
    # An extended optimisation keeps integer products from saturating (see `open_session`).
    other: Literal[False, "extended"] = "extended" if _has_integer_matrices(masked) else False
    again = _outputs(masked, [noisy(feeds[0])], provider, optimise=other)
    results = _outputs(cut, feeds, provider, optimise=True)
    reacts = True
    worst = Check("pruned = masked", ok=True, value=0.0, limit=TOLERANCE["float32"])
    for name in dict.fromkeys(name for each in (*wanted, *results) for name in each):
        gaps = [
            difference(g[name], w[name]) if name in g and name in w else float("inf")
            for g, w in zip(results, wanted, strict=True)
            if name in g or name in w
        ]
        first = wanted[0].get(name, again[0].get(name))
        limit = tolerance(first) if first is not None else TOLERANCE["float32"]
        if name in wanted[0] and name in again[0]:
            noise = difference(again[0][name], wanted[0][name])
            reacts = reacts and noise > 0
            limit = max(limit, NOISE * noise) if np.isfinite(noise) else limit
        value = max(gaps)
        if value / limit > worst.value / worst.limit or worst.value == 0.0:
            worst = Check(f"pruned = masked ({name})", value <= limit, value, limit)
    return worst, reacts


def _outputs(
    model: Model, feeds: list[Feeds], provider: str, *, optimise: bool | Literal["extended"]
) -> list[dict[str, Array]]:
    session: Session = open_session(
        model, provider=provider, optimise=optimise, prepack=False, arena=False
    )
    return [arrays_of(session.run(each)) for each in feeds]


def _has_integer_matrices(model: Model) -> bool:
    """Whether a matrix or kernel is stored in 8 bits."""
    tensors = (constant(value) for value in constants(model).values())
    return any(t is not None and t.dtype in _CODES and len(t.shape) > 1 for t in tensors)
