"""Writing a model: one weight in memory at a time, complete or not at all."""

from __future__ import annotations

import mmap
import re
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir as ir

from onnxprune.errors import OnnxpruneError, as_path, wrong_type
from onnxprune.model.coo import SparseTensor
from onnxprune.model.core import Model, clone, graphs
from onnxprune.model.exchange import LARGEST_MESSAGE, message
from onnxprune.model.files import Change, check_target, describing, replacing
from onnxprune.model.origin import adopt, origin_of
from onnxprune.model.reading import load
from onnxprune.model.seal import (
    INTERFACE_KEY,
    KEY,
    Certify,
    Digests,
    HashingFile,
    document_path,
    entry,
    is_document,
    is_map,
    map_path,
    write_tensor,
)
from onnxprune.model.stored import map_file
from onnxprune.model.wire import Chunk, Hole, attach

_PAGE = 4096
"""Weights from this size on are streamed, and start on a page of an external file so that it can
be mapped (ONNX external data specification: offsets should be multiples of 4096)."""

_RESERVE = 1 << 16
"""Bytes of a message that are left for its certificate."""

_TOKEN = f"onnxprune:{secrets.token_hex(8)}"
"""External location that stands for a streamed weight while its model is being written."""


class DeclinedError(OnnxpruneError):
    """A model was not written because it was not accepted."""


def save(
    model: Model,
    path: str | Path,
    *,
    external: bool | None = None,
    overwrite: Collection[str | Path] = (),
) -> Path:
    """Write a model to ``path``, weights inside it or in ``<path>.data`` beside it.

    A model whose metadata map a changed interface has that map in ``NAME.interface.json`` too.

    Weights are read, computed (lazy tensors) and written one by one. Everything goes to temporary
    files in the same folder, and one rename makes the model appear, so that whatever happens there
    is either the model that was there before, with its own weights, or the new one. Where
    ``<path>.data`` is in use, the new weights are in ``<path>.<12 hex digits>.data``; files of the
    replaced model are removed unless another model in the folder names them, and so are files of
    that pattern that no model names.

    Args:
        model: what to write; it is not changed.
        path: the .onnx file; an existing one is replaced, unless ``model`` was read from it. A link
            stays, and the file it leads to is replaced. Only regular files are written.
        external: put weights of a page or more into a file beside the model. Default: when the
            model came with external data, or is too large for one file (2 GiB).
        overwrite: files ``model`` was read from that may be replaced all the same; ``model`` stays
            usable afterwards.

    Returns:
        ``path``.

    Raises:
        OnnxpruneError: the folder is missing, full or not writable, ``path`` is no regular file or
            one that the model was read from, or the model is too large for ``external=False``.
    """
    return write(model, path, external=external, overwrite=overwrite)


def write(
    model: Model,
    path: str | Path,
    *,
    external: bool | None = None,
    overwrite: Collection[str | Path] = (),
    certify: Certify | None = None,
    accept: Callable[[Path], bool] | None = None,
) -> Path:
    """As :func:`save`, with a certificate, and only if the result is accepted.

    Args:
        model: what to write.
        path: the .onnx file.
        external: whether weights are beside it, as in :func:`save`.
        overwrite: files of ``model`` that may be replaced.
        certify: makes the certificate of the model of its digests.
        accept: called with a temporary path of the complete model; where it is false, nothing is
            written.

    Raises:
        OnnxpruneError: as :func:`save` does, or what would be replaced is no certificate.
    """
    if not isinstance(model, Model):
        raise wrong_type("model", model, "a loaded model", "load it first: onnxprune.load(model)")
    path = as_path(path, "path")
    if not (external is None or isinstance(external, bool)):
        raise wrong_type("external", external, "True, False or None", "leave it out, or set it")
    if isinstance(overwrite, str) or not isinstance(overwrite, Collection):
        raise wrong_type(
            "overwrite", overwrite, "a list of paths", "give files in a list: overwrite=[path]"
        )
    allowed = [as_path(each, "a file in overwrite") for each in overwrite]
    target = check_target(path)
    with describing(path):
        document = document_path(target)
        for name in (f"{target.name}.{'0' * 12}.data", document.name):
            target.with_name(name).exists()  # too long a name shows here, before the work
    if certify is not None and document.exists() and not is_document(document):
        raise OnnxpruneError(
            f"{document} is no certificate, and would be replaced by one",
            hint="choose another name for the model, or leave the certificate out",
        )
    place = map_path(target)
    if INTERFACE_KEY in model.ir.metadata_props and place.exists() and not is_map(place):
        raise OnnxpruneError(
            f"{place} is no map of an interface, and would be replaced by one",
            hint="choose another name for the model",
        )
    parts = _divide(model, external=external)
    if target != path and parts.beside and target.parent != path.parent.resolve():
        raise OnnxpruneError(
            f"{path} is a link into another folder, where its weights would not be found",
            hint=f"name the file itself: {target}",
        )
    _check_sources(model, [target], allowed)
    with describing(path):
        _write(model, target, parts, allowed, certify, accept)
    return path


@dataclass(frozen=True)
class _Parts:
    """A serialised model, taken apart.

    Attributes:
        chunks: the bytes of the .onnx file, with holes where weights go.
        weights: those that are streamed.
        beside: numbers of those that go to a file of their own.
    """

    chunks: Sequence[Chunk]
    weights: Sequence[ir.TensorProtocol]
    beside: Collection[int]

    @property
    def nbytes(self) -> int:
        """Bytes of all files, about."""
        padding = len(self.beside) * _PAGE
        return sum(len(chunk) for chunk in self.chunks) + padding


def _divide(model: Model, *, external: bool | None) -> _Parts:
    """Take a model apart, and decide which weights go beside it.

    Raises:
        OnnxpruneError: it does not fit into one file.
    """
    skeleton, weights, sparse = _skeleton(model)
    sizes = [weight.nbytes for weight in weights]
    chunks = attach(skeleton, _TOKEN, sizes)
    size = sum(len(chunk) for chunk in chunks)
    largest = LARGEST_MESSAGE - _RESERVE
    if external is None:
        external = origin_of(model.ir).external or size > largest
    if not external and size > largest:
        raise OnnxpruneError(
            f"the model takes {size} bytes, more than one .onnx file can hold (2 GiB)",
            hint="let its weights be written beside it (external=True)",
        )
    # Few readers follow sparse tensors out of the model file, so they stay in it while they fit.
    beside = set(range(len(weights))) if external else set()
    if len(skeleton) + sum(sizes[number] for number in sparse) <= largest:
        beside -= sparse
    return _Parts(chunks, weights, beside)


def _write(
    model: Model,
    target: Path,
    parts: _Parts,
    allowed: Collection[Path],
    certify: Certify | None,
    accept: Callable[[Path], bool] | None,
) -> None:
    chunks, weights = parts.chunks, parts.weights
    sizes = [weight.nbytes for weight in weights]
    mapped = [one for one in origin_of(model.ir).files.values() if one is not None]
    with replacing(target, parts.nbytes) as change:
        data: dict[str, str] = {}
        if parts.beside:
            part = change.part()
            file = HashingFile(part)
            offsets = _write_data(file, weights, parts.beside, mapped)
            digest = file.hexdigest()
            marks = ("", f".{digest[:12]}", f".{secrets.token_hex(6)}")
            name = change.publish(part, (f"{target.name}{mark}.data" for mark in marks))
            data[name] = digest
            skeleton, *_ = _skeleton(model, name, offsets)
            chunks = attach(skeleton, _TOKEN, sizes)
        main = HashingFile(change.file)
        _write_chunks(main, chunks, weights, mapped)
        document = document_path(target)
        if is_document(document):  # of the model that is replaced
            change.withdraw(document.name)
        if certify is not None:
            text, content = certify(Digests(main.hexdigest(), data))
            change.file.write(entry(text))
            beside = change.part()
            beside.write(content)
            change.follow(beside, document.name)
        if is_map(place := map_path(target)):
            change.withdraw(place.name)
        if (entries := model.ir.metadata_props.get(INTERFACE_KEY)) is not None:
            beside = change.part()
            beside.write(entries.encode())
            change.follow(beside, place.name)
        change.file.flush()
        if accept is not None and not accept(Path(change.file.name)):
            raise DeclinedError(f"{target} was not written: a check failed", exit_code=1)
        # Late: the model that is replaced may be that of a writer who was faster.
        for name in _obsolete(change, model, allowed):
            if name not in data:
                change.remove(name)


def _obsolete(change: Change, model: Model, allowed: Collection[Path]) -> list[str]:
    """Data files of the model that is replaced, as far as nothing else needs them.

    Those named by content count too where no model names them any more: the model they belonged to
    was deleted or replaced by hand, or its writer died where journals do not work.
    """
    target = change.target
    pattern = re.compile(rf"{re.escape(target.name)}(?P<content>\.[0-9a-f]{{12}})?\.data")
    files = [each for each in target.parent.iterdir() if each.is_file()]
    names = {each.name: match for each in files if (match := pattern.fullmatch(each.name))}
    if not names:
        return []
    sources = [file for file in origin_of(model.ir).files if file not in allowed]
    others = [  # copies such as small.onnx.bak included
        each
        for each in files
        if (".onnx" in each.name or each.suffix == ".pb")
        and each.suffix != ".data"
        and each.name != target.name
        and not each.name.startswith(".onnxprune-")
    ]
    return [
        name
        for name, match in names.items()
        if (match["content"] or (target.exists() and _mentions(target, name)))
        and not any(_same(target.with_name(name), each) for each in sources)
        and not any(_mentions(each, name) for each in others)
        and not change.is_claimed(name)
    ]


def _mentions(path: Path, name: str) -> bool:
    """Whether a file may name another; one that cannot be read may."""
    try:
        if path.stat().st_size == 0:
            return False
        return map_file(path).find(name.encode()) >= 0
    except (OSError, OnnxpruneError):
        return True


def _check_sources(
    model: Model, targets: Sequence[Path], overwrite: Collection[str | Path]
) -> None:
    sources = [*origin_of(model.ir).files, *([model.path] if model.path else [])]
    allowed = [Path(path) for path in overwrite]
    for target in targets:
        if any(_same(target, one) for one in sources) and not any(
            _same(target, one) for one in allowed
        ):
            raise OnnxpruneError(
                f"{target} holds the model that is being read", hint="choose another output name"
            )


def _same(one: Path, other: Path) -> bool:
    """Whether two names lead to one file, through links of either kind."""
    try:
        return one.samefile(other)
    except OSError:  # one of them does not exist (any more)
        return one.resolve() == other.resolve()


def _skeleton(
    model: Model, location: str = "", offsets: Mapping[int, int] | None = None
) -> tuple[bytes, list[ir.TensorProtocol], set[int]]:
    """The model serialised with references for its large weights, and those weights.

    The references of weights that have an offset say ``location`` and that; others say `_TOKEN`
    and the number of the weight. Last come the numbers of those that are parts of sparse tensors.
    """
    copy = clone(model)
    weights: list[ir.TensorProtocol] = []
    sparse: set[int] = set()

    def refer(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if isinstance(tensor, SparseTensor):
            first = len(weights)
            parts = SparseTensor(tensor, refer(tensor.values), refer(tensor.indices))
            sparse.update(range(first, len(weights)))
            return parts
        if tensor.dtype == ir.DataType.STRING or tensor.nbytes < _PAGE:
            return tensor
        number = len(weights)
        weights.append(tensor)
        outside = offsets is not None and number in offsets
        return ir.ExternalTensor(
            location if outside else _TOKEN,
            offsets[number] if offsets is not None and outside else number,
            tensor.nbytes,
            tensor.dtype,
            shape=ir.Shape(tensor.shape.numpy()),
            name=tensor.name or "",
            doc_string=tensor.doc_string or None,
            metadata_props=dict(tensor.metadata_props),
        )

    for graph in graphs(copy):
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = refer(value.const_value)
        for node in graph:
            for name, attr in list(node.attributes.items()):
                if attr.type == ir.AttributeType.TENSOR:
                    reference = ir.AttrTensor(name, refer(attr.as_tensor()))
                    reference.doc_string = attr.doc_string
                    node.attributes[name] = reference
    adopt(copy.ir, origin_of(model.ir))
    copy.ir.metadata_props.pop(KEY, None)  # of a file that this is no longer
    return message(copy.ir).SerializeToString(), weights, sparse


def _write_data(
    file: HashingFile,
    weights: Sequence[ir.TensorProtocol],
    leave: Collection[int],
    mapped: Sequence[mmap.mmap],
) -> dict[int, int]:
    """Write the weights whose numbers ``leave`` names; number -> offset."""
    offsets = {}
    for number in sorted(leave):
        offsets[number] = -(-file.tell() // _PAGE) * _PAGE
        file.write(bytes(offsets[number] - file.tell()))
        _write_weight(file, weights[number], mapped)
    return offsets


def _write_chunks(
    file: HashingFile,
    chunks: Sequence[Chunk],
    weights: Sequence[ir.TensorProtocol],
    mapped: Sequence[mmap.mmap],
) -> None:
    for chunk in chunks:
        if isinstance(chunk, Hole):
            _write_weight(file, weights[chunk.index], mapped)
        else:
            file.write(chunk)


def _write_weight(
    file: HashingFile, weight: ir.TensorProtocol, mapped: Sequence[mmap.mmap]
) -> None:
    start = file.tell()
    write_tensor(weight, file)
    written = file.tell() - start
    if written != weight.nbytes:
        raise ValueError(
            f"weight '{weight.name}' gave {written} bytes instead of the {weight.nbytes} that its "
            "type and shape announce"
        )
    for one in mapped:  # what has been copied need not stay resident
        if hasattr(mmap, "MADV_DONTNEED"):
            one.madvise(mmap.MADV_DONTNEED)


def files_of(path: Path) -> set[Path]:
    """A model file, and every file its weights are in."""
    return {path.resolve(), *origin_of(load(path).ir).files}


def file_bytes(path: Path) -> int:
    """Bytes of a model on disk, data beside it included."""
    return sum(file.stat().st_size for file in files_of(path))
