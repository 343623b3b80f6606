"""Which operator has which rules: the page ``docs/operators.md``, from the registries."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import onnx

from onnxprune.graph.ops import GRADIENTS, RULES, SHAPES
from onnxprune.graph.ops.call import CLASSIC
from onnxprune.graph.ops.gradient_call import BODIES
from onnxprune.graph.shapes.program import standard_form

_HEAD = """# Operators

What onnxprune knows of every operator of ONNX and of onnxruntime's own. Written by
`make operators` from the rules in `onnxprune/graph/ops` (onnx {onnx}, onnxruntime {runtime}).

* **axes**: how the operator moves, joins and contracts axes is known, so that channels, heads and
  features can be removed around it. Without it every axis it reads stays; `inspect` says so.
* **shapes**: `onnx` where its own inference serves, `rule` where onnxprune has a rule instead,
  `both` where a rule mends what onnx infers.
* **gradient**: `rule`, or `body` where the operator is differentiated as the function of simpler
  operators that onnx defines it to be. Without it nothing before the operator can be trained.
* **quantize**: onnxruntime's static quantizer writes it in int8.
"""

_TITLES = "| operator | axes | shapes | gradient | quantize |"


@dataclass(frozen=True)
class Operator:
    """The rules of one operator.

    Attributes:
        axes, quantize: whether there are any.
        shapes: ``onnx``, ``rule``, ``both`` or empty.
        gradient: ``rule``, ``body`` or empty.
    """

    domain: str
    name: str
    axes: bool
    shapes: str
    gradient: str
    quantize: bool


def operators(quantized: Collection[str] = ()) -> list[Operator]:
    """Every operator that onnx has a schema for, or onnxprune a rule.

    Args:
        quantized: names of the operators that the quantizer takes.
    """
    schemas: dict[tuple[str, str], Any] = {}
    for schema in onnx.defs.get_all_schemas():
        if schema.domain in ("", CLASSIC) and not schema.deprecated:
            schemas[schema.domain, schema.name] = schema
    return [
        Operator(
            domain,
            name,
            axes=(domain, name) in RULES,
            shapes=_shapes(domain, name, schemas.get((domain, name))),
            gradient="rule" if (domain, name) in GRADIENTS else "body" * (name in _bodies(domain)),
            quantize=not domain and name in quantized,
        )
        for domain, name in sorted({*schemas, *RULES, *SHAPES, *GRADIENTS})
    ]


def _shapes(domain: str, name: str, schema: Any) -> str:  # noqa: ANN401  # has no stubs
    ruled = (domain, name) in SHAPES
    inferred = schema is not None and schema.has_type_and_shape_inference_function
    # A variant of a standard operator is inferred as that one.
    inferred |= standard_form(onnx.NodeProto(op_type=name, domain=domain)) is not None
    return "both" if ruled and inferred else "rule" if ruled else "onnx" * inferred


def _bodies(domain: str) -> Collection[str]:
    return () if domain else BODIES


def page(quantized: Collection[str], runtime: str) -> str:
    """The table as Markdown.

    Args:
        quantized: names of the operators that the quantizer takes.
        runtime: the version of onnxruntime that it belongs to.
    """
    rows = operators(quantized)
    lines = [_HEAD.format(onnx=onnx.__version__, runtime=runtime)]
    for domain in dict.fromkeys(row.domain for row in rows):
        lines += [f"## {domain or 'ai.onnx'}", "", _TITLES, "|---" * 5 + "|"]
        for row in rows:
            if row.domain == domain:
                cells = "yes" * row.axes, row.shapes, row.gradient, "yes" * row.quantize
                lines.append(f"| {row.name} |" + "".join(f" {c} |" if c else " |" for c in cells))
        lines.append("")
    return "\n".join(lines)
