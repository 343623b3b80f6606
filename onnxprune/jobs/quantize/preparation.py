"""A float model in the form that onnxruntime's quantizers need.

They want an operator set with scales per channel, BatchNormalization folded into the convolution
before it, weights stored as the nodes read them and not offered as inputs, a bias for every node
alone, and a name for every node.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
from onnx import version_converter

from onnxprune import model as models
from onnxprune.graph.analysis import identity
from onnxprune.jobs.quantize.rows import as_read
from onnxprune.model.files import ScratchFolder
from onnxprune.quantities import plural
from onnxprune.recovery.correspond.folding import normalisations
from onnxprune.runtime.complaints import plain

PER_CHANNEL = 13
"""The first operator set whose QuantizeLinear has an axis."""
SCALAR = 11
"""The first that onnxruntime's quantizer writes its QuantizeLinear in."""
HALF = 19
"""The first whose QuantizeLinear takes float16."""
LARGEST = 1 << 31
"""Bytes of one protobuf message."""
_STORED_ALONE = 4
"""The first IR version whose stored tensors need not be inputs."""
_BIASED = {"Conv": 2, "ConvTranspose": 2, "Gemm": 2}
"""Operators that add a stored bias, and its slot."""


def prepared(model: models.Model, *, fold: bool = True) -> tuple[models.Model, tuple[str, ...]]:
    """A float model in the form that quantizers need, and notes on the changes.

    Args:
        model: not changed.
        fold: BatchNormalization into the operators before it.
    """
    notes: list[str] = []
    result = models.clone(model)
    _withdraw_inputs(result)
    if fold and normalisations(result):
        result, note = _folded(result)
        notes.append(note)
    wanted = HALF if _has_halves(result) else PER_CHANNEL
    if result.ir.opset_imports.get("", wanted) < wanted:
        result, note = _newer(result, wanted)
        notes.append(note)
    if count := as_read(result):
        notes.append(
            f"{plural(count, 'weight')} of transposed or reshaped layers were laid out anew"
        )
    _part_biases(result)
    for graph in models.graphs(result):
        for node in graph:
            node.name = identity(node)  # what the user excludes by name must have one
    return result, tuple(notes)


def in_memory(model: models.Model) -> models.Model:
    """The model without the files it came from, which are about to go.

    One too large for a message keeps them mapped, which outlives their names.
    """
    return models.load(models.to_proto(model))


def _withdraw_inputs(model: models.Model) -> None:
    """Stop offering stored tensors as inputs, which IR versions below 4 make of all of them.

    Nothing is folded into, and no scale is computed from, what a user might replace.
    """
    graph = model.ir.graph
    stored = [value for value in graph.inputs if value.is_initializer()]
    for value in stored:
        graph.inputs.remove(value)
    if stored:
        model.ir.ir_version = max(model.ir.ir_version or 0, _STORED_ALONE)


def _has_halves(model: models.Model) -> bool:
    tensors = (models.constant(value) for value in models.constants(model).values())
    return any(t is not None and t.dtype == ir.DataType.FLOAT16 and len(t.shape) for t in tensors)


def _folded(model: models.Model) -> tuple[models.Model, str]:
    """What onnxruntime's basic graph optimisations, which stay standard ONNX, make of a model."""
    import onnxruntime as ort

    with ScratchFolder() as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "folded.onnx"
        large = models.size_bytes(model) >= LARGEST
        models.save(model, source, external=large)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        if large:
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "folded.data"
            )
        try:
            ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # noqa: BLE001 onnxruntime raises bare Exception subclasses
            why = plain(error)[:200]
            return model, f"onnxruntime could not fold BatchNormalization: {why}"
        result = models.load(target)
        result = result if large else in_memory(result)
    return result, "BatchNormalization was folded into the convolutions before it"


def _newer(model: models.Model, wanted: int) -> tuple[models.Model, str]:
    """The model in a newer operator set, if onnx can convert it."""
    old = model.ir.opset_imports.get("", 0)
    lack = "scales per channel" if old < PER_CHANNEL else "int8 beside float16"
    note = ""
    for version in dict.fromkeys((wanted, max(old, SCALAR))):
        if version == old:
            break
        try:
            proto = version_converter.convert_version(models.to_proto(model), version)
            onnx.checker.check_model(proto)
        except Exception as error:  # noqa: BLE001 the converter raises whatever its C++ raises
            why = " ".join(str(error).split())[:200]
            note = note or f"operator set {old} knows no {lack}, and onnx cannot convert it: {why}"
        else:
            note = "; ".join(filter(None, (note, f"operator set {old} was converted to {version}")))
            return models.load(proto), note
    return model, note


def _part_biases(model: models.Model) -> None:
    """Give every node a bias of its own, a vector.

    Its int8 form hangs on the scales of the node's weight and input. onnxruntime's quantizer parts
    shared ones under names that may be taken, and reads only vectors.
    """
    graph = model.ir.graph
    readers: dict[ir.Value, list[tuple[ir.Node, int]]] = defaultdict(list)
    for node in graph:
        slot = _BIASED.get(node.op_type, -1)
        value = node.inputs[slot] if 0 < slot < len(node.inputs) else None
        if value is not None and models.constant(value) is not None:
            readers[value].append((node, slot))
    for value, uses in readers.items():
        tensor = models.constant(value)
        assert tensor is not None
        array = tensor.numpy()
        shared = len(value.uses()) > 1 or value.is_graph_output()
        for node, slot in uses:
            vector = _vector(array, node)
            if vector is None or (vector.shape == array.shape and not shared):
                continue
            name = models.fresh_name(graph, f"{value.name}/of/{identity(node)}")
            own = ir.Tensor(np.ascontiguousarray(vector), dtype=tensor.dtype)
            node.replace_input_with(slot, models.add_constant(graph, name, own))
        if not value.uses() and not value.is_graph_output() and value.is_initializer():
            del graph.initializers[value.name or ""]


def _vector(bias: npt.NDArray[Any], node: ir.Node) -> npt.NDArray[Any] | None:
    """A bias with one number per output of its node; None where it is another for every row."""
    weight = None if node.inputs[1] is None else models.constant(node.inputs[1])
    if any(size != 1 for size in bias.shape[:-1]):
        return None
    if node.op_type != "Gemm" or weight is None or bias.size != 1:
        return bias.reshape(-1)
    turned = node.attributes.get("transB")
    outputs = weight.shape.numpy()[0 if turned is not None and turned.as_int() else 1]
    return np.broadcast_to(bias.reshape(-1), (outputs,))
