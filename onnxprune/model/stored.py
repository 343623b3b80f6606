"""Weights where they lie: files mapped once, tensors read from them on demand."""

from __future__ import annotations

import math
import mmap
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError

Array = npt.NDArray[Any]

_TYPED_FIELDS = {
    ir.DataType.FLOAT: "float_data",
    ir.DataType.COMPLEX64: "float_data",
    ir.DataType.DOUBLE: "double_data",
    ir.DataType.COMPLEX128: "double_data",
    ir.DataType.INT64: "int64_data",
    ir.DataType.UINT32: "uint64_data",
    ir.DataType.UINT64: "uint64_data",
}
"""The field of TensorProto that holds each type when ``raw_data`` does not; else int32_data."""

_RESTORE = "restore the file, or export or download the model again"


@dataclass(frozen=True)
class Stored:
    """The bytes of one tensor inside a mapped file (or one block of memory)."""

    buffer: mmap.mmap | bytes
    offset: int
    dtype: ir.DataType
    shape: tuple[int, ...]

    def read(self) -> ir.TensorProtocol:
        """The tensor, in place: nothing is cached, so its pages can go as soon as it does."""
        if 0 in self.shape:
            return ir.Tensor(np.empty(self.shape, self.dtype.numpy()), self.dtype)
        count = math.prod(self.shape)
        # Reading a page that a shorter file does not have any more would kill the process.
        if isinstance(self.buffer, mmap.mmap) and self.buffer.size() < len(self.buffer):
            raise OnnxpruneError(
                f"a file of the model has lost {len(self.buffer) - self.buffer.size()} bytes since "
                "it was opened",
                hint="let nothing write to it meanwhile, and run this again",
            )
        if self.dtype.bitwidth < 8:
            size = math.ceil(count * self.dtype.itemsize)
            packed = np.frombuffer(self.buffer, np.uint8, size, self.offset)
            return ir.PackedTensor(packed, self.dtype, shape=self.shape)
        little = self.dtype.numpy().newbyteorder("<")
        array = np.frombuffer(self.buffer, little, count, self.offset).reshape(self.shape)
        return ir.Tensor(array, self.dtype)


class PartsTensor(ir.LazyTensor):
    """A tensor that is computed part by part whenever it is read; a file gets one part at a time.

    Args:
        parts: gives the flattened tensor in parts.
        dtype: its element type.
        shape: its shape.
        like: the tensor it stands for, whose name, doc string and metadata it has.
    """

    __slots__ = ("_parts",)

    def __init__(
        self,
        parts: Callable[[], Iterable[Array]],
        dtype: ir.DataType,
        shape: Sequence[int],
        like: ir.TensorProtocol | None = None,
    ) -> None:
        super().__init__(
            self.whole,
            dtype,
            ir.Shape(shape),
            name=None if like is None else like.name,
            doc_string=None if like is None else like.doc_string,
            metadata_props={} if like is None else dict(like.metadata_props),
        )
        self._parts = parts

    def parts(self) -> Iterable[Array]:
        """The flattened tensor, computed part by part."""
        return self._parts()

    def whole(self) -> ir.TensorProtocol:
        """The tensor in memory."""
        shape = tuple(int(size) for size in self.shape.numpy())
        result = np.empty(math.prod(shape), self.dtype.numpy())
        start = 0
        for part in self._parts():
            result[start : start + part.size] = part
            start += part.size
        return ir.Tensor(result.reshape(shape), self.dtype)

    def tofile(self, file: BinaryIO) -> None:
        """Write it, part by part."""
        if self.dtype.bitwidth < 8:  # several entries share a byte
            file.write(self.whole().tobytes())
            return
        for part in self._parts():
            ir.Tensor(part, self.dtype).tofile(file)


@dataclass
class Store:
    """The files of one model being loaded.

    Attributes:
        folders: real paths where external data may lie: the folder of the model file, and that of
            the file it links to (a download cache links model and data into one folder). Empty
            for a model that was passed in memory.
        main: the model's own bytes, for weights inside it.
        token: external location that means ``main``; random, so no file can ask for it.
        files: everything mapped so far, by real path.
        dense: sparse tensors turned dense, waiting for their place in the graph.
        external: whether a weight was found in a file beside the model.
    """

    folders: tuple[Path, ...]
    main: mmap.mmap | bytes
    token: str = field(default_factory=lambda: f"onnxprune:{secrets.token_hex(8)}")
    files: dict[Path, mmap.mmap] = field(default_factory=dict)
    dense: list[ir.TensorProtocol] = field(default_factory=list)
    external: bool = False

    @property
    def sparse_token(self) -> str:
        """External location that means an entry of ``dense``."""
        return f"{self.token}:sparse"

    def resolve(self, tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        """``tensor`` with its data checked to be there, and mapped when it lies in a file.

        Raises:
            OnnxpruneError: the data is missing, too short, or outside the model's folder.
        """
        if isinstance(tensor, ir.ExternalTensor):
            return self._external(tensor)
        if isinstance(tensor, ir.serde.TensorProtoTensor):
            _check_inline(tensor)
        elif isinstance(tensor, ir.StringTensor):
            _check_filled(tensor, len(tensor.string_data()), tensor.size, "strings")
        return tensor

    def _external(self, tensor: ir.ExternalTensor) -> ir.TensorProtocol:
        location = str(tensor.location)
        if location == self.sparse_token:
            return self.dense[tensor.offset or 0]
        shape = _static_shape(tensor)
        offset, length = tensor.offset or 0, tensor.length
        if location == self.token:
            buffer, where = self.main, "inside the model"
        else:
            buffer, where = self._map(location, tensor.name), f"in {location}"
            self.external = True
            if length is None:
                length = tensor.nbytes
        if length != tensor.nbytes:
            raise OnnxpruneError(
                f"weight '{tensor.name}' of type {tensor.dtype.name} and shape {list(shape)} needs "
                f"{tensor.nbytes} bytes, but {length} are stored {where}",
                hint=_RESTORE,
            )
        if offset + length > len(buffer):
            raise OnnxpruneError(
                f"weight '{tensor.name}' ends at byte {offset + length} {where}, which has only "
                f"{len(buffer)} bytes",
                hint=_RESTORE,
            )
        return ir.LazyTensor(
            Stored(buffer, offset, tensor.dtype, shape).read,
            tensor.dtype,
            ir.Shape(shape),
            name=tensor.name,
            doc_string=tensor.doc_string,
            metadata_props=dict(tensor.metadata_props),
        )

    def _map(self, location: str, name: str | None) -> mmap.mmap | bytes:
        real = self._find(location, name)
        if real not in self.files:
            if real.stat().st_size == 0:
                return b""
            self.files[real] = map_file(real)
        return self.files[real]

    def _find(self, location: str, name: str | None) -> Path:
        """The real path of an external file: ONNX wants it relative to, and below, the model."""
        if not self.folders:
            raise OnnxpruneError(
                f"weight '{name}' is stored in the file '{location}', but the model was passed in "
                "memory and has no folder",
                hint="pass the path of the .onnx file instead",
            )
        parts = PurePosixPath(location.replace("\\", "/"))
        climbs = parts.is_absolute() or PureWindowsPath(location).drive or ".." in parts.parts
        candidates = [(folder / location).resolve() for folder in self.folders if not climbs]
        inside = [real for real in candidates if any(map(real.is_relative_to, self.folders))]
        if not inside:
            raise OnnxpruneError(
                f"weight '{name}' is stored in '{location}', outside the folder of the model",
                hint="if you trust the model, put its data file beside it and load it from there",
            )
        for real in inside:
            if real.is_file():
                return real
        raise OnnxpruneError(
            f"weight '{name}' is stored in '{location}', which is not in {self.folders[0]}",
            hint="keep the external data file beside the .onnx file",
        )


def map_file(path: Path) -> mmap.mmap:
    """The whole file, read-only, mapped: pages are read when touched and dropped under pressure.

    Raises:
        OnnxpruneError: the file cannot be opened.
    """
    try:
        with path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except OSError as error:
        raise OnnxpruneError(
            f"{path} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error


def _static_shape(tensor: ir.TensorProtocol) -> tuple[int, ...]:
    shape = tuple(tensor.shape.numpy())
    if any(size < 0 for size in shape):
        raise OnnxpruneError(f"weight '{tensor.name}' has the impossible shape {list(shape)}")
    return shape


def _check_inline(tensor: ir.serde.TensorProtoTensor) -> None:
    """Refuse a tensor whose data does not fill its shape (onnx-ir would fill in zeros)."""
    _static_shape(tensor)
    proto = tensor.raw
    if tensor.dtype == ir.DataType.UNDEFINED:
        raise OnnxpruneError(f"weight '{tensor.name}' has no element type", hint=_RESTORE)
    if proto.HasField("raw_data"):
        count, needed, unit = len(proto.raw_data), tensor.nbytes, "bytes"
    else:
        complex_ = tensor.dtype in (ir.DataType.COMPLEX64, ir.DataType.COMPLEX128)
        # Typed fields pack 2- and 4-bit elements into bytes, and hold complex ones as pairs.
        packed = tensor.dtype.bitwidth in (2, 4)
        needed, unit = tensor.nbytes if packed else tensor.size * (1 + complex_), "numbers"
        count = len(getattr(proto, _TYPED_FIELDS.get(tensor.dtype, "int32_data")))
    _check_filled(tensor, count, needed, unit)


def _check_filled(tensor: ir.TensorProtocol, count: int, needed: int, unit: str) -> None:
    if count != needed:
        raise OnnxpruneError(
            f"weight '{tensor.name}' of type {tensor.dtype.name} and shape "
            f"{list(tensor.shape.numpy())} needs {needed} {unit}, but {count} are stored",
            hint="a model stripped of its weights cannot be pruned" if count == 0 else _RESTORE,
        )
