"""Every command that writes a model reads it back before it appears."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import onnxprune
from conftest import Ran
from onnxprune.cli import main
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.plan import save_plan
from onnxprune.model import writing

Cli = Callable[..., Ran]
ENTRY = zoo.get("digits_mlp")
DATA = f"--calib {ENTRY.calibration} --calib-samples 64"
COMMANDS = {
    "prune": "prune MODEL --ratio 0.3 -o OUT",
    "prune, fitted": f"prune MODEL --ratio 0.3 {DATA} -o OUT",
    "prune, beside": "prune MODEL --ratio 0.3 --store external -o OUT",
    "prune, zeros": "prune MODEL --sparsity 50% -o OUT",
    "apply": "apply PLAN MODEL -o OUT",
    "recover": f"recover MODEL SMALL {DATA} -o OUT",
    "quantize": "quantize MODEL --dynamic -o OUT",
    "store": "store MODEL --store external -o OUT",
    "store, packed": "store MODEL --store packed --always -o OUT",
    "densify": "densify MODEL -o OUT",
    "densify, beside": "densify MODEL --external -o OUT",
}


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    shutil.copy(ENTRY.model, folder / "model.onnx")
    small = onnxprune.prune(ENTRY.model, ratio=0.3)
    small.save(folder / "small.onnx")
    save_plan(small.plan, folder / "plan.json")
    return folder


def arguments(name: str, inputs: Path, out: Path) -> list[str]:
    places = {"MODEL": "model.onnx", "SMALL": "small.onnx", "PLAN": "plan.json"}
    return [
        str(inputs / places[word]) if word in places else str(out) if word == "OUT" else word
        for word in COMMANDS[name].split()
    ]


def damaging(file: writing.HashingFile, *arguments: object) -> None:
    """Writes a weight with one bit changed."""

    class Damaged:
        tell = file.tell

        def write(self, data: bytes | memoryview) -> int:
            changed = bytearray(data)
            changed[len(changed) // 2] ^= 4
            return file.write(bytes(changed))

    honest(Damaged(), *arguments)  # type: ignore[arg-type]


honest = writing._write_weight


@pytest.mark.parametrize("name", COMMANDS)
def test_a_file_that_reads_back_otherwise_does_not_appear(
    name: str, inputs: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.onnx"
    words = arguments(name, inputs, out)
    assert cli(*words).code == 0
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    assert out in before
    monkeypatch.setattr(writing, "_write_weight", damaging)
    ran = cli(*words)
    assert ran.code == 1, ran
    errors = [line for line in ran.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "reads back" in errors[0] or "check failed" in errors[0]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_in_python_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    results = [
        onnxprune.prune(ENTRY.model, ratio=0.3),
        onnxprune.quantize(ENTRY.model, dynamic=True),
        onnxprune.store(ENTRY.model, store="dense"),
    ]
    monkeypatch.setattr(writing, "_write_weight", damaging)
    for result in results:
        with pytest.raises(OnnxpruneError, match="reads back otherwise") as caught:
            result.save(tmp_path / "out.onnx")
        assert caught.value.exit_code == 1
        assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a copy of the process gets the limit")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["prune", "prune, beside", "recover", "quantize", "store"])
def test_a_full_disk_is_one_error_and_no_file(
    name: str, inputs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import resource

    words = arguments(name, inputs, tmp_path / "out.onnx")
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        os._exit(main(words))
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 2
    assert not list(tmp_path.iterdir())
    errors = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert "File too large" in errors[0]
    assert "bug" not in errors[0]
