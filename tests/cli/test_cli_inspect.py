"""``inspect`` says what the analysis found, of every model, in both forms."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import Ran
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import cost

Cli = Callable[..., Ran]
SHARED_MODELS = (
    "models/resnet20_cifar10_optA_bn.onnx",  # pads channels: some axes stay
    "models/stories260k_llama_legacy.onnx",  # a residual stream that only goes inexactly
    "wild/basic_pitch_nmp.onnx",
)


def inspected(cli: Cli, path: Path, *flags: str) -> dict[str, Any]:
    ran = cli("inspect", path, "--json", *flags)
    assert (ran.code, ran.err) == (0, "RESULT inspect exit=0\n")
    found: dict[str, Any] = json.loads(ran.out)
    return found


@pytest.mark.parametrize("name", zoo.names())
def test_the_report_is_what_the_analysis_found(cli: Cli, name: str) -> None:
    path = zoo.get(name).model
    report = inspected(cli, path)
    analysis = analyse(models.load(path))
    dense = cost(analysis)
    assert report["command"] == "inspect"
    assert report["ok"] is True
    assert [row["name"] for row in report["groups"]] == [group.name for group in analysis.groups]
    assert [row["units"] for row in report["groups"]] == [len(group) for group in analysis.groups]
    assert all(row["kept"] == row["units"] for row in report["groups"])
    assert not any(row["bypassed"] for row in report["blocks"])
    totals = {key: report["model"][key] for key in ("params", "macs", "bytes")}
    assert totals == {"params": dense.params, "macs": dense.macs, "bytes": dense.bytes}
    assert report["model"]["name"] == path.name
    assert report["output"] is None


@pytest.mark.parametrize("relative", SHARED_MODELS)
def test_reach_agrees_with_the_algebra(cli: Cli, shared: Path, relative: str) -> None:
    path = shared / relative
    reach = inspected(cli, path)["reachable"]
    analysis = analyse(models.load(path))
    assert reach["params"] == analysis.params
    assert (reach["exact"] + reach["inexact"]) / reach["params"] == pytest.approx(
        analysis.reachable
    )
    assert (reach["inexact"] > 0) == any(not group.exact for group in analysis.groups)


def test_what_stays_is_counted_with_its_reason(cli: Cli) -> None:
    report = inspected(cli, zoo.get("digits_mlp").model)
    rows = {row["reason"]: row for row in report["not_prunable"]}
    (output,) = [row for reason, row in rows.items() if "graph output" in reason]
    assert output["example"] == "logits"
    # Only the biases of the classes stay when every hidden unit that can go is gone.
    assert output["params"] == 10
    assert report["reachable"]["params"] - report["reachable"]["exact"] == 10


@pytest.mark.parametrize("name", ["digits_rescnn", "chars_decoder"])
def test_what_a_unit_costs_is_what_leaves_with_it(cli: Cli, name: str) -> None:
    path = zoo.get(name).model
    report = inspected(cli, path)
    analysis = analyse(models.load(path))
    dense = cost(analysis)
    for row in report["groups"]:
        assert row["macs"] * row["units"] <= dense.macs * 1.01, row
        left = cost(analysis, {row["name"]: [row["units"] - 1]})
        assert (row["macs"], row["params"]) == (dense.macs - left.macs, dense.params - left.params)


def test_a_person_reads_the_same(cli: Cli) -> None:
    path = zoo.get("digits_rescnn").model
    report = inspected(cli, path)
    ran = cli("inspect", path)
    assert (ran.code, ran.err) == (0, "RESULT inspect exit=0\n")
    for row in (*report["groups"], *report["blocks"]):
        assert row["name"] in ran.out
    assert "\x1b" not in ran.out


def test_given_shapes_are_the_ones_analysed(cli: Cli) -> None:
    path = zoo.get("digits_rescnn").model
    one = inspected(cli, path, "--shapes", "image=1x1x16x16")["model"]
    four = inspected(cli, path, "--shapes", "image=4x1x16x16")["model"]
    assert (one["analysed"], four["analysed"]) == (
        {"image": [1, 1, 16, 16]},
        {"image": [4, 1, 16, 16]},
    )
    # Costs are those of one sample, so a batch changes neither.
    assert four["macs"] == one["macs"] > 0
    assert four["params"] == one["params"]


def test_a_longer_sequence_costs_more(cli: Cli) -> None:
    path = zoo.get("chars_decoder").model
    short, long = (
        inspected(cli, path, "--shapes", f"tokens=1x{length}")["model"] for length in (8, 16)
    )
    assert long["macs"] >= 2 * short["macs"] > 0
    assert long["params"] == short["params"]


def test_a_model_without_weights_has_nothing_to_remove(cli: Cli, tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None, 3])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None, 3])
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [value], [out]
    )
    path = tmp_path / "relu.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    assert "No unit of this model can be removed." in cli("inspect", path).out
    assert inspected(cli, path)["model"]["inputs"][0]["shape"] == [None, 3]


def test_names_that_look_like_markup_are_shown_as_they_are(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(rng.standard_normal(shape, np.float32), name)
        for name, shape in (("[bold]first[/]", (3, 8)), ("[0]:smile:", (8, 2)))
    ]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", weights[0].name], ["[red]h"]),
        onnx.helper.make_node("MatMul", ["[red]h", weights[1].name], ["y"]),
    ]
    inputs = [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["[dim]n", 3])]
    outputs = [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["[dim]n", 2])]
    graph = onnx.helper.make_graph(nodes, "g", inputs, outputs, weights)
    path = tmp_path / "markup.onnx"
    onnx.save(onnx.helper.make_model(graph), path)
    ran = cli("inspect", path)
    assert ran.code == 0, ran.err
    assert "x: float [[dim]n, 3]" in ran.out
    assert inspected(cli, path)["groups"][0]["name"] in ran.out
