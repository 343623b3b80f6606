"""Shapes that nothing but a run can tell, as declarations of a model.

Where shape inference leaves a rank unknown (an operator without a rule, a target of Reshape that
depends on data), the layers behind it have no axes, so nothing of them could be removed. The model
is then run once on inputs of both sets of sizes that it is analysed at, in a process of its own
where it may crash. A rank counts where both runs agree on it, and so does a size.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.model import Model
from onnxprune.runtime.first_run import observed_types

Feeds = Mapping[str, npt.NDArray[Any]]
Shape = tuple[int | None, ...]


def analyse_by_runs(
    model: Model,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
    feeds: Feeds | None = None,
    provider: str = "cpu",
    *,
    interface: bool = False,
) -> Analysis:
    """Analyse a model; if ranks stay unknown on the way to a stored weight, with those of runs.

    Args:
        model: not changed; the analysis is then of a copy with more declarations.
        shapes: input shapes as the user gave them, or of ``feeds``; None without.
        feeds: real inputs; by default synthetic ones.
        provider: execution provider.
        interface: whether graph inputs and outputs may lose indices too.

    Raises:
        OnnxpruneError: no input shapes fit the graph.
    """
    analysis = analyse(model, inputs=shapes, interface=interface)
    names = unknown_values(analysis)
    if not names:
        return analysis
    try:
        batches: Sequence[Feeds] = synthetic_inputs(analysis, provider)
    except OnnxpruneError:  # it may still run on real ones; one run cannot tell which sizes vary
        batches = ()
    if feeds is not None:
        batches = (feeds, *batches[1:])
    try:
        runs = observed_types(model, batches, names, provider=provider)
    except OnnxpruneError:
        return analysis
    declared = declare(model, runs) if runs else model
    if declared is model:
        return analysis
    return analyse(declared, inputs=shapes, interface=interface)


def unknown_values(analysis: Analysis) -> list[str]:
    """Node outputs of unknown shape, where one of unknown rank meets a stored tensor."""
    facts = analysis.facts

    def rankless(value: ir.Value | None) -> bool:
        fact = None if value is None else facts.get(value.name or "")
        return fact is not None and fact.shape is None and fact.dtype is not None

    stored = {id(use.node) for use in analysis.walk.uses}
    graph = analysis.model.ir.graph
    if not any(rankless(value) for node in graph if id(node) in stored for value in node.inputs):
        return []
    tensors = (ir.TensorType, type(None))
    return [
        value.name
        for node in graph
        for value in node.outputs
        if value.name and isinstance(value.type, tensors) and facts[value.name].sizes is None
    ]


def declare(model: Model, runs: Sequence[Mapping[str, tuple[str, Shape]]]) -> Model:
    """A copy of a model that declares the shapes that all runs agree on.

    Args:
        model: not changed.
        runs: element type and shape of values, by name. Sizes of a single run stay open, and so do
            those of 0: what is empty in both may not be so in others.
    """
    agreed: dict[str, tuple[str, Shape]] = {}
    for name, (dtype, first) in runs[0].items():
        others = [run[name][1] for run in runs[1:]]
        if any(len(other) != len(first) for other in others):
            continue
        same = [
            bool(others) and size and all(other[axis] == size for other in others)
            for axis, size in enumerate(first)
        ]
        sizes = zip(first, same, strict=True)
        agreed[name] = dtype, tuple(size if stays else None for size, stays in sizes)
    if not agreed:
        return model
    copy = models.clone(model)
    for value in models.values(copy.ir.graph):
        if value.name in agreed:
            dtype, shape = agreed[value.name]
            value.shape = ir.Shape(shape)
            value.type = value.type or ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
    return copy
