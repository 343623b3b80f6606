"""What a model is stored in, in the words that backends use for what they compute in."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path

import onnx_ir as ir

from onnxprune import model as models

_WORDS = {
    ir.DataType.FLOAT: "f32",
    ir.DataType.FLOAT16: "f16",
    ir.DataType.BFLOAT16: "bf16",
    ir.DataType.DOUBLE: "f64",
}
_INT8 = {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def stored(source: models.Model | Path) -> str:
    """The float type that most of a model's stored weights have; ``int8+`` before it if quantized.

    ``f32`` where there are no float weights.
    """
    if isinstance(source, Path):
        return _of_file(source, source.stat().st_mtime_ns)
    bytes_: Counter[str] = Counter()
    for value in models.constants(source).values():
        tensor = models.constant(value)
        if tensor is not None and tensor.dtype in _WORDS:
            bytes_[_WORDS[tensor.dtype]] += tensor.nbytes
    word = bytes_.most_common(1)[0][0] if bytes_ else "f32"
    quantized = any(node.op_type in _INT8 for graph in models.graphs(source) for node in graph)
    return f"int8+{word}" if quantized else word


@cache
def _of_file(path: Path, _changed: int) -> str:
    return stored(models.load(path))


def computing(source: models.Model | Path, word: str) -> str:
    """``word``, the float type a runtime was told to compute in, with ``int8+`` if quantized."""
    return f"int8+{word}" if stored(source).startswith("int8+") else word
