"""Errors of outputs that run only what lies behind a change: those of whole runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnxprune import analyse
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.memory import MemoryBudget
from onnxprune.evaluate.output_error import OutputError
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.reference import mask_model
from onnxprune.runtime import open_session
from onnxprune.select.importance.curves import Feeds, calibrate
from onnxprune.select.importance.downstream import DownstreamError
from onnxprune.select.importance.output_errors import without


def problem(name: str) -> tuple[Analysis, Sequence[Feeds]]:
    entry = zoo.get(name)
    with np.load(entry.calibration) as stored:
        samples = {key: stored[key] for key in stored.files}
    batches = [{key: each[i : i + 16] for key, each in samples.items()} for i in (0, 16)]
    return analyse(models.load(entry.model)), batches


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.heavy] * (n == "chars_decoder")) for n in zoo.names()],
)
@pytest.mark.parametrize(
    "memory", [1_000_000, pytest.param(4_000_000_000, marks=pytest.mark.heavy)]
)
def test_errors_are_those_of_whole_runs(name: str, memory: int) -> None:
    analysis, batches = problem(name)
    whole = OutputError(analysis.model, batches)
    part = DownstreamError(analysis.model, batches, memory=MemoryBudget(memory))
    readers = calibrate(analysis, batches)
    groups = [analysis.groups[k] for k in (0, len(analysis.groups) // 2, -1, 0)]
    for group in groups:
        removed = range(0, len(group), 2)
        for model in (
            without(analysis, group, [*removed], readers),
            mask_model(analysis, {group.name: [*removed]}),
        ):
            expected = whole.of(model)
            assert part.of(model) == pytest.approx(expected, rel=1e-3, abs=1e-7)
    assert part.of(models.clone(analysis.model)) == 0.0


def test_only_what_lies_behind_a_change_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    analysis, batches = problem("digits_rescnn")
    part, last = DownstreamError(analysis.model, batches), analysis.groups[-1]
    sizes: list[int] = []

    def counted(model: models.Model, **settings: object) -> object:
        sizes.append(len(model.ir.graph))
        return open_session(model, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr("onnxprune.select.importance.downstream.open_session", counted)
    assert part.of(mask_model(analysis, {last.name: [0, 1]})) > 0
    assert sizes[0] < len(analysis.model.ir.graph) / 2
    assert np.isfinite(part.of(mask_model(analysis, {analysis.groups[0].name: [0]})))
