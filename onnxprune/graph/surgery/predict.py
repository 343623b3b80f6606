"""Prediction of the size arithmetic of a cut graph, without running it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.ops import Keep
from onnxprune.graph.shapes import Fact
from onnxprune.graph.shapes import values as evaluation
from onnxprune.graph.surgery.edit import Editor


class Prediction:
    """Integers of the cut graph at one set of input shapes.

    Every tensor's shape there is known: its dense shape, times what is kept of each axis. So
    Shape and Size can be answered, and the arithmetic on them evaluated.
    """

    def __init__(
        self, editor: Editor, analysis: Analysis, facts: Mapping[str, Fact], keep: Keep
    ) -> None:
        self.facts = facts
        self._axes = analysis.walk.axes
        self._keep = keep
        self._opset = editor.model.ir.opset_imports.get("", 1)
        self._known: dict[ir.Value, npt.NDArray[Any] | None] = {}

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a value after the cut."""
        fact = self.facts.get(name)
        axes = self._axes.get(name)
        if fact is None or fact.sizes is None:
            return None
        if axes is None or len(axes) != len(fact.sizes):
            return fact.sizes
        return tuple(
            n * int(self._keep(a).sum()) // a.size if a.size and a.columns else n
            for n, a in zip(fact.sizes, axes, strict=True)
        )

    def dense(self, value: ir.Value) -> npt.NDArray[Any] | None:
        """Content of an integer of the original graph, without what leaves of its own axes."""
        fact = self.facts.get(value.name or "")
        if fact is None or fact.value is None:
            return None
        content = fact.value
        for k, axis in enumerate(self._axes.get(value.name or "", ())):
            stays = self._keep(axis) if axis.columns else np.ones(0, np.bool_)
            if not stays.all():  # an axis that loses nothing may have another size at this probe
                content = np.compress(stays, content, k)
        return content

    def value(self, value: ir.Value | None) -> npt.NDArray[Any] | None:
        """Content of an integer of the cut graph; None if unknown."""
        if value is None:
            return None
        if value not in self._known:
            self._known[value] = None  # unknown in a loop of the graph, too
            self._known[value] = self._evaluate(value)
        return self._known[value]

    def _evaluate(self, value: ir.Value) -> npt.NDArray[Any] | None:
        stored = models.constant(value)
        if stored is not None:
            return stored.numpy()
        node = value.producer()
        if node is None:
            fact = self.facts.get(value.name or "")
            return None if fact is None else fact.value
        if node.op_type in ("Shape", "Size") and node.domain == "" and node.inputs[0] is not None:
            stored = models.constant(node.inputs[0])  # cut already, or a copy that is not
            shape = (
                tuple(int(n) for n in stored.shape.numpy())
                if stored is not None
                else self.shape(node.inputs[0].name or "")
            )
            if shape is None:
                return None
            if node.op_type == "Size":
                return np.array(int(np.prod(shape, dtype=np.int64)), np.int64)
            start, end = (
                node.attributes.get_int("start", None),
                node.attributes.get_int("end", None),
            )
            return np.array(shape[start:end], np.int64)
        inputs = [None if v is None else self.value(v) for v in node.inputs]
        known = [v is None or i is not None for v, i in zip(node.inputs, inputs, strict=True)]
        if not all(known):
            return None
        results = evaluation.run(ir.serde.serialize_node(node), self._opset, inputs)
        return None if results is None else np.asarray(results[node.outputs.index(value)])
