"""``recover``: from a dense and a pruned file to a better one, or the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper

import onnxprune
from conftest import Ran
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.zoo import Entry
from onnxprune.errors import OnnxpruneError
from onnxprune.recovery.correspond.folding import fold_normalisations
from onnxprune.solve import masks

Cli = Callable[..., Ran]
Array = np.ndarray[Any, Any]
MLP, ENCODER = zoo.get("digits_mlp"), zoo.get("digits_encoder")


def data(entry: Entry, samples: int = 200) -> tuple[str | Path, ...]:
    return ("--calib", entry.calibration, "--calib-samples", str(samples))


def cut_by_size(entry: Entry, path: Path, ratio: float = 0.4) -> Path:
    """A pruned file as other tools make them: cut by the size of weights, refitted by nobody."""
    made = onnxprune.prune(entry.model, ratio=ratio, criterion="l1", recover="none")
    return made.save(path)


def zeroed(entry: Entry, path: Path, keep: Callable[[Array], Array]) -> Path:
    """The file with every matrix masked."""
    model = onnx.load(entry.model)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 2 and array.dtype == np.float32:
            masked = np.where(keep(array), array, np.float32(0))
            tensor.CopyFrom(numpy_helper.from_array(masked, tensor.name))
    onnx.save(model, path)
    return path


def weights(path: Path) -> dict[str, Array]:
    return {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}


def score(entry: Entry, path: Path) -> float:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_outputs()]
    return zoo.measure(entry, lambda feeds: dict(zip(names, session.run(None, feeds), strict=True)))


def report_of(ran: Ran) -> dict[str, Any]:
    assert ran.code == 0, ran.err
    found: dict[str, Any] = json.loads(ran.out)
    return found


@pytest.mark.parametrize(("entry", "samples"), [(MLP, 200), (ENCODER, 60)], ids=["mlp", "encoder"])
def test_a_cut_model_gets_better_and_keeps_its_graph(
    cli: Cli, tmp_path: Path, entry: Entry, samples: int
) -> None:
    pruned, out = cut_by_size(entry, tmp_path / "p.onnx"), tmp_path / "o.onnx"
    before = pruned.read_bytes()
    given = ("--recover", "lstsq", *data(entry, samples), "--json")
    report = report_of(cli("recover", entry.model, pruned, "-o", out, *given))
    assert pruned.read_bytes() == before
    assert (report["command"], report["output"]) == ("recover", str(out))
    (now,), (then,) = report["outputs"], report["as_given"]
    assert now["relative_error"] < 0.9 * then["relative_error"]
    assert score(entry, out) > score(entry, pruned)
    shapes = [{name: w.shape for name, w in weights(p).items()} for p in (pruned, out)]
    assert shapes[0].items() <= shapes[1].items()
    ops = [[n.op_type for n in onnx.load(p).graph.node] for p in (pruned, out)]
    assert ops[0] == ops[1]
    assert any(row["kept"] < row["units"] for row in report["groups"])
    assert any(row["method"] != "none" for row in report["refits"])


def test_labels_bring_the_metric_before_and_after(cli: Cli, tmp_path: Path) -> None:
    pruned = cut_by_size(MLP, tmp_path / "p.onnx")
    feeds, labels = zoo.evaluation(MLP)
    np.savez(tmp_path / "x.npz", **feeds)  # type: ignore[arg-type]
    np.save(tmp_path / "y.npy", labels)
    given = ("--calib", tmp_path / "x.npz", "--labels", tmp_path / "y.npy", "--json")
    rows = {r["name"]: r for r in report_of(cli("recover", MLP.model, pruned, *given))["measures"]}
    assert rows["accuracy"]["pruned"] > rows["accuracy, as given"]["pruned"]
    assert rows["accuracy"]["dense"] == rows["accuracy, as given"]["dense"]


@pytest.mark.parametrize("pattern", ["half", "2:4", "rows"])
def test_every_zero_stays_and_the_rest_is_refitted(cli: Cli, tmp_path: Path, pattern: str) -> None:
    keep: dict[str, Callable[[Array], Array]] = {
        "half": lambda w: masks.keep_top(np.abs(w), 0.7),
        "2:4": lambda w: masks.keep_n_of_m(np.abs(w), 2, 4, 1),
        "rows": lambda w: (
            np.arange(len(w))[:, None] % 3 > 0 if len(w) > 10 else np.ones_like(w, bool)
        ),
    }
    pruned = zeroed(MLP, tmp_path / "p.onnx", keep[pattern])
    out = tmp_path / "o.onnx"
    report = report_of(cli("recover", MLP.model, pruned, "-o", out, *data(MLP), "--json"))
    assert report["outputs"][0]["relative_error"] < report["as_given"][0]["relative_error"]
    assert {row["method"] for row in report["sparse"] if not row["reason"]} == {"given"}
    was, now = weights(pruned), weights(out)
    changed = 0
    for name, array in was.items():
        assert (now[name][array == 0] == 0).all(), name
        changed += int((now[name] != array).sum())
    assert changed
    assert score(MLP, out) >= score(MLP, pruned)
    (check,) = [row for row in report["checks"] if "zeros" in row["name"]]
    assert (check["ok"], check["value"]) == (True, 0)


def test_masks_in_a_cut_model_stay_too(cli: Cli, tmp_path: Path) -> None:
    pruned = tmp_path / "p.onnx"
    made = onnxprune.prune(MLP.model, ratio=0.3, criterion="l1", recover="none", sparsity="50%")
    made.save(pruned)
    out = tmp_path / "o.onnx"
    report = report_of(cli("recover", MLP.model, pruned, "-o", out, *data(MLP), "--json"))
    assert report["outputs"][0]["relative_error"] < report["as_given"][0]["relative_error"]
    was, now = weights(pruned), weights(out)
    assert all((now[name][array == 0] == 0).all() for name, array in was.items() if array.ndim > 1)
    assert any(row["kept"] < row["units"] for row in report["groups"])


def test_a_model_that_lost_nothing_stays_as_it_was(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    report = report_of(cli("recover", MLP.model, MLP.model, *data(MLP), "-o", out, "--json"))
    assert report["outputs"][0]["relative_error"] <= 1e-6
    was, now = weights(MLP.model), weights(out)
    for name, array in was.items():
        np.testing.assert_allclose(now[name], array, rtol=1e-5, atol=1e-7)


def test_a_worse_result_is_not_written(tmp_path: Path) -> None:
    """Refitted to a few inputs of noise, and judged on them by labels that the refit gets wrong."""
    pruned = cut_by_size(MLP, tmp_path / "p.onnx", 0.5)
    rng = np.random.default_rng(0)
    shape = zoo.calibration(MLP)["image"].shape[1:]
    noise = {"image": rng.standard_normal((100, *shape)).astype(np.float32)}
    session = onnxruntime.InferenceSession(pruned, providers=["CPUExecutionProvider"])
    labels = session.run(None, noise)[0].argmax(-1)  # as given it is always right
    made = onnxprune.recover(MLP.model, pruned, calib=noise, labels=labels)
    assert made.as_given.after == 1.0
    if made.better:
        pytest.fail("the refit agrees with the pruned model on every input")
    assert made.evaluation.after == 1.0
    assert any("worse" in note for note in made.notes)
    assert made.quality.status != "good"
    made.save(tmp_path / "o.onnx", force=True)
    was, now = weights(pruned), weights(tmp_path / "o.onnx")
    assert all(np.array_equal(was[name], now[name]) for name in was)


def test_without_an_output_nothing_is_written(cli: Cli, tmp_path: Path) -> None:
    pruned = cut_by_size(MLP, tmp_path / "p.onnx")
    before = {*tmp_path.iterdir()}
    ran = cli("recover", MLP.model, pruned, *data(MLP))
    assert ran.code == 0
    assert "as given" in ran.out
    assert "Dry run" in ran.err
    assert {*tmp_path.iterdir()} == before


@pytest.mark.parametrize("calib", [(), ("--calib", "random")])
def test_it_needs_real_inputs(cli: Cli, tmp_path: Path, calib: tuple[str, ...]) -> None:
    pruned = cut_by_size(MLP, tmp_path / "p.onnx")
    ran = cli("recover", MLP.model, pruned, *calib)
    assert ran.code == 2
    assert "hint: " in ran.err
    assert "--calib" in ran.err


def test_neither_input_is_overwritten(cli: Cli, tmp_path: Path) -> None:
    pruned = cut_by_size(MLP, tmp_path / "p.onnx")
    for path in (MLP.model, pruned):
        before = Path(path).read_bytes()
        ran = cli("recover", MLP.model, pruned, *data(MLP), "-o", path)
        assert ran.code == 2
        assert "the same file as" in ran.err
        assert Path(path).read_bytes() == before
    dense = tmp_path / "d.onnx"
    dense.write_bytes(MLP.model.read_bytes())
    made = onnxprune.recover(dense, pruned, calib=str(MLP.calibration), calib_samples=64)
    for path in (dense, pruned):
        with pytest.raises(OnnxpruneError):
            made.save(path)


def test_another_model_is_refused(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "o.onnx"
    ran = cli("recover", MLP.model, zoo.get("digits_lstm").model, *data(MLP), "-o", out)
    assert ran.code == 2
    assert ran.err.startswith("error: the graphs do not correspond")
    assert "hint: " in ran.err
    assert not out.exists()


def test_what_was_given_is_left_alone(tmp_path: Path) -> None:
    pruned = models.load(cut_by_size(MLP, tmp_path / "p.onnx"))
    before = models.to_proto(pruned).SerializeToString()
    dense = onnx.load(MLP.model)
    whole = dense.SerializeToString()
    made = onnxprune.recover(dense, pruned, calib=str(MLP.calibration), calib_samples=64)
    assert models.to_proto(pruned).SerializeToString() == before
    assert dense.SerializeToString() == whole
    assert "refitted" in str(made)


def test_only_biases_move_when_asked(cli: Cli, tmp_path: Path) -> None:
    pruned, out = cut_by_size(MLP, tmp_path / "p.onnx", 0.2), tmp_path / "o.onnx"
    flags = (*data(MLP), "--recover", "bias", "-o", out, "--json")
    report = report_of(cli("recover", MLP.model, pruned, *flags))
    assert report["outputs"][0]["relative_error"] < report["as_given"][0]["relative_error"]
    was, now = weights(pruned), weights(out)
    moved = {now[name].ndim for name in was if not np.array_equal(was[name], now[name])}
    assert moved == {1}


def test_folded_normalisations_are_folded_in_the_dense_model_too(tmp_path: Path) -> None:
    dense = models.load(zoo.get("digits_rescnn").model)
    folded = fold_normalisations(dense)
    pruned = onnxprune.prune(folded, ratio=0.2, criterion="l1", recover="none").model
    calib = {"image": zoo.calibration(MLP)["image"][:24]}
    made = onnxprune.recover(dense, pruned, calib=calib, recover="bias")
    assert made.plan.removed
    assert any("folded" in note for note in made.notes)
    assert made.ok


def test_weights_may_be_stored_in_nodes_and_handed_on(tmp_path: Path) -> None:
    """As some exporters write them: Constant nodes, with an Identity behind."""
    model = onnx.load(cut_by_size(MLP, tmp_path / "p.onnx"))
    graph = model.graph
    for k, tensor in enumerate(list(graph.initializer)):
        graph.initializer.remove(tensor)
        hidden = f"hidden_{k}"
        graph.node.insert(0, onnx.helper.make_node("Identity", [hidden], [tensor.name]))
        graph.node.insert(0, onnx.helper.make_node("Constant", [], [hidden], value=tensor))
    onnx.checker.check_model(model)
    made = onnxprune.recover(MLP.model, model, calib=str(MLP.calibration), calib_samples=64)
    assert made.better
    assert made.ok
    ops = [node.op_type for node in made.model.ir.graph]
    assert ops == [node.op_type for node in graph.node]


def test_a_bias_that_somebody_added_is_kept(tmp_path: Path) -> None:
    """The dense layer has none: a correction of the mean gave it one."""
    dense = onnx.load(MLP.model)
    first = dense.graph.node[[n.op_type for n in dense.graph.node].index("Gemm")]
    bias = first.input.pop()
    pruned = onnx.load_from_string(dense.SerializeToString())
    node = next(n for n in pruned.graph.node if n.output == first.output)
    node.input.append(bias)
    made = onnxprune.recover(dense, pruned, calib=str(MLP.calibration), calib_samples=64)
    assert made.ok
    assert made.evaluation.main.relative_error < 0.5 * made.as_given.main.relative_error


def test_weights_that_have_changed_are_said_to_have(tmp_path: Path) -> None:
    model = onnx.load(cut_by_size(MLP, tmp_path / "p.onnx"))
    rng = np.random.default_rng(0)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.ndim == 2:
            noise = rng.standard_normal(array.shape) * array.std() * 0.2
            changed = (array + noise).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    made = onnxprune.recover(MLP.model, model, calib=str(MLP.calibration), calib_samples=128)
    assert any("correlation" in note for note in made.notes)
    assert made.evaluation.main.relative_error < made.as_given.main.relative_error


def test_models_in_the_wrong_order_are_told_apart(cli: Cli, tmp_path: Path) -> None:
    small = cut_by_size(MLP, tmp_path / "small.onnx")
    out = tmp_path / "out.onnx"
    ran = cli("recover", small, MLP.model, *data(MLP, 64), "-o", out)
    assert ran.code == 2
    error, hint = ran.err.splitlines()
    assert error.startswith("error: the pruned model is larger than the dense one")
    assert "onnxprune recover dense.onnx pruned.onnx" in hint
    assert not out.exists()


def test_inputs_are_no_labels(cli: Cli, tmp_path: Path) -> None:
    small = cut_by_size(MLP, tmp_path / "small.onnx")
    inputs = tmp_path / "inputs.npz"
    np.savez(inputs, image=zoo.calibration(MLP)["image"][:64])
    ran = cli("recover", MLP.model, small, "--calib", inputs, "--labels", inputs)
    assert ran.code == 2
    error, hint = ran.err.splitlines()
    assert "--labels" in error
    assert "'image', is an input of the model" in error
    assert "labels" in hint
