"""The seal of a model file: what its bytes hash to, and the text in its metadata that says so.

The seal is one entry of ``metadata_props``, the last field of the file. The digest of the graph is
SHA-256 over all other bytes of the .onnx file, weights inside it included; each file of external
data has a digest of its own. So both are known while a model is written, and a change of any byte
shows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
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
from onnxprune.model.stored import PartsTensor
from onnxprune.model.structure import structure_hash
from onnxprune.model.wire import field_bytes, fields_of

KEY = "onnxprune.certificate"
"""Key of the metadata entry, and the format of the document that belongs to it."""
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
        digests: of the files as they are now.
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


def is_document(path: Path) -> bool:
    """Whether a file is a document of ours, which may be replaced with its model."""
    try:
        content = read_json(path) if path.is_file() else None
    except (OSError, ValueError, OnnxpruneError):
        return False
    return isinstance(content, dict) and content.get("format") == KEY


def entry(text: str) -> bytes:
    """The bytes of a seal, to be appended to a serialised model."""
    pair = onnx.StringStringEntryProto(key=KEY, value=text)
    return field_bytes(_METADATA, pair.SerializeToString())


def read_seal(model: Model) -> Seal:
    """The seal of a loaded model, and the digests of the files it came from.

    Raises:
        OnnxpruneError: it was not loaded from a file, or has two seals.
    """
    files = origin_of(model.ir).files
    path = model.path
    main = files.get(path.resolve()) if path is not None else None
    if path is None or main is None:
        raise OnnxpruneError("the model did not come from a file", hint="give the path of one")
    digest, kept, text = hashlib.sha256(), 0, None
    view = memoryview(main)
    for each in fields_of(view):
        if each.number != _METADATA or not each.has_bytes:
            continue
        try:
            pair = onnx.StringStringEntryProto.FromString(bytes(view[each.value : each.end]))
        except DecodeError:
            continue
        if pair.key != KEY:
            continue
        if text is not None:
            raise OnnxpruneError(f"{path} has two certificates", hint="write it again")
        _update(digest.update, view[kept : each.start])
        text, kept = pair.value, each.end
    _update(digest.update, view[kept:])
    if text is None and _LEFT in bytes(view[-_TAIL:]):
        raise OnnxpruneError(
            f"the certificate in {path} is damaged",
            hint="get the file again from where it was made, or write it again",
            exit_code=1,
        )
    folder = path.resolve().parent
    data = {}
    for file, mapped in files.items():
        if file != path.resolve() and mapped is not None:
            one = hashlib.sha256()
            _update(one.update, memoryview(mapped))
            name = file.relative_to(folder) if file.is_relative_to(folder) else file
            data[name.as_posix()] = one.hexdigest()
    return Seal(text, Digests(digest.hexdigest(), dict(sorted(data.items()))))


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
