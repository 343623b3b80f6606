"""Stored weights that are NaN or infinite, looked for where each weight is read anyway.

Such a weight destroys a model whatever its inputs are, so it is found without any. A model that is
written is looked at slab by slab on the way to its file; one that is not is read once for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.linear import users
from onnxprune.model.stored import PartsTensor
from onnxprune.quantities import plural
from onnxprune.sparse.streamed import size_bits, slabs

Array = npt.NDArray[Any]

_INFINITE = {"float16": 0x7C00, "bfloat16": 0x7F80, "float32": 0x7F800000, "float64": 0x7FF << 52}
"""The bits of infinity without sign, by type; those of NaN are larger."""
_FLOATS = (
    ir.DataType.FLOAT,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT16,
    ir.DataType.BFLOAT16,
)
_MASKED_BY = frozenset(
    "Add Sub Where Min Max Clip Less LessOrEqual Greater GreaterOrEqual Equal Concat Slice Gather "
    "Expand Tile Pad ScatterND ScatterElements Trilu TopK ReduceMin ReduceMax If Loop Scan "
    "Attention MultiHeadAttention GroupQueryAttention".split()
)
"""Operators to which an infinity is a mask, or the start of a minimum or maximum."""


class NotFiniteError(OnnxpruneError):
    """A model was not written because one of its weights is not finite."""


class FiniteWeights:
    """Looks for weights that are not finite; each is read once.

    Args:
        model: the result.
        dense: the model that it was made of.
    """

    def __init__(self, model: models.Model, dense: models.Model) -> None:
        self._model, self._dense = model, dense
        self._counts: dict[str, tuple[int, int]] = {}

    def watched(self, *, strict: bool) -> models.Model:
        """The model, whose weights are looked at while they are written.

        Args:
            strict: refuse to write the first weight that is not finite, by `NotFiniteError`.
        """
        result = models.clone(self._model)
        for name, value in models.constants(result).items():
            tensor = _float_tensor(value)
            if tensor is not None:
                models.set_constant(value, _Watched(name, tensor, self, strict=strict))
        return result

    def reasons(self) -> tuple[str, ...]:
        """A sentence for every weight that is not finite where it has to be.

        Weights that have not been written are read.
        """
        constants = models.constants(self._model)
        for name, value in constants.items():
            tensor = _float_tensor(value)
            if tensor is not None and name not in self._counts:
                self.count(name, _parts(tensor))
        suspects = [name for name, counts in self._counts.items() if any(counts)]
        return tuple(filter(None, (self.reason(name) for name in suspects)))

    def require(self) -> None:
        """Refuse weights that are not finite; those that were not looked at are read.

        Raises:
            NotFiniteError: there are some.
        """
        for reason in self.reasons():
            raise _refusal(reason)

    def count(self, name: str, parts: Iterator[Array]) -> None:
        """Look at a weight that comes in parts."""
        for _ in self.counting(name, parts):
            pass

    def counting(self, name: str, parts: Iterator[Array]) -> Iterator[Array]:
        """The same parts; once all are taken, the weight has been looked at."""
        undefined = infinite = 0
        for part in parts:
            bits, limit = size_bits(part), _INFINITE[part.dtype.name]
            if bits.size and bits.max() >= limit:
                undefined += int(np.count_nonzero(bits > limit))
                infinite += int(np.count_nonzero(bits == limit))
            yield part
        self._counts[name] = undefined, infinite

    def reason(self, name: str) -> str:
        """What is wrong with a weight that has been looked at; empty if nothing is."""
        undefined, infinite = self._counts[name]
        if not (undefined or infinite):
            return ""
        value = models.constants(self._model)[name]
        tensor = models.constant(value)
        size = 1 if tensor is None else tensor.size
        words = f"weight '{name}' holds {_amount(undefined, infinite)}"
        dense = self._own(name)
        if not any(dense):
            return f"{words} where the dense model's is finite"
        if size == 1 or (not undefined and _is_mask(value)):
            return ""
        return f"{words}, as in the dense model, which is broken itself"

    def _own(self, name: str) -> tuple[int, int]:
        """NaNs and infinities of the dense model's weight of that name."""
        value = models.constants(self._dense).get(name)
        tensor = None if value is None else _float_tensor(value)
        if tensor is None:
            return 0, 0
        other = FiniteWeights(self._dense, self._dense)
        other.count(name, _parts(tensor))
        return other._counts[name]


class _Watched(PartsTensor):
    """A tensor that is looked at while it is read."""

    __slots__ = ()

    def __init__(
        self, name: str, tensor: ir.TensorProtocol, weights: FiniteWeights, *, strict: bool
    ) -> None:
        def parts() -> Iterator[Array]:
            yield from weights.counting(name, _parts(tensor))
            reason = weights.reason(name) if strict else ""
            if reason:
                raise _refusal(reason)

        super().__init__(parts, tensor.dtype, tensor.shape.numpy(), tensor)


def _refusal(reason: str) -> NotFiniteError:
    hint = "write it all the same with force=True"
    return NotFiniteError(f"the result is broken: {reason}", hint=hint, exit_code=1)


def _float_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    tensor = models.constant(value)
    return tensor if tensor is not None and tensor.dtype in _FLOATS else None


def _parts(tensor: ir.TensorProtocol) -> Iterator[Array]:
    """A flat tensor part by part, as it is computed or lies in its file."""
    while isinstance(tensor, ir.LazyTensor) and not isinstance(tensor, PartsTensor):
        tensor = tensor.raw()
    if isinstance(tensor, PartsTensor):
        yield from tensor.parts()
    else:
        yield from (part for _, part in slabs(tensor.numpy().reshape(-1)))


def _is_mask(value: ir.Value) -> bool:
    """Whether a stored value only hides others, so that it may hold infinities."""
    return all(node is None or node.op_type in _MASKED_BY for node, _ in users(value))


def _amount(undefined: int, infinite: int) -> str:
    amounts = [(undefined, "NaN"), (infinite, "infinite value")]
    return " and ".join(plural(count, word) for count, word in amounts if count)
