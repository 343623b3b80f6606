"""Reading a model from wherever it is: a file, a message, another library's graph."""

from __future__ import annotations

import contextlib
import logging
import os
import stat
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, EncodeError

from onnxprune.errors import OnnxpruneError, as_path
from onnxprune.model import functions, sparse
from onnxprune.model.core import Model
from onnxprune.model.exchange import from_graphsurgeon
from onnxprune.model.files import kind_of_file
from onnxprune.model.names import uniquify
from onnxprune.model.origin import Source, adopt, clone, origin_of
from onnxprune.model.protos import set_aside
from onnxprune.model.seal import KEY
from onnxprune.model.stored import Store, map_file
from onnxprune.model.validity import check_graph, check_header, sort_nodes
from onnxprune.model.wire import WireError, detach

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

ModelLike: TypeAlias = "str | Path | onnx.ModelProto | gs.Graph | ir.Model | Model"

_Resolve: TypeAlias = Callable[[ir.TensorProtocol], ir.TensorProtocol]

_MAPPED_FROM = 4096  # bytes: smaller weights are read with the graph
_LONGEST = 300
"""Characters of another library's reason."""
_NOT_ONNX = "give the .onnx file of an exported model"


def load(model: ModelLike) -> Model:
    """Load a model and make it uniform.

    Afterwards local functions are written out, sparse constants are (lazily) dense, nodes are in
    topological order, and every value name is unique over all graphs. Names of the main graph are
    kept. The caller's object is never changed. Weights stay in their files, mapped: the files may
    be deleted or replaced while the model is in use, but must not be rewritten in place.

    Args:
        model: path of an .onnx file (external data beside it), a ``ModelProto``, an
            onnx-graphsurgeon graph, an onnx-ir model, or a `Model`, which is returned as it is.

    Raises:
        OnnxpruneError: there is no such file, it is not a complete ONNX model, its external data
            is missing, too short or outside its folder, or the graph contradicts itself.
    """
    if isinstance(model, Model):
        return model
    if isinstance(model, str | os.PathLike):
        return _from_file(Path(model) if str(model) else as_path(model, "model"))
    if isinstance(model, ir.Model):
        return _from_ir(model)
    if not isinstance(model, onnx.ModelProto):
        model = from_graphsurgeon(model)
    try:
        data = model.SerializeToString()
    except (EncodeError, ValueError) as error:
        raise OnnxpruneError(
            "the model passed in memory is larger than 2 GiB",
            hint="save it with external data and pass the path",
        ) from error
    return Model(_assemble(memoryview(data), Store((), data), "the model"))


def _from_file(path: Path) -> Model:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        raise OnnxpruneError(f"there is no file {path}", hint="check the path") from error
    except (OSError, ValueError) as error:  # ValueError: a null byte in the name
        reason = (isinstance(error, OSError) and error.strerror) or error
        raise OnnxpruneError(f"{path} cannot be read: {reason}", hint="check the path") from error
    if not stat.S_ISREG(status.st_mode):
        raise OnnxpruneError(f"{path} is {kind_of_file(status)}", hint=_NOT_ONNX)
    if status.st_size == 0:
        raise OnnxpruneError(f"{path} is empty", hint="export or download it again")
    mapped = map_file(path)
    real = path.resolve()
    store = Store(tuple(dict.fromkeys((path.parent.resolve(), real.parent))), mapped)
    store.files[real] = mapped
    return Model(_assemble(memoryview(mapped), store, str(path)), path)


def _assemble(data: memoryview, store: Store, where: str) -> ir.Model:
    """The model serialised in ``data``, bound to its weights and made uniform."""
    proto = _parse(data, store.token, where)
    check_header(proto, where)
    functions.check_size(proto)
    try:
        kept_types = set_aside(proto)
        training = tuple(info.SerializeToString() for info in proto.training_info)
        sparse.densify(proto, store)
        functions.prepare(proto)
        with _without_warnings():
            model = ir.from_proto(proto)
        _normalise(model, store.resolve)
    except (LookupError, OverflowError, RuntimeError, TypeError, ValueError) as error:
        # What onnx-ir makes of types, encodings and references that no valid model has.
        raise OnnxpruneError(
            f"{where} is not a valid ONNX model: {_line(_root(error))}",
            hint="onnx.checker.check_model may say more; export the model again",
        ) from error
    adopt(model, Source(dict(store.files), store.external, training, kept_types))
    return model


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    """Silence what onnx-ir logs on damaged graphs, which are refused here with a reason."""
    logger = logging.getLogger("onnx_ir.serde")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _parse(data: memoryview, token: str, where: str) -> onnx.ModelProto:
    proto = onnx.ModelProto()
    try:
        proto.ParseFromString(detach(data, token, _MAPPED_FROM))
    except WireError as error:
        # Every exporter writes ir_version first: field 1 as a number.
        if error.truncated and data[0] == 0x08:
            raise OnnxpruneError(
                f"{where} ends in the middle of the model", hint="copy or download it again"
            ) from error
        raise OnnxpruneError(f"{where} is not an ONNX model", hint=_NOT_ONNX) from error
    except DecodeError as error:
        raise OnnxpruneError(f"{where} is not an ONNX model", hint=_NOT_ONNX) from error
    return proto


def _from_ir(source: ir.Model) -> Model:
    try:
        model = clone(source)
    except RuntimeError as error:
        raise OnnxpruneError(
            f"the onnx-ir model cannot be copied: {_line(_root(error))}",
            hint="sort its nodes (Graph.sort) and make every input come from somewhere",
        ) from error
    origin = origin_of(source)
    stores: dict[Path, Store] = {}
    files = dict(origin.files)

    def resolve(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
        if not isinstance(tensor, ir.ExternalTensor):
            return tensor
        if not tensor.base_dir:  # onnx-ir: the caller answers for the place
            files[Path(tensor.path).resolve()] = None
            return tensor
        folder = Path(tensor.base_dir).resolve()
        store = stores.setdefault(folder, Store((folder,), b""))
        bound = store.resolve(tensor)
        files.update(store.files)
        return bound

    _normalise(model, resolve)
    external = origin.external or len(files) > len(origin.files)
    adopt(model, replace(origin, files=files, external=external))
    return Model(model)


def _normalise(model: ir.Model, resolve: _Resolve) -> None:
    """Write functions out, bind weights, order nodes, and make names unique, in place."""
    model.metadata_props.pop(KEY, None)  # a certificate is of the file, not of what is made of it
    if "ai.onnx" in model.opset_imports:  # the long name of the default domain
        model.opset_imports.setdefault("", model.opset_imports.pop("ai.onnx"))
    functions.inline(model)
    check_graph(model)
    sort_nodes(model)
    uniquify(model)
    _bind(model, resolve)


def _bind(model: ir.Model, resolve: _Resolve) -> None:
    for graph in model.graphs():
        for value in graph.initializers.values():
            if value.const_value is not None:
                value.const_value = resolve(value.const_value)
        for node in graph:
            for name, attr in list(node.attributes.items()):
                if attr.type == ir.AttributeType.TENSOR and not attr.is_ref():
                    tensor = attr.value  # as_tensor() takes 20 us to check what it is
                    bound: ir.Attr = ir.AttrTensor(name, resolve(tensor))
                elif attr.type == ir.AttributeType.TENSORS and not attr.is_ref():
                    bound = ir.AttrTensors(name, [resolve(t) for t in attr.as_tensors()])
                else:
                    continue
                bound.doc_string = attr.doc_string
                node.attributes[name] = bound


def _line(error: BaseException) -> str:
    """The text of an error as one line of bounded length."""
    return textwrap.shorten(" ".join(str(error).split()), _LONGEST, placeholder=" ...")


def _root(error: BaseException) -> BaseException:
    while error.__cause__ is not None:
        error = error.__cause__
    return error
