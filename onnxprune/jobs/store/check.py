"""The proof that a stored model is the dense one: its file is read back and run beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import difference, tolerance
from onnxprune.graph.analysis import analyse
from onnxprune.jobs.store.job import Stored
from onnxprune.model.decode import densify
from onnxprune.runtime import open_session
from onnxprune.types import Check

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


@dataclass(frozen=True)
class Proof:
    """What was checked of a file, and what could not be."""

    checks: tuple[Check, ...]
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check is good."""
        return all(check.ok for check in self.checks)


def prove(
    stored: Stored,
    path: Path,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    provider: str = "cpu",
) -> Proof:
    """Read a file back, and run it beside the dense model on made-up inputs.

    Args:
        stored: what was written.
        path: where.
        shapes: of inputs whose sizes the model leaves open.
        provider: what runs both.
    """
    back = read_back(stored, path)
    if not stored.changed:
        return Proof((back,))
    try:
        analysis = analyse(stored.dense, inputs=shapes)
        feeds = synthetic_inputs(analysis, provider)
        ran = same_outputs(stored, path, feeds, provider)
    except OnnxpruneError as problem:
        return Proof((back,), (f"it was read back but not run: {problem.message}",))
    if any(weight.narrowed for weight in stored.weights):
        moved = f"{ran.value:.2g} of their size on made-up inputs"
        return Proof((back,), (f"values in fewer bits move the outputs by up to {moved}",))
    return Proof((back, ran))


def read_back(stored: Stored, path: Path) -> Check:
    """Decode every weight from the file; each must be what was meant, bit by bit."""
    found, _ = densify(models.load(path))
    there = models.constants(found)
    wrong = 0
    for name, value in models.constants(stored.dense).items():
        tensor = models.constant(value)
        held = models.constant(there[name]) if name in there else None
        if tensor is None or held is None:
            wrong += 1
            continue
        weight = next((each for each in stored.weights if each.name == name), None)
        wanted = weight.expected() if weight is not None and weight.changed else tensor.numpy()
        try:
            wrong += not same(held.numpy(), wanted)
        except OnnxpruneError:  # what is stored cannot be decoded
            wrong += 1
    return Check("weights that read back otherwise", wrong == 0, float(wrong), 0.0)


def same(one: Array, other: Array) -> bool:
    """Whether two arrays are equal bit by bit; signs of zeros and payloads of NaN count too."""
    if one.dtype != other.dtype or one.shape != other.shape:
        return False
    if one.dtype == object:
        return bool((one == other).all())
    left, right = (np.ascontiguousarray(each).reshape(-1).view(np.uint8) for each in (one, other))
    return np.array_equal(left, right)


def same_outputs(stored: Stored, path: Path, feeds: Sequence[Feeds], provider: str) -> Check:
    """Run the file and the dense model; outputs must agree to rounding.

    Raises:
        OnnxpruneError: one of them does not run.
    """
    dense = open_session(stored.dense, provider=provider, prepack=False)
    wanted: list[Mapping[str, Any]] = [dense.run(each) for each in feeds]
    del dense
    session = open_session(path, provider=provider)
    worst = Check("outputs = dense", ok=True, value=0.0, limit=0.0)
    for each, outputs in zip(feeds, wanted, strict=True):
        got = session.run(each)
        for name, array in outputs.items():
            if not isinstance(array, np.ndarray) or array.dtype == object:
                continue
            limit, value = tolerance(array), difference(got[name], array)
            if value >= worst.value:
                worst = Check(f"outputs = dense ({name})", value <= limit, value, limit)
    return worst
