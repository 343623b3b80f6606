"""One name, one value, over all graphs of a model."""

from __future__ import annotations

import onnx_ir as ir

from onnxprune.model.origin import QUANTIZATION, bodies, values


def uniquify(model: ir.Model) -> None:
    """Rename values of subgraph bodies until every value name of the model is unique.

    ONNX lets two bodies use the same name, and lets a body shadow an outer name. Names of the main
    graph are kept; a clashing inner value is prefixed with the node and attribute it lives under.
    """
    used = {value.name for value in values(model.graph)}
    _rename_inside(model.graph, "", used)


def _rename_inside(graph: ir.Graph, prefix: str, used: set[str | None]) -> None:
    for node in graph:
        identity = next((value.name for value in node.outputs if value.name), node.name)
        for attribute, body in bodies(node):
            inner = f"{prefix}{identity}.{attribute}/"
            renamed = {}
            for value in list(values(body)):
                if value.name in used:
                    old, value.name = value.name, _unused(inner + (value.name or ""), used)
                    renamed[old] = value.name
                used.add(value.name)
            for value in values(body) if renamed else ():
                roles = value.meta.get(QUANTIZATION, {})  # names scales and zero points
                roles.update({role: renamed.get(name, name) for role, name in roles.items()})
            _rename_inside(body, inner, used)


def _unused(name: str, used: set[str | None]) -> str:
    candidate, count = name, 0
    while candidate in used:
        count += 1
        candidate = f"{name}_{count}"
    return candidate
