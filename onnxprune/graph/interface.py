"""The map of a changed interface: which indices of graph inputs and outputs remain.

A removal may change what a model reads and gives: fewer classes, a smaller vocabulary, narrower
embeddings. The map says what became of every axis, and of every id where a tensor holds ids. It is
plain data: whoever runs the smaller model maps arrays with it, both ways.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import ml_dtypes
import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError

Array = npt.NDArray[Any]
_FORMAT, _VERSION = "onnxprune-interface", 1
_KINDS = ("vocabulary", "class", "embedding-dim", "input-feature", "width", "head", "head-dim")


@dataclass(frozen=True)
class AxisMap:
    """What remains of one axis of a graph input or output, or of the ids that it holds.

    Attributes:
        value: name of the graph input or output.
        axis: the axis that lost indices; None where the elements themselves are ids.
        size: indices (or ids) before.
        kept: those that remain, ascending; the new index is the place in this list.
        kind: of the group that lost units, as in `Group.kind`.
        unknown: the id that removed ids are read as; None where they are refused, and on axes.
        inside: whether the file maps it itself (``--keep-ids``): its tensor then has the old ids
            and sizes, and an output holds ``fill`` where an index is removed.
        fill: what stands for what was removed: the ``lowest`` value of the type, or ``zero``.
    """

    value: str
    axis: int | None
    size: int
    kept: tuple[int, ...]
    kind: str = "class"
    unknown: int | None = None
    inside: bool = False
    fill: Literal["lowest", "zero"] = "lowest"

    @property
    def places(self) -> npt.NDArray[np.int64]:
        """New index of every old one, ``[size]``; -1 where it is removed."""
        out = np.full(self.size, -1, np.int64)
        out[np.asarray(self.kept, np.int64)] = np.arange(len(self.kept))
        return out


@dataclass(frozen=True)
class Interface:
    """What a removal changed of the inputs and outputs of a model; empty where nothing did.

    Attributes:
        inputs, outputs: the axes that changed.

    Example:
        >>> import numpy as np
        >>> axis = AxisMap("logits", axis=1, size=4, kept=(0, 2))
        >>> interface = Interface(outputs=(axis,))
        >>> interface.cut_outputs({"logits": np.array([[1.0, 2.0, 3.0, 4.0]])})
        {'logits': array([[1., 3.]])}
    """

    inputs: tuple[AxisMap, ...] = ()
    outputs: tuple[AxisMap, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.inputs or self.outputs)

    # -- arrays ------------------------------------------------------------------------------

    def cut_inputs(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs of the original as the smaller model takes them.

        Raises:
            OnnxpruneError: an id was removed, and none stands for it.
        """
        return _map([axis for axis in self.inputs if not axis.inside], feeds, _cut)

    def cut_outputs(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """What remains of the outputs of the original; of a model with old ids, too.

        Where an output says an id or a class that was removed, that is -1.
        """
        return _map(self.outputs, outputs, _cut_output)

    def restore_inputs(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs of the smaller model as the original takes them; features that left are zero."""
        return _map([axis for axis in self.inputs if not axis.inside], feeds, _restore)

    def restore_outputs(self, outputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the smaller model in the places of the original's.

        What was removed holds the ``fill`` of its axis.
        """
        return _map([axis for axis in self.outputs if not axis.inside], outputs, _restore)

    def project(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs of the original where every id that was removed is one that remains."""

        def kept(axis: AxisMap, array: Array) -> Array:
            ids, rows = array.astype(np.int64) % axis.size, np.asarray(axis.kept, np.int64)
            return np.where(axis.places[ids] < 0, rows[ids % len(rows)], ids).astype(array.dtype)

        return _map([axis for axis in self.inputs if axis.axis is None], feeds, kept)

    def loses(self, feeds: Mapping[str, Array]) -> npt.NDArray[np.bool_]:
        """Which samples (along the first axis) hold an id that was removed."""
        lost = [
            (axis.places[np.asarray(feeds[axis.value]).astype(np.int64) % axis.size] < 0)
            for axis in self.inputs
            if axis.axis is None and axis.value in feeds
        ]
        flat = [each.reshape(len(each), -1).any(axis=1) for each in lost if each.ndim]
        return np.logical_or.reduce(flat) if flat else np.zeros(0, np.bool_)

    # -- files -------------------------------------------------------------------------------

    def to_json(self) -> str:
        """One JSON document; indices are written as ranges."""
        document: dict[str, Any] = {"format": _FORMAT, "version": _VERSION}
        for way in ("inputs", "outputs"):
            document[way] = [
                asdict(axis) | {"kept": _ranges(axis.kept)} for axis in getattr(self, way)
            ]
        return json.dumps(document)

    @classmethod
    def from_json(cls, text: str, where: str = "the map of the interface") -> Interface:
        """Read what :meth:`to_json` wrote.

        Raises:
            OnnxpruneError: it is none.
        """
        try:
            document = json.loads(text)
            _check_format(document)
            inputs, outputs = (
                tuple(_axis_map(entry) for entry in document[way]) for way in ("inputs", "outputs")
            )
            return cls(inputs, outputs)
        except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
            raise OnnxpruneError(
                f"{where} is not well-formed: {error}",
                hint="take the .interface.json that was written with the model",
            ) from error

    @classmethod
    def load(cls, path: str | Path) -> Interface:
        """Read ``NAME.interface.json``.

        Raises:
            OnnxpruneError: the file cannot be read or is no map.
        """
        try:
            text = Path(path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise OnnxpruneError(f"{path} cannot be read: {error}", hint="check the path") from None
        return cls.from_json(text, str(path))

    def with_ids_inside(self) -> Interface:
        """The same map, of a file that maps ids itself (``--keep-ids``)."""

        def inside(axes: Iterable[AxisMap]) -> tuple[AxisMap, ...]:
            return tuple(
                replace(a, inside=True) if a.axis is None or a.kind == "vocabulary" else a
                for a in axes
            )

        return Interface(inside(self.inputs), inside(self.outputs))

    def with_unknown(self, unknown: int | None) -> Interface:
        """The same map, where removed ids of inputs read as ``unknown`` (an old id)."""
        inputs = [replace(a, unknown=unknown) if a.axis is None else a for a in self.inputs]
        return replace(self, inputs=tuple(inputs))


def _map(axes: Iterable[AxisMap], arrays: Mapping[str, Array], function: Any) -> dict[str, Array]:  # noqa: ANN401
    out = {name: np.asarray(array) for name, array in arrays.items()}
    for axis in axes:
        if axis.value in out:
            out[axis.value] = function(axis, out[axis.value])
    return out


def _cut(axis: AxisMap, array: Array) -> Array:
    if axis.axis is not None:
        return array.take(np.asarray(axis.kept, np.int64), axis.axis)
    ids = array.astype(np.int64)
    inside = (-axis.size <= ids) & (ids < axis.size)
    if not inside.all():
        raise OnnxpruneError(
            f"'{axis.value}' holds the id {ids[~inside].flat[0]}, of {axis.size}",
            hint="these are not the ids of the original model",
        )
    places = axis.places
    if axis.unknown is not None:
        places = np.where(places < 0, places[axis.unknown], places)
    new = places[ids % axis.size]
    if (new < 0).any():
        lost = np.unique(ids[new < 0])
        raise OnnxpruneError(
            f"'{axis.value}' holds {len(lost)} ids that were removed, such as {lost[0]}",
            hint="map texts with the new tokenizer, or keep these ids",
        )
    return new.astype(array.dtype)


def _cut_output(axis: AxisMap, array: Array) -> Array:
    if axis.axis is not None:
        return _cut(axis, array)
    return axis.places[array.astype(np.int64) % axis.size].astype(array.dtype)


def _restore(axis: AxisMap, array: Array) -> Array:
    kept = np.asarray(axis.kept, np.int64)
    if axis.axis is None:
        return kept[array.astype(np.int64)].astype(array.dtype)
    shape = list(array.shape)
    shape[axis.axis] = axis.size
    fill = lowest(array.dtype) if axis.fill == "lowest" else 0
    out = np.full(shape, fill, array.dtype)
    np.moveaxis(out, axis.axis, 0)[kept] = np.moveaxis(array, axis.axis, 0)
    return out


def lowest(dtype: npt.DTypeLike) -> Any:  # noqa: ANN401  # of that type
    """The lowest finite value of an element type."""
    kind = np.dtype(dtype)
    if kind == np.bool_:
        return False
    return np.iinfo(kind).min if kind.kind in "iu" else ml_dtypes.finfo(kind).min  # type: ignore[no-untyped-call]


def _ranges(indices: Sequence[int]) -> list[list[int]]:
    """Ascending indices as ``[first, last]``."""
    out: list[list[int]] = []
    for index in indices:
        if out and index == out[-1][1] + 1:
            out[-1][1] = index
        else:
            out.append([index, index])
    return out


_MOST = 1 << 24
"""Indices of one axis."""


def _check_format(document: Mapping[str, Any]) -> None:
    if document.get("format") != _FORMAT or document.get("version") != _VERSION:
        raise ValueError(f"it is no {_FORMAT} of version {_VERSION}")


def _axis_map(entry: Mapping[str, Any]) -> AxisMap:
    """One map, its values of the right types.

    Raises:
        TypeError, ValueError, KeyError: they are not.
    """
    axis, size, unknown = entry["axis"], entry["size"], entry.get("unknown")
    for number in (
        size,
        *([] if axis is None else [axis]),
        *([] if unknown is None else [unknown]),
    ):
        if type(number) is not int:
            raise TypeError(f"{number!r} is no whole number")
    if not 0 < size <= _MOST:
        raise ValueError(f"a size of {size}")
    kept: list[int] = []
    for first, last in entry["kept"]:
        if not (type(first) is int and type(last) is int and 0 <= first <= last < size):
            raise ValueError(f"the range {first!r} to {last!r}, of {size}")
        kept += range(first, last + 1)
    if not kept or any(a >= b for a, b in pairwise(kept)):
        raise ValueError("kept indices do not ascend")
    if unknown is not None and unknown not in kept:
        raise ValueError(f"the unknown id {unknown} is not kept")
    value, kind, inside, fill = (entry[key] for key in ("value", "kind", "inside", "fill"))
    if not isinstance(value, str) or kind not in _KINDS:
        raise ValueError(f"{value!r} of kind {kind!r}")
    if type(inside) is not bool or fill not in ("lowest", "zero"):
        raise ValueError(f"inside is {inside!r} and fill {fill!r}")
    return AxisMap(value, axis, size, tuple(kept), kind, unknown, inside, fill)
