"""What TensorRT says about sparse weights, mapped back to nodes.

Logs and layer information are quoted from public threads: github.com/NVIDIA/TensorRT issues 1403,
2169, 4054, 4056 (logs) and 4020 (layer information), shortened.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from conftest import Ran
from engine_log import CONVOLUTION, LOG, network
from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime.engines.sparsity import by_node, from_inspector, from_log, nodes_in

Cli = Callable[..., Ran]


NONE_PICKED = """\
[TensorRT] INFO: (Sparsity) Layers eligible for sparse math: Conv_0
[TensorRT] INFO: (Sparsity) TRT inference plan picked sparse implementation for layers:
"""


def test_the_two_lines_say_what_is_eligible_and_what_was_picked() -> None:
    layers = from_log(LOG.splitlines())
    assert [each.name for each in layers] == [
        "MatMul_401",
        "Conv_619 + Relu_620",
        "Conv_626",
        "Conv_234 + Add_240 + Relu_241",
    ]
    assert [each.picked for each in layers] == [False, True, False, False]
    assert all(each.eligible for each in layers)
    assert layers[3].nodes == ("Conv_234", "Add_240", "Relu_241")


def test_nothing_picked_is_not_nothing_eligible() -> None:
    (layer,) = from_log(NONE_PICKED.splitlines())
    assert (layer.name, layer.eligible, layer.picked) == ("Conv_0", True, False)


def test_a_log_without_these_lines_says_nothing() -> None:
    assert from_log(["[I] [TRT] Detected 1 inputs and 1 output network tensors."]) == ()
    empty = "(Sparsity) Layers eligible for sparse math: "
    assert from_log([empty]) == ()


def test_the_last_build_of_a_log_counts() -> None:
    first = "(Sparsity) Layers eligible for sparse math: Conv_0"
    assert from_log([first, *LOG.splitlines()])[0].name == "MatMul_401"


@pytest.mark.parametrize(
    ("name", "nodes"),
    [
        ("Conv_0 + Relu_1", ("Conv_0", "Relu_1")),
        ("PWN(Sigmoid_2)", ("Sigmoid_2",)),
        ("PWN(PWN(Sigmoid_2), Mul_3)", ("PWN(Sigmoid_2)", "Mul_3")),
        ("{ForeignNode[/a/MatMul.../b/Add]}", ("/a/MatMul", "/b/Add")),
        ("/classifier/classifier_6/Gemm_myl9_4", ("/classifier/classifier_6/Gemm",)),
    ],
)
def test_fused_layers_are_taken_apart(name: str, nodes: tuple[str, ...]) -> None:
    assert nodes_in(name) == nodes


def test_layer_information_tells_weights_and_kernels_apart() -> None:
    dense = CONVOLUTION | {"TacticName": "sm80_xmma_fprop_int8", "Metadata": "", "Name": "Conv_7"}
    layers = from_inspector(json.dumps({"Layers": [CONVOLUTION, dense, {"Name": "Reformat"}]}))
    assert [each.nodes for each in layers] == [
        ("resnetv15_stage3_conv4_fwd", "resnetv15_stage3_batchnorm4_fwd"),
        ("Conv_7",),
    ]
    assert [(each.eligible, each.picked) for each in layers] == [(True, True), (True, False)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("no json", "not layer information"),
        ("[1, 2]", "not layer information"),
        ('{"Layers": ["Conv_0", "Relu_1"]}', "names only"),
    ],
)
def test_what_is_no_layer_information_is_refused(text: str, message: str) -> None:
    with pytest.raises(OnnxpruneError, match=message) as problem:
        from_inspector(text)
    assert "detailed" in problem.value.hint


def test_layers_are_found_again_by_name_or_first_output() -> None:
    log = LOG.replace("Conv_626", "y")
    found = by_node(from_log(log.splitlines()), models.load(network()))
    assert set(found) == {"p", "y"}
    assert found["p"].picked
    assert not found["y"].picked


def test_the_checker_shows_what_tensorrt_found(tmp_path: Path, cli: Cli) -> None:
    onnx.save(network(), tmp_path / "m.onnx")
    (tmp_path / "trt.log").write_text(LOG)
    layers = {"Layers": [CONVOLUTION | {"Metadata": "[ONNX Layer: y]", "TacticName": "sm80"}]}
    (tmp_path / "layers.json").write_text(json.dumps(layers))
    done = cli("eligible", tmp_path / "m.onnx", "--log", tmp_path / "trt.log", "--layers",
               tmp_path / "layers.json", "--json")  # fmt: skip
    assert done.code == 0, done.err
    told = {each["node"]: each["tensorrt"] for each in json.loads(done.out)["layers"]}
    assert told == {"p": "picked", "y": "eligible"}
    missing = cli("eligible", tmp_path / "m.onnx", "--log", tmp_path / "none.log")
    assert missing.code == 2
    assert "cannot be read" in missing.err
