"""Weights in and out of serialised models, without copying them.

An .onnx file is one protobuf message with the weights buried in it. Parsing it copies them all, and
so does serialising. These functions work on the bytes instead: `detach` makes a small message
whose large weights are references into the file, and `attach` gives the bytes around each weight
for writing. Only lengths are interpreted; everything else is copied as it is.

Encoding: https://protobuf.dev/programming-guides/encoding; field numbers: ``onnx.proto`` (ONNX
1.23, IR version 13; numbers never change).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import onnx

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED_SIZES = {_FIXED64: 8, _FIXED32: 4}

# Which fields of which message lead to tensors. Training information is left alone: it is carried
# through unread.
_NESTED: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
}
_DEEPEST = 100  # protobuf's own limit: deeper messages are left for it to refuse

_DATA_TYPE, _FLOAT_DATA, _STRING_DATA, _RAW_DATA, _DOUBLE_DATA = 2, 4, 6, 9, 10
_RAW_TAG = bytes([_RAW_DATA << 3 | _BYTES])
_PACKED: Mapping[int, int] = {  # packed fixed-width fields are, byte for byte, what raw_data holds
    onnx.TensorProto.FLOAT: _FLOAT_DATA,
    onnx.TensorProto.COMPLEX64: _FLOAT_DATA,
    onnx.TensorProto.DOUBLE: _DOUBLE_DATA,
    onnx.TensorProto.COMPLEX128: _DOUBLE_DATA,
}

_ONE_BY_ONE = {(_FLOAT_DATA, _FIXED32), (_DOUBLE_DATA, _FIXED64), (5, 0), (7, 0), (11, 0)}
"""Typed data that was not packed, as (field, wire type)."""


class WireError(ValueError):
    """The bytes are not a protobuf message, or end before it does (``truncated``)."""

    def __init__(self, message: str, *, truncated: bool = False) -> None:
        super().__init__(message)
        self.truncated = truncated


@dataclass(frozen=True)
class Hole:
    """Where the bytes of weight number ``index`` go."""

    index: int
    length: int

    def __len__(self) -> int:
        return self.length


Chunk: TypeAlias = bytes | memoryview | Hole
_OnTensor: TypeAlias = Callable[[memoryview, int, int], "list[Chunk] | None"]


@dataclass(frozen=True)
class Field:
    """One field of a message: its number, its wire type, and where it is.

    Attributes:
        number, wire: of the field.
        start: of its tag.
        value: of its payload.
        end: of both.
    """

    number: int
    wire: int
    start: int
    value: int
    end: int

    @property
    def has_bytes(self) -> bool:
        """Whether the payload is text, bytes or a message."""
        return self.wire == _BYTES


def fields_of(view: memoryview) -> Iterator[Field]:
    """The fields of a message, in the order of the file.

    Raises:
        WireError: it is not a protobuf message or is cut short.
    """
    return _fields(view, 0, len(view))


def field_bytes(number: int, payload: bytes) -> bytes:
    """A field of bytes, serialised."""
    return _encode(number << 3 | _BYTES) + _encode(len(payload)) + payload


def detach(data: memoryview, token: str, smallest: int) -> bytes:
    """The model in ``data`` with every weight of at least ``smallest`` bytes replaced by its place.

    A weight's place is external data whose location is ``token``, and whose offset and length say
    where its raw bytes are in ``data``.

    Raises:
        WireError: ``data`` is not a protobuf message or is cut short.
    """

    def place(view: memoryview, start: int, end: int) -> list[Chunk] | None:
        fields = []
        for field in _fields(view, start, end):
            if field.number == _STRING_DATA or (field.number, field.wire) in _ONE_BY_ONE:
                return None  # a field per element: nothing to map, and too many to look at
            fields.append(field)
        dtype = next((_varint(view, f.value, end)[0] for f in fields if f.number == _DATA_TYPE), 0)
        payload = [f for f in fields if f.number in (_RAW_DATA, _PACKED.get(dtype))]
        if len(payload) != 1 or payload[0].wire != _BYTES:
            return None
        (content,) = payload
        if content.end - content.value < smallest:
            return None
        reference = onnx.TensorProto(data_location=onnx.TensorProto.EXTERNAL)
        for key, value in (
            ("location", token),
            ("offset", str(content.value)),
            ("length", str(content.end - content.value)),
        ):
            reference.external_data.add(key=key, value=value)
        return [view[start : content.start], view[content.end : end], reference.SerializeToString()]

    chunks = _rewrite(data, 0, len(data), "model", place, smallest, 0)
    return bytes(data) if chunks is None else b"".join(_as_bytes(chunks))


def attach(skeleton: bytes, token: str, sizes: Sequence[int]) -> list[Chunk]:
    """The model in ``skeleton`` as bytes to write, with a `Hole` where each weight goes.

    The inverse of `detach`: tensors whose external location is ``token`` become tensors with
    ``raw_data`` of ``sizes[offset]`` bytes.
    """
    marker = token.encode()

    def open_up(view: memoryview, start: int, end: int) -> list[Chunk] | None:
        if marker not in bytes(view[start:end]):
            return None
        tensor = onnx.TensorProto.FromString(bytes(view[start:end]))
        entries = {entry.key: entry.value for entry in tensor.external_data}
        hole = Hole(int(entries["offset"]), sizes[int(entries["offset"])])
        tensor.ClearField("external_data")
        tensor.ClearField("data_location")
        return [tensor.SerializeToString() + _RAW_TAG + _encode(len(hole)), hole]

    view = memoryview(skeleton)
    return _rewrite(view, 0, len(view), "model", open_up, 0, 0) or [skeleton]


def _rewrite(
    view: memoryview,
    start: int,
    end: int,
    kind: str,
    on_tensor: _OnTensor,
    smallest: int,
    depth: int,
) -> list[Chunk] | None:
    """Message ``kind`` in ``view[start:end]`` with its tensors rewritten; None: nothing to do."""
    chunks: list[Chunk] = []
    kept = start
    for field in _fields(view, start, end):
        inner = _NESTED[kind].get(field.number)
        if inner is None or field.wire != _BYTES or field.end - field.value < smallest:
            continue
        if inner == "tensor":
            new = on_tensor(view, field.value, field.end)
        elif depth < _DEEPEST:
            new = _rewrite(view, field.value, field.end, inner, on_tensor, smallest, depth + 1)
        else:
            new = None
        if new is not None:
            tag = _encode(field.number << 3 | _BYTES)
            chunks.append(view[kept : field.start])
            chunks.append(tag + _encode(sum(len(chunk) for chunk in new)))
            chunks.extend(new)
            kept = field.end
    if not chunks:
        return None
    chunks.append(view[kept:end])
    return chunks


def _fields(view: memoryview, start: int, end: int) -> Iterator[Field]:
    at = start
    while at < end:
        tag, value = _varint(view, at, end)
        number, wire = tag >> 3, tag & 7
        if wire == _BYTES:
            length, value = _varint(view, value, end)
            after = value + length
        elif wire == _VARINT:
            _, after = _varint(view, value, end)
        elif wire in _FIXED_SIZES:
            after = value + _FIXED_SIZES[wire]
        else:
            raise WireError(f"field {number} has wire type {wire} at byte {at}")
        if number == 0:
            raise WireError(f"field number 0 at byte {at}")
        if after > end:
            raise WireError(f"field {number} ends {after - end} bytes too late", truncated=True)
        yield Field(number, wire, at, value, after)
        at = after


def _varint(view: memoryview, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while at < end:
        byte = view[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise WireError(f"a number of more than 64 bits at byte {at}")
    raise WireError(f"a number is cut off at byte {at}", truncated=True)


def _encode(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _as_bytes(chunks: list[Chunk]) -> Iterator[bytes | memoryview]:
    for chunk in chunks:
        assert not isinstance(chunk, Hole)
        yield chunk
