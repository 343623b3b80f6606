"""Samples in folders: arrays, ONNX test data, images, Polygraphy's files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import google.protobuf.message
import onnx

from onnxprune.data.arrays import from_columns, open_npy, open_npz
from onnxprune.data.images import SUFFIXES, from_images
from onnxprune.data.intake import Intake, admit
from onnxprune.data.layout import Chunk
from onnxprune.data.objects import from_object
from onnxprune.data.polygraphy import read_inputs
from onnxprune.data.stream import Source, Steps, concatenate, keep
from onnxprune.errors import OnnxpruneError


def from_file(path: Path, intake: Intake) -> Source:
    """A source from an .npz, .npy, Polygraphy .json, or image file.

    Raises:
        OnnxpruneError: it is none of these, or its content does not fit the model.
    """
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return from_columns(open_npz(path), intake, str(path), lone=True)
    if suffix == ".npy":
        return from_columns({"x": open_npy(path)}, intake, str(path), lone=True)
    if suffix == ".json":
        return from_object(read_inputs(path), intake, str(path))
    if suffix in SUFFIXES:
        return from_images([path], intake, str(path))
    raise OnnxpruneError(
        f"{path} is no calibration data",
        hint="known are .npz, .npy, Polygraphy .json, images, folders of these, file.py:function",
    )


def from_folder(path: Path, intake: Intake) -> Source:
    """A source from a folder.

    It may hold .npz files (each any number of samples), .npy files (one per input, or each any
    number of samples of the only input), ``test_data_set_*/input_*.pb`` as ONNX writes them,
    Polygraphy .json files, or images, also in folders below. Files are taken in the natural order
    of their names (2 before 10).

    Raises:
        OnnxpruneError: it holds none of these, or several kinds, or they do not fit the model.
    """
    sets = _test_data(path)
    arrays = _sorted(path.glob("*.npz"))
    columns = _sorted(path.glob("*.npy"))
    saved = _sorted(path.glob("*.json"))
    images = _sorted(one for one in path.rglob("*") if one.suffix.lower() in SUFFIXES)
    kinds = {
        "ONNX test data": sets,
        ".npz files": arrays,
        ".npy files": columns,
        "Polygraphy files": saved,
        "images": images,
    }
    present = [kind for kind, files in kinds.items() if files]
    if len(present) != 1:
        raise OnnxpruneError(
            f"the folder {path} holds {' and '.join(present) or 'no calibration data'}",
            hint="it must hold one of: " + ", ".join(kinds) + ".",
        )
    if images:
        return from_images(images, intake, str(path))
    if sets:
        return _from_test_data(path, sets, intake)
    names = {spec.name for spec in intake.layout.signature}
    if columns and {one.stem for one in columns} >= names:
        opened = {one.stem: open_npy(one) for one in columns}
        return from_columns(opened, intake, str(path), lone=False)
    if columns:
        sources = [
            from_columns({"x": open_npy(one)}, intake, str(one), lone=True, loose=True)
            for one in columns
        ]
    else:
        sources = [_loose(one, intake) for one in arrays or saved]
    return concatenate(sources, str(path))


def _loose(path: Path, intake: Intake) -> Source:
    if path.suffix.lower() == ".npz":
        return from_columns(open_npz(path), intake, str(path), lone=True, loose=True)
    return from_file(path, intake)


def _from_test_data(path: Path, sets: Sequence[Path], intake: Intake) -> Source:
    layout = intake.layout

    def chunks() -> Iterator[Chunk]:
        for one in sets:
            yield _read_test_data(one, intake)

    def read(wanted: Steps | None) -> Iterator[Chunk]:
        return keep(chunks(), layout, wanted)

    _read_test_data(sets[0], intake)
    return Source(
        f"{path}: {len(sets)} ONNX test data sets",
        read,
        steps=len(sets) if layout.fixed else None,
        per_step=layout.batch,
        batched=True,
    )


def _read_test_data(folder: Path, intake: Intake) -> Chunk:
    """One set: ``input_0.pb``, ... are serialised tensors in the order of the model's inputs."""
    signature = intake.layout.signature
    tensors = []
    for file in _sorted(folder.glob("input_*.pb")):
        try:
            tensors.append(onnx.TensorProto.FromString(file.read_bytes()))
        except google.protobuf.message.DecodeError as error:
            raise OnnxpruneError(f"{file} is no serialised tensor") from error
    if len(tensors) != len(signature):
        raise OnnxpruneError(
            f"{folder} holds {len(tensors)} inputs for a model with {len(signature)}",
            hint=intake.layout.hint,
        )
    named = {tensor.name: tensor for tensor in tensors}
    if set(named) != {spec.name for spec in signature}:  # names are optional: go by the number
        named = {spec.name: tensor for spec, tensor in zip(signature, tensors, strict=True)}
    try:
        arrays = {name: onnx.numpy_helper.to_array(tensor) for name, tensor in named.items()}
    except (ValueError, TypeError) as error:
        raise OnnxpruneError(f"{folder} holds something that is no tensor: {error}") from error
    return admit(arrays, intake, str(folder), loose=False)


def _test_data(path: Path) -> list[Path]:
    folders = [path, *_sorted(one for one in path.glob("test_data_set_*") if one.is_dir())]
    return [one for one in folders if any(one.glob("input_*.pb"))]


def _sorted(paths: Iterator[Path]) -> list[Path]:
    """In the natural order of names, numbers by value."""

    def key(path: Path) -> list[tuple[int, str]]:
        parts = re.split(r"(\d+)", str(path))
        return [(int(part), "") if part.isdigit() else (-1, part) for part in parts]

    return sorted(paths, key=key)
