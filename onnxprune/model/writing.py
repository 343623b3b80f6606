"""Writing a model: one weight in memory at a time, complete or not at all."""

from __future__ import annotations

import mmap
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import onnx_ir as ir

from onnxprune.errors import OnnxpruneError, as_path, wrong_type
from onnxprune.model.coo import SparseTensor
from onnxprune.model.core import Model, clone, graphs
from onnxprune.model.exchange import LARGEST_MESSAGE, message
from onnxprune.model.origin import adopt, origin_of
from onnxprune.model.reading import load
from onnxprune.model.replacing import replacing
from onnxprune.model.wire import Chunk, Hole, attach

_PAGE = 4096
"""Weights from this size on are streamed, and start on a page of an external file so that it can
be mapped (ONNX external data specification: offsets should be multiples of 4096)."""

_TOKEN = f"onnxprune:{secrets.token_hex(8)}"
"""External location that stands for a streamed weight while its model is being written."""


def save(
    model: Model,
    path: str | Path,
    *,
    external: bool | None = None,
    overwrite: Collection[str | Path] = (),
) -> Path:
    """Write a model to ``path``, weights inside it or in ``<path>.data`` beside it.

    Weights are read, computed (lazy tensors) and written one by one. Everything goes to temporary
    files in the same folder that are renamed when complete; if anything fails they are removed and
    what was there before is untouched.

    Args:
        model: what to write; it is not changed.
        path: the .onnx file; an existing one is replaced, unless ``model`` was read from it.
        external: put weights of a page or more into ``<path>.data``. Default: when the model came
            with external data, or is too large for one file (2 GiB).
        overwrite: files ``model`` was read from that may be replaced all the same; ``model`` stays
            usable afterwards.

    Returns:
        ``path``.

    Raises:
        OnnxpruneError: the folder is missing or not writable, ``path`` is a folder or a file the
            model was read from, or the model is too large for ``external=False``.
    """
    if not isinstance(model, Model):
        raise wrong_type("model", model, "a loaded model", "load it first: onnxprune.load(model)")
    target = as_path(path, "path")
    if not (external is None or isinstance(external, bool)):
        raise wrong_type("external", external, "True, False or None", "leave it out, or set it")
    if isinstance(overwrite, str) or not isinstance(overwrite, Collection):
        raise wrong_type(
            "overwrite", overwrite, "a list of paths", "give files in a list: overwrite=[path]"
        )
    allowed = [as_path(each, "a file in overwrite") for each in overwrite]
    try:
        _write(model, target, external=external, overwrite=allowed)
    except OSError as error:
        raise OnnxpruneError(
            f"{target} cannot be written: {error.strerror or error}",
            hint="check the name, the folder's permissions and the free space",
        ) from error
    return target


def _write(
    model: Model, target: Path, *, external: bool | None, overwrite: Collection[str | Path]
) -> None:
    _check_target(target)
    skeleton, weights, sparse = _skeleton(model)
    sizes = [weight.nbytes for weight in weights]
    chunks: Sequence[Chunk] = attach(skeleton, _TOKEN, sizes)
    size = sum(len(chunk) for chunk in chunks)
    if external is None:
        external = origin_of(model.ir).external or size > LARGEST_MESSAGE
    if not external and size > LARGEST_MESSAGE:
        raise OnnxpruneError(
            f"the model takes {size} bytes, more than one .onnx file can hold (2 GiB)",
            hint="let its weights be written beside it (external=True)",
        )
    data = target.with_name(f"{target.name}.data")
    # Few readers follow sparse tensors out of the model file, so they stay in it while they fit.
    leave = set(range(len(weights)))
    if len(skeleton) + sum(sizes[number] for number in sparse) <= LARGEST_MESSAGE:
        leave -= sparse
    targets = [data, target] if external and leave else [target]
    _check_sources(model, targets, overwrite)
    mapped = [one for one in origin_of(model.ir).files.values() if one is not None]
    with replacing(targets) as files:
        if len(files) == 2:
            offsets = _write_data(files[0], weights, leave, mapped)
            skeleton, *_ = _skeleton(model, data.name, offsets)
            chunks = attach(skeleton, _TOKEN, sizes)
        _write_chunks(files[-1], chunks, weights, mapped)


def _check_target(target: Path) -> None:
    if not target.parent.is_dir():
        raise OnnxpruneError(f"there is no folder {target.parent}", hint="create it first")
    if target.is_dir():
        raise OnnxpruneError(f"{target} is a folder", hint="give the name of a file in it")


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
    return message(copy.ir).SerializeToString(), weights, sparse


def _write_data(
    file: BinaryIO,
    weights: Sequence[ir.TensorProtocol],
    leave: Collection[int],
    mapped: Sequence[mmap.mmap],
) -> dict[int, int]:
    """Write the weights whose numbers ``leave`` names; number -> offset."""
    offsets = {}
    for number in sorted(leave):
        offsets[number] = -(-file.tell() // _PAGE) * _PAGE
        file.seek(offsets[number])
        _write_weight(file, weights[number], mapped)
    return offsets


def _write_chunks(
    file: BinaryIO,
    chunks: Sequence[Chunk],
    weights: Sequence[ir.TensorProtocol],
    mapped: Sequence[mmap.mmap],
) -> None:
    for chunk in chunks:
        if isinstance(chunk, Hole):
            _write_weight(file, weights[chunk.index], mapped)
        else:
            file.write(chunk)


def _write_weight(file: BinaryIO, weight: ir.TensorProtocol, mapped: Sequence[mmap.mmap]) -> None:
    start = file.tell()
    if hasattr(weight, "tofile"):  # no part of the protocol, but all of onnx-ir's tensors have it
        weight.tofile(file)
    else:
        file.write(weight.tobytes())
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


def remove_files(path: Path) -> None:
    """Remove a model that was just written, data beside it included."""
    for file in files_of(path):
        file.unlink(missing_ok=True)
