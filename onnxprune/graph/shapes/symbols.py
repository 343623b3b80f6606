"""The symbolic sizes of graph inputs: which axes share one, which are computed from others."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from onnxprune.graph.facts import Shape, declared

Sizes = dict[str, int]
"""A size for every symbol."""

_OPERATORS: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@dataclass(frozen=True, eq=False)
class SymbolicAxis:
    """An axis of a graph input whose size is a symbol, or an expression of symbols.

    Attributes:
        source: the graph input.
        axis: which of its axes.
        names: the symbols its size depends on.
        leading: whether it looks like a batch: the first of several axes, the one of a recurrent
            state [layers, batch, hidden] beside other inputs, or named so.
        expression: how the size follows from the symbols.
    """

    source: str
    axis: int
    names: tuple[str, ...]
    leading: bool
    expression: ast.expr

    @property
    def symbol(self) -> str:
        """The symbol that is the size itself, "" if the size is computed."""
        return self.expression.id if isinstance(self.expression, ast.Name) else ""

    def size(self, sizes: Mapping[str, int]) -> int:
        """The size for these symbols, at least 1."""
        return max(_evaluate(self.expression, sizes), 1)


def symbolic_axes(inputs: Sequence[ir.Value]) -> list[SymbolicAxis]:
    """Every symbolic axis of the graph inputs whose rank is known, in order.

    Axes of the same name are the same symbol; an axis without a name is one of its own. Exporters
    also write sums: ``past_sequence_length + 1``.
    """
    axes = []
    for value in inputs:
        shape: Shape = declared(value).shape or ()
        for axis, size in enumerate(shape):
            if size is None and value.shape is not None:
                dim = value.shape[axis]
                text = "" if isinstance(dim, int) else dim.value or ""
                state = len(inputs) > 1 and len(shape) == 3 and (axis, shape.count(None)) == (1, 1)
                leads = state or (axis == 0 and len(shape) > 1)
                axes.append(_axis(value.name or "", axis, text, leads=leads))
    return axes


def _axis(source: str, axis: int, text: str, *, leads: bool) -> SymbolicAxis:
    # "?" is no name: exporters write it for every size they do not know.
    name = text if any(map(str.isalnum, text)) else f"{source}[{axis}]"
    expression = _parse(name)
    names: tuple[str, ...] = (name,)
    if expression is None:
        expression = ast.Name(name)
    else:
        symbols = (node.id for node in ast.walk(expression) if isinstance(node, ast.Name))
        names = tuple(dict.fromkeys(symbols))
    return SymbolicAxis(source, axis, names, leads or "batch" in name.lower(), expression)


def _parse(name: str) -> ast.expr | None:
    """The expression a dimension's name spells, None where it is just a name."""
    try:
        expression = ast.parse(name, mode="eval").body
    except SyntaxError:
        return None
    # A bare hyphen is punctuation ("batch-size"), one between spaces a difference.
    hyphenated = "-" in name.replace(" - ", "")
    symbols = sum(isinstance(node, ast.Name) for node in ast.walk(expression))
    return expression if symbols and not hyphenated and _is_arithmetic(expression) else None


def _is_arithmetic(expression: ast.expr) -> bool:
    if isinstance(expression, ast.BinOp):
        known = type(expression.op) in _OPERATORS
        return known and _is_arithmetic(expression.left) and _is_arithmetic(expression.right)
    if isinstance(expression, ast.Constant):
        return type(expression.value) is int
    return isinstance(expression, ast.Name)


def _evaluate(expression: ast.expr, sizes: Mapping[str, int]) -> int:
    if isinstance(expression, ast.BinOp):
        right = _evaluate(expression.right, sizes)
        if right == 0 and isinstance(expression.op, ast.FloorDiv):
            return 0
        return _OPERATORS[type(expression.op)](_evaluate(expression.left, sizes), right)
    if isinstance(expression, ast.Constant):
        return int(str(expression.value))
    return sizes[expression.id] if isinstance(expression, ast.Name) else 1
