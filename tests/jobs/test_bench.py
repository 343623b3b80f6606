"""`onnxprune bench` on real models and runtimes: rows, reasons, pictures."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import analyse, cut, load, save
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate import protocol
from onnxprune.evaluate.output_comparison import compare
from onnxprune.evaluate.protocol import Case, Declined, Settings, Timing, measure
from onnxprune.evaluate.worker import PROCESS
from onnxprune.jobs.bench.job import bench
from onnxprune.jobs.bench.samples import open_samples
from onnxprune.jobs.bench.schema import Bench, to_json
from onnxprune.report import drawing, plots
from onnxprune.runtime import open_session
from onnxprune.runtime.process import Worker, WorkerError

Cli = Callable[..., Any]
QUICK = Settings(processes=2, rounds=2, slice_s=0.002, warm_s=0.2)
ENTRY = zoo.get("digits_mlp")


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network with a quarter of each group gone."""
    analysis = analyse(load(ENTRY.model))
    gone = {group.name: range(0, len(group), 4) for group in analysis.groups if group.exact}
    return save(cut(analysis, gone), tmp_path_factory.mktemp("small") / "small.onnx")


def odd(path: Path, op: str = "Frobnicate", domain: str = "my.domain") -> Path:
    """A model that no runtime takes."""
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, ["image"], ["logits"], domain=domain)],
        "g",
        [value("image", TensorProto.FLOAT, ["batch", 1, 16, 16])],
        [value("logits", TensorProto.FLOAT, ["batch", 10])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid(domain, 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=9), path)
    return path


@pytest.fixture(scope="module")
def made(small: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """One measurement: a pruned model, one that nothing runs, and a backend that is not here."""
    with np.load(ENTRY.evaluation) as data:
        labels = tmp_path_factory.mktemp("labels") / "labels.npy"
        np.save(labels, data[zoo.LABEL])
        images = labels.with_name("images.npz")
        np.savez(images, image=data["image"])
    bad = odd(labels.with_name("odd.onnx"))
    missing = "dml" if sys.platform != "win32" else "coreml"
    return bench(
        (ENTRY.model, small, bad),
        backend=("cpu", missing),
        threads=1,
        skip_missing=True,
        calib=str(images),
        calib_samples=10_000,
        labels=str(labels),
        protocol=QUICK,
    )


def test_every_model_that_runs_has_a_row_and_every_other_a_reason(made: Bench, small: Path) -> None:
    assert [(row.model, row.backend, row.precision) for row in made.rows] == [
        (ENTRY.model.name, "cpu", "f32"),
        (small.name, "cpu", "f32"),
    ]
    refused, missing = made.declined
    assert (refused.model, refused.backend) == ("odd.onnx", "cpu")
    assert "Frobnicate" in refused.reason
    assert (missing.model, missing.reason != "") == ("", True)
    assert missing.install


def test_a_backend_that_is_not_here_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    missing = "dml" if sys.platform != "win32" else "coreml"
    monkeypatch.setattr("onnxprune.jobs.bench.job.measure", pytest.fail)
    for backend in ((missing,), ("cpu", missing)):
        with pytest.raises(OnnxpruneError, match=f"'{missing}' cannot be used here") as caught:
            bench((ENTRY.model,), backend=backend)
        assert caught.value.exit_code == 2
        assert "skip_missing=True" in caught.value.hint


def test_rows_hold_what_they_promise(made: Bench) -> None:
    for row in made.rows:
        latency = row.latency
        assert latency.runs >= QUICK.processes * QUICK.rounds
        assert 0 < latency.p50_s <= latency.p90_s <= latency.p99_s
        assert len(latency.quantiles) == 101
        assert list(latency.quantiles) == sorted(latency.quantiles)
        assert latency.quantiles[50] == pytest.approx(latency.p50_s)
        assert row.load_s > 0
        assert row.first_run_s > 0
        if row.peak_rss_bytes is not None and row.idle_rss_bytes is not None:
            assert row.peak_rss_bytes > row.idle_rss_bytes > 1 << 20
    first, second = made.rows
    assert first.ratio is None
    assert second.ratio is not None
    assert second.ratio.low <= second.ratio.value <= second.ratio.high
    assert second.ratio.to == first.model
    assert made.models[1].bytes < made.models[0].bytes
    assert (made.models[1].macs or 0) < (made.models[0].macs or 0)


def test_outputs_and_scores_are_those_of_the_models(made: Bench, small: Path) -> None:
    feeds, _ = zoo.evaluation(ENTRY)
    dense, cut_ = (open_session(path) for path in (ENTRY.model, small))
    want = compare(dense.run(feeds), cut_.run(feeds))["logits"]
    (found,) = made.rows[1].outputs
    assert found.relative_error == pytest.approx(want.relative_error, rel=1e-4)
    assert found.top1 == pytest.approx(want.top1)
    score = made.rows[1].score
    assert score is not None
    assert score.before == pytest.approx(zoo.measure(ENTRY, dense.run))
    assert score.after == pytest.approx(zoo.measure(ENTRY, cut_.run))
    assert score.error is not None
    assert 0 < score.error < 0.1
    (floor,) = made.noise_floor
    (row,) = floor.outputs
    assert row.relative_error is not None
    assert 0 <= row.relative_error < 1e-5 < (found.relative_error or 0)


def test_the_json_is_versioned_and_plain(made: Bench) -> None:
    told = json.loads(json.dumps(to_json(made), allow_nan=False))
    assert (told["schema"], told["version"]) == ("onnxprune.bench", 2)
    fields = {"environment", "protocol", "models", "rows", "noise_floor", "declined", "notes"}
    assert fields <= set(told)
    assert {"cpu", "cores", "memory_bytes", "os", "versions", "affinity", "load_average",
            "clock_mhz"} <= set(told["environment"])  # fmt: skip
    assert told["protocol"]["processes"] == QUICK.processes
    assert told["protocol"]["io"]
    assert told["rows"][1]["ratio"]["verdict"] in ("faster", "slower", "no speed-up")


def test_both_pictures_are_drawn_whole(made: Bench, tmp_path: Path) -> None:
    for name, start in (("a.png", b"\x89PNG"), ("a.svg", b"<?xml")):
        drawing.save(plots.of_bench(made), tmp_path / name)
        assert (tmp_path / name).read_bytes().startswith(start)
    assert "small.onnx" in (tmp_path / "a.svg").read_text()
    assert {path.name for path in tmp_path.iterdir()} == {"a.png", "a.svg"}


def test_pictures_need_no_plotting_library(
    made: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    for name in ("a.png", "a.svg"):
        drawing.save(plots.of_bench(made), tmp_path / name)
        assert (tmp_path / name).stat().st_size > 1000


class Dying(Worker):
    """A real worker whose process is killed when the pruned model is to be warmed up."""

    def ask(self, verb: str, **arguments: Any) -> Any:
        if verb == "open":
            self.doomed = "small" in arguments["path"]
        if verb == "warm" and self.doomed:
            os.kill(self._process.pid, signal.SIGKILL)
        return super().ask(verb, **arguments)


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_process_that_dies_takes_only_its_model_along(
    small: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(protocol, "Worker", Dying)
    samples, _ = open_samples(load(ENTRY.model), calib=str(ENTRY.calibration))
    case = Case("cpu", (ENTRY.model, small), samples.timed(1), threads=1)
    kept, gone = measure(case, Settings(processes=2, rounds=2, slice_s=0.001, warm_s=0.1))
    assert isinstance(kept, Timing)
    assert kept.medians.shape == (2, 2)
    assert isinstance(gone, Declined)
    assert "SIGKILL" in gone.reason
    assert "warm" in gone.reason


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
def test_a_process_that_stops_answering_is_given_up() -> None:
    with Worker(PROCESS, patience_s=20) as worker:
        worker.ask("peak")
        worker._patience_s = 0.2
        threading.Timer(0.0, os.kill, (worker._process.pid, signal.SIGSTOP)).start()
        with pytest.raises(WorkerError, match=r"did not answer within 0 s|asked to outputs"):
            worker.ask("warm", most_s=1.0)


def test_what_cannot_be_compared_or_scored_is_said_beside_the_timing(tmp_path: Path) -> None:
    proto = onnx.load(ENTRY.model)
    for node in proto.graph.node:
        node.output[:] = ["other" if name == "logits" else name for name in node.output]
    proto.graph.output[0].name = "other"
    onnx.save(proto, tmp_path / "other.onnx")
    np.save(tmp_path / "labels.npy", np.full(1000, 99))
    made = bench(
        (ENTRY.model, tmp_path / "other.onnx"),
        calib=str(ENTRY.calibration),
        calib_samples=16,
        labels=str(tmp_path / "labels.npy"),
        protocol=Settings(processes=1, rounds=1, slice_s=0.001, warm_s=0.1),
    )
    assert [row.latency.runs > 0 for row in made.rows] == [True, True]
    (row,) = made.rows[1].outputs
    assert "differ in name" in row.reason
    assert {each.model for each in made.declined} == {ENTRY.model.name, "other.onnx"}
    assert all("only 10 classes" in each.reason for each in made.declined)


def test_open_sizes_come_from_the_data_or_from_shapes() -> None:
    decoder = zoo.get("chars_decoder")
    model = load(decoder.model)
    (spec,) = open_samples(model)[0].calibration.signature
    samples, batch = open_samples(model, shapes={spec.name: (3, 7)})
    assert batch == 3
    assert samples.timed(5)[spec.name].shape == (5, 7)
    real, _ = open_samples(model, calib=str(decoder.calibration))
    fed = real.timed(2)[spec.name]
    np.testing.assert_array_equal(fed, zoo.calibration(decoder)[spec.name][:2])
    with pytest.raises(OnnxpruneError, match="fits no input"):
        open_samples(model, shapes={spec.name: (3, 7, 7)})


def test_a_few_samples_fill_a_large_batch(tmp_path: Path) -> None:
    images = zoo.calibration(ENTRY)["image"][:3]
    np.savez(tmp_path / "few.npz", image=images)
    samples, _ = open_samples(load(ENTRY.model), calib=str(tmp_path / "few.npz"))
    np.testing.assert_array_equal(samples.timed(5)["image"], images[[0, 1, 2, 0, 1]])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "no model to measure"),
        (("none.onnx",), "none.onnx"),
        (("MODEL", "--backend", "cpuu"), "did you mean 'cpu'"),
        (("MODEL", "--batch", "0"), "--batch 0"),
        (("MODEL", "--threads", "x"), "--threads x"),
        (("MODEL", "--rounds", "0"), "--rounds 0"),
        (("MODEL", "-o", "MODEL"), "same file"),
        (("MODEL", "-o", "plot.jpg"), "neither .png nor .svg"),
        (("MODEL", "--labels", "l.npy"), "--labels needs the inputs"),
        (("MODEL", "--metric", "beauty"), "no metric 'beauty'"),
        (("MODEL", "--shapes", "nothing=1x2"), "fits no input"),
    ],
)
def test_wrong_flags_are_refused_before_anything_runs(
    cli: Cli, arguments: tuple[str, ...], said: str
) -> None:
    done = cli("bench", *(str(ENTRY.model) if each == "MODEL" else each for each in arguments))
    assert done.code == 2
    assert done.out == ""
    assert said in done.err


def test_the_command_prints_a_verdict_and_that_inputs_were_synthetic(cli: Cli, small: Path) -> None:
    done = cli("bench", ENTRY.model, small, "--processes", "1", "--rounds", "1", "--threads", "1",
               "--calib-samples", "8")  # fmt: skip
    assert done.code == 0, done.err
    assert "no speed-up" in done.out, "one round of one process proves nothing"
    assert "inputs were synthetic" in done.out
    assert "Noise floor" in done.out


def test_nothing_measured_is_a_failure_with_the_reasons_on_stdout(cli: Cli, tmp_path: Path) -> None:
    done = cli("bench", odd(tmp_path / "odd.onnx"), "--processes", "1", "--rounds", "1")
    assert done.code == 2
    assert "Frobnicate" in done.out
    assert "nothing could be measured" in done.err


FAST = Settings(processes=1, rounds=1, slice_s=0.001, warm_s=0.05)


def built(path: Path, nodes: list[Any], inputs: list[Any], weights: dict[str, Any]) -> Path:
    """A small graph in a file; its output is ``y``, of eight columns."""
    graph = helper.make_graph(
        nodes,
        "g",
        inputs,
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


def test_all_labelled_samples_are_scored_and_every_model_has_one_row(
    cli: Cli, small: Path, tmp_path: Path
) -> None:
    """Without --calib-samples no sample is left out, whatever batches and threads are timed."""
    with np.load(ENTRY.evaluation) as data:
        count = len(data[zoo.LABEL])
        np.savez(tmp_path / "x.npz", image=data["image"])
        np.save(tmp_path / "y.npy", data[zoo.LABEL])
    done = cli(
        "bench", ENTRY.model, small, "--calib", tmp_path / "x.npz", "--labels", tmp_path / "y.npy",
        "--batch", "1,2", "--processes", "1", "--rounds", "1", "--threads", "1",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert f"Task, {count:,} inputs" in done.out
    table = done.out.partition("Task, ")[2].partition("\n\n")[0]
    rows = [line for line in table.splitlines()[2:] if line.strip()]
    assert [line.split()[0] for line in rows] == [ENTRY.model.name, small.name]
    assert all(line.count("points") >= 1 and "%" in line for line in rows)
    agreement = done.out.partition("Agreement with")[2].partition("\n\n")[0]
    assert agreement.count(small.name) == 1
    assert "points" in agreement


def test_a_model_with_a_batch_inside_is_fed_one_sample_at_a_time(tmp_path: Path) -> None:
    """The batch axis has a name, and a Reshape holds the 1 of the exporter's example."""
    rng = np.random.default_rng(0)
    path = built(
        tmp_path / "one.onnx",
        [
            helper.make_node("Reshape", ["x", "shape"], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ],
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4, 4])],
        {"shape": np.array([1, 16]), "w": rng.standard_normal((16, 8)).astype("f")},
    )
    x = rng.standard_normal((20, 4, 4)).astype("f")
    np.savez(tmp_path / "x.npz", x=x)
    labels = open_session(path).run({"x": x[:1]})["y"].argmax(1).repeat(20)
    np.save(tmp_path / "y.npy", labels)
    result = bench(
        (path, path), calib=str(tmp_path / "x.npz"), labels=str(tmp_path / "y.npy"), protocol=FAST
    )
    assert [row.batch for row in result.rows] == [1, 1]
    assert not result.declined
    assert result.rows[1].agreement == 1.0
    score = result.rows[0].score
    assert score is not None
    assert score.samples == 20
    assert any("one sample at a time" in note for note in result.notes)


def test_an_input_without_axes_is_fed_as_the_data_have_it(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    path = built(
        tmp_path / "scalar.onnx",
        [
            helper.make_node("Mul", ["x", "t"], ["s"]),
            helper.make_node("MatMul", ["s", "w"], ["y"]),
        ],
        [
            helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 16]),
            helper.make_tensor_value_info("t", TensorProto.FLOAT, []),
        ],
        {"w": rng.standard_normal((16, 8)).astype("f")},
    )
    np.savez(tmp_path / "x.npz", x=rng.standard_normal((40, 16)).astype("f"), t=np.float32(0.5))
    result = bench((path, path), batch=(1, 3), calib=str(tmp_path / "x.npz"), protocol=FAST)
    assert [row.batch for row in result.rows] == [1, 1, 3, 3]
    assert result.rows[1].outputs[0].relative_error == 0
    assert not result.declined


def test_inputs_of_strings_are_fed_as_the_data_have_them(tmp_path: Path) -> None:
    """Words become numbers, as in the graphs of scikit-learn's converters."""
    words = ["cat", "dog", "fish"]
    rng = np.random.default_rng(0)
    node = helper.make_node(
        "LabelEncoder", ["word"], ["k"], domain="ai.onnx.ml", keys_strings=words,
        values_floats=[1.0, 2.0, 3.0], default_float=0.0,
    )  # fmt: skip
    graph = helper.make_graph(
        [node, helper.make_node("MatMul", ["k", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("word", TensorProto.STRING, ["n", 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8])],
        [numpy_helper.from_array(rng.standard_normal((1, 8)).astype("f"), "w")],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 2)]
    path = tmp_path / "words.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    np.savez(tmp_path / "x.npz", word=np.array(words * 4)[:, None])
    result = bench((path, path), calib=str(tmp_path / "x.npz"), protocol=FAST)
    assert len(result.rows) == 2
    assert not result.declined
    assert result.rows[1].outputs[0].relative_error == 0
    with pytest.raises(OnnxpruneError, match="takes strings"):
        bench((path,), protocol=FAST)
