"""Two verdicts in every job: exit code, JSON, words, and what is written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from bench.verdicts import spectrum, tones
from conftest import Ran
from onnxprune import OnnxpruneError, apply, prune, quantize
from onnxprune.data import zoo

Cli = Callable[..., Ran]
MLP = zoo.get("digits_mlp")
STATUSES = {"good", "degraded", "broken", "not measured"}


def deep(path: Path, depth: int = 8, width: int = 64) -> Path:
    """A network of random weights, which no unit can leave without loss; with its inputs."""
    rng = np.random.default_rng(0)
    arrays = [(rng.standard_normal((width, width)) * 0.18).astype(np.float32) for _ in range(depth)]
    nodes, x = [], "x"
    for k in range(depth):
        nodes.append(helper.make_node("MatMul", [x, f"w{k}"], [f"a{k}"]))
        last = k == depth - 1
        x = "y" if last else f"b{k}"
        nodes.append(helper.make_node("Identity" if last else "Relu", [f"a{k}"], [x]))
    graph = helper.make_graph(
        nodes,
        "deep",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", width])],
        [numpy_helper.from_array(array, f"w{k}") for k, array in enumerate(arrays)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path / "m.onnx")
    np.savez(path / "c.npz", x=rng.standard_normal((256, width)).astype(np.float32))
    return path / "m.onnx"


def test_a_destroyed_model_is_not_written(cli: Cli, tmp_path: Path) -> None:
    source, out = deep(tmp_path), tmp_path / "o.onnx"
    flags = ("prune", source, "--ratio", "0.75", "--recover", "none", "-o", out)
    data = ("--calib", tmp_path / "c.npz")
    ran = cli(*flags, *data)
    assert ran.code == 1
    assert not out.exists()
    assert ran.out.startswith("Structure: verified")
    assert "Quality: broken, 'y' has a relative squared error" in ran.out
    assert "above 0.5" in ran.out
    assert "the result is broken" in ran.err
    forced = cli(*flags, *data, "--force", "--json")
    assert forced.code == 1
    assert out.is_file()
    quality = json.loads(forced.out)["quality"]
    assert quality["samples"] == 26
    assert quality["data"].endswith("c.npz")
    assert quality["data"].startswith("26 held-out of 256 samples")
    assert quality["error"] > 0
    blind = cli(*flags)
    assert blind.code == 0, "without data nobody can see it"
    assert "Quality: not measured, there are no inputs" in " ".join(blind.out.split())


def test_python_refuses_to_save_what_is_broken(tmp_path: Path) -> None:
    source = deep(tmp_path)
    result = prune(source, ratio=0.75, recover="none", calib=tmp_path / "c.npz")
    assert (result.structure.status, result.quality.status) == ("verified", "broken")
    assert not result.ok
    assert all(check.ok for check in result.checks)
    with pytest.raises(OnnxpruneError, match="the result is broken") as refusal:
        result.save(tmp_path / "o.onnx")
    assert "force=True" in refusal.value.hint
    assert result.save(tmp_path / "o.onnx", force=True).is_file()
    again = apply(source, result.plan, recover="none", calib=tmp_path / "c.npz")
    assert again.quality.status == "broken"
    assert again.quality.drop == pytest.approx(result.quality.drop)


def test_a_degraded_model_is_written_with_a_warning(cli: Cli, tmp_path: Path) -> None:
    source, out = deep(tmp_path, depth=3), tmp_path / "o.onnx"
    flags = ("prune", source, "--ratio", "0.2", "--round-to", "1", "-o", out)
    data = ("--calib", tmp_path / "c.npz", "--recover", "lstsq")
    ran = cli(*flags, *data, "--json")
    assert ran.code == 0, ran.err
    quality = json.loads(ran.out)["quality"]
    assert quality["status"] == "degraded"
    assert "warning: the result is degraded: " in ran.err
    assert out.is_file()
    allowed = cli(*flags, *data, "--max-drop", "90%")
    assert allowed.code == 0
    assert "warning:" not in allowed.err
    refused = cli(*flags, *data, "--max-drop", "0.1%", "--force")
    assert refused.code == 1


def test_every_job_has_both_verdicts(cli: Cli, tmp_path: Path) -> None:
    calib = ("--calib", MLP.calibration, "--calib-samples", "64")
    plan, cut = tmp_path / "plan.json", tmp_path / "cut.onnx"
    commands: list[tuple[Any, ...]] = [
        ("prune", MLP.model, "--ratio", "0.1", *calib, "-o", cut, "--save-plan", plan),
        ("apply", plan, MLP.model, *calib, "-o", tmp_path / "b.onnx"),
        ("recover", MLP.model, cut, *calib),
        ("quantize", MLP.model, *calib),
    ]
    for command in commands:
        ran = cli(*command, "--json")
        assert ran.code == 0, (command[0], ran.err)
        document = json.loads(ran.out)
        assert document["structure"]["status"] == "verified", command[0]
        assert document["quality"]["status"] in STATUSES - {"broken", "not measured"}, command[0]
        assert document["quality"]["samples"] > 0
        assert "digits_calibration.npz" in document["quality"]["data"]
        assert document["ok"]


def test_a_quantized_model_that_is_broken_is_not_saved(tmp_path: Path) -> None:
    result = quantize(MLP.model, dynamic=True)
    assert (result.structure.status, result.quality.status) == ("verified", "not measured")
    assert result.save(tmp_path / "q.onnx").is_file()


def test_nothing_cut_is_a_structure_of_its_own() -> None:
    result = prune(MLP.model, target="params=100%")
    assert (result.structure.status, result.quality.status) == ("nothing cut", "not measured")
    assert result.ok
    assert "unchanged" in result.quality.reasons[0]


def test_values_that_overflow_are_refused_in_words() -> None:
    entry = zoo.get("digits_mlp")
    huge = {name: array[:32] * 1e30 for name, array in zoo.calibration(entry).items()}
    with pytest.raises(OnnxpruneError, match="too large"):  # and no warning, which is an error
        prune(entry.model, ratio=0.3, calib=huge, cache=False)


# -- terminal, JSON, page and exit code --------------------------------------------------------

CODES = {"good": 0, "degraded": 0, "broken": 1, "not measured": 0}
"""Exit codes by the verdict on quality."""


@pytest.fixture(scope="module")
def cuts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its inputs, and a cut of it for each verdict, with its plan."""
    folder = tmp_path_factory.mktemp("cuts")
    source = deep(folder, depth=3, width=16)
    for status, ratio in (("good", 0.06), ("degraded", 0.3), ("broken", 0.75)):
        refit = "none" if status == "broken" else "lstsq"
        options: dict[str, Any] = {"recover": refit, "calib": folder / "c.npz", "cache": False}
        result = prune(source, ratio=ratio, round_to=1, **options)
        assert result.quality.status == status
        result.save(folder / f"{status}.onnx", force=True)
        (folder / f"{status}.onnx.certificate.json").unlink(missing_ok=True)
        result.plan.save(folder / f"{status}.json")
    return folder


def commands(cuts: Path, name: str, status: str) -> tuple[Any, ...]:
    """A command that ends in a verdict, or in whichever of a cut."""
    source, cut, plan = cuts / "m.onnx", cuts / f"{status}.onnx", cuts / f"{status}.json"
    calib: tuple[Any, ...] = ("--calib", cuts / "c.npz")
    if name in ("eval", "verify") and status == "good":  # other samples judge, all of them
        cut = source
    if status == "not measured":
        calib, cut, plan = (), cuts / "good.onnx", cuts / "good.json"
    ratio = {"good": "0.06", "degraded": "0.3", "not measured": "0.3"}.get(status, "0.75")
    refit = ("--recover", "none" if status == "broken" else "lstsq")
    match name:
        case "prune":
            return ("prune", source, "--ratio", ratio, "--round-to", "1", *refit, *calib)
        case "apply":
            return ("apply", plan, source, *refit, *calib)
        case "recover":
            return ("recover", source, cut, *calib)
        case "quantize":
            return ("quantize", cut, *(calib or ("--dynamic",)))
        case "eval":
            return ("eval", cut, "--against", source, "--data", cuts / "c.npz")
        case _:
            return ("verify", cut, "--dense", source, *(("--data", calib[1]) if calib else ()))


CELLS = [
    (name, status)
    for name in ("prune", "apply", "recover", "quantize", "eval", "verify")
    for status in CODES
    if not (name in ("recover", "eval") and status == "not measured")
    and not (name == "quantize" and status != "good")
]


@pytest.mark.parametrize(("name", "status"), CELLS)
def test_words_json_page_and_exit_code_agree(
    cli: Cli, cuts: Path, tmp_path: Path, name: str, status: str
) -> None:
    command = commands(cuts, name, status)
    written = () if name in ("eval", "verify") else ("-o", tmp_path / "o.onnx")
    ran = cli(*command, *written, "--json")
    document = json.loads(ran.out)
    quality = document["quality"]
    own = "not measured" if quality is None else quality["status"]
    if name not in ("recover", "quantize"):  # which may make a cut better
        assert own == status
    claimed = name == "verify" and status == "broken"  # by its certificate
    assert ran.code == (0 if claimed else CODES[own]), ran.err
    assert document["ok"] == (ran.code == 0)
    assert ("error: " in ran.err) == (ran.code == 1)
    assert ("warning: " in ran.err) == (own == "degraded" or claimed), ran.err
    if written:
        assert (tmp_path / "o.onnx").is_file() == (ran.code == 0)
    page = tmp_path / "page.html"
    paged = ("--report", page) if name in ("prune", "apply", "recover") else ()
    again = cli(*command, *written, *paged)
    assert again.code == ran.code
    if quality is not None:
        assert f"Quality: {own}" in again.out
        if own in ("degraded", "broken"):
            assert quality["reasons"][0] in " ".join(f"{again.out} {again.err}".split())
    if paged:
        assert f"Quality: {own}" in page.read_text()
        assert quality["data"] in page.read_text()


def test_verify_refuses_a_broken_model_that_claims_nothing(cli: Cli, cuts: Path) -> None:
    proto = onnx.load(cuts / "broken.onnx")
    del proto.metadata_props[:]
    onnx.save(proto, cuts / "silent.onnx")
    ran = cli("verify", cuts / "silent.onnx", "--dense", cuts / "m.onnx", "--data", cuts / "c.npz")
    assert ran.code == 1
    assert "error: " in ran.err
    assert "is broken: 'y' has a relative squared error" in ran.err


def test_what_makes_an_int8_model_broken_is_not_pruning(cli: Cli, tmp_path: Path) -> None:
    onnx.save(spectrum(), tmp_path / "m.onnx")
    np.savez(tmp_path / "c.npz", audio=np.concatenate([each["audio"] for each in tones(64)]))
    data = ("--calib", tmp_path / "c.npz")
    ran = cli("quantize", tmp_path / "m.onnx", *data, "-o", tmp_path / "q.onnx")
    assert ran.code == 1
    assert "Quality: broken" in ran.out
    assert "--skip" in ran.err
    assert "remove less" not in ran.err
    assert not (tmp_path / "q.onnx").exists()
