"""What a value was made of."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import identity


def read_by(node: ir.Node) -> list[ir.Value]:
    """Everything a node reads, values captured by its bodies included."""
    found = [v for v in node.inputs if v is not None]
    for _, body in models.bodies(node):
        inner = set(models.values(body))
        for each in body:
            found += [v for v in read_by(each) if v not in inner]
        found += [v for v in body.outputs if v not in inner]
    return found


def ancestors(value: ir.Value) -> set[str]:
    """The identities of all nodes a value depends on, within its graph."""
    found: set[str] = set()
    queue = [value]
    while queue:
        node = queue.pop().producer()
        if node is not None and identity(node) not in found:
            found.add(identity(node))
            queue += read_by(node)
    return found
