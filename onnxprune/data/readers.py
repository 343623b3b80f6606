"""Readers of calibration data by kind of file, in one table.

A new format is one function and one entry of ``KINDS``.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import google.protobuf.message
import numpy as np
import onnx

from onnxprune.data.arrays import Column, open_npy, open_npz, parse_array, read_columns
from onnxprune.data.batches import Array, Batch, Index, InputFormat, Reader, chain, choose
from onnxprune.data.feeds import load_object, read_object
from onnxprune.data.images import SUFFIXES, read_images
from onnxprune.data.validation import conform
from onnxprune.errors import OnnxpruneError, blame
from onnxprune.model.limits import read_bytes, read_json

ReadFiles: TypeAlias = Callable[[Sequence[Path], InputFormat], Reader]


@dataclass(frozen=True)
class Kind:
    """A kind of files that hold samples.

    Attributes:
        name: in messages.
        read: makes a reader of files in order; their origin is the folder, or the one file.
        suffixes: that a file of this kind may have, in lower case.
        below: whether files in folders below count too.
        find: the files of this kind in a folder, where suffixes do not say.
    """

    name: str
    read: ReadFiles
    suffixes: tuple[str, ...] = ()
    below: bool = False
    find: Callable[[Path], list[Path]] | None = None

    def files(self, folder: Path) -> list[Path]:
        """The files of this kind in a folder, in the natural order of their names."""
        if self.find is not None:
            return self.find(folder)
        paths = folder.rglob("*") if self.below else folder.iterdir()
        return in_order(path for path in paths if path.suffix.lower() in self.suffixes)


def open_reader(spec: Any, inputs: InputFormat) -> Reader:  # noqa: ANN401
    """Open calibration or evaluation data of any kind.

    Args:
        spec: a file of one of the ``KINDS``, a folder of such, ``file.py:function`` or
            ``package.module:function``, or a Python object (see
            `onnxprune.data.feeds.read_object`). A folder may hold .npz files (each any number of
            samples), .npy files (one per input, or each any number of samples of the only input),
            ``test_data_set_*/input_*.pb`` as ONNX writes them, Polygraphy .json files, or images,
            also in folders below. Files are taken in the natural order of names (2 before 10).
        inputs: of the model.

    Raises:
        OnnxpruneError: the data do not exist, a folder holds several kinds, or they do not fit
            the model.
    """
    with blame(inputs.option):
        return _open(spec, inputs)


def _open(spec: Any, inputs: InputFormat) -> Reader:  # noqa: ANN401
    if not isinstance(spec, str | Path):
        name = getattr(spec, "__name__", None)
        origin = f"the function {name}" if name else f"the {type(spec).__name__} passed in"
        return read_object(spec, inputs.of(origin))
    path = Path(spec)
    if path.is_dir():
        return _read_folder(path, inputs)
    if path.is_file():
        kind = next((kind for kind in KINDS if path.suffix.lower() in kind.suffixes), None)
        if kind is None:
            raise OnnxpruneError(
                f"{path} is not {inputs.noun}",
                hint="known are .npz, .npy, Polygraphy .json, images, folders of these, "
                "file.py:function",
            )
        return kind.read([path], inputs.of(path))
    module, colon, name = str(spec).rpartition(":")
    dotted = all(part.isidentifier() for part in module.split("."))
    if colon and name.isidentifier() and (module.endswith(".py") or dotted):
        return read_object(load_object(str(spec)), inputs.of(spec))
    raise OnnxpruneError(
        f"there is no {inputs.noun} '{spec}'",
        hint="give a file, a folder, file.py:function, or random",
    )


def _read_folder(folder: Path, inputs: InputFormat) -> Reader:
    present = [(kind, files) for kind in KINDS if (files := kind.files(folder))]
    if len(present) != 1:
        names = " and ".join(kind.name for kind, _ in present)
        raise OnnxpruneError(
            f"the folder {folder} holds {names or f'no {inputs.noun}'}",
            hint=f"it must hold one of {', '.join(kind.name for kind in KINDS)}",
        )
    ((kind, files),) = present
    return kind.read(files, inputs.of(folder))


def _read_columns(load: Callable[[Path], Mapping[str, Column]]) -> ReadFiles:
    """A reader for files that hold arrays by key."""

    def read(files: Sequence[Path], inputs: InputFormat) -> Reader:
        loose = Path(inputs.origin).is_dir()  # among files, one may well be a single sample
        readers = [read_columns(load(f), inputs.of(f, loose=loose), lone=True) for f in files]
        return _in_turn(readers, inputs)

    return read


def _read_npy(files: Sequence[Path], inputs: InputFormat) -> Reader:
    by_input = {file.stem: file for file in files}
    if Path(inputs.origin).is_dir() and by_input.keys() >= inputs.axes.keys():
        columns = {name: open_npy(file) for name, file in by_input.items()}
        return read_columns(columns, inputs, lone=False)
    return _read_columns(lambda file: {"x": open_npy(file)})(files, inputs)


def _read_json(files: Sequence[Path], inputs: InputFormat) -> Reader:
    return _in_turn([read_object(read_polygraphy(f), inputs.of(f)) for f in files], inputs)


def _in_turn(readers: Sequence[Reader], inputs: InputFormat) -> Reader:
    return chain(readers, inputs.origin) if Path(inputs.origin).is_dir() else readers[0]


# ONNX test data -------------------------------------------------------------------------------

_TENSOR = "write inputs with onnx.numpy_helper.from_array(array).SerializeToString()"


def _find_test_data(folder: Path) -> list[Path]:
    """The folders of ``input_0.pb``, ...: this one, or ``test_data_set_*`` in it."""
    sets = in_order(one for one in folder.glob("test_data_set_*") if one.is_dir())
    return [one for one in (folder, *sets) if any(one.glob("input_*.pb"))]


def _read_test_data(sets: Sequence[Path], inputs: InputFormat) -> Reader:
    def read(wanted: Index | None) -> Iterator[Batch]:
        batches = (batch for one in sets for batch in _read_test_set(one, inputs.of(one)))
        return choose(batches, inputs, wanted)

    _read_test_set(sets[0], inputs.of(sets[0]))
    return Reader(
        f"{inputs.origin}: {len(sets)} ONNX test data sets",
        inputs,
        read,
        samples=len(sets) * inputs.group if inputs.fixed else None,
        group=inputs.group,
        batched=True,
    )


def _read_test_set(folder: Path, inputs: InputFormat) -> list[Batch]:
    """One set: ``input_0.pb``, ... are serialised tensors in the order of the model's inputs."""
    signature = inputs.signature
    files = in_order(folder.glob("input_*.pb"))
    tensors = []
    for file in files:
        try:
            tensors.append(onnx.TensorProto.FromString(read_bytes(file, _LARGEST)))
        except google.protobuf.message.DecodeError as error:
            raise OnnxpruneError(f"{file} is not a serialised tensor", hint=_TENSOR) from error
        if tensors[-1].data_location == onnx.TensorProto.EXTERNAL:
            raise OnnxpruneError(f"{file} has its data in another file", hint=_TENSOR)
    if len(tensors) != len(signature):
        raise inputs.error(f"holds {len(tensors)} inputs for a model with {len(signature)}")
    named = {tensor.name: tensor for tensor in tensors}
    if set(named) != {spec.name for spec in signature}:  # names are optional: go by the number
        named = {spec.name: tensor for spec, tensor in zip(signature, tensors, strict=True)}
    try:
        arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in named.items()}
    except (ValueError, TypeError, LookupError, OverflowError) as error:
        reason = " ".join(str(error).split())
        raise OnnxpruneError(
            f"{folder} holds something that is not a tensor: {reason}", hint=_TENSOR
        ) from error
    return conform(arrays, inputs)


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Paths in the natural order of names, numbers by value."""

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", str(path))
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(paths, key=key)


# Polygraphy's JSON ----------------------------------------------------------------------------


_HINT = "save inputs with polygraphy run --save-inputs FILE.json"
_LARGEST = 4 << 30
"""Bytes of a file: arrays take a third more in base64."""
_MARK = "polygraphy_class"
_OLD_MARK = "__polygraphy_encoded_"


def read_polygraphy(path: Path) -> list[dict[str, Array]]:
    """The feeds in a Polygraphy file, one dict of arrays per iteration.

    Inputs are a list of such dicts. From saved results of runs, the outputs of the first runner
    are taken. The format is that of ``polygraphy.json.save_json``: objects marked
    ``polygraphy_class`` (formerly by a key ``__polygraphy_encoded_NAME``), of which arrays hold a
    base64 .npy file.

    Raises:
        OnnxpruneError: it is not such a file.
    """
    try:
        content = read_json(path, largest=_LARGEST, object_hook=partial(_decode, path))
    except (ValueError, OSError, LookupError, TypeError, AttributeError) as error:
        raise OnnxpruneError(f"{path} cannot be read: {error}", hint=_HINT) from error
    feeds = [content] if isinstance(content, dict) else content
    if not isinstance(feeds, list) or not feeds or not all(map(_is_feed, feeds)):
        raise OnnxpruneError(f"{path} holds no inputs saved by Polygraphy", hint=_HINT)
    return feeds


def _is_feed(feed: object) -> bool:
    return isinstance(feed, dict) and all(isinstance(one, np.ndarray) for one in feed.values())


def _decode(path: Path, marked: dict[str, Any]) -> Any:  # noqa: ANN401
    old = next((key for key in marked if key.startswith(_OLD_MARK)), None)
    kind = marked.get(_MARK) or (old or "").removeprefix(_OLD_MARK)
    if kind == "ndarray":
        return parse_array(_decode_base64(marked["array"]), str(path))
    if kind in ("LazyArray", "LazyNumpyArray"):
        return marked["values"]
    if kind == "IterationResult":
        return marked["outputs"]
    if kind == "RunResults":
        return marked["lst"][0][1]
    if kind:
        raise ValueError(f"a {kind} is not an array (save numpy arrays, not torch tensors)")
    return marked


def _decode_base64(text: str) -> bytes:
    try:
        return base64.b64decode(text.encode(), validate=True)
    except (binascii.Error, UnicodeEncodeError):
        return text.encode("latin-1")  # what old versions wrote


KINDS: tuple[Kind, ...] = (
    Kind("ONNX test data", _read_test_data, find=_find_test_data),
    Kind(".npz files", _read_columns(open_npz), (".npz",)),
    Kind(".npy files", _read_npy, (".npy",)),
    Kind("Polygraphy files", _read_json, (".json",)),
    Kind("images", read_images, SUFFIXES, below=True),
)
