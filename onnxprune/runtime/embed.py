"""Handing a model of any size to a runtime, with values tapped.

Everything here edits clones. Weights above a small size are taken out of the serialised graph and
passed beside it, each as the one tensor of an external data file that exists only by name; its
bytes may be a map of the model's own file. So nothing is copied or written to disk, and the graph
stays far below the 2 GiB that one protobuf message can hold.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError

_LARGE = 64 * 1024  # bytes; smaller ones may be shapes and bounds that inference must read
_FREE_INITIALIZERS = 4  # first IR version whose initializers need not be graph inputs


@dataclass(frozen=True, eq=False)
class ExternalWeight:
    """A weight that travels beside the graph.

    Attributes:
        name: of the initializer.
        file: the external data file that the graph believes it is in.
        data: its bytes, uint8, 4-bit elements two to a byte.
        shape: of the tensor.
        dtype: ONNX element type.
    """

    name: str
    file: str
    data: npt.NDArray[np.uint8]
    shape: tuple[int, ...]
    dtype: ir.DataType


@dataclass(frozen=True, eq=False)
class Embedded:
    """A model ready for a runtime.

    Attributes:
        graph: a serialised ``ModelProto`` without the large weights.
        weights: those weights.
        echoed: tapped values that are graph inputs, hence not outputs of the graph.
    """

    graph: bytes
    weights: tuple[ExternalWeight, ...]
    echoed: tuple[str, ...]


def embed(model: models.Model, outputs: Sequence[str] = ()) -> Embedded:
    """Serialise ``model`` with the values named ``outputs`` as additional graph outputs.

    Args:
        model: left as it is.
        outputs: names of values of the main graph: node outputs, graph inputs or stored tensors.

    Raises:
        OnnxpruneError: a name is unknown, or is defined inside the body of an If, Loop or Scan.
    """
    copy = models.clone(model)
    echoed = tap(copy, outputs)
    weights = {}
    for index, value in enumerate(list(_large(copy))):
        tensor = models.constant(value)
        assert tensor is not None
        assert value.name is not None
        weights[value.name] = _external(value.name, f"weight-{index}", tensor)
        _detach(copy, value, tensor)
    proto = models.to_proto(copy)
    for stored in proto.graph.initializer:
        if stored.name in weights:
            _refer(stored, weights[stored.name])
    return Embedded(proto.SerializeToString(), tuple(weights.values()), echoed)


def tap(model: models.Model, names: Iterable[str]) -> tuple[str, ...]:
    """Make values outputs of the main graph of ``model``, which is edited.

    Returns:
        those names that are graph inputs: they need no output, their feed is their value.
    """
    graph = model.ir.graph
    present = {value.name for value in graph.outputs}
    inputs = {value.name for value in graph.inputs if not value.is_initializer()}
    by_name = {value.name: value for value in models.values(graph)}
    echoed = []
    for name in dict.fromkeys(names):
        if name in inputs:
            echoed.append(name)
        elif name in by_name:
            if name not in present:
                graph.outputs.append(by_name[name])
        else:
            raise _untappable(model, name)
    return tuple(echoed)


def with_sizes(model: models.Model, names: Sequence[str]) -> tuple[models.Model, dict[str, str]]:
    """A clone whose further outputs are the numbers of elements of some main-graph values.

    Returns:
        the clone, and for each name the name of the int64 scalar output that holds its size.
    """
    copy = models.clone(model)
    graph = copy.ir.graph
    by_name = {value.name: value for value in models.values(graph)}
    sizes = {}
    for name in names:
        if name not in by_name:
            raise _untappable(model, name)
        node = ir.Node("", "Size", [by_name[name]], num_outputs=1)
        out = node.outputs[0]
        out.name = models.fresh_name(graph, f"{name}.size")
        out.type, out.shape = ir.TensorType(ir.DataType.INT64), ir.Shape([])
        graph.append(node)
        graph.outputs.append(out)
        sizes[name] = out.name
    return copy, sizes


def _untappable(model: models.Model, name: str) -> OnnxpruneError:
    for graph in models.graphs(model):
        for node in graph:
            for _, body in models.bodies(node):
                if any(value.name == name for value in models.values(body)):
                    return OnnxpruneError(
                        f"the value '{name}' cannot be observed: it exists only inside the body "
                        f"of the {node.op_type} node '{node.name or node.outputs[0].name}'",
                        hint="observe an output of that node instead",
                    )
    return OnnxpruneError(f"the model has no value '{name}' to observe")


def _large(model: models.Model) -> Iterator[ir.Value]:
    """Constants that can be passed beside the graph: large, no strings, movable."""
    main = model.ir.graph
    movable = (model.ir.ir_version or _FREE_INITIALIZERS) >= _FREE_INITIALIZERS
    for graph in models.graphs(model):
        for value in models.values(graph):
            tensor = models.constant(value)
            if tensor is None or tensor.nbytes <= _LARGE:
                continue
            if tensor.dtype == ir.DataType.STRING:
                continue
            stays = value.is_initializer() and graph is main
            if stays or (movable and not value.is_graph_output() and not value.is_graph_input()):
                yield value


def _external(name: str, file: str, tensor: ir.TensorProtocol) -> ExternalWeight:
    if tensor.dtype.bitwidth < 8:
        data = np.frombuffer(tensor.tobytes(), np.uint8)
    else:
        data = np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)
    return ExternalWeight(name, file, data, tuple(tensor.shape.numpy()), tensor.dtype)


def _detach(model: models.Model, value: ir.Value, tensor: ir.TensorProtocol) -> None:
    """Leave only an empty initializer of the main graph where ``value`` stored ``tensor``.

    Names are unique over all graphs, so moving a constant of a body outwards changes nothing.
    """
    assert value.name is not None
    empty = ir.Tensor(np.empty(0, tensor.dtype.numpy()), name=value.name)
    main = model.ir.graph
    if value.is_initializer() and value.graph is main:
        value.const_value = empty
        return
    moved = ir.Value(
        name=value.name,
        shape=ir.Shape(tensor.shape.numpy()),
        type=ir.TensorType(tensor.dtype),
        const_value=empty,
    )
    owner, node = value.graph, value.producer()
    ir.convenience.replace_all_uses_with(value, moved)
    if node is not None:
        assert node.graph is not None
        node.graph.remove(node, safe=True)
    elif owner is not None:
        del owner.initializers[value.name]
    main.register_initializer(moved)


def _refer(stored: onnx.TensorProto, weight: ExternalWeight) -> None:
    """Turn an empty initializer into a reference to a weight that is passed beside the graph."""
    stored.ClearField("raw_data")
    stored.ClearField("dims")
    stored.dims.extend(weight.shape)
    stored.data_location = onnx.TensorProto.EXTERNAL
    entries = {"location": weight.file, "offset": "0", "length": str(weight.data.nbytes)}
    for key, text in entries.items():
        stored.external_data.add(key=key, value=text)
