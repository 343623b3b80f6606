"""What onnxruntime's quantizer has to leave alone, and why.

The quantizer gives up a whole model for one node that it cannot handle, and the runtime may crash
on what it made. Such nodes are left out: those known beforehand by a rule, others because the
quantizer's or the runtime's complaint names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.config import QuantizeOptions
from onnxprune.data.memory import MemoryBudget
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import identity
from onnxprune.graph.facts import Fact
from onnxprune.graph.shapes.walk import propagate
from onnxprune.jobs.quantize import quantizer
from onnxprune.jobs.quantize.preparation import HALF
from onnxprune.jobs.quantize.purposes import LINEAR
from onnxprune.runtime.first_run import RuntimeDiedError, first_run

Feeds = Mapping[str, npt.NDArray[Any]]
Facts = Mapping[str, Fact]
Reasons = dict[str, str]
"""Why nodes are left out, by identity."""

_SHAPES = 4
"""Sets of input sizes that are looked at."""
_ATTEMPTS = 6
_FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
_NUMBERS = {*_FLOATS, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}
_QUOTED = re.compile(
    r"'([^']+)'|`([^`]+)`|node[: ]+\(([^()]+)\)|Node \(([^()]+)\)|Name:\s?'?([^\s']+)"
)
_SUFFIX = re.compile(
    r"(_(De)?QuantizeLinear(_Input|_Output)?|_quantized|_scale|_zero_point|_quant|/duplicated)+$"
)


def distinct(feeds: Sequence[Feeds]) -> list[Feeds]:
    """The first feeds of every set of sizes, few of them."""
    kinds: dict[object, Feeds] = {}
    for each in feeds:
        kinds.setdefault(tuple((name, array.shape) for name, array in each.items()), each)
    return list(kinds.values())[:_SHAPES]


def known_reasons(
    model: models.Model, feeds: Sequence[Feeds], settings: QuantizeOptions
) -> Reasons:
    """Nodes of a prepared model that the quantizer is known not to handle.

    Args:
        model: prepared; types that it does not declare are written into it, because the quantizer
            passes over values without one.
        feeds: inputs; sizes are those of the first few kinds.
        settings: the options.
    """
    reasons: Reasons = {}
    for each in distinct(feeds):
        facts = propagate(model, {name: array.shape for name, array in each.items()})
        _declare_types(model, facts)
        for node in model.ir.graph:
            reason = "" if node.op_type == "Constant" else _reason(model, node, facts, settings)
            if reason:
                reasons.setdefault(identity(node), reason)
    return reasons


def quantize_most(
    model: models.Model,
    settings: QuantizeOptions,
    feeds: Sequence[Feeds],
    reasons: Reasons,
    memory: MemoryBudget,
) -> models.Model:
    """Quantize all of a prepared model that onnxruntime quantizes and then runs.

    Args:
        model: prepared.
        settings: the options.
        feeds: inputs for the ranges of activations and for a first run.
        reasons: nodes to leave out; those that turn out to be in the way are added.
        memory: bounds the values that ranges are measured on together.

    Raises:
        OnnxpruneError: nothing says which node is in the way.
    """
    ranges = None
    for attempt in range(_ATTEMPTS):
        try:
            if ranges is None:  # they do not depend on what is left out
                ranges = quantizer.measure_ranges(model, settings, feeds, memory.observed)
                reasons.update(_infinite(model, ranges))
            result = quantizer.run(model, settings, ranges, sorted(reasons))
            first_run(
                result,
                distinct(feeds),
                what="the int8 model",
                hint="leave the node that it names out with --skip, or try --dynamic",
                apart=True,
            )
        except quantizer.QuantizerError as error:
            text = error.complaint
            names = [] if "while running" in text else culprits(model, text)
            why = f"onnxruntime's quantizer refuses it: {text[:120]}"
            problem: OnnxpruneError = error
        except OnnxpruneError as error:
            died = isinstance(error, RuntimeDiedError)
            text = f"'{error.node}'" if isinstance(error, RuntimeDiedError) else error.message
            names = culprits(model, text)
            why = f"onnxruntime {'crashes in' if died else 'does not run'} its int8 form"
            problem = error
        else:
            return result
        new = [name for name in names if name not in reasons]
        if not new or attempt == _ATTEMPTS - 1:
            raise problem
        reasons.update(dict.fromkeys(new, why))
    raise AssertionError  # every attempt returns, raises or adds a reason


def _infinite(model: models.Model, ranges: Any) -> Reasons:  # noqa: ANN401  # TensorsData
    """Nodes that read or make a value without a finite range, such as scores that are masked."""
    names = {
        name
        for name, each in (ranges.items() if ranges is not None else ())
        if not np.isfinite(each.range_value).all()
    }
    why = "a value of it is infinite on these inputs, so there is no scale for it"
    return {
        identity(node): why
        for node in model.ir.graph
        if any(value is not None and value.name in names for value in (*node.inputs, *node.outputs))
    }


def culprits(model: models.Model, complaint: str) -> list[str]:
    """The nodes that a complaint names, or that read or make a value that it names."""
    words = {word for groups in _QUOTED.findall(complaint) for word in groups if word}
    words |= {_SUFFIX.sub("", word) for word in words}
    nodes = [node for node in model.ir.graph if node.op_type != "Constant"]
    named = [node for node in nodes if {identity(node), node.name} & words]
    stored = models.constants(model)
    readers = [
        node
        for node in nodes
        if any(v is not None and v.name in words and v.name in stored for v in node.inputs)
    ]
    makers = [n for n in nodes if any(v.name in words for v in n.outputs)]
    return [identity(node) for node in named or readers or makers]


def _declare_types(model: models.Model, facts: Facts) -> None:
    for value in models.values(model.ir.graph):
        fact = facts.get(value.name or "")
        if value.type is None and fact is not None and fact.dtype is not None:
            value.type = ir.TensorType(fact.dtype)


def _reason(model: models.Model, node: ir.Node, facts: Facts, settings: QuantizeOptions) -> str:
    """Why a node is left out; empty if it is not."""
    inputs = [value for value in node.inputs if value is not None]
    values = [facts[v.name] for v in (*inputs, *node.outputs) if v.name and v.name in facts]
    numbers = [fact for fact in values if fact.dtype in _NUMBERS]
    if any(fact.sizes is not None and 0 in fact.sizes for fact in numbers):
        return "a tensor of it is empty for the inputs given"
    stored = (models.constant(value) for value in inputs)
    if any(tensor is not None and not _is_finite(tensor) for tensor in stored):
        return "a weight of it holds infinite values or NaN, for which there is no scale"
    if node.op_type not in LINEAR:
        return ""
    version = model.ir.opset_imports.get("", HALF)
    if version < HALF and any(f.dtype == ir.DataType.FLOAT16 for f in numbers):
        return f"float16 takes operator set {HALF}, this is {version}"
    other = next((f.dtype for f in numbers if f.dtype not in _FLOATS), None)
    if other is not None:
        return f"onnxruntime's quantizer takes no {other.name.lower()}"
    return "" if settings.dynamic else _bias_reason(node, settings)


def _is_finite(tensor: ir.TensorProtocol) -> bool:
    return tensor.dtype not in _FLOATS or bool(np.isfinite(tensor.numpy()).all())


def _bias_reason(node: ir.Node, settings: QuantizeOptions) -> str:
    """Why the bias of a node, which is quantized along, keeps it from it; empty if it does not."""
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is None:
        return ""
    groups = node.attributes.get("group")
    grouped = groups is not None and groups.as_int() > 1
    if node.op_type == "ConvTranspose" and grouped and not settings.per_tensor:
        return "onnxruntime's quantizer has no scales for the bias of a grouped ConvTranspose"
    first = node.inputs[0]
    if first is None or first.type is None:
        return "the element type of its input is unknown"
    tensor = models.constant(bias)
    return "" if tensor is None or len(tensor.shape) == 1 else "its bias is no vector"
