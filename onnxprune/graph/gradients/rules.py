"""What an operator passes back."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from onnxprune.graph.emit import Emit, Undifferentiable


@dataclass(frozen=True, eq=False)
class Call:
    """A node that is being differentiated.

    Attributes:
        emit: adds nodes.
        node: the node.
        gradients: one per output; None where nothing depends on it.
    """

    emit: Emit
    node: ir.Node
    gradients: Sequence[ir.Value | None]

    @property
    def dy(self) -> ir.Value:
        """The gradient of the first output."""
        if self.gradients[0] is None:
            raise Undifferentiable("only a minor output is used")
        return self.gradients[0]

    @property
    def y(self) -> ir.Value:
        """The first output."""
        return self.node.outputs[0]

    def x(self, index: int = 0) -> ir.Value:
        """An input.

        Raises:
            Undifferentiable: it was left out.
        """
        value = self.input(index)
        if value is None:
            raise Undifferentiable("an input is left out")
        return value

    def input(self, index: int) -> ir.Value | None:
        """An input, None if it was left out."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def attribute(self, name: str, default: Any = None) -> Any:  # noqa: ANN401
        """An attribute; text as text."""
        found = self.node.attributes.get(name)
        return default if found is None else found.value

    def rank(self) -> int:
        """Axes of the first input."""
        return len(self.emit.sizes(self.x()))


Back = Mapping[int, Callable[[], ir.Value]]
"""Input -> how its gradient is made; only those that are wanted are called."""
Rule = Callable[[Call], Back]

RULES: dict[str, Rule] = {}
"""By operator of the default domain."""


def rule(*kinds: str) -> Callable[[Rule], Rule]:
    """Register a rule for some operators."""

    def register(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(kinds, function))
        return function

    return register
