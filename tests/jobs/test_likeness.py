"""A refitted unit still resembles what it was, so that exchanged units are seen."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import onnxprune
from onnxprune.data import zoo
from onnxprune.graph.difference import changes, pair
from onnxprune.jobs.certificate import expected_model
from onnxprune.jobs.likeness import exchanged_units

MLP = zoo.get("digits_mlp")


@pytest.mark.parametrize("ratio", [0.2, 0.6])
def test_units_of_another_plan_are_seen(ratio: float) -> None:
    result = onnxprune.prune(MLP.model, ratio=ratio, calib=MLP.calibration, calib_samples=64)
    analysis, plan = result.analysis, result.plan
    pairing = pair(expected_model(analysis, plan), result.model)
    changed = {name for name, change in changes(pairing) if change.kind == "changed"}
    assert not exchanged_units(analysis, plan, result.model, changed)
    rng = np.random.default_rng(0)
    seen = 0
    for name, units in plan.removed.items():
        free = np.setdiff1d(np.arange(len(analysis.group(name))), units)
        others = tuple(sorted({*units[2:], *rng.choice(free, 2, replace=False).tolist()}))
        other = replace(plan, removed={**plan.removed, name: others})
        seen += bool(exchanged_units(analysis, other, result.model, changed))
    assert seen  # a strong refit may leave no likeness
