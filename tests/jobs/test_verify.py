"""Honest models are what they claim to be; forged and damaged ones never are."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import onnxprune
from forgeries import forge
from onnxprune import OnnxpruneError, Options, Plan, verify
from onnxprune.cli import main
from onnxprune.data import zoo
from onnxprune.graph.plan import save_plan
from onnxprune.jobs import certificate as certificates
from onnxprune.model import load, write
from onnxprune.model.seal import KEY, document_path, read_seal
from onnxprune.recovery.correspond.folding import fold_normalisations
from onnxprune.runtime.engines import precision

MLP = zoo.get("digits_mlp")
DATA = {"calib": MLP.calibration, "calib_samples": 64}


def _prune(path: Path, **options: Any) -> Path:
    return onnxprune.prune(MLP.model, **options).save(path)


MAKERS: Mapping[str, Callable[[Path], Path]] = {
    "cut": lambda path: _prune(path, ratio=0.5),
    "fitted": lambda path: _prune(path, ratio=0.5, **DATA),
    "external": lambda path: _prune(path, ratio=0.5, sparsity="50%", store="external"),
    "packed": lambda path: _prune(path, ratio=0.5, sparsity="90%", store="packed"),
    "pattern": lambda path: _prune(path, ratio=0.5, sparsity="2:4"),
    "applied": lambda path: onnxprune.apply(
        MLP.model, onnxprune.prune(MLP.model, ratio=0.5, sparsity="50%").plan
    ).save(path),
    "dynamic": lambda path: onnxprune.quantize(
        MLP.model, dynamic=True, first=Options(ratio=0.5)
    ).save(path),
    "int8": lambda path: onnxprune.quantize(MLP.model, **DATA).save(path),
    "fitted int8": lambda path: onnxprune.quantize(
        MLP.model, first=Options(ratio=0.4, sparsity="2:4"), **DATA
    ).save(path),
    "stored": lambda path: onnxprune.store(MLP.model, store="packed", values="int8").save(path),
    "recovered": lambda path: onnxprune.recover(
        MLP.model, onnxprune.prune(MLP.model, ratio=0.5).model, **DATA
    ).save(path),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A certified model by the name of its maker, made once."""
    folder = tmp_path_factory.mktemp("certified")

    def make(name: str) -> Path:
        path = folder / name / "small.onnx"
        if not path.exists():
            path.parent.mkdir()
            MAKERS[name](path)
        return path

    return make


def copied(path: Path, folder: Path) -> Path:
    """A copy of a model with all its files."""
    shutil.copytree(path.parent, folder, dirs_exist_ok=True)
    return folder / path.name


def refused(path: Path, dense: Path = MLP.model, **options: Any) -> str:
    """Why a model is not what it claims to be; fails if it is."""
    try:
        result = verify(path, dense, **options)
    except OnnxpruneError as error:
        return error.message
    assert not result.ok, f"{path} passes: {result.checks}"
    return "; ".join(each.name for each in result.checks if not each.ok)


# Honest models ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MAKERS)
def test_an_honest_model_is_what_it_claims_to_be(name: str, made: Callable[[str], Path]) -> None:
    path = made(name)
    result = verify(path, MLP.model)
    assert result.ok, result.checks
    assert result.certificate is not None
    document = json.loads(document_path(path).read_text())
    assert document["command"] == result.certificate.command
    assert result.structure == ("nothing cut" if name == "stored" else "verified")
    assert bool(result.changed) == (name in ("fitted", "recovered", "fitted int8"))
    assert {"onnxprune", "onnx", "onnxruntime", "numpy"} <= set(document["versions"])


@pytest.mark.parametrize("name", ["cut", "fitted", "external", "recovered"])
def test_a_model_alone_is_compared_with_the_dense_one(
    name: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    path = copied(made(name), tmp_path)
    document_path(path).unlink()
    result = verify(path, MLP.model)
    assert result.ok, result.checks
    assert result.plan is not None
    assert result.plan.removed
    assert any("is missing" in note for note in result.notes)
    bare = onnxprune.save(load(path), tmp_path / "bare.onnx")
    result = verify(bare, MLP.model)
    assert result.ok
    assert result.certificate is None
    assert result.structure == "verified"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sparsity": "2:4"}, "50 % of 4 weights were set to zero, in the pattern 2:4"),
        ({"sparsity": "90%", "store": "packed"}, "were set to zero"),
        ({"sparsity": "80%", "store": "sparse"}, "were set to zero"),
        ({"ratio": 0.3, **DATA}, "with other values than the dense model's"),
    ],
)
def test_a_model_without_a_certificate_is_called_what_it_is(
    options: dict[str, Any], words: str, tmp_path: Path
) -> None:
    path = _prune(tmp_path / "bare.onnx", certificate=False, **options)
    result = verify(path, MLP.model)
    assert result.ok, result.checks
    assert result.structure == "verified"
    assert any(words in note for note in result.notes), result.notes
    assert result.plan is not None
    assert bool(result.plan.zeroed) == ("sparsity" in options)
    assert bool(result.changed) == ("calib" in options)
    bare = onnxprune.save(load(MLP.model), tmp_path / "same.onnx")
    assert verify(bare, MLP.model).structure == "nothing cut"


def test_int8_is_compared_as_floats_without_a_certificate(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    path = onnxprune.save(load(made("int8")), tmp_path / "bare.onnx")
    result = verify(path, MLP.model)
    assert result.ok, result.checks
    assert result.structure == "verified"
    assert not result.changed
    assert any("without a certificate" in note for note in result.notes)
    proto = onnx.load(path)
    node = next(each for each in proto.graph.node if each.op_type == "Gemm")
    node.op_type, node.input[:] = "MatMul", node.input[:2]
    del node.attribute[:]
    onnx.save(proto, path)
    assert refused(path)


def test_a_model_with_folded_normalisations_is_compared_with_one_without(tmp_path: Path) -> None:
    entry = zoo.get("digits_rescnn")
    folded = fold_normalisations(load(entry.model))
    small = onnxprune.prune(folded, ratio=0.4, certificate=False).save(tmp_path / "small.onnx")
    result = verify(small, entry.model)
    assert result.ok, result.checks
    assert not result.changed
    assert any("were folded" in note for note in result.notes)


@pytest.mark.heavy
def test_a_recovered_model_with_folded_normalisations_is_verified(tmp_path: Path) -> None:
    entry = zoo.get("digits_rescnn")
    folded = fold_normalisations(load(entry.model))
    small = onnxprune.prune(folded, ratio=0.4, certificate=False).model
    data = {"calib": entry.calibration, "calib_samples": 32}
    path = onnxprune.recover(entry.model, small, **data).save(tmp_path / "recovered.onnx")
    result = verify(path, entry.model)
    assert result.ok, (result.checks, result.notes)


def test_the_verdict_follows_from_the_figures(made: Callable[[str], Path]) -> None:
    document = json.loads(document_path(made("fitted")).read_text())
    assert document["quality"]["status"] in ("good", "degraded")
    assert certificates.contradictions(document) == []
    (output,) = document["evaluation"]["outputs"].values()
    honest = output["unexplained"], output["top1"]
    output["unexplained"], output["top1"] = 2.0, 0.1
    for name in (n for n in output if n.startswith(("scaled", "unexplained"))):
        output[name] = 2.0 if not name.endswith(("error", "interval")) else output[name]
    assert len(certificates.contradictions(document)) == 1
    output["unexplained"], output["top1"] = honest[0], "much"
    assert certificates.contradictions(document)


def test_a_model_in_another_precision_is_converted_again(tmp_path: Path) -> None:
    dense = load(MLP.model)
    half = precision.convert(dense, "fp16")
    claims = certificates.Claims("build", dense, half, Plan(), fitted=False, precision="fp16")
    path = write(half, tmp_path / "half.onnx", certify=certificates.certify(claims))
    result = verify(path, MLP.model)
    assert result.ok, (result.checks, result.notes)

    def nudge(proto: onnx.ModelProto) -> None:
        tensor = next(t for t in proto.graph.initializer if len(t.dims) == 2)
        array = numpy_helper.to_array(tensor) * np.float16(1.02)
        tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))

    forge(path, nudge)
    assert refused(path)
    forge(path, document=lambda d: d.update(precision="fp7"))
    assert refused(path)


def test_equal_runs_write_equal_certificates(made: Callable[[str], Path], tmp_path: Path) -> None:
    one, two = made("fitted"), MAKERS["fitted"](tmp_path / "small.onnx")
    assert one.read_bytes() == two.read_bytes()
    assert document_path(one).read_bytes() == document_path(two).read_bytes()


def test_the_data_are_named_by_their_digest(made: Callable[[str], Path], tmp_path: Path) -> None:
    def digest(path: Path) -> object:
        return json.loads(document_path(path).read_text())["data"]

    data: Any = digest(made("fitted"))
    assert data["samples"] == 64
    with np.load(MLP.calibration) as arrays:
        inputs = {name: arrays[name] for name in arrays.files}
    np.savez(tmp_path / "same.npz", **inputs)
    options: dict[str, Any] = {"ratio": 0.5, "calib_samples": 64}
    path = _prune(tmp_path / "a.onnx", calib=tmp_path / "same.npz", batch=7, **options)
    assert digest(path)["sha256"] == data["sha256"]  # type: ignore[index]
    next(iter(inputs.values()))[:] += 1
    np.savez(tmp_path / "other.npz", **inputs)
    path = _prune(tmp_path / "b.onnx", calib=tmp_path / "other.npz", **options)
    assert digest(path)["sha256"] != data["sha256"]  # type: ignore[index]


def test_every_file_of_data_is_named(tmp_path: Path) -> None:
    with np.load(MLP.calibration) as arrays:
        inputs = {name: arrays[name][:40] for name in arrays.files}
    for name in ("judges.npz", "same.npz"):
        np.savez(tmp_path / name, **inputs)
    np.save(tmp_path / "groups.npy", np.arange(40) % 2)
    path = _prune(
        tmp_path / "small.onnx", ratio=0.5, eval=str(tmp_path / "judges.npz"),
        slices=str(tmp_path / "groups.npy"), **DATA,
    )  # fmt: skip
    result = verify(path, MLP.model)
    assert result.certificate is not None
    files = {str(each["role"]): each for each in result.certificate.files}
    assert set(files) == {"--calib", "--eval", "--slices"}
    digest = hashlib.sha256((tmp_path / "judges.npz").read_bytes()).hexdigest()
    assert (files["--eval"]["name"], files["--eval"]["sha256"]) == ("judges.npz", digest)
    known = verify(path, MLP.model, calib=str(tmp_path / "same.npz"))
    assert any("names these data: --eval" in note for note in known.notes)
    np.savez(tmp_path / "other.npz", **{name: each + 1 for name, each in inputs.items()})
    other = verify(path, MLP.model, calib=str(tmp_path / "other.npz"))
    assert any("none of those" in note for note in other.notes)


def test_a_certificate_without_files_is_read(made: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied(made("fitted"), tmp_path)

    def older(content: dict[str, Any]) -> None:
        del content["files"]
        content["evaluation"] = {"measure": "accuracy", "value": 0.9, "outputs": {}}

    forge(path, document=older)
    assert verify(path, MLP.model).ok


def test_a_changed_file_is_refused_unread(made: Callable[[str], Path], tmp_path: Path) -> None:
    path = copied(made("cut"), tmp_path)
    content = bytearray(path.read_bytes())
    content[:8] = b"\xff" * 8
    path.write_bytes(content)
    result = verify(path, MLP.model)
    assert (result.ok, result.structure) == (False, "not checked")
    assert refused(path) == "graph = as written"


def test_without_a_certificate_nothing_is_added(tmp_path: Path) -> None:
    path = _prune(tmp_path / "m.onnx", ratio=0.5, certificate=False)
    assert [each.name for each in tmp_path.iterdir()] == ["m.onnx"]
    assert read_seal(path).text is None
    assert KEY not in {each.key for each in onnx.load(path).metadata_props}


def test_the_quality_is_measured_again(made: Callable[[str], Path]) -> None:
    result = verify(made("fitted"), MLP.model, **DATA)
    assert result.ok, result.checks
    assert result.evaluation is not None
    assert "quality = as stated" in {each.name for each in result.checks}


def test_the_command_says_so_and_exits_accordingly(
    made: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied(made("cut"), tmp_path)
    dense = str(MLP.model)
    assert main(["verify", str(path), "--dense", dense, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"]
    assert document["structure"] == "verified"
    assert sum(document["removed"].values()) > 0
    assert main(["verify", str(path), "--dense", str(zoo.get("digits_rescnn").model)]) == 1
    assert "error: " in capsys.readouterr().err
    assert main(["verify", str(path), "--dense", dense, "--data", str(MLP.calibration)]) == 1
    assert "is broken: 'logits' has a relative squared error" in capsys.readouterr().err
    assert main(["verify", dense, "--dense", dense, "--data", str(MLP.calibration)]) == 0
    assert main(["verify", str(tmp_path / "none.onnx"), "--dense", dense]) == 2
    assert main(["verify", str(path)]) == 2
    capsys.readouterr()


# Forged ones ------------------------------------------------------------------------------------


def _weight(proto: onnx.ModelProto, change: Callable[[Any], Any]) -> None:
    for tensor in proto.graph.initializer:
        if len(tensor.dims) == 2 and tensor.data_type == onnx.TensorProto.FLOAT:
            array = change(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(np.asarray(array), tensor.name))
            return


def _nudge(array: Any) -> Any:
    array.flat[0] += 0.001
    return array


def _first(content: dict[str, Any]) -> list[int]:
    units: list[int] = next(iter(content["plan"]["removed"].values()))
    return units


def _swap_unit(content: dict[str, Any]) -> None:
    units = _first(content)
    units[0] = next(k for k in range(1000) if k not in units)


def _another_node(proto: onnx.ModelProto) -> None:
    node = next(node for node in proto.graph.node if node.op_type in ("Relu", "Gelu", "Erf"))
    node.op_type = "Sigmoid"


def _stowaway(proto: onnx.ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.ones(9, np.float32), "more"))


FORGERIES: Mapping[str, tuple[str, Mapping[str, Callable[[Any], None]]]] = {
    "an honest copy": ("cut", {}),
    "a weight": ("cut", {"graph": lambda p: _weight(p, _nudge)}),
    "shuffled weights": ("cut", {"graph": lambda p: _weight(p, lambda a: a[::-1].copy())}),
    "weights that are zero": ("cut", {"graph": lambda p: _weight(p, np.zeros_like)}),
    "zeros beyond the mask": ("pattern", {"graph": lambda p: _weight(p, np.zeros_like)}),
    "weights said to be unknown": (
        "fitted",
        {
            "graph": lambda p: _weight(p, lambda a: -a),
            "document": lambda d: d["weights"].update(changed=None),
        },
    ),
    "int8 of nothing": ("dynamic", {"document": lambda d: d["weights"].update(quantized=[])}),
    "steps of int8": (
        "dynamic",
        {
            "graph": lambda p: [
                each.CopyFrom(
                    numpy_helper.from_array(numpy_helper.to_array(each) * 1000, each.name)
                )
                for each in p.graph.initializer
                if each.name.endswith("_scale")
            ]
        },
    ),
    "an operator": ("cut", {"graph": _another_node}),
    "one more tensor": ("cut", {"graph": _stowaway}),
    "a node without effect": (
        "cut",
        {
            "graph": lambda p: p.graph.node.add(
                op_type="Identity", input=[p.graph.input[0].name], output=["idle"]
            )
        },
    ),
    "another opset": ("cut", {"graph": lambda p: setattr(p.opset_import[0], "version", 21)}),
    "another unit": ("cut", {"document": _swap_unit}),
    "a unit less": ("cut", {"document": lambda d: _first(d).pop()}),
    "no unit": ("cut", {"document": lambda d: d["plan"].update(removed={})}),
    "a refitted weight": ("fitted", {"document": lambda d: d["weights"]["changed"].pop()}),
    "a fitted model said to be cut": (
        "fitted",
        {"document": lambda d: d["weights"].update(changed=[])},
    ),
    "filled zeros": (
        "pattern",
        {"graph": lambda p: _weight(p, lambda a: np.where(a == 0, a.max(), a))},
    ),
    "other zeros": (
        "pattern",
        {"graph": lambda p: _weight(p, lambda a: np.roll(a, 1, axis=0) * (a != 0))},
    ),
    "a pattern that is none": ("pattern", {"document": lambda d: d.update(sparsity="1:4")}),
    "more zeros": (
        "pattern",
        {"document": lambda d: next(iter(d["plan"]["zeroed"].values())).update(kept=3)},
    ),
    "another dense model": ("cut", {"document": lambda d: d["dense"].update(content="0" * 64)}),
    "a bias in int8": (
        "int8",
        {
            "graph": lambda p: [
                each.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(each) + 99, each.name))
                for each in p.graph.initializer
                if each.data_type == onnx.TensorProto.INT32 and each.name.endswith("_quantized")
            ]
        },
    ),
    "an operator in int8": ("int8", {"graph": _another_node}),
    "a verdict": ("cut", {"document": lambda d: d["quality"].update(status="good")}),
    "int8 weights": (
        "dynamic",
        {
            "graph": lambda p: [
                t.CopyFrom(numpy_helper.from_array(np.flip(numpy_helper.to_array(t)), t.name))
                for t in p.graph.initializer
                if t.name.endswith("_quantized") and len(t.dims) == 2
            ]
        },
    ),
    "a format": ("cut", {"document": lambda d: d.update(format="mine")}),
    "a version": ("cut", {"document": lambda d: d.update(version=99)}),
    "no plan": ("cut", {"document": lambda d: d.pop("plan")}),
    "a plan of another kind": ("cut", {"document": lambda d: d.update(plan=[1, 2])}),
    "weights of another kind": ("cut", {"document": lambda d: d.update(weights="all")}),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_models_and_certificates_are_refused(
    name: str, made: Callable[[str], Path], tmp_path: Path
) -> None:
    maker, edits = FORGERIES[name]
    path = copied(made(maker), tmp_path)
    forge(path, **edits)
    if edits:
        assert refused(path)
    else:
        assert verify(path, MLP.model).ok  # it is the edit that is refused, not the forging


def test_files_that_do_not_belong_together_are_refused(
    made: Callable[[str], Path], tmp_path: Path
) -> None:
    path = copied(made("cut"), tmp_path)
    shutil.copy(document_path(made("fitted")), document_path(path))
    assert "is not the certificate" in refused(path)
    other = onnx.load(MLP.model)
    _weight(other, _nudge)
    onnx.save(other, tmp_path / "other.onnx")
    assert "dense model" in refused(made("cut"), tmp_path / "other.onnx")
    bare = onnxprune.save(load(made("cut")), tmp_path / "bare.onnx")
    assert "made from" in refused(bare, zoo.get("digits_rescnn").model)
    document_path(path).write_text("[" * 100_000)
    assert refused(path)
    shutil.copy(document_path(made("cut")), document_path(path))
    proto = onnx.load(path)
    proto.metadata_props.append(proto.metadata_props[-1])
    onnx.save(proto, path)
    assert "two certificates" in refused(path)


def test_a_plan_beside_it_has_to_be_its_own(made: Callable[[str], Path], tmp_path: Path) -> None:
    plan = onnxprune.prune(MLP.model, ratio=0.5).plan
    assert verify(made("cut"), MLP.model, plan=plan).ok
    saved = save_plan(plan, tmp_path / "plan.json")
    assert verify(made("cut"), MLP.model, plan=saved).ok
    name, units = next(iter(plan.removed.items()))
    assert refused(made("cut"), plan=Plan({name: units[1:]}, origin=plan.origin, units=plan.units))


def _damage(seed: int, made: Callable[[str], Path], folder: Path) -> None:
    """Flip one bit of a file of a certified model, or of a plan beside it."""
    rng = random.Random(seed)
    name = rng.choice(["cut", "fitted", "external", "packed", "pattern", "dynamic", "recovered"])
    path = copied(made(name), folder)
    files = [each for each in folder.iterdir() if each.is_file()]
    options: dict[str, Any] = {}
    if name == "cut" and rng.random() < 0.5:
        plan = save_plan(onnxprune.prune(MLP.model, ratio=0.5).plan, folder / "plan.json")
        files, options = [plan], {"plan": plan}
    file = rng.choice(files)
    content = bytearray(file.read_bytes())
    if rng.random() < 0.1:
        del content[rng.randrange(len(content)) :]
    else:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)
    assert refused(path, **options), f"seed {seed}: {file.name} of {name}"


@pytest.mark.parametrize("part", range(4))
def test_a_flipped_bit_is_seen(part: int, made: Callable[[str], Path], tmp_path: Path) -> None:
    for seed in range(part, 60, 4):
        _damage(seed, made, tmp_path / str(seed))


@pytest.mark.heavy
def test_five_hundred_flipped_bits_are_seen(made: Callable[[str], Path], tmp_path: Path) -> None:
    for seed in range(1000, 1500):
        _damage(seed, made, tmp_path / str(seed))
        shutil.rmtree(tmp_path / str(seed))


@pytest.mark.heavy
@pytest.mark.parametrize("name", zoo.names())
def test_every_network_is_what_every_job_says(name: str, tmp_path: Path) -> None:
    entry = zoo.get(name)
    data = {"calib": entry.calibration, "calib_samples": 64}
    cases: dict[str, dict[str, Any]] = {
        "cut": {"ratio": 0.4},
        "fitted": {"ratio": 0.4, **data},
        "zeros": {"sparsity": "50%", "store": "sparse"},
        "pattern": {"ratio": 0.3, "sparsity": "2:4", "permute": True, **data},
    }
    for case, options in cases.items():
        path = onnxprune.prune(entry.model, **options).save(tmp_path / f"{case}.onnx")
        result = verify(path, entry.model)
        assert result.ok, (case, result.checks, result.notes)
    path = onnxprune.quantize(entry.model, **data).save(tmp_path / "int8.onnx")
    assert verify(path, entry.model).ok


def test_a_notebook_shows_the_checks(tmp_path: Path) -> None:
    dense = zoo.get("digits_mlp").model
    result = verify(onnxprune.prune(dense, ratio=0.3).save(tmp_path / "small.onnx"), dense)
    html = result._repr_html_()
    assert "small.onnx" in html
    assert "verified" in html
    for check in result.checks:
        assert check.name.replace("'", "&#x27;") in html
