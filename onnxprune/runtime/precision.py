"""What a model is stored in, in the words that backends use for what they compute in."""

from __future__ import annotations

from collections import Counter
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxprune.runtime.interface import Source

_WORDS = {"FLOAT": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16", "DOUBLE": "f64"}
_INT8 = {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def stored(source: Source) -> str:
    """The float type that most of a model's stored weights have; ``int8+`` before it if quantized.

    ``f32`` where there are no float weights.
    """
    from onnxprune import model as models  # a process that only runs models does without

    if isinstance(source, Path):
        return _of_file(source, source.stat().st_mtime_ns)
    bytes_: Counter[str] = Counter()
    for value in models.constants(source).values():
        tensor = models.constant(value)
        if tensor is not None and tensor.dtype.name in _WORDS:
            bytes_[_WORDS[tensor.dtype.name]] += tensor.nbytes
    word = bytes_.most_common(1)[0][0] if bytes_ else "f32"
    quantized = any(node.op_type in _INT8 for graph in models.graphs(source) for node in graph)
    return f"int8+{word}" if quantized else word


@cache
def _of_file(path: Path, _changed: int) -> str:
    from onnxprune import model as models

    return stored(models.load(path))


def computing(source: Source, word: str) -> str:
    """``word``, the float type a runtime was told to compute in, with ``int8+`` if quantized."""
    return f"int8+{word}" if stored(source).startswith("int8+") else word
