"""The same seed gives the same bits, whatever the number of threads."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import onnxruntime
import pytest
from threadpoolctl import threadpool_limits

import onnxprune
from onnxprune.data import zoo
from onnxprune.data.zoo import Entry
from onnxprune.model.seal import content_hash
from onnxprune.solve import pairs

JOBS: dict[str, Callable[[Entry, dict[str, Any]], Any]] = {
    "prune": lambda entry, data: onnxprune.prune(entry.model, ratio=0.4, **data),
    "budget": lambda entry, data: onnxprune.prune(entry.model, target="macs=60%", **data),
    "sparsify": lambda entry, data: onnxprune.prune(entry.model, sparsity="50%", **data),
    "recover": lambda entry, data: onnxprune.recover(
        entry.model, onnxprune.prune(entry.model, ratio=0.3, seed=1).model, **data
    ),
    "quantize": lambda entry, data: onnxprune.quantize(entry.model, **data),
}


def _run(job: str, name: str, threads: int, monkeypatch: pytest.MonkeyPatch) -> tuple[object, ...]:
    """The weights and the verdict of a job whose libraries run on so many threads."""
    entry = zoo.get(name)
    options = onnxruntime.SessionOptions

    def limited() -> Any:
        settings = options()
        settings.intra_op_num_threads = threads
        return settings

    with monkeypatch.context() as patch, threadpool_limits(threads, "blas"):
        patch.setattr(onnxruntime, "SessionOptions", limited)
        patch.setattr(pairs, "_LARGE", 0.0)
        data = {"calib": entry.calibration, "calib_samples": 48, "seed": 3, "cache": False}
        if job in ("quantize", "recover"):
            del data["cache"]
        result = JOBS[job](entry, data)
    return content_hash(result.model), result.plan, result.evaluation.main.relative_error


@pytest.mark.parametrize("job", [job for job in JOBS if job != "budget"])
def test_threads_change_nothing(job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    one, four = (_run(job, "digits_mlp", threads, monkeypatch) for threads in (1, 4))
    assert one == four


@pytest.mark.heavy
@pytest.mark.parametrize("job", JOBS)
@pytest.mark.parametrize("name", zoo.names())
def test_threads_change_nothing_in_any_network(
    name: str, job: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = {_run(job, name, threads, monkeypatch)[:1] for threads in (1, 2, 4)}
    assert len(results) == 1
