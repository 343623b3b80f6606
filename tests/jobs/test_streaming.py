"""Jobs without data run nothing and hold nothing: what they say, write and leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from conftest import Ran
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.jobs import store as storing
from onnxprune.jobs.prune import apply, prune
from onnxprune.jobs.store import check_stored, store

Cli = Callable[..., Ran]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every session that onnxruntime opens."""
    import onnxruntime

    opened: list[Any] = []
    real = onnxruntime.InferenceSession

    def spy(*args: Any, **kwargs: Any) -> Any:
        opened.append(args)
        return real(*args, **kwargs)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    return opened


def test_nothing_runs_without_data_unless_something_is_cut(runs: list[Any]) -> None:
    model = models.load(zoo.get("digits_rescnn").model)
    sparse = prune(model, sparsity="2:4")
    assert sparse.ok
    assert apply(model, sparse.plan).ok
    assert not runs
    assert prune(model, ratio=0.3).ok
    assert runs


def test_what_is_written_is_checked_while_it_is_written(
    runs: list[Any], cli: Cli, tmp_path: Path
) -> None:
    source, target = zoo.get("digits_rescnn").model, tmp_path / "sparse.onnx"
    done = cli("prune", source, "--sparsity", "50%", "-o", target, "--json")
    document = json.loads(done.out)
    assert [check["ok"] for check in document["checks"]] == [True]
    again = models.load(target)
    kept = models.constants(prune(source, sparsity="50%").model)
    for name, value in models.constants(again).items():
        np.testing.assert_array_equal(models.array_of(value), models.array_of(kept[name]))
    assert not runs


def test_a_model_too_small_for_its_sparsity_is_not_written(cli: Cli, tmp_path: Path) -> None:
    source, target = tmp_path / "small.onnx", tmp_path / "out.onnx"
    tensor = onnx.numpy_helper.from_array(np.arange(1, 5, dtype=np.float32).reshape(4, 1), "w")
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, size])
        for name, size in (("x", 4), ("y", 1))
    ]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:], [tensor])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=opset), source)
    done = cli("prune", source, "--sparsity", "95%", "-o", target)  # one of four has to stay
    assert done.code == 1
    assert "nothing was written" in done.err
    assert not target.exists()


def test_a_large_stored_model_is_read_back_and_not_run(
    runs: list[Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    stored = store(prune(zoo.get("digits_mlp").model, sparsity="90%").model, store="packed")
    path = stored.save(tmp_path / "packed.onnx")
    monkeypatch.setattr(storing, "LARGEST_RUN", 1000)
    check = check_stored(stored, path)
    assert check.ok
    assert "not run" in check.notes[0]
    assert not runs
    monkeypatch.undo()
    assert len(check_stored(stored, path).checks) == 2
