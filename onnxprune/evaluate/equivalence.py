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
_FLIPS = 0.01
"""Largest fraction of an integer output that may differ: ties that rounding decides."""
_CODES = {ir.DataType.INT8, ir.DataType.UINT8}
_NOISE = 4.0
"""Multiple of the runtime's own noise (the masked original with graph optimisations off and on)
that is allowed where it is more than the tolerance."""


def difference(a: Array, b: Array) -> float:
    """``||a - b|| / ||b||`` in float64 for floats, the fraction of unequal entries otherwise.

    Infinite if shapes differ, or if one is not finite where the other is.
    """
    if a.shape != b.shape:
        return float("inf")
    if not _is_float(b):
        return float(np.mean(a != b)) if b.size else 0.0
    x, y = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    finite = np.isfinite(y)
    if not np.array_equal(np.isfinite(x), finite):
        return float("inf")
    x, y = x[finite], y[finite]
    size = float(np.linalg.norm(y))
    gap = float(np.linalg.norm(x - y))
    return gap / size if size > 0 else gap


def tolerance(array: Array) -> float:
    """The largest difference that counts as equal for this element type."""
    return TOLERANCE.get(array.dtype.name, _FLIPS) if _is_float(array) else _FLIPS


def _is_float(array: Array) -> bool:
    return array.dtype.kind == "f" or array.dtype == np.dtype(ml_dtypes.bfloat16)


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
    feeds = list(batches)
    if not feeds:
        raise OnnxpruneError("there are no inputs to verify the cut with")
    wanted = _outputs(masked, feeds, provider, optimise=True)
    # An extended optimisation keeps integer products from saturating (see `open_session`).
    other: Literal[False, "extended"] = "extended" if _has_integer_matrices(masked) else False
    again = _outputs(masked, feeds[:1], provider, optimise=other)
    results = _outputs(cut, feeds, provider, optimise=True)
    worst = Check("pruned = masked", ok=True, value=0.0, limit=TOLERANCE["float32"])
    for name in wanted[0]:
        if not isinstance(wanted[0][name], np.ndarray) or wanted[0][name].dtype == object:
            continue
        noise = difference(again[0][name], wanted[0][name])
        limit = tolerance(wanted[0][name])
        limit = max(limit, _NOISE * noise) if np.isfinite(noise) else limit
        value = max(difference(g[name], w[name]) for g, w in zip(results, wanted, strict=True))
        if value / limit > worst.value / worst.limit or worst.value == 0.0:
            worst = Check(f"pruned = masked ({name})", value <= limit, value, limit)
    return worst


def _outputs(
    model: Model, feeds: list[Feeds], provider: str, *, optimise: bool | Literal["extended"]
) -> list[dict[str, Array]]:
    session: Session = open_session(
        model, provider=provider, optimise=optimise, prepack=False, arena=False
    )
    return [session.run(each) for each in feeds]


def _has_integer_matrices(model: Model) -> bool:
    """Whether a matrix or kernel is stored in 8 bits."""
    tensors = (constant(value) for value in constants(model).values())
    return any(t is not None and t.dtype in _CODES and len(t.shape) > 1 for t in tensors)
