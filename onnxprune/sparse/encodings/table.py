"""The encodings a weight can be stored in, each a class, and the table of all of them.

``d`` is the share of values that are not zero, ``b`` the bytes of one value; per weight:

========  ====================  ==========================================================
dense     ``b``
sparse    ``d (b + 8)``         values and int64 places (ONNX SparseTensorProto)
bitmask   ``1/8 + d b``         a bit per weight, and the values
delta     ``(d + e) (b + 1)``   a byte for the distance to the next value; ``e`` for distances
                                of more than 255, which take several
delta4    ``(d + e) / 2 + d b`` half a byte for the distance; ``e`` for distances of more than 14
nibble    ``1/8 + b/2``         2:4: which two of four are stored, in half a byte, and the two
========  ====================  ==========================================================

A new encoding is a class and an entry of `ENCODINGS`. Sparse storage is not sparse compute: all of
them are dense again once a runtime has loaded them.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.model.coo import SparseTensor
from onnxprune.model.stored import PartsTensor
from onnxprune.sparse.encodings.graph_builder import GraphBuilder, Stream
from onnxprune.sparse.encodings.sparsity_stats import (
    DISTANCES,
    SparsityStats,
    nonzero,
    places,
    slabs,
)

Array = npt.NDArray[Any]
U8 = npt.NDArray[np.uint8]
Index = npt.NDArray[np.int64]


class Encoding(ABC):
    """A way to store a weight.

    Attributes:
        name: in reports and on the command line.
        providers: those on which it was measured to load, and to run as fast as dense weights.
        graph_bytes: of graph that a weight needs besides its data: nodes, names and shapes,
            measured.
        table_bytes: what it takes once per model, whatever the number of weights.
        load_memory: bytes per value that onnxruntime holds while it decodes, measured; OpenVINO
            holds less.
        exact: whether values are always written in the weight's own type.
    """

    name: ClassVar[str]
    providers: ClassVar[frozenset[str]] = frozenset({"cpu", "openvino"})
    graph_bytes: ClassVar[int] = 0
    table_bytes: ClassVar[int] = 0
    load_memory: ClassVar[int] = 0
    exact: ClassVar[bool] = False

    @abstractmethod
    def size(self, stats: SparsityStats, itemsize: int) -> int | None:
        """Bytes of the data of a weight, graph not counted; None if it cannot be held.

        Args:
            stats: of the weight.
            itemsize: bytes of one stored value.
        """

    def last_axis(self, stats: SparsityStats) -> int | None:  # noqa: ARG002
        """The axis that is laid out last; None where the order stays."""
        return None


class Dense(Encoding):
    """One value after the other."""

    name = "dense"

    def size(self, stats: SparsityStats, itemsize: int) -> int:
        """All values."""
        return stats.size * itemsize


class Sparse(Encoding):
    """As ONNX has sparse tensors: values, and where they are in the flattened tensor."""

    name = "sparse"
    graph_bytes = 24
    exact = True

    def size(self, stats: SparsityStats, itemsize: int) -> int:
        """Values, each with an int64."""
        return stats.nonzeros * (itemsize + 8)

    def tensor(self, name: str, dense: ir.TensorProtocol, stats: SparsityStats) -> SparseTensor:
        """A tensor that is written sparse; its parts are only computed when they are written."""

        def values() -> Iterator[Array]:
            return (part[nonzero(part)] for _, part in slabs(dense.numpy().reshape(-1)))

        def indices() -> Iterator[Array]:
            return (at for _, at in places(dense.numpy().reshape(-1)))

        first = PartsTensor(values, dense.dtype, [stats.nonzeros])
        first.name = name

        return SparseTensor(
            dense,
            first,
            PartsTensor(indices, ir.DataType.INT64, [stats.nonzeros]),
        )


class Packed(Encoding):
    """Stored so that standard operators decode it when the model is loaded.

    Attributes:
        row: weights in a row of what `decode` returns.
    """

    graph_bytes = 96
    row: ClassVar[int] = 1

    @abstractmethod
    def decode(self, builder: GraphBuilder, stream: Stream) -> ir.Value:
        """Add what is stored and the nodes that decode it; their output, ``[n]`` or rows of it."""


class Bitmask(Packed):
    """One bit per weight says whether a value is stored.

    Decoding: the bits, looked up byte by byte, are counted up; where a bit is set the count is the
    place of the value in ``[0; values]``, elsewhere it is multiplied to 0, the place of the zero.
    """

    name = "bitmask"
    table_bytes = 2200
    load_memory = 38

    _bits = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1)
    """The eight bits of each byte, highest first, as numpy packs them."""

    def size(self, stats: SparsityStats, itemsize: int) -> int:
        """A bit per weight, and the values."""
        return -(-stats.size // 8) + stats.nonzeros * itemsize

    def mask(self, slabs: Iterable[Array]) -> Iterator[U8]:
        """uint8 ``[ceil(n / 8)]``: which of ``n`` values are not zero."""
        return (np.packbits(nonzero(slab)) for slab in slabs)

    def values(self, slabs: Iterable[Array]) -> Iterator[Array]:
        """``[1 + nonzeros]``: a zero, then the values that are not zero."""
        return _after_zeros(slabs, 1)

    def decode(self, builder: GraphBuilder, stream: Stream) -> ir.Value:
        """``[n]``."""
        stats = stream.stats
        size = (-(-stats.size // 8),)
        packed = builder.part(stream, "mask", self.mask, ir.DataType.UINT8, size)
        values = builder.part(stream, "values", self.values, stream.stored, (1 + stats.nonzeros,))
        flat = builder.lookup("bits", self._bits, packed)
        if stats.size % 8:
            flat = builder.head(flat, stats.size)
        at = builder.ranks(builder.cast(flat, ir.DataType.INT32))
        return builder.node("Gather", builder.cast(values, stream.work), at, axis=0)


class Delta(Packed):
    """One byte per value says how far it is from the one before.

    A distance of more than 255 takes several entries; those in between hold the value zero, which
    is what is there. Decoding: distances are summed up to places, and values scattered into zeros.
    """

    name = "delta"
    load_memory = 24
    longest: ClassVar[int] = DISTANCES[0]

    def size(self, stats: SparsityStats, itemsize: int) -> int:
        """A byte and a value per entry."""
        return max(stats.entries[self.longest], 1) * (itemsize + 1)

    def gaps(self, slabs: Iterable[Array]) -> Iterator[U8]:
        """uint8 ``[entries]``: distances, the first from place 0; at least one entry."""
        empty = True
        for _, distances, ends in _entries(slabs, self.longest):
            gaps = np.full(_length(ends), self.longest, np.uint8)
            gaps[ends] = distances
            yield gaps
            empty = False
        if empty:
            yield np.zeros(1, np.uint8)

    def values(self, slabs: Iterable[Array]) -> Iterator[Array]:
        """``[entries]``: the value at the place each entry leads to."""
        first, slabs = _first(slabs)
        empty = True
        for kept, _, ends in _entries(slabs, self.longest):
            values = np.zeros(_length(ends), kept.dtype)
            values[ends] = kept
            yield values
            empty = False
        if empty:
            yield np.zeros(1, first.dtype)

    def decode(self, builder: GraphBuilder, stream: Stream) -> ir.Value:
        """``[n]``."""
        entries = (max(stream.stats.entries[self.longest], 1),)
        gaps = builder.part(stream, "gaps", self.gaps, ir.DataType.UINT8, entries)
        values = builder.part(stream, "values", self.values, stream.stored, entries)
        steps = builder.cast(gaps, _places_type(stream))
        at = builder.node("CumSum", steps, builder.first_axis())
        zeros = builder.zeros((stream.stats.size,), stream.work)
        updates = builder.cast(values, stream.work)
        return builder.node("ScatterElements", zeros, at, updates, axis=0)


class Delta4(Packed):
    """Distances in half bytes, which suits weights with 75 to 95 % zeros.

    A code of 1 to 14 says how far a value is from the one before; 15 goes 14 places on, where there
    is no value; 0 is a first value in the first place. Decoding: codes, looked up, become steps,
    which are summed up to places, and a flag for whether a value is there; flags are summed up to
    places among ``[0; values]``, as in the bitmask encoding, and those values are scattered into
    zeros.
    """

    name = "delta4"
    table_bytes = 1000
    load_memory = 24
    longest: ClassVar[int] = DISTANCES[1]

    _steps = np.array([*range(longest + 1), longest], np.uint8)
    _flags = np.array([1] * (longest + 1) + [0], np.uint8)
    _halves = np.stack([np.arange(256) >> 4, np.arange(256) & 15], axis=1).astype(np.uint8)
    """The two codes of each byte."""

    def size(self, stats: SparsityStats, itemsize: int) -> int:
        """Half a byte per entry, and the values."""
        return -(-max(stats.entries[self.longest], 1) // 2) + stats.nonzeros * itemsize

    def codes(self, slabs: Iterable[Array]) -> Iterator[U8]:
        """uint8 ``[ceil(entries / 2)]``: two codes each, the last one padded with 0."""
        waiting, empty = np.zeros(0, np.uint8), True
        for _, distances, ends in _entries(slabs, self.longest):
            codes = np.full(_length(ends), self.longest + 1, np.uint8)
            codes[ends] = distances
            codes = np.concatenate([waiting, codes])
            even = len(codes) // 2 * 2
            waiting, empty = codes[even:], False
            yield _pairs(codes[:even])
        if empty or len(waiting):
            yield _pairs(np.concatenate([waiting, np.zeros(2 - len(waiting), np.uint8)]))

    def values(self, slabs: Iterable[Array]) -> Iterator[Array]:
        """``[1 + nonzeros]``: a zero, then the values that are not zero; two if there are none."""
        return _after_zeros(slabs, 2)

    def decode(self, builder: GraphBuilder, stream: Stream) -> ir.Value:
        """``[n]``."""
        entries = max(stream.stats.entries[self.longest], 1)
        size = (-(-entries // 2),)
        packed = builder.part(stream, "codes", self.codes, ir.DataType.UINT8, size)
        size = (1 + max(stream.stats.nonzeros, 1),)
        values = builder.part(stream, "values", self.values, stream.stored, size)
        code = builder.lookup("halves", self._halves, packed)
        if entries % 2:
            code = builder.head(code, entries)
        code = builder.cast(code, ir.DataType.INT32)
        first = builder.first_axis()
        step = builder.node("Gather", builder.shared("steps", self._steps), code, axis=0)
        at = builder.node("CumSum", builder.cast(step, _places_type(stream)), first)
        flag = builder.node("Gather", builder.shared("flags", self._flags), code, axis=0)
        which = builder.ranks(builder.cast(flag, ir.DataType.INT32))
        updates = builder.node("Gather", builder.cast(values, stream.work), which, axis=0)
        zeros = builder.zeros((stream.stats.size,), stream.work)
        return builder.node("ScatterElements", zeros, at, updates, axis=0)


_PAIRS = np.array(list(itertools.combinations(range(4), 2)))
"""The two places of each of the six codes of 2:4."""


class TwoOfFour(Packed):
    """2:4: half a byte says which two of every four weights are stored, and the two follow.

    Weights are laid out with the axis that has the pattern last. Decoding: a byte, looked up, gives
    for each of eight weights its place among ``[0, a, b, c, d]``, the four values stored for them.
    """

    name = "nibble"
    table_bytes = 2300
    load_memory = 20
    row = 8

    _codes = np.zeros((4, 4), np.uint8)
    _codes[_PAIRS[:, 0], _PAIRS[:, 1]] = np.arange(len(_PAIRS))

    def size(self, stats: SparsityStats, itemsize: int) -> int | None:
        """Half a byte and two values for every four weights."""
        if stats.paired is None or stats.size % 8:
            return None
        return stats.size // 8 + stats.size // 2 * itemsize

    def last_axis(self, stats: SparsityStats) -> int | None:
        """The axis that has the pattern."""
        return stats.paired

    def codes(self, slabs: Iterable[Array]) -> Iterator[U8]:
        """uint8 ``[n / 8]``: the codes of two groups of four each."""
        for slab in slabs:
            at = self._places(slab)
            yield _pairs(self._codes[at[:, 0], at[:, 1]])

    def values(self, slabs: Iterable[Array]) -> Iterator[Array]:
        """``[n / 8, 4]``: the stored values of two groups of four each."""
        for slab in slabs:
            yield np.take_along_axis(slab.reshape(-1, 4), self._places(slab), axis=1)

    def _places(self, flat: Array) -> npt.NDArray[np.int64]:
        """``[groups, 2]``: the places of each group that are stored, ascending; any for zeros."""
        order = np.argsort(~nonzero(flat).reshape(-1, 4), axis=1, kind="stable")
        pairs: npt.NDArray[np.int64] = np.sort(order[:, :2], axis=1)
        return pairs

    def _table(self) -> U8:
        """``[256, 8]``: where each of eight weights finds its value, by code byte; 0 is zero."""
        table = np.zeros((256, 8), np.uint8)
        for (high, one), (low, two) in itertools.product(enumerate(_PAIRS), repeat=2):
            row = table[high << 4 | low]
            row[one] = (1, 2)
            row[two + 4] = (3, 4)
        return table

    def decode(self, builder: GraphBuilder, stream: Stream) -> ir.Value:
        """``[n / 8, 8]``."""
        rows = stream.stats.size // 8
        packed = builder.part(stream, "codes", self.codes, ir.DataType.UINT8, (rows,))
        values = builder.part(stream, "values", self.values, stream.stored, (rows, 4))
        table = builder.shared("pairs", self._table())
        eights = builder.node("Gather", table, builder.cast(packed, ir.DataType.INT32), axis=0)
        column = builder.zeros((rows, 1), stream.work)
        five = builder.node("Concat", column, builder.cast(values, stream.work), axis=1)
        at = builder.cast(eights, ir.DataType.INT32)
        return builder.node("GatherElements", five, at, axis=1)


DENSE, SPARSE = Dense(), Sparse()
ENCODINGS: Mapping[str, Encoding] = {
    encoding.name: encoding
    for encoding in (DENSE, SPARSE, TwoOfFour(), Delta(), Bitmask(), Delta4())
}
"""All encodings by name; of two that take the same space the first one listed is chosen."""

PACKED: frozenset[str] = frozenset(n for n, each in ENCODINGS.items() if isinstance(each, Packed))
"""Names of those that standard operators decode when the model is loaded."""

_DENSE_ONLY = dict.fromkeys(
    ("tensorrt", "tensorrt-rtx"),
    "TensorRT refuses sparse constants and decodes packed ones at each inference",
)
"""Why a provider reads nothing but dense weights."""


def readable(providers: Iterable[str]) -> tuple[tuple[Encoding, ...], str]:
    """The encodings that all of these providers load well, and why there are no more of them."""
    encodings, reason = tuple(ENCODINGS.values()), ""
    for name in providers:
        if not any(name in each.providers for each in ENCODINGS.values()):
            unknown = f"how the provider {name} loads anything but dense weights was not measured"
            reason = reason or _DENSE_ONLY.get(name, unknown)
        encodings = tuple(e for e in encodings if e is DENSE or name in e.providers)
    return encodings, reason


def _entries(slabs: Iterable[Array], longest: int) -> Iterator[tuple[Array, Index, Index]]:
    """Slabs with values that are not zero: the values, and where their entries are.

    Args:
        slabs: of the flat weights, in order.
        longest: distance that one entry can hold.

    Yields:
        The values; what is left of the distance of each after the long steps; and the place of its
        entry among those of the slab, long steps included.
    """
    start = last = 0
    for slab in slabs:
        at = np.flatnonzero(nonzero(slab))
        if len(at):
            distances = np.diff(at + start, prepend=last)
            long = np.maximum((distances - 1) // longest, 0)
            yield slab[at], distances - longest * long, np.arange(len(at)) + np.cumsum(long)
            last = start + int(at[-1])
        start += len(slab)


def _after_zeros(slabs: Iterable[Array], least: int) -> Iterator[Array]:
    """A zero, then the values that are not zero, and more zeros where that is too few."""
    first, slabs = _first(slabs)
    yield np.zeros(1, first.dtype)
    count = 1
    for slab in slabs:
        kept = slab[nonzero(slab)]
        yield kept
        count += len(kept)
    if count < least:
        yield np.zeros(least - count, first.dtype)


def _first(slabs: Iterable[Array]) -> tuple[Array, Iterator[Array]]:
    """The first slab, and all of them."""
    every = iter(slabs)
    first = next(every)
    return first, itertools.chain([first], every)


def _pairs(codes: U8) -> U8:
    """Two codes in each byte."""
    pairs = codes.reshape(-1, 2)
    return (pairs[:, 0] << 4 | pairs[:, 1]).astype(np.uint8)


def _length(ends: Index) -> int:
    """How many entries a slab has."""
    return int(ends[-1]) + 1


def _places_type(stream: Stream) -> ir.DataType:
    return ir.DataType.INT32 if stream.stats.size < 1 << 31 else ir.DataType.INT64
