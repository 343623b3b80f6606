"""Errors of outputs with other weights: those of whole models that hold these weights."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest

from onnxprune import analyse
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.memory import MemoryBudget
from onnxprune.evaluate.output_error import OutputError
from onnxprune.select.importance.curves import calibrate, eliminate_groups
from onnxprune.select.importance.error_curves import refitted
from onnxprune.select.importance.output_errors import refit_readers, without
from onnxprune.select.importance.refit_errors import RefitErrors


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.heavy] * (n == "chars_decoder")) for n in zoo.names()],
)
@pytest.mark.parametrize(
    "memory", [1_000_000, pytest.param(4_000_000_000, marks=pytest.mark.heavy)]
)
def test_errors_are_those_of_whole_models(name: str, memory: int) -> None:
    entry = zoo.get(name)
    with np.load(entry.calibration) as stored:
        samples = {key: stored[key] for key in stored.files}
    batches = [{key: each[i : i + 16] for key, each in samples.items()} for i in (0, 16)]
    analysis = analyse(models.load(entry.model))
    readers = refitted(analysis, calibrate(analysis, batches))
    eliminations, _ = eliminate_groups(analysis.groups, readers)
    groups = [group for group in analysis.groups if group.name in eliminations]
    whole = OutputError(analysis.model, batches)
    errors = RefitErrors(analysis, batches, readers, memory=MemoryBudget(memory))
    compared = 0
    for stretch in errors.stretches(groups):
        errors.open(stretch)
        for group in stretch:
            settings: dict[str, Any] = {"removed": range(0, len(group), 2), "ridge": 1e-4}
            error = errors.of(partial(refit_readers, group=group, readers=readers, **settings))
            model = without(analysis, group, settings["removed"], readers)
            assert error == pytest.approx(whole.of(model), rel=1e-3, abs=1e-7)
            compared += 1
        assert errors.of(lambda _: None) == pytest.approx(0, abs=1e-9)
    assert compared == len(groups)
