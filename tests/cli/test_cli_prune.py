"""``prune``, ``apply`` and ``demo``, from files to files."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

from conftest import Ran
from onnxprune.data import zoo

Cli = Callable[..., Ran]
ENTRY = zoo.get("digits_rescnn")
CALIB = ("--calib", ENTRY.calibration, "--calib-samples", "128")


def report_of(ran: Ran) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(ran.out)
    return found


def stored_elements(path: Path) -> int:
    graph = onnx.load(path).graph
    constants = [node.attribute[0].t for node in graph.node if node.op_type == "Constant"]
    floats = [each for each in (*graph.initializer, *constants) if each.data_type == 1]
    return sum(int(np.prod(each.dims)) for each in floats)


def outputs(path: Path, feeds: dict[str, np.ndarray[Any, Any]]) -> list[np.ndarray[Any, Any]]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found: list[np.ndarray[Any, Any]] = session.run(None, feeds)
    return found


def test_without_an_output_it_prints_the_plan_and_writes_nothing(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ran = cli("prune", ENTRY.model, "--ratio", "0.3")
    assert ran.code == 0
    assert "body.0:channel" in ran.out
    assert "Dry run" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_details_of_what_is_written_are_shown_with_v(cli: Cli, tmp_path: Path) -> None:
    flags = ("prune", ENTRY.model, "--ratio", "0.3", "-o", tmp_path / "small.onnx")
    short, whole = cli(*flags).out, cli(*flags, "-v").out
    assert short.startswith("Structure: verified, ")
    assert "\nQuality: not measured, " in short
    assert "body.0:channel" not in short
    assert "-v shows kept units of " in short
    assert "body.0:channel" in whole
    assert set(short.splitlines()[:8]) <= set(whole.splitlines()), "the outcome is the same"


def test_what_is_written_is_what_the_report_says(cli: Cli, tmp_path: Path) -> None:
    out, before = tmp_path / "small.onnx", ENTRY.model.read_bytes()
    ran = cli("prune", ENTRY.model, "--ratio", "0.3", "-o", out, "--json")
    report = report_of(ran)
    assert ran.code == 0
    assert ran.err.startswith(f"Wrote {out}\nRESULT prune exit=0 ")
    assert (report["output"], report["ok"]) == (str(out), True)
    assert report["options"] == {"ratio": 0.3}
    size = {row["name"]: row for row in report["measures"]}["parameters"]
    assert size["dense"] == stored_elements(ENTRY.model)
    assert size["pruned"] == stored_elements(out) < size["dense"]
    assert ENTRY.model.read_bytes() == before
    (logits,) = outputs(out, {"image": np.zeros((5, 1, 16, 16), np.float32)})
    assert logits.shape == (5, 10)
    assert np.isfinite(logits).all()


def test_a_budget_is_met_and_checked(cli: Cli) -> None:
    report = report_of(cli("prune", ENTRY.model, "--target", "macs=60%", "--json"))
    macs = {row["name"]: row for row in report["measures"]}["MACs"]
    assert macs["pruned"] <= 0.6 * macs["dense"]
    check = {row["name"]: row for row in report["checks"]}["macs"]
    assert check["ok"]
    assert check["value"] == macs["pruned"]


def test_what_is_skipped_stays_whole(cli: Cli) -> None:
    report = report_of(
        cli(
            "prune",
            ENTRY.model,
            "--ratio",
            "0.3",
            "--skip",
            "body.0*",
            "--skip",
            "body.4*",
            "--json",
        )
    )
    for row in report["groups"]:
        skipped = row["name"].startswith(("body.0", "body.4"))
        assert (row["kept"] == row["units"]) == skipped, row


def test_heads_only_touches_heads(cli: Cli) -> None:
    report = report_of(cli("prune", zoo.get("digits_encoder").model, "--heads", "0.5", "--json"))
    cut = {row["kind"] for row in report["groups"] if row["kept"] < row["units"]}
    assert cut == {"head"}


def test_blocks_are_bypassed(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    report = report_of(cli("prune", ENTRY.model, "--blocks", "1", "-o", out, "--json"))
    assert sum(row["bypassed"] for row in report["blocks"]) == 1
    assert len(onnx.load(out).graph.node) < len(onnx.load(ENTRY.model).graph.node)


def test_a_saved_plan_makes_the_same_model_again(cli: Cli, tmp_path: Path) -> None:
    first, second, plan = (tmp_path / name for name in ("a.onnx", "b.onnx", "plan.json"))
    made = cli("prune", ENTRY.model, "--ratio", "0.3", "-o", first, "--save-plan", plan)
    assert made.code == 0
    ran = cli("apply", plan, ENTRY.model, "-o", second, "--json")
    assert ran.code == 0, ran.err
    assert report_of(ran)["command"] == "apply"
    feeds = {"image": np.random.default_rng(0).random((3, 1, 16, 16), np.float32)}
    np.testing.assert_array_equal(outputs(first, feeds)[0], outputs(second, feeds)[0])
    assert first.stat().st_size == second.stat().st_size


def test_a_saved_recipe_makes_the_same_plan_again(cli: Cli, tmp_path: Path) -> None:
    flags = ("--target", "params=60%", "--criterion", "l1", "--skip", "body.0*", "--seed", "3")
    recipe = tmp_path / "recipe.yaml"
    first = report_of(cli("prune", ENTRY.model, *flags, "--save-recipe", recipe, "--json"))
    second = report_of(cli("prune", ENTRY.model, "--recipe", recipe, "--json"))
    assert first.pop("argv") != second.pop("argv")
    assert first == second


def test_a_bad_verdict_writes_nothing_unless_forced(cli: Cli, tmp_path: Path) -> None:
    out, plan, recipe = (tmp_path / name for name in ("o.onnx", "plan.json", "recipe.yaml"))
    # Four fifths of every group, and not one picture in a hundred may change its digit.
    harsh = (
        "prune",
        ENTRY.model,
        "--ratio",
        "0.8",
        "--recover",
        "none",
        "--max-drop",
        "1%",
        *CALIB,
    )
    writing = ("-o", out, "--save-plan", plan, "--save-recipe", recipe)
    ran = cli(*harsh, *writing, "--json")
    assert ran.code == 1
    assert ran.err.startswith("error: ")
    assert "--force" in ran.err
    report = report_of(ran)
    assert (report["ok"], report["output"]) == (False, None)
    assert list(tmp_path.iterdir()) == []
    forced = cli(*harsh, *writing, "--force", "--json")
    assert forced.code == 1
    assert "warning: " in forced.err
    assert report_of(forced)["output"] == str(out)
    assert all(path.is_file() for path in (out, plan, recipe))


def test_a_failed_check_is_named_with_value_and_limit(cli: Cli, tmp_path: Path) -> None:
    entry = zoo.get("digits_mlp")
    data = ("--calib", entry.calibration, "--calib-samples", "100")
    limits = ("--ratio", "0.7", "--max-drop", "1%")
    ran = cli("prune", entry.model, *data, *limits, "-o", tmp_path / "out.onnx", "--json")
    assert ran.code == 1
    error = next(line for line in ran.err.splitlines() if line.startswith("error: "))
    assert re.match(
        r"error: a check failed: drop is \S+ points, and the limit is 1.00 points", error
    )
    document = json.loads(ran.out)
    assert (document["ok"], f"error: {document['error']}") == (False, error)
    assert ran.err.splitlines()[-1].startswith("RESULT prune exit=1 structure=verified quality=")


def test_an_existing_output_is_replaced_whole(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    out.write_bytes(b"x" * 10_000_000)
    assert cli("prune", ENTRY.model, "--ratio", "0.3", "-o", out).code == 0
    onnx.checker.check_model(onnx.load(out))
    assert {path.name for path in tmp_path.iterdir()} == {"small.onnx", "small.certificate.json"}


def test_a_failed_run_leaves_an_existing_output_alone(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "small.onnx"
    out.write_bytes(b"precious")
    assert cli("prune", ENTRY.model, "--target", "macs=1%", "-o", out).code == 2
    assert out.read_bytes() == b"precious"


def test_synthetic_inputs_check_the_cut_and_judge_nothing(cli: Cli) -> None:
    report = report_of(cli("prune", ENTRY.model, "--ratio", "0.2", "--json"))
    assert {row["name"] for row in report["measures"]} == {"MACs", "parameters", "weights"}
    assert report["outputs"] == []
    assert any("synthetic" in note for note in report["notes"])
    assert any("masked" in row["name"] for row in report["checks"])


def test_real_inputs_say_how_the_outputs_compare(cli: Cli) -> None:
    flags = ("--ratio", "0.2", "--recover", "bias")
    report = report_of(cli("prune", ENTRY.model, *flags, *CALIB, "--json"))
    (logits,) = report["outputs"]
    assert logits["name"] == "logits"
    assert 0.5 < logits["top1"] <= 1
    assert 0 < report["samples"] < 128
    assert not any("synthetic" in note for note in report["notes"])


@pytest.mark.parametrize(("metric", "dense"), [("accuracy", ENTRY.measured), ("nats", None)])
def test_labels_bring_the_metric_into_the_report(
    cli: Cli, tmp_path: Path, metric: str, dense: float | None
) -> None:
    feeds, labels = zoo.evaluation(ENTRY)
    np.savez(tmp_path / "x.npz", **feeds)  # type: ignore[arg-type]
    np.save(tmp_path / "y.npy", labels)
    data = ("--calib", tmp_path / "x.npz", "--labels", tmp_path / "y.npy", "--metric", metric)
    ran = cli("prune", ENTRY.model, "--ratio", "0.1", "--recover", "none", *data, "--json")
    assert ran.code == 0, ran.err
    row = {each["name"]: each for each in report_of(ran)["measures"]}[metric]
    assert row["unit"] == ("fraction" if metric == "accuracy" else "number")
    assert row["pruned"] is not None
    if dense is not None:
        assert row["dense"] == pytest.approx(dense, abs=0.02)


def test_the_demo_runs_and_measures_two_budgets(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "demo.onnx"
    ran = cli("demo", "--json", "-o", out)
    assert ran.code == 0, ran.err
    for report, part, loss in zip(json.loads(ran.out), (0.5, 0.25), (0.02, 0.05), strict=True):
        (accuracy,) = [row for row in report["measures"] if "unseen" in row["name"]]
        assert accuracy["dense"] == pytest.approx(ENTRY.measured, abs=1e-3)
        assert accuracy["pruned"] > accuracy["dense"] - loss
        macs = {row["name"]: row for row in report["measures"]}["MACs"]
        assert macs["pruned"] <= part * macs["dense"]
    feeds, labels = zoo.evaluation(ENTRY)
    (logits,) = outputs(out, feeds)
    assert zoo.score(ENTRY.metric, logits, labels) == pytest.approx(accuracy["pruned"], abs=2e-3)


def test_the_demo_leaves_files_that_its_commands_run_on(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "digits"
    ran = cli("demo", "--copy", folder)
    assert ran.code == 0, ran.err
    names = {"model.onnx", "calib.npz", "test.npz", "recipe.yaml"}
    assert {path.name for path in folder.iterdir()} == names
    assert np.load(folder / "calib.npz").files == ["image"]  # nothing but unlabelled inputs
    change, *commands = (line.split() for line in ran.out.splitlines())
    assert change == ["cd", str(folder)]
    assert len(commands) == 3
    monkeypatch.chdir(folder)
    smaller = {
        "prune": ("--calib-samples", "64"),
        "bench": ("--processes", "1", "--rounds", "2", "--threads", "1"),
    }
    for _, command, *arguments in commands:
        ran = cli(command, *arguments, *smaller.get(command, ()))
        assert ran.code == 0, ran.err


@pytest.mark.parametrize("name", ["model.onnx", "recipe.yaml"])
def test_the_demo_overwrites_nothing(cli: Cli, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("mine")
    ran = cli("demo", "--copy", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert f"would overwrite {name}" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_text() == "mine"


def test_the_demo_copies_into_folders_only(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    ran = cli("demo", "--copy", tmp_path / "file" / "folder")
    assert (ran.code, ran.out) == (2, "")
    assert "cannot be written" in ran.err


def test_the_demo_lists_what_it_copied_as_json(cli: Cli, tmp_path: Path) -> None:
    listed = json.loads(cli("demo", "--copy", tmp_path, "--json").out)
    assert sorted(listed["files"]) == sorted(path.name for path in tmp_path.iterdir())
    assert listed["next"][0] == f"cd {tmp_path}"
