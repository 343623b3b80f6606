"""What is wrong with data, labels or a metric is refused by its flag, before there is any work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from conftest import Ran
from onnxprune.config import COMMANDS, options_of
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError, typed_flags
from onnxprune.graph.plan import save_plan

Cli = Callable[..., Ran]
MODEL = zoo.get("digits_mlp").model
DATA = zoo.get("digits_mlp").evaluation
SMALL = "small.onnx"
READING = {"reading the model", "finding what can be removed", "finding what was removed"}
READING |= {"reading the models", "hashing the files"}
"""Stages that no option can be refused before."""

FILES = ("calib", "eval", "labels", "eval_labels", "slices", "vocabulary")
WRONG: dict[str, tuple[object, ...]] = {
    "calib": ("missing.npz", "short.npy", MODEL, "missing.py:f", "code.py:none"),
    "data": ("missing.npz", "short.npy", MODEL, "missing.py:f", "code.py:none"),
    "eval": ("missing.npz", "short.npy", MODEL, "code.py:none"),
    "labels": ("missing.npz", "short.npy", "words.npy", "wide.npy", MODEL),
    "eval_labels": ("missing.npz", "short.npy", "words.npy", "wide.npy", MODEL),
    "slices": ("missing.npz", "short.npy", "wide.npy", MODEL),
    "metric": ("missing.py:f", "code.py:none", "code.py:number", "code.py:fails", "f1"),
    "vocabulary": ("missing.txt", MODEL),
    "preprocess": ("missing.py:f", "code.py:none", "code.py:fails", "nonsense"),
}
LATE = ("wide.npy", "code.py:fails", "f1")
"""Values that `bench` declines per backend: a model may not run on another one."""
JOBS: dict[str, Callable[..., Any]] = {
    "prune": lambda **k: onnxprune.prune(MODEL, ratio=0.3, **k),
    "apply": lambda **k: onnxprune.apply(MODEL, "plan.json", **k),
    "recover": lambda **k: onnxprune.recover(MODEL, SMALL, **k),
    "quantize": lambda **k: onnxprune.quantize(MODEL, **k),
    "sensitivity": lambda **k: onnxprune.sensitivity(MODEL, ratios="0.5", **k),
    "verify": lambda **k: onnxprune.verify(SMALL, MODEL, **k),
    "eval": lambda **k: onnxprune.eval(SMALL, MODEL, **k),
    "bench": lambda **k: onnxprune.bench([MODEL], **k),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("flags")
    count = len(np.load(DATA)["label"])
    np.save(folder / "short.npy", np.arange(5))
    np.save(folder / "words.npy", np.array(["a"] * count))
    np.save(folder / "wide.npy", np.zeros((count, 3, 3), np.float32))
    np.savez(folder / "more.npz", **np.load(DATA))
    (folder / "code.py").write_text("number = 3\n\ndef fails(*_):\n    raise ValueError('no')\n")
    pruned = onnxprune.prune(MODEL, ratio=0.3)
    pruned.save(folder / SMALL)
    save_plan(pruned.plan, folder / "plan.json")
    return folder


@pytest.mark.parametrize("job", JOBS)
def test_wrong_values_are_refused_before_any_work(
    job: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    names = {name for name, _ in options_of(job)}
    samples = "data" if "data" in names else "calib"
    for option in WRONG.keys() & names:
        for value in WRONG[option]:
            stages: list[str] = []
            given: dict[str, object] = {samples: "more.npz", "labels": "more.npz"}
            if option in ("eval", "eval_labels"):
                given = {samples: "more.npz", "eval": "more.npz", "eval_labels": "more.npz"}
            if option == "vocabulary":
                given["metric"] = "wer"
            given[option] = value
            if job == "bench" and value in LATE:
                continue
            with typed_flags(), pytest.raises(OnnxpruneError) as caught:
                JOBS[job](**given, progress=stages.append)
            message, flag = caught.value.message, f"--{option.replace('_', '-')}"
            assert message.startswith(flag), (value, message)
            assert caught.value.exit_code == 2
            begun = {stage.partition(" (")[0] for stage in stages} - READING
            if job != "eval":  # measuring is all that it does
                assert not begun, (option, value, begun)


@pytest.mark.parametrize("command", JOBS)
def test_errors_name_the_flag_that_was_typed(
    cli: Cli, command: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    models = {"recover": [MODEL, SMALL], "verify": [SMALL, "--dense", MODEL]}
    models["apply"] = ["plan.json", MODEL]
    more = {
        "apply": ["-o", "out.onnx"],
        "prune": ["--ratio", "0.3"],
        "quantize": ["-o", "out.onnx"],
    }
    names = [name for name, _ in options_of(command) if name in (*FILES, "data")]
    flags = [f"--{name.replace('_', '-')}" for name in names]
    flags += ["--data"] if command == "verify" else []
    data = "--data" if command in ("verify", "eval") else "--calib"
    for flag in flags:
        others = [] if flag in (data, "--calib") else [data, "more.npz"]
        others += ["--labels", "more.npz"] if flag in ("--slices", "--vocabulary") else []
        others += ["--eval", "more.npz"] if flag == "--eval-labels" else []
        others += ["--metric", "wer"] if flag == "--vocabulary" else []
        others += ["--labels", "more.npz"] if command == "eval" and flag == data else []
        arguments = [*models.get(command, [MODEL]), *more.get(command, []), *others]
        ran = cli(command, *arguments, flag, "missing.npz")
        assert ran.code == 2, ran
        (error,) = (line for line in ran.err.splitlines() if line.startswith("error: "))
        assert error.startswith(f"error: {flag}: "), error
        if flag != "--calib":
            assert "--calib" not in error
    assert sorted(folder.iterdir()) == before


def test_every_command_with_data_is_tried() -> None:
    commands = {
        command
        for command in COMMANDS
        if {name for name, _ in options_of(command)} & {"calib", "data"}
    }
    assert commands - {"advise"} == set(JOBS)  # it takes no labels, and has a test of its own
