"""Residual branches that are gone from a pruned graph."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.layers.sources import by_identity, fits, is_size, same_operator, source
from onnxprune.graph.units import Block

_FOUND = 0.5
"""Share of a branch's values that are found again where the branch is still there."""
_SAMPLE = 1000
"""Values of each tensor that are looked up, where the question is whether any have changed."""


class Branches:
    """What tells a branch that is gone from one that is there: shapes, weights, then names.

    Args:
        analysis: of the dense model.
        pruned: what was made of it.
    """

    def __init__(self, analysis: Analysis, pruned: models.Model) -> None:
        self._analysis = analysis
        self._old = by_identity(analysis.model)
        self._names = {v.name for v in models.values(analysis.model.ir.graph)}
        sums = [sum(map(_is_sum, by_identity(m).values())) for m in (analysis.model, pruned)]
        self._missing = sums[0] - sums[1]
        self._pruned = pruned

    @cached_property
    def _unchanged(self) -> bool:
        """Whether the pruned model mostly has values that the dense one has."""
        wanted = _values(self._pruned)
        sample = np.concatenate([v[:: max(len(v) // _SAMPLE, 1)] for v in wanted] or [np.zeros(0)])
        found = np.zeros(len(sample), np.bool_)
        for values in _values(self._analysis.model):
            found |= np.isin(sample, values)
        return bool(found.mean() >= _FOUND) if len(found) else False

    def gone(self, block: Block, old: ir.Value, new: ir.Value) -> bool:
        """Whether a residual branch is gone where its sum would stand."""
        one, two = old.producer(), new.producer()
        if two is None or one is None or not same_operator(one, two):
            return True
        if self._missing == 0:
            return False
        share = self._share_found(block, two)
        if share is None or share >= _FOUND:
            return share is None
        if self._unchanged:  # so this would be found if it were there
            return True
        if old.name == new.name or (new.name or "") in self._names:
            return old.name != new.name
        raise OnnxpruneError(
            f"a residual branch is missing, and it cannot be told whether it is '{block.name}': "
            "names and weights have both changed",
            hint="keep the names of one of the two graphs in the other",
        )

    def _share_found(self, block: Block, two: ir.Node) -> float | None:
        """How many values of a pruned branch are in the dense branch; None if shapes forbid it."""
        dying = set(block.nodes)
        one = self._old[block.output]
        best: float | None = None
        for a in one.inputs:
            if a is None or source(a).producer() is None:
                continue
            if identity(source(a).producer()) not in dying:  # type: ignore[arg-type]
                continue
            for b in two.inputs:
                share = self._branch(a, b, dying)
                if share is not None:
                    best = max(best or 0.0, share)
        return best

    def _branch(self, a: ir.Value | None, b: ir.Value | None, dying: set[str]) -> float | None:
        """The same, for one operand of either sum."""
        queue, seen = [(a, b)], set()
        found = size = 0
        while queue:
            a, b = queue.pop()
            if a is None or b is None:
                continue
            one, two = source(a).producer(), source(b).producer()
            if one is None or identity(one) not in dying or one in seen:
                continue
            seen.add(one)
            if two is None or not same_operator(one, two):
                return None
            for i, (p, q) in enumerate(zip(one.inputs, two.inputs, strict=False)):
                if p is None or q is None or is_size(self._analysis, p):
                    continue
                mine = models.constant(source(p))
                theirs = models.constant(source(q))
                if mine is None or theirs is None:
                    queue.append((one.inputs[i], two.inputs[i]))
                    continue
                if not fits(mine, theirs):
                    return None
                values = theirs.numpy().ravel()
                found += int(np.isin(values, mine.numpy()).sum())
                size += values.size
        return found / size if size else 0.0


def _values(model: models.Model) -> list[npt.NDArray[Any]]:
    """The values of every stored matrix or kernel of floating point, flat."""
    found = []
    for value in models.constants(model).values():
        tensor = models.constant(value)
        assert tensor is not None
        if tensor.dtype.is_floating_point() and sum(n > 1 for n in tensor.shape.numpy()) > 1:
            found.append(tensor.numpy().ravel())
    return found


def _is_sum(node: ir.Node) -> bool:
    operands = [v for v in node.inputs if v is not None and models.constant(v) is None]
    return node.op_type in ("Add", "Sum") and len(operands) == 2
