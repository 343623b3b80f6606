"""The page of operators says what the registries say; `make operators` writes it."""

from __future__ import annotations

import sys
from pathlib import Path

import onnx
import onnxruntime as ort
import pytest

from onnxprune.graph.operators import Operator, operators, page
from onnxprune.graph.ops import GRADIENTS, RULES, SHAPES
from onnxprune.graph.ops.gradient_call import BODIES
from onnxprune.jobs.quantize.purposes import quantized_operators

PAGE = Path(__file__).parents[2] / "docs" / "operators.md"


def written() -> str:
    return page(quantized_operators(), ort.__version__)


def rows() -> dict[tuple[str, str], Operator]:
    return {(row.domain, row.name): row for row in operators(quantized_operators())}


def test_the_page_is_that_of_the_registries() -> None:
    text = PAGE.read_text()
    if f"(onnx {onnx.__version__}, onnxruntime {ort.__version__})" not in text:
        pytest.skip("the page was written with other versions of onnx and onnxruntime")
    assert text == written(), "run `make operators`"


def test_every_rule_has_its_row() -> None:
    """With whatever versions: the page names each operator that has a rule, under its domain."""
    sections = {part.split()[0]: part for part in PAGE.read_text().split("## ")[1:]}
    for domain, name in {*RULES, *SHAPES, *GRADIENTS}:
        assert f"| {name} |" in sections[domain or "ai.onnx"]


def test_rules_show() -> None:
    table = rows()
    assert table["", "Conv"] == Operator("", "Conv", True, "both", "rule", True)
    assert table["", "Gelu"].gradient == "body"
    assert table["com.microsoft", "QGemm"].shapes == "rule"
    assert table["com.microsoft", "FusedConv"].shapes == "onnx"
    assert not table["", "NonZero"].axes
    assert {key for key, row in table.items() if row.axes} == set(RULES)
    assert {key for key, row in table.items() if row.gradient == "rule"} == set(GRADIENTS)
    assert {name for (d, name), row in table.items() if row.gradient == "body"} == BODIES


if __name__ == "__main__":
    sys.stdout.write(written())
