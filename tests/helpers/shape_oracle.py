"""What onnxruntime computes for every value of a graph, to hold propagated facts against."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from onnxprune.graph.shapes import Fact

Arrays = Mapping[str, npt.NDArray[Any]]

_TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}


class Oracle:
    """A session that gives every value of the main graph."""

    def __init__(self, proto: onnx.ModelProto) -> None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(proto)
        given = {output.name for output in tapped.graph.output}
        self.names = [name for node in tapped.graph.node for name in node.output if name]
        for name in self.names:
            if name not in given:
                tapped.graph.output.add().name = name
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(
            tapped.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )

    def feeds(self, shapes: Mapping[str, tuple[int, ...]]) -> Arrays:
        """Random content of these shapes: small counts for integers."""
        rng = np.random.default_rng(0)
        return {
            value.name: rng.integers(0, 2, shapes[value.name]).astype(_TYPES[value.type])
            if "int" in value.type or "bool" in value.type
            else rng.random(shapes[value.name]).astype(_TYPES[value.type])
            for value in self._session.get_inputs()
        }

    def run(self, feeds: Arrays) -> Arrays:
        """Every tensor the main graph computes (outputs a kernel leaves out are missing)."""
        values = self._session.run(self.names, dict(feeds))
        named = zip(self.names, values, strict=True)
        return {name: value for name, value in named if isinstance(value, np.ndarray)}


def contradictions(facts: Mapping[str, Fact], computed: Arrays) -> list[str]:
    """Facts that what was computed shows to be wrong."""
    return [
        f"{name}: {fact} but {array.dtype}{array.shape}"
        for name, array in computed.items()
        if not agrees(fact := facts[name], array)
    ]


def agrees(fact: Fact, array: npt.NDArray[Any]) -> bool:
    """Whether a fact is true of this content."""
    if fact.shape is not None and (
        len(fact.shape) != array.ndim
        or any(a not in (None, b) for a, b in zip(fact.shape, array.shape, strict=True))
    ):
        return False
    if fact.dtype is not None and array.dtype.kind != "O" and fact.dtype.numpy() != array.dtype:
        return False
    if fact.value is None:
        return True
    told, found = (np.asarray(a, np.float64) for a in (fact.value, array))
    return told.shape == found.shape and np.allclose(
        told, found, rtol=1e-5, atol=1e-6, equal_nan=True
    )
