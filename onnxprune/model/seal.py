"""The seal of a model file: what its bytes hash to, and the text in its metadata that says so.

The seal is one entry of ``metadata_props``, the last field of the file. The digest of the graph is
SHA-256 over all other bytes of the .onnx file, weights inside it included; each file of external
data has a digest of its own. So both are known while a model is written, and a change of any byte
shows.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError

from onnxprune.errors import OnnxpruneError
from onnxprune.model.constants import constant, constants
from onnxprune.model.core import Model
from onnxprune.model.limits import read_json
from onnxprune.model.origin import origin_of
from onnxprune.model.stored import PartsTensor, map_file
from onnxprune.model.structure import structure_hash
from onnxprune.model.wire import WireError, field_bytes, fields_of

KEY = "onnxprune.certificate"
"""Key of the metadata entry, and the format of the document that belongs to it."""
INTERFACE_KEY, _INTERFACE = "onnxprune.interface", "onnxprune-interface"
"""Key of the metadata entry that maps a changed interface, and the format of its text."""
_METADATA = 14
"""Field number of ``ModelProto.metadata_props``."""
_BLOCK = 1 << 24
_TAIL, _LEFT = 4096, b',"document":"'
"""Bytes at the end of a file that hold a seal, and what is in every one, its key damaged or not."""


@dataclass(frozen=True)
class Digests:
    """What the files of a model hash to, in hexadecimal SHA-256.

    Attributes:
        graph: the .onnx file without its seal.
        data: every file of external data, by its name beside the model.
    """

    graph: str
    data: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Seal:
    """The seal of a file as it was found there.

    Attributes:
        text: of the metadata entry; None without one.
        digests: of the .onnx file as it is now.
    """

    text: str | None
    digests: Digests


Certify: TypeAlias = Callable[[Digests], tuple[str, bytes]]
"""Gives the text of a seal, and the document that lies beside the model."""


class HashingFile:
    """A file that is written from front to back, and hashed on the way.

    Args:
        file: what is written; it has no other writers.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._digest, self._size = file, hashlib.sha256(), 0

    def write(self, data: bytes | memoryview) -> int:
        """Write and hash."""
        self._digest.update(data)
        count = self._file.write(data)
        self._size += count
        return count

    def tell(self) -> int:
        """Bytes so far."""
        return self._size

    def hexdigest(self) -> str:
        """SHA-256 of all that was written."""
        return self._digest.hexdigest()


def document_path(path: Path) -> Path:
    """Where the document that belongs to the seal of a model lies."""
    return path.with_name(f"{path.stem}.certificate.json")


def map_path(path: Path) -> Path:
    """Where the map of the changed interface of a model lies."""
    return path.with_name(f"{path.stem}.interface.json")


def is_document(path: Path) -> bool:
    """Whether a file is a certificate of ours, which may be replaced with its model."""
    return _format_of(path) == KEY


def is_map(path: Path) -> bool:
    """Whether a file is the map of an interface, which may be replaced with its model."""
    return _format_of(path) == _INTERFACE


def _format_of(path: Path) -> object:
    try:
        content = read_json(path) if path.is_file() else None
    except (OSError, ValueError, OnnxpruneError):
        return None
    return content.get("format") if isinstance(content, dict) else None


def entry(text: str) -> bytes:
    """The bytes of a seal, to be appended to a serialised model."""
    pair = onnx.StringStringEntryProto(key=KEY, value=text)
    return field_bytes(_METADATA, pair.SerializeToString())


def read_seal(path: Path) -> Seal:
    """The seal of a model file, and what the file hashes to without it.

    The model itself is not read, so this also works where it is damaged. Files of external data are
    hashed by `hash_data`.

    Args:
        path: of the .onnx file; one that cannot be opened has no seal.

    Raises:
        OnnxpruneError: it has two seals, or its seal is damaged (exit code 1).
    """
    if not path.is_file() or path.stat().st_size == 0:
        return Seal(None, Digests(""))
    with map_file(path) as mapped, memoryview(mapped) as view:
        return _read_seal(path, view)


def _read_seal(path: Path, view: memoryview) -> Seal:
    try:
        places = list(_entries(view))
    except WireError:
        places = _at_the_end(view)
    if len(places) > 1:
        raise OnnxpruneError(f"{path} has two certificates", hint="write it again", exit_code=1)
    digest, kept, text = hashlib.sha256(), 0, None
    if places:
        ((start, kept, text),) = places
        _update(digest.update, view[:start])
    _update(digest.update, view[kept:])
    if text is None and _LEFT in bytes(view[-_TAIL:]):
        raise OnnxpruneError(
            f"the certificate in {path} is damaged",
            hint="get the file again from where it was made, or write it again",
            exit_code=1,
        )
    return Seal(text, Digests(digest.hexdigest()))


def _entries(view: memoryview) -> Iterator[tuple[int, int, str]]:
    """Start, end and text of every seal in a message."""
    for each in fields_of(view):
        if each.number == _METADATA and each.has_bytes:
            text = _text(view[each.value : each.end])
            if text is not None:
                yield each.start, each.end, text


def _at_the_end(view: memoryview) -> list[tuple[int, int, str]]:
    """The same of a message that cannot be parsed: a seal is its last field."""
    tail = bytes(view[-_TAIL:])
    start = tail.rfind(KEY.encode())
    for distance in range(2, 10):  # of the key from the start of the field
        at = start - distance
        if start < 0 or at < 0:
            break
        with contextlib.suppress(WireError):
            entries = list(_entries(memoryview(tail)[at:]))
            if len(entries) == 1 and entries[0][:2] == (0, len(tail) - at):
                base = len(view) - len(tail) + at
                return [(base, len(view), entries[0][2])]
    return []


def _text(payload: memoryview) -> str | None:
    """The text of a metadata entry that is a seal."""
    try:
        pair = onnx.StringStringEntryProto.FromString(bytes(payload))
    except DecodeError:
        return None
    return pair.value if pair.key == KEY else None


def hash_data(path: Path, names: Iterable[str]) -> dict[str, str]:
    """The digests of files beside a model by name; empty for one that is not there."""
    digests = {}
    for name in sorted(names):
        file = path.resolve().parent / name
        digests[name] = hash_file(file) if name == Path(name).name and file.is_file() else ""
    return digests


def hash_file(path: Path) -> str:
    """SHA-256 of a file.

    Raises:
        OnnxpruneError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    except OSError as error:
        raise OnnxpruneError(
            f"{path} cannot be read: {error.strerror}", hint="check its permissions"
        ) from error
    return digest.hexdigest()


def data_files(model: Model) -> set[str]:
    """Names of the files that a loaded model has its weights in, beside its own."""
    path = model.path
    if path is None:
        return set()
    own, folder = path.resolve(), path.resolve().parent
    return {
        (file.relative_to(folder) if file.is_relative_to(folder) else file).as_posix()
        for file in origin_of(model.ir).files
        if file != own
    }


def _update(update: Callable[[memoryview], None], view: memoryview) -> None:
    for start in range(0, len(view), _BLOCK):
        update(view[start : start + _BLOCK])


def content_hash(model: Model) -> str:
    """SHA-256 over the graph and every weight of a model, however and wherever it is stored.

    Names of files, doc strings, metadata and producer do not count. Weights are read one by one.
    """
    digest = hashlib.sha256(structure_hash(model).encode())
    for name, value in sorted(constants(model).items()):
        tensor = constant(value)
        if tensor is None:
            continue
        shape = [int(n) for n in tensor.shape.numpy()]
        digest.update(f"\n{name} {tensor.dtype.name} {shape}\n".encode())
        if tensor.dtype == ir.DataType.STRING:
            digest.update(repr(tensor.numpy().tolist()).encode())
        else:
            write_tensor(tensor, _Sink(digest.update))
    return digest.hexdigest()


class _Sink:
    """A file that hands what is written to a function."""

    def __init__(self, take: Callable[[bytes | memoryview], None]) -> None:
        self._take = take

    def write(self, data: bytes | memoryview) -> int:
        self._take(data)
        return len(data)


def write_tensor(tensor: ir.TensorProtocol, file: HashingFile | _Sink) -> None:
    """Write the bytes of a tensor without copying them, where they are in memory or mapped."""
    while isinstance(tensor, ir.LazyTensor) and not isinstance(tensor, PartsTensor):
        tensor = tensor.raw()
    if isinstance(tensor, ir.Tensor) and tensor.dtype.bitwidth >= 8:
        array = np.ascontiguousarray(tensor.numpy())
        if array.dtype.byteorder != ">" and array.size:
            content = array.reshape(-1).view(np.uint8).data
            for start in range(0, len(content), _BLOCK):
                file.write(content[start : start + _BLOCK])
            return
    if hasattr(tensor, "tofile"):  # no part of the protocol, but all of onnx-ir's tensors have it
        tensor.tofile(file)
    else:
        file.write(tensor.tobytes())
