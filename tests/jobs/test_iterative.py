"""Pruning in steps: the same amounts, one plan over the dense model, and nothing else lost."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune import prune
from onnxprune.config import Options
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import analyse
from onnxprune.graph.plan import load_plan
from onnxprune.graph.surgery import cut
from onnxprune.jobs.iterative import progress
from onnxprune.jobs.prune import apply
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.remaining import Remaining
from onnxprune.solve.group_obs import Elimination


@given(st.integers(1, 12), st.sampled_from(["linear", "cubic"]))
def test_schedules_rise_and_end_where_asked(steps: int, schedule: str) -> None:
    done = progress(steps, schedule)  # type: ignore[arg-type]
    assert len(done) == steps
    assert done[-1] == 1
    assert all(a < b for a, b in pairwise([0.0, *done]))
    if schedule == "cubic":
        parts = np.diff([0.0, *done])
        assert (np.diff(parts) < 0).all()


@pytest.mark.parametrize("name", ["digits_rescnn", "digits_encoder", "digits_mlp"])
def test_cutting_in_two_steps_is_cutting_at_once(name: str) -> None:
    """Units of what is left stand for the units of the dense model that they are said to."""
    dense = analyse(models.load(zoo.get(name).model))
    rng = np.random.default_rng(0)
    groups = [g for g in dense.groups if g.exact and len(g) > 3]
    some = {g.name: tuple(sorted(rng.choice(len(g), len(g) // 4, False).tolist())) for g in groups}
    once = cut(dense, some)
    so_far = Remaining(analyse(once, inputs=dense.inputs[0]), some)
    more = dict(some)
    for group in so_far.left(groups):
        stays = np.setdiff1d(np.arange(len(dense.group(group.name))), some[group.name])
        extra = rng.choice(stays, len(stays) // 3, False)
        more[group.name] = tuple(sorted([*some[group.name], *extra.tolist()]))
    assert more != some
    whole, parts = (
        {
            key: tensor.numpy()
            for key, value in models.constants(made).items()
            if (tensor := models.constant(value)) is not None and tensor.dtype.is_floating_point()
        }
        for made in (cut(dense, more), cut(so_far.analysis, so_far.newly_removed(more, groups)))
    )
    assert whole.keys() == parts.keys()
    for key, array in whole.items():
        np.testing.assert_array_equal(array, parts[key], err_msg=key)


def test_curves_of_what_is_left_are_curves_over_the_dense_units() -> None:
    dense = analyse(models.load(zoo.get("digits_mlp").model))
    group = dense.groups[0]
    gone = (1, 4)
    left = Elimination(np.arange(len(group) - 2), np.linspace(1, 0, len(group) - 1))
    so_far = Remaining(dense, {group.name: gone})
    found = so_far.in_dense_units(Curves({group.name: left}, {}), dense.groups).groups[group.name]
    assert sorted(found.order) == list(range(len(group)))
    assert tuple(found.order[:2]) == gone
    np.testing.assert_array_equal(found.error[: len(group) - 1], left.error)
    assert found.error[-1] == 0


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("digits_mlp", {"target": "macs=40%"}),
        ("digits_mlp", {"ratio": 0.5, "round_to": 1}),
        ("digits_mlp", {"target": "params=50%", "schedule": "linear"}),
    ],
)
def test_steps_end_at_the_same_amount(name: str, asked: dict[str, object], tmp_path: Path) -> None:
    entry = zoo.get(name)
    calib = {k: v[:96] for k, v in zoo.calibration(entry).items()}
    how = {"calib": calib, "recover": "bias", "cache": False, **asked}
    slow, fast = (prune(entry.model, steps=n, **how) for n in (2, 1))
    assert all(c.ok for c in slow.checks)
    assert {c.name for c in slow.checks} == {c.name for c in fast.checks}
    assert sum("step 1 of 2" in note for note in slow.notes) == 1
    gone = [{g: len(u) for g, u in each.plan.removed.items()} for each in (slow, fast)]
    if "ratio" in asked:
        assert gone[0] == gone[1]
    else:
        kind = str(asked["target"]).partition("=")[0]
        most = next(c.limit for c in slow.checks if c.name == kind)
        for each in (slow, fast):
            assert 0.8 * most < getattr(each.remaining, kind) <= most
    again = apply(entry.model, load_plan(slow.plan.save(tmp_path / "plan.json")))
    assert again.ok
    shapes = [
        {
            key: tensor.shape
            for key, value in models.constants(made).items()
            if (tensor := models.constant(value)) is not None and tensor.dtype.is_floating_point()
        }
        for made in (slow.model, again.model)
    ]
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize(
    "wrong",
    [{"ratio": 0.5}, {"calib": "x.npz", "sparsity": None}, {"calib": "x", "criterion": "l2"}],
)
def test_steps_need_something_to_measure_and_to_remove(wrong: dict[str, object]) -> None:
    with pytest.raises(OnnxpruneError, match="steps=2"):
        Options(steps=2, **wrong)  # type: ignore[arg-type]


def test_synthetic_inputs_are_not_refitted_to() -> None:
    with pytest.raises(OnnxpruneError, match="synthetic"):
        prune(zoo.get("digits_mlp").model, target="macs=50%", steps=2, calib="random")
