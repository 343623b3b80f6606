"""A backend whose latency is a stated function of shapes: a plug-in, as another package brings one.

It runs models on onnxruntime. A layer takes what its weights do once their first two axes are
filled up to multiples of 8, plus a little for every node; a model takes a fifth more than its
layers, and a constant, which no table of layers can know.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import model as models
from onnxprune.model.signature import outputs_of, signature_of
from onnxprune.runtime.registry import Availability, Backend, backend

BLOCK = 8
MANY = 6
"""Nodes from which a graph counts as a model, not as a layer that is timed alone."""


def stated(model: models.Model) -> float:
    """Seconds that a model takes."""
    seconds, nodes = 0.0, 0
    for node in model.ir.graph:
        nodes += node.op_type != "Constant"
        for value in node.inputs[1:2] if node.op_type in ("Conv", "Gemm", "MatMul") else ():
            tensor = models.constant(value) if value is not None else None
            if tensor is not None:
                shape = [int(n) for n in tensor.shape.numpy()]
                filled = [-(-n // BLOCK) * BLOCK if n > 1 else 1 for n in shape[:2]] + shape[2:]
                seconds += float(np.prod(filled)) * 1e-7
    seconds += nodes * 1e-6
    layers = sum(node.op_type in ("Conv", "Gemm", "MatMul") for node in model.ir.graph)
    return seconds * 1.2 + 2e-4 if nodes > MANY and layers > MANY else seconds


class Runner:
    """Runs on onnxruntime, where it is run at all; says the stated time."""

    precision = "f32"

    def __init__(self, source: models.Model | Path) -> None:
        loaded = models.load(source) if isinstance(source, Path) else source
        self._source, self._seconds = source, stated(loaded)
        self.inputs = signature_of(loaded)
        self.outputs = outputs_of(loaded)

    def run(self, feeds: Any) -> Any:
        return backend("cpu").open(self._source, threads=1).run(feeds)

    def time(self, _: Any, runs: int) -> Sequence[float]:
        return [self._seconds] * runs

    def close(self) -> None:
        """There is nothing to let go of."""


BACKEND = Backend(
    "stairs",
    "widths in steps of 8",
    "pip install stairs",
    lambda: Availability(True, "1"),
    lambda source, _: Runner(source),
)
