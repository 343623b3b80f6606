"""What a model stores: reading, replacing and adding constants, wherever the graph keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.model.core import Model, graphs
from onnxprune.model.origin import owner, values, walk

_FIRST_IR_WITH_FREE_INITIALIZERS = 4  # below, every initializer must also be a graph input

_LITERALS: dict[str, tuple[ir.DataType, Callable[[ir.Attr], object]]] = {
    "value_float": (ir.DataType.FLOAT, ir.Attr.as_float),
    "value_floats": (ir.DataType.FLOAT, ir.Attr.as_floats),
    "value_int": (ir.DataType.INT64, ir.Attr.as_int),
    "value_ints": (ir.DataType.INT64, ir.Attr.as_ints),
}
"""The attributes of Constant (operator specification, since opset 12) that hold plain numbers."""


def constant(value: ir.Value) -> ir.TensorProtocol | None:
    """What ``value`` always holds: an initializer, or the output of a Constant node; else None.

    Cheap: the data itself is read from its file by ``.numpy()`` or ``.tobytes()``.
    An initializer that is also a graph input (IR 3 has no other kind) counts as constant.
    """
    if value.is_initializer():
        return value.const_value
    node = value.producer()
    if node is None or node.op_type != "Constant" or node.domain:
        return None
    for name, attr in node.attributes.items():
        if name == "value":
            tensor: ir.TensorProtocol = (
                attr.value
            )  # as_tensor() checks a protocol: 100 times slower
            return tensor
        if name in _LITERALS:
            dtype, read = _LITERALS[name]
            return ir.Tensor(np.array(read(attr), dtype.numpy()), name=value.name)
        if name == "value_string":
            return ir.StringTensor([attr.as_string().encode()], shape=ir.Shape([]))
        if name == "value_strings":
            strings = [text.encode() for text in attr.as_strings()]
            return ir.StringTensor(strings, shape=ir.Shape([len(strings)]))
    return None


def array_of(value: ir.Value) -> npt.NDArray[Any]:
    """What a constant holds, as an array that must not be written to.

    Raises:
        ValueError: ``value`` is not a constant.
    """
    tensor = constant(value)
    if tensor is None:
        raise ValueError(f"'{value.name}' is not a constant")
    return tensor.numpy()


def set_constant(value: ir.Value, array: npt.NDArray[np.generic] | ir.TensorProtocol) -> None:
    """Replace what a constant holds; its name and doc string stay, its type and shape follow.

    Args:
        value: an initializer or the output of a Constant node.
        array: the new content. It is not copied: do not write to it afterwards. A lazy tensor
            (`onnx_ir.LazyTensor`) is only evaluated when it is read or saved.

    Raises:
        ValueError: ``value`` is not a constant.
    """
    old = constant(value)
    if old is None:
        raise ValueError(f"'{value.name}' is not a constant")
    new = _tensor(array, value.name, old.doc_string, dict(old.metadata_props))
    if value.is_initializer():
        value.const_value = new
    else:
        node = value.producer()
        assert node is not None
        node.attributes.clear()
        node.attributes.add(ir.AttrTensor("value", new))
        if value.const_value is not None:  # a cache some onnx-ir passes fill
            value.const_value = new
    value.type = ir.TensorType(new.dtype)
    value.shape = ir.Shape(new.shape.numpy())


def add_constant(
    graph: ir.Graph,
    name: str,
    array: npt.NDArray[np.generic] | ir.TensorProtocol,
    used: set[str | None] | None = None,
) -> ir.Value:
    """Add a stored tensor to ``graph`` and return the value that holds it.

    It becomes an initializer, or, below IR version 4 where an initializer would have to be a graph
    input too, a Constant node in front of all others.

    Args:
        graph: the main graph or a body of a loaded model.
        name: wanted name; a number is appended when the model already uses it.
        array: the content, as in `set_constant`.
        used: see `fresh_name`.
    """
    model = owner(graph)
    tensor = _tensor(array, fresh_name(graph, name, used), None, {})
    shape, dtype = ir.Shape(tensor.shape.numpy()), ir.TensorType(tensor.dtype)
    if model is None or model.ir_version >= _FIRST_IR_WITH_FREE_INITIALIZERS:
        value = ir.Value(name=tensor.name, shape=shape, type=dtype, const_value=tensor)
        graph.register_initializer(value)
        return value
    value = ir.Value(name=tensor.name, shape=shape, type=dtype)
    node = ir.Node("", "Constant", [], [ir.AttrTensor("value", tensor)], outputs=[value])
    node.name = tensor.name
    if len(graph):
        graph.insert_before(graph[0], node)
    else:
        graph.append(node)
    return value


def fresh_name(graph: ir.Graph, name: str, used: set[str | None] | None = None) -> str:
    """``name``, or the first of ``name_1``, ``name_2``, ... that no value of the model has.

    Args:
        graph: of the model.
        name: the wanted name.
        used: all names of the model (`names_of`), to which the new one is added: who adds many
            values collects the names once. Default: they are collected now.
    """
    used = names_of(graph) if used is None else used
    candidate, count = name, 0
    while candidate in used:
        count += 1
        candidate = f"{name}_{count}"
    used.add(candidate)
    return candidate


def names_of(graph: ir.Graph) -> set[str | None]:
    """The names of all values of the model that a graph belongs to."""
    model = owner(graph)
    root = graph if model is None else model.graph
    return {value.name for one in walk(root) for value in values(one)}


def constants(model: Model) -> dict[str, ir.Value]:
    """Every stored tensor of the model by name: initializers and Constant outputs, all graphs."""
    result: dict[str, ir.Value] = {}
    for graph in graphs(model):
        for value in values(graph):
            if value.name and constant(value) is not None:
                result[value.name] = value
    return result


def size_bytes(model: Model) -> int:
    """Bytes of everything the model stores, uncompressed: initializers and Constant nodes."""
    tensors = (constant(value) for value in constants(model).values())
    return sum(tensor.nbytes for tensor in tensors if tensor is not None)


def _tensor(
    array: npt.NDArray[np.generic] | ir.TensorProtocol,
    name: str | None,
    doc: str | None,
    metadata: dict[str, str],
) -> ir.TensorProtocol:
    if isinstance(array, np.ndarray | np.generic):
        return ir.Tensor(np.asarray(array), name=name, doc_string=doc, metadata_props=metadata)
    if array.dtype == ir.DataType.STRING:
        return array
    # A view with a name of its own: the tensor may be shared with another model.
    return ir.LazyTensor(
        lambda: array,
        array.dtype,
        ir.Shape(array.shape.numpy()),
        name=name,
        doc_string=doc,
        metadata_props=metadata,
    )
