"""The graphs that systems are compared on, and what to feed them (kinds: bench/folders.py)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench.folders import FOLDERS, SHARED
from bench.tasks import Task, task_of
from bench.zoo.inputs import METADATA, loads, picture, sample

Feeds = dict[str, np.ndarray[Any, Any]]

_SIZES = {"batch": 2, "sequence": 12, "encoder_sequence": 10, "past": 5, "total": 17}
_DTYPES: Mapping[int, type[np.generic]] = {
    onnx.TensorProto.FLOAT: np.float32,
    onnx.TensorProto.FLOAT16: np.float16,
    onnx.TensorProto.UINT8: np.uint8,
    onnx.TensorProto.INT32: np.int32,
    onnx.TensorProto.INT64: np.int64,
}
# Graphs whose inputs say too little about themselves: shapes, or a value for a scalar.
_DECLARED: Mapping[str, Mapping[str, tuple[int, ...] | int]] = {
    "silero_vad": {"input": (1, 576), "state": (2, 1, 128), "sr": 16000},
    "silero_vad_half": {"input": (1, 576), "state": (2, 1, 128)},
}


@dataclass(frozen=True)
class Subject:
    """One graph; `task` is None where nothing but fidelity to the dense model can be measured."""

    name: str
    kind: str
    path: Path
    task: Task | None

    def batches(self, count: int, seed: int = 0) -> Iterator[Feeds]:
        """`count` sets of feeds: task inputs where there is a task, random ones otherwise."""
        model = onnx.load(self.path, load_external_data=False)
        held = {tensor.name for tensor in model.graph.initializer}
        values = [value for value in model.graph.input if value.name not in held]
        if self.task is not None:
            fixed = not values[0].type.tensor_type.shape.dim[0].dim_param
            yield from self.task.calibration(SHARED / "data", count, 1 if fixed else 16)
            return
        described = [p.value for p in model.metadata_props if p.key == METADATA]
        for i in range(count):
            rng = np.random.default_rng((seed, i))
            if not described:
                yield {value.name: self._draw(value, rng) for value in values}
                continue
            inputs = loads(described[0])
            names = [value.name for value in values]
            shapes = {v.name: v.type.tensor_type.shape.dim for v in values}
            sizes = {**_SIZES, **_concrete(inputs, shapes)}
            batch = sample(inputs, sizes, seed * 1000 + i)
            yield {name: batch[name] for name in names}

    def _draw(self, value: onnx.ValueInfoProto, rng: np.random.Generator) -> np.ndarray[Any, Any]:
        kind = value.type.tensor_type
        dtype = _DTYPES[kind.elem_type]
        declared = _DECLARED.get(self.name, {}).get(value.name)
        if isinstance(declared, int):
            return np.array(declared, dtype)
        sizes = {0: 1}  # a symbolic batch
        shape = declared or tuple(
            d.dim_value or sizes.get(k, 16) for k, d in enumerate(kind.shape.dim)
        )
        if not np.issubdtype(dtype, np.floating):
            return rng.integers(0, 256, shape).astype(dtype)
        if len(shape) == 4 and shape[1] in (1, 3):
            return picture(shape, rng).astype(dtype)
        return (rng.standard_normal(shape) * 0.3).astype(dtype)


def _concrete(inputs: Any, shapes: Mapping[str, Any]) -> dict[str, int]:
    """The sizes a fixed export was made with, under their symbolic names."""
    return {
        symbol: dim.dim_value
        for i in inputs
        if i.name in shapes
        for symbol, dim in zip(i.dims, shapes[i.name], strict=True)
        if isinstance(symbol, str) and dim.dim_value
    }


def subjects(kinds: tuple[str, ...] = tuple(FOLDERS)) -> list[Subject]:
    """Every graph of these kinds that is on this machine, by name within kind."""
    return [
        Subject(path.stem, kind, path, None if kind == "zoo" else task_of(path.stem))
        for kind in kinds
        for path in sorted(FOLDERS[kind].glob("*.onnx"))
    ]
