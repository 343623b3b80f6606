"""store, densify, mask, apply, prune --store: what users type, and what it says."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from conftest import Ran
from onnxprune import model as models
from onnxprune import verify
from onnxprune.data import zoo
from onnxprune.graph.plan import load_plan
from onnxprune.jobs.store import same
from onnxprune.runtime import open_session
from onnxprune.solve.masks import keep_top, magnitude
from onnxprune.sparse.encodings.table import PACKED

Cli = Callable[..., Ran]
Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def thin(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of the demo with 90 % of its matrices and kernels zeroed, by somebody else."""
    proto = onnx.load(zoo.get("digits_rescnn").model)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.ndim >= 2 and array.size >= 256:
            array = np.where(keep_top(magnitude(array), 0.9), array, np.float32(0))
            tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    path = tmp_path_factory.mktemp("thin") / "thin.onnx"
    onnx.save(proto, path)
    return path


def weights(path: Path) -> dict[str, Array]:
    found = {}
    for name, value in models.constants(models.load(path)).items():
        tensor = models.constant(value)
        assert tensor is not None
        found[name] = tensor.numpy()
    return found


def outputs(path: Path) -> list[Array]:
    image = np.random.default_rng(0).standard_normal((4, 1, 16, 16)).astype(np.float32)
    return list(open_session(path, threads=1).run({"image": image}).values())


def report(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    assert found["ok"] is True
    return found


@pytest.mark.parametrize("form", ["auto", "sparse", "packed", "external", "dense"])
def test_there_and_back(cli: Cli, thin: Path, tmp_path: Path, form: str) -> None:
    stored, dense = tmp_path / "stored.onnx", tmp_path / "dense.onnx"
    told = report(cli("store", thin, "--store", form, "-o", stored, "--json"))
    files = [stored, *tmp_path.glob("stored.onnx.*.data")]
    assert told["bytes"]["after"] == sum(file.stat().st_size for file in files)
    assert told["bytes"]["before"] == thin.stat().st_size
    assert len(files) == 1 + (form == "external")
    if form in ("auto", "packed"):
        assert told["bytes"]["after"] < 0.25 * told["bytes"]["before"]
    assert bool(told["unread"]) == (form == "sparse")
    changed = [row for row in told["weights"] if row["form"] != "dense"]
    assert bool(changed) == (form in ("auto", "packed", "sparse"))
    assert all(map(same, outputs(stored), outputs(thin)))

    told = report(cli("densify", stored, "-o", dense, "--json"))
    assert len(told["packed"]) == len(changed) * (form != "sparse")
    assert len(told["sparse"]) == len(changed) * (form == "sparse")
    first, second = weights(thin), weights(dense)
    assert first.keys() == second.keys()
    assert all(same(second[name], array) for name, array in first.items())


def test_densify_writes_a_certificate(cli: Cli, thin: Path, tmp_path: Path) -> None:
    stored, dense = tmp_path / "stored.onnx", tmp_path / "dense.onnx"
    assert cli("store", thin, "--store", "packed", "-o", stored).code == 0
    flags = ("--external", "-o", dense)
    assert cli("densify", stored, *flags).code == 0
    result = verify(dense, stored)
    assert (result.ok, result.structure) == (True, "nothing cut")
    assert result.certificate is not None
    assert result.certificate.command == "densify"
    assert cli("densify", stored, *flags, "--no-certificate").code == 0
    assert not list(tmp_path.glob("dense.certificate.json"))
    assert verify(dense, stored).certificate is None


def test_a_person_is_told_what_to_expect(cli: Cli, thin: Path, tmp_path: Path) -> None:
    ran = cli("store", thin, "--store", "sparse", "-o", tmp_path / "s.onnx")
    assert ran.code == 0
    assert "not sparse compute" in ran.out
    assert "TensorRT" in ran.out
    ran = cli("store", thin, "--values", "int8", "-o", tmp_path / "i.onnx")
    assert ran.code == 0
    assert "fewer bits move the outputs" in ran.out
    assert "Wrote" in ran.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--store", "sparse", "--values", "fp16"], "--values fp16"),
        (["--backend", "gpu"], "--backend: there is no backend 'gpu'"),
        (["--ram-limit", "much"], "--ram-limit much"),
        (["--ram-limit", "4 parrots"], "--ram-limit 4 parrots"),
        (["--store", "small"], "--store small"),
    ],
)
def test_flags_that_mean_nothing_are_refused(
    cli: Cli, thin: Path, tmp_path: Path, flags: list[str], message: str
) -> None:
    ran = cli("store", thin, "-o", tmp_path / "out.onnx", *flags)
    assert ran.code == 2
    assert message in ran.err
    assert "hint: " in ran.err
    assert not list(tmp_path.iterdir())


def test_the_limit_of_memory_is_kept(cli: Cli, thin: Path, tmp_path: Path) -> None:
    flags = ("--store", "packed", "--ram-limit", "100KiB", "--json")
    told = report(cli("store", thin, *flags, "-o", tmp_path / "out.onnx"))
    packed = [row for row in told["weights"] if row["form"] != "dense"]
    assert sum(24 * np.prod(row["shape"]) for row in packed) <= 100 * 1024
    left = [row for row in told["weights"] if row["form"] == "dense" and row["zeros"] > 0.5]
    assert packed
    assert left
    assert all("memory" in row["remark"] for row in left)


def test_inspect_shows_zeros_and_what_they_take(cli: Cli, thin: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored.onnx"
    assert cli("store", thin, "-o", stored).code == 0
    rows = {}
    for path in (thin, stored):
        ran = cli("inspect", path, "--json")
        rows[path] = json.loads(ran.out)["weights"]
    assert rows[thin] == rows[stored]
    for row in rows[thin]:
        assert row["zeros"] == pytest.approx(0.9, abs=0.01)
        assert row["pattern"] == "unstructured"
        sizes = row["bytes"]
        assert sizes["dense"] == 4 * np.prod(row["shape"])
        assert sizes["delta"] < sizes["sparse"] < sizes["dense"]
    (line,) = [each for each in cli("inspect", thin).out.splitlines() if "Zeros in" in each]
    assert " dense, " in line
    assert "in the smallest form of each" in line
    shown = cli("inspect", thin, "-v").out
    largest = sorted(rows[thin], key=lambda row: -row["bytes"]["dense"])[:3]
    _, _, table = shown.partition("Zeros in")
    names = [line.split()[0] for line in table.splitlines()[2:5]]
    assert all(
        row["weight"].startswith(name.partition("…")[0])
        for row, name in zip(largest, names, strict=True)
    )
    assert "not sparse compute" in shown
    assert "are packed" in cli("inspect", stored).out


def test_a_packed_model_is_pruned_like_the_dense_one(cli: Cli, thin: Path, tmp_path: Path) -> None:
    stored = tmp_path / "stored.onnx"
    assert cli("store", thin, "-o", stored).code == 0
    plans = []
    for path in (thin, stored):
        assert (
            cli("prune", path, "--ratio", "0.25", "--save-plan", tmp_path / "plan.json").code == 0
        )
        plans.append(load_plan(tmp_path / "plan.json"))
    assert plans[0].removed == plans[1].removed
    assert plans[0].removed


def test_masks_go_to_another_checkpoint(cli: Cli, thin: Path, tmp_path: Path) -> None:
    """Zeros are taken from one file and put into another; its other weights stay what they are."""
    proto = onnx.load(zoo.get("digits_rescnn").model)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor)
        if array.dtype == np.float32 and array.ndim >= 2:
            tensor.CopyFrom(onnx.numpy_helper.from_array(array + np.float32(0.01), tensor.name))
    other, mask, out = (tmp_path / name for name in ("other.onnx", "mask.json", "out.onnx"))
    onnx.save(proto, other)
    stored = tmp_path / "stored.onnx"
    assert cli("store", thin, "-o", stored).code == 0
    told = report(cli("mask", stored, "-o", mask, "--json"))
    assert all(row["zeros"] == pytest.approx(0.9, abs=0.01) for row in told["weights"])
    ran = cli("apply", mask, other, "--store", "packed", "-o", out)
    assert ran.code == 0, ran.err
    dense = tmp_path / "dense.onnx"
    assert cli("densify", out, "-o", dense).code == 0
    found, before, zeros = weights(dense), weights(other), weights(thin)
    masked = {row["weight"] for row in told["weights"]}
    for name in masked:
        wanted = np.where(zeros[name] == 0, np.float32(0), before[name])
        assert np.array_equal(found[name], wanted)
    assert out.stat().st_size < 0.25 * other.stat().st_size


def test_a_mask_of_another_network_is_refused_by_name(cli: Cli, thin: Path, tmp_path: Path) -> None:
    mask = tmp_path / "mask.json"
    assert cli("mask", thin, "-o", mask).code == 0
    ran = cli("apply", mask, zoo.get("chars_decoder").model, "-o", tmp_path / "out.onnx")
    assert ran.code == 2
    assert "the model has no weight" in ran.err
    assert not (tmp_path / "out.onnx").exists()


def test_a_dense_model_has_no_mask(cli: Cli, tmp_path: Path) -> None:
    ran = cli("mask", zoo.get("digits_rescnn").model, "-o", tmp_path / "mask.json")
    assert ran.code == 2
    assert "enough zeros for a mask" in ran.err


def test_prune_writes_small_files_and_masks(cli: Cli, tmp_path: Path) -> None:
    model = zoo.get("digits_rescnn").model
    out, mask, again = (tmp_path / name for name in ("out.onnx", "mask.json", "again.onnx"))
    flags = ("--sparsity", "90%", "--store", "packed", "--save-mask", mask, "-o", out)
    told = report(cli("prune", model, *flags, "--json"))
    assert told["options"]["store"] == "packed"
    assert {row["form"] for row in told["stored"]} & PACKED
    names = [check["name"] for check in told["checks"]]
    assert "weights that read back otherwise" in names
    assert out.stat().st_size < 0.25 * model.stat().st_size
    assert cli("apply", mask, model, "--store", "packed", "-o", again).code == 0
    first, second = (json.loads(cli("inspect", path, "--json").out) for path in (out, again))
    assert first["weights"] == second["weights"]


def test_a_mask_needs_zeros(cli: Cli, tmp_path: Path) -> None:
    model = zoo.get("digits_rescnn").model
    ran = cli("prune", model, "--ratio", "0.3", "--save-mask", tmp_path / "mask.json")
    assert ran.code == 2
    assert "--save-mask has nothing to write" in ran.err


def test_a_bad_file_is_taken_back(
    cli: Cli, thin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If decoding gave anything else than the weights, nothing would be left of the file."""
    from onnxprune.sparse.encodings.table import Delta4

    honest = Delta4.values
    monkeypatch.setattr(
        Delta4, "values", lambda self, flat: (part * 2 for part in honest(self, flat))
    )
    out = tmp_path / "out.onnx"
    ran = cli("store", thin, "--store", "packed", "-o", out)
    assert ran.code == 1
    assert "nothing was written" in ran.err
    assert not list(tmp_path.iterdir())
    assert cli("store", thin, "--store", "packed", "-o", out, "--force").code == 1
    assert out.exists()


def test_an_old_opset_is_named_with_what_helps(cli: Cli, thin: Path, tmp_path: Path) -> None:
    proto = onnx.load(thin)
    proto.opset_import[0].version = 9
    onnx.save(proto, tmp_path / "old.onnx")
    ran = cli("store", tmp_path / "old.onnx", "--store", "packed", "-o", tmp_path / "s.onnx")
    assert "operators of opset 11, and the model has 9" in ran.out
    assert "convert_version(model, 11), or take --store sparse" in ran.out
    assert "no weight takes less space" not in ran.out
