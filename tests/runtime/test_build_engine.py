"""Engines built with TensorRT-RTX on the CPU: the zoo and real models, pruned by every method."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import Ran
from onnxprune import model as models
from onnxprune.config import BuildOptions, Options, QuantizeOptions
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import analyse
from onnxprune.graph.surgery import cut
from onnxprune.jobs.quantize import quantize
from onnxprune.jobs.verify import verify
from onnxprune.quantities import sparsity
from onnxprune.runtime.engines import build, commands
from onnxprune.runtime.engines.runtime import Runtime, find
from onnxprune.sparse.nm import sparsify_nm
from onnxprune.sparse.sparsify import sparsify
from two_four_cases import build as graph
from two_four_cases import conv, floats, in_function, node

Cli = Callable[..., Ran]
ZOO = ("digits_rescnn", "digits_mlp", "digits_encoder", "digits_lstm", "chars_decoder")
AMPERE = ((8, 6),)


@pytest.fixture(scope="module")
def rtx() -> Runtime:
    """TensorRT-RTX; the test skips, saying so, where it is not installed."""
    pytest.importorskip("tensorrt_rtx", reason="pip install 'onnxprune[tensorrt-rtx]'")
    return find("tensorrt_rtx")


def request(**asked: Any) -> BuildOptions:
    return BuildOptions(runtime="tensorrt_rtx", compute_capability=AMPERE, **asked)


def shapes_of(entry: zoo.Entry) -> dict[str, tuple[int, ...]]:
    held = np.load(entry.calibration)
    return {key: (2, *held[key].shape[1:]) for key in held.files}


def pruned(path: Path, how: str) -> models.Model:
    if how == "2:4":
        made = models.clone(models.load(path))
        sparsify_nm(made, 2, 4)
        return made
    if how == "80%":
        return sparsify(models.load(path), sparsity("80%")).model
    analysis = analyse(models.load(path))
    gone = {g.name: range(0, len(g), 4) for g in analysis.groups if g.exact}
    return cut(analysis, gone)


@pytest.mark.parametrize("how", ["units", "2:4", "80%"])
@pytest.mark.parametrize("name", ZOO)
def test_every_pruned_network_of_the_zoo_becomes_an_engine(
    rtx: Runtime, name: str, how: str
) -> None:
    entry = zoo.get(name)
    small = pruned(entry.model, how)
    made = build(small, request(sparse_weights=how == "2:4", shapes=shapes_of(entry)))
    assert made.runtime.name == rtx.name
    assert len(made.plan) > 0.5 * models.size_bytes(small)
    if how == "units" and name == "digits_mlp":  # elsewhere compiled kernels outweigh weights
        dense = build(entry.model, request(shapes=shapes_of(entry)))
        assert len(made.plan) < len(dense.plan)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_makes_a_smaller_engine(rtx: Runtime, precision: Any) -> None:
    entry = zoo.get("digits_mlp")
    wide = build(entry.model, request(shapes=shapes_of(entry)))
    made = build(entry.model, request(shapes=shapes_of(entry), precision=precision))
    assert len(made.plan) < 0.85 * len(wide.plan)


def test_sparse_weights_say_nothing_before_they_are_on_a_device(rtx: Runtime) -> None:
    model = models.clone(models.load(conv()))
    sparsify_nm(model, 2, 4)
    with_flag = build(model, request(sparse_weights=True))
    assert with_flag.layers == ()
    assert any("on the device" in note for note in with_flag.notes)
    assert len(with_flag.plan) == len(build(model, request()).plan)


def test_an_int8_model_becomes_an_engine(rtx: Runtime) -> None:
    entry = zoo.get("digits_mlp")
    options = Options(calib=str(entry.calibration), calib_samples=16, batch=16)
    made = quantize(pruned(entry.model, "2:4"), QuantizeOptions(backend="tensorrt"), options)
    assert build(made.model, request(shapes=shapes_of(entry))).plan


def test_functions_and_sparse_initializers_are_rewritten_for_it(rtx: Runtime) -> None:
    assert build(in_function(), request()).plan
    proto = graph([node("MatMul", "x w", "y")], {}, [2, 8], opset=17)
    array = np.where(np.arange(32).reshape(8, 4) % 3 == 0, floats(8, 4), 0).astype(np.float32)
    where = np.flatnonzero(array)
    values = onnx.numpy_helper.from_array(array.ravel()[where], "w")
    indices = onnx.numpy_helper.from_array(where, "w_at")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [8, 4]))
    assert build(proto, request()).plan


def test_an_operator_it_does_not_know_is_named_with_its_node(rtx: Runtime) -> None:
    bad = node("BitwiseAnd", "c m", "b")
    bad.name = "the_one"
    nodes = [node("Cast", "x", "c", to=onnx.TensorProto.INT32), bad]
    nodes.append(node("Cast", "b", "y", to=onnx.TensorProto.FLOAT))
    with pytest.raises(OnnxpruneError, match="BitwiseAnd 'the_one'"):
        build(graph(nodes, {"m": np.array([1], np.int32)}, [4]), request())


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ({}, "'image' has open sizes", "shapes='image=1x1x16x16'"),
        ({"shapes": {"nothing": (1,)}}, "nothing=1' fits no input", "image"),
        ({"shapes": {"image": (1, 16)}}, "image=1x16' fits no input", "image"),
        (
            {"shapes": {"image": (2, 1, 16, 16)}, "min_shapes": {"image": (4, 1, 16, 16)}},
            "do not make a profile",
            "must hold",
        ),
    ],
)
def test_sizes_that_do_not_fit_are_refused(
    rtx: Runtime, asked: dict[str, Any], message: str, hint: str
) -> None:
    with pytest.raises(OnnxpruneError, match=message) as problem:
        build(zoo.get("digits_mlp").model, request(**asked))
    assert hint in problem.value.hint


def test_a_capability_it_does_not_know_is_refused_with_those_it_does(rtx: Runtime) -> None:
    with pytest.raises(OnnxpruneError, match=r"no compute capability 5\.0") as problem:
        build(conv(), BuildOptions(runtime="tensorrt_rtx", compute_capability=((5, 0),)))
    assert "8.6" in problem.value.hint


def test_a_missing_runtime_says_how_to_get_one() -> None:
    if __import__("importlib.util").util.find_spec("tensorrt") is not None:
        pytest.skip("full TensorRT is installed here")
    with pytest.raises(OnnxpruneError, match="no TensorRT that builds") as problem:
        find("tensorrt")
    assert "onnxprune[tensorrt-rtx]" in problem.value.hint


def test_the_command_writes_an_engine_and_prints_what_does_the_same(
    rtx: Runtime, tmp_path: Path, cli: Cli
) -> None:
    onnx.save(conv(), tmp_path / "m.onnx")
    done = cli("build", tmp_path / "m.onnx", "--engine", tmp_path / "m.engine", "--fp16",
               "--compute-capability", "8.6", "--keep-onnx", tmp_path / "half.onnx",
               "--json")  # fmt: skip
    assert done.code == 0, done.err
    told = json.loads(done.out)
    assert told["bytes"] == (tmp_path / "m.engine").stat().st_size
    assert verify(tmp_path / "half.onnx", tmp_path / "m.onnx").ok
    assert (tmp_path / "half.certificate.json").exists()
    done = cli("build", tmp_path / "m.onnx", "--engine", tmp_path / "m.engine", "--fp16",
               "--compute-capability", "8.6", "--keep-onnx", tmp_path / "half.onnx",
               "--no-certificate", "--json")  # fmt: skip
    assert done.code == 0, done.err
    assert not (tmp_path / "half.certificate.json").exists()
    pytest.importorskip("polygraphy")
    setting, _, line = told["commands"]["polygraphy"].partition(" ")
    assert setting == "POLYGRAPHY_USE_TENSORRT_RTX=1"
    words = shlex.split(line)
    other = tmp_path / "other.engine"
    words[words.index(str(tmp_path / "m.engine"))] = str(other)
    tool = Path(sys.executable).with_name(words[0])
    if not tool.exists():
        pytest.skip(f"no {tool}")
    subprocess.run(
        [str(tool), *words[1:]],
        check=True,
        capture_output=True,
        env={"POLYGRAPHY_USE_TENSORRT_RTX": "1", "PATH": str(tool.parent)},
    )
    assert other.stat().st_size == pytest.approx(told["bytes"], rel=0.01)


def test_full_tensorrt_gets_the_commands_for_it() -> None:
    full = Runtime("tensorrt", "11.1", None)
    asked = BuildOptions(sparse_weights=True, shapes={"x": (8, 3)}, min_shapes={"x": (1, 3)})
    line = commands.trtexec(full, Path("m.onnx"), Path("m.engine"), asked)
    for word in ("--sparsity=enable", "--stronglyTyped", "--minShapes=x:1x3", "--maxShapes=x:8x3"):
        assert word in line
    assert "--sparse-weights" in commands.polygraphy(full, Path("m.onnx"), Path("e"), asked)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--compute-capability", "sm86"], "--compute-capability sm86 is none"),
        (["--fp16", "--bf16"], "not allowed with"),
    ],
)
def test_wrong_flags_are_refused(
    tmp_path: Path, cli: Cli, arguments: list[str], message: str
) -> None:
    onnx.save(conv(), tmp_path / "m.onnx")
    done = cli("build", tmp_path / "m.onnx", "--engine", tmp_path / "e", *arguments)
    assert done.code == 2
    assert message in done.err


REAL = {
    "resnet20_cifar10_proj_fused": {"input": (1, 3, 32, 32)},
    "shufflenetv2_x0_5_cifar10_fused": {"input": (1, 3, 32, 32)},
    "mobilenetv1_0.75_imagenet_bn": {"input": (1, 3, 224, 224)},
    "minilm_l6_sts_sst2": {"input_ids": (1, 32), "attention_mask": (1, 32)},
    "stories260k_llama_legacy": {"input_ids": (1, 32)},
}


@pytest.mark.parametrize("name", REAL)
def test_real_models_thinned_to_two_of_four_become_engines(
    rtx: Runtime, shared: Path, name: str
) -> None:
    small = pruned(shared / "models" / f"{name}.onnx", "2:4")
    made = build(small, request(sparse_weights=True, precision="fp16", shapes=REAL[name]))
    assert len(made.plan) > 0.4 * models.size_bytes(small)


@pytest.mark.parametrize("name", ["resnet20_cifar10_optA_fused", "resnet20_cifar10_proj_fused"])
def test_real_models_cut_to_fewer_units_become_smaller_engines(
    rtx: Runtime, shared: Path, name: str
) -> None:
    path = shared / "models" / f"{name}.onnx"
    shapes = {"input": (1, 3, 32, 32)}
    small = build(pruned(path, "units"), request(shapes=shapes))
    assert len(small.plan) < len(build(path, request(shapes=shapes)).plan)
