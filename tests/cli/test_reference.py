"""What is made from the options is what the repository holds, and editors can rely on it."""

from __future__ import annotations

import doctest
import importlib
import inspect
import json
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import onnxprune
from onnxprune.config import COMMANDS, from_flags, options_of
from onnxprune.data import zoo

ROOT = Path(__file__).resolve().parents[2]
MADE = runpy.run_path(str(ROOT / "docs" / "generate.py"))["FILES"]
FUNCTIONS = [name for name in onnxprune.__all__ if name in COMMANDS]


@pytest.mark.parametrize("path", MADE)
def test_files_made_from_the_options_are_up_to_date(path: str) -> None:
    assert (ROOT / path).read_text(encoding="utf-8") == MADE[path](), "run docs/generate.py"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_the_keywords_of_their_commands(name: str) -> None:
    function = getattr(onnxprune, name)
    parameters = inspect.signature(function).parameters
    assert {option for option, _ in options_of(name)} <= set(parameters)
    assert not any(each.kind is each.VAR_KEYWORD for each in parameters.values())
    assert all(f"    {option}: " in function.__doc__ for option, _ in options_of(name))


@pytest.mark.parametrize("name", [name for name in FUNCTIONS if name not in ("bench", "advise")])
def test_examples_of_functions_run(name: str) -> None:
    function = getattr(onnxprune, name)
    tests = doctest.DocTestFinder(recurse=False).find(
        function, name, globs={**vars(importlib.import_module(function.__module__))}
    )
    assert any(test.examples for test in tests)
    for test in tests:
        assert doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test).failed == 0


USER = """
from typing import Any

import onnxprune
import numpy as np

batches: list[dict[str, Any]] = [{"image": np.zeros((2, 1, 16, 16), np.float32)}]
result = onnxprune.prune("model.onnx", ratio=0.3, calib=batches, skip="head*")
result.save("small.onnx")
onnxprune.bench(["a.onnx", "b.onnx"], backend="cpu,openvino", batch=(1, 8))
onnxprune.quantize(result.model, calib=batches, dynamic=True)
onnxprune.recover("a.onnx", "b.onnx", calib="images.npz", recover="bias")
"""

WRONG = """
import onnxprune

onnxprune.prune("model.onnx", ratoi=0.3)
onnxprune.prune("model.onnx", recover="everything")
onnxprune.bench(["a.onnx"], batch="many", threds=2)
"""


CHECKER = """
[mypy]
strict = true
follow_imports = silent

[mypy-google.*,ml_dtypes.*,numpy.*,onnx.*,onnx_ir.*,onnxruntime.*,rich.*,scipy.*,yaml.*]
follow_imports = skip
follow_imports_for_stubs = true
"""
"""What onnxprune stands on is not read: it has no part in the keywords, and takes many seconds."""


def test_a_type_checker_reads_the_keywords(tmp_path: Path) -> None:
    (tmp_path / "mypy.ini").write_text(CHECKER)
    (tmp_path / "user.py").write_text(USER)
    (tmp_path / "wrong.py").write_text(WRONG)
    mypy = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini"]
    ran = subprocess.run(
        [*mypy, "user.py", "wrong.py"],
        cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    found = [line for line in ran.stdout.splitlines() if "error:" in line]
    assert [line.partition(":")[0] for line in found] == ["wrong.py"] * 3, ran.stdout
    assert all(
        word in line for word, line in zip(("ratoi", "recover", "threds"), found, strict=True)
    )


def test_names_of_the_package_can_be_listed_and_reached() -> None:
    assert set(onnxprune.__all__) == set(dir(onnxprune))
    for name in onnxprune.__all__:
        assert getattr(onnxprune, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'prun'"):
        _ = onnxprune.prun  # type: ignore[attr-defined]


def test_options_are_given_once() -> None:
    with pytest.raises(
        onnxprune.OnnxpruneError, match="ratio is given by name, and Options beside it"
    ):
        onnxprune.prune("model.onnx", from_flags({"ratio": 0.5}), ratio=0.3)


@pytest.mark.parametrize(
    "call",
    [
        lambda: onnxprune.prune("model.onnx", 0.3),
        lambda: onnxprune.prune("model.onnx", {"ratio": 0.3}),
        lambda: onnxprune.bench(["model.onnx"], "small.onnx"),
        lambda: onnxprune.quantize("model.onnx", from_flags({"ratio": 0.3})),
    ],
)
def test_values_in_the_place_of_options_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(onnxprune.OnnxpruneError, match=r"is an? .*, not \w*Options") as refusal:
        call()
    assert refusal.value.hint


def test_a_plan_may_be_given_by_its_path(tmp_path: Path) -> None:
    model = zoo.get("digits_mlp").model
    result = onnxprune.prune(model, ratio=0.25)
    path = result.plan.save(tmp_path / "plan.json")
    assert onnxprune.apply(model, path).plan.removed == result.plan.removed
    with pytest.raises(onnxprune.OnnxpruneError, match="not JSON") as refusal:
        onnxprune.apply(model, model)
    assert "plan" in refusal.value.hint


def test_nothing_to_remove_is_refused() -> None:
    with pytest.raises(onnxprune.OnnxpruneError, match="nothing says how much"):
        onnxprune.prune(zoo.get("digits_mlp").model)


def test_the_schema_of_recipes_is_json_schema() -> None:
    schema = json.loads((ROOT / "docs" / "reference" / "recipe.schema.json").read_text())
    jsonschema = pytest.importorskip("jsonschema")
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for good in ({"target": "macs=50%", "skip": ["a*"]}, {"ratios": {"layer1*": 0.1}}):
        assert validator.is_valid(good)
    for bad in ({"ration": 0.3}, {"recover": "all"}, {"batch": -1}):
        assert not validator.is_valid(bad)
