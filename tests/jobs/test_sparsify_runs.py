"""Zeros from files to files: plans, other checkpoints, permutation, mixed with removed units."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from conftest import Ran
from onnxprune import apply, load_plan, prune
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import analyse
from onnxprune.graph.plan import Plan, save_plan
from onnxprune.quantities import sparsity
from onnxprune.runtime import open_session
from onnxprune.sparse import zeros
from onnxprune.sparse.reorder import reorder, reorder_safely
from onnxprune.sparse.targets import find_targets

Array = np.ndarray[Any, Any]
Cli = Callable[..., Ran]
CNN = zoo.get("digits_rescnn")
DATA: dict[str, Any] = {"calib": str(CNN.calibration), "calib_samples": 96}


def stored(model: models.Model, name: str) -> Array:
    tensor = models.constant(models.constants(model)[name])
    assert tensor is not None
    return tensor.numpy()


def sibling(path: Path, to: Path) -> Path:
    """The same graph with other weights."""
    proto = onnx.load(path)
    rng = np.random.default_rng(1)
    for each in proto.graph.initializer:
        array = numpy_helper.to_array(each)
        if array.dtype == np.float32:
            noise = 1 + 0.1 * rng.standard_normal(array.shape)
            each.CopyFrom(numpy_helper.from_array((array * noise).astype(np.float32), each.name))
    onnx.save(proto, to)
    return to


@pytest.mark.parametrize(
    "flags",
    [
        pytest.param({"sparsity": "60%"}, marks=pytest.mark.heavy),
        {"sparsity": "2:4", "permute": True},
        pytest.param(
            {"sparsity": "2:4", "permute": True, "ratio": 0.25, "round_to": 4},
            marks=pytest.mark.heavy,
        ),
    ],
)
def test_a_plan_zeroes_the_same_weights_of_another_checkpoint(
    flags: dict[str, Any], tmp_path: Path
) -> None:
    made = prune(CNN.model, recover="lstsq", **flags, **DATA)
    assert made.ok
    plan = load_plan(save_plan(made.plan, tmp_path / "plan.json"))
    assert plan == made.plan
    assert bool(plan.reordered) == ("permute" in flags)
    other = sibling(CNN.model, tmp_path / "other.onnx")
    again = apply(other, plan)
    assert again.ok
    for name, mask in plan.zeroed.items():
        weight = stored(again.model, name)
        assert not weight[~mask.unpack()].any()
        assert weight[mask.unpack()].all()
    asked = sparsity(flags["sparsity"])
    targets, _ = find_targets(again.model, asked)
    assert all(c.ok for c in zeros.checks(again.model, targets, asked))


def test_a_mask_that_does_not_fit_is_refused() -> None:
    made = prune(CNN.model, sparsity=0.5)
    name, mask = next(iter(made.plan.zeroed.items()))
    with pytest.raises(OnnxpruneError, match="no weight 'nonsense'"):
        apply(CNN.model, replace(made.plan, zeroed={"nonsense": mask}))
    other = next(m for m in made.plan.zeroed.values() if m.shape != mask.shape)
    with pytest.raises(OnnxpruneError, match=f"weight '{name}' has shape"):
        apply(CNN.model, replace(made.plan, zeroed={name: other}))


@pytest.mark.parametrize(
    "name",
    [
        *("digits_rescnn", "digits_mlp", "digits_encoder"),
        pytest.param("chars_decoder", marks=pytest.mark.heavy),
    ],
)
def test_reordered_units_leave_the_dense_outputs_as_they_were(name: str) -> None:
    entry = zoo.get(name)
    model = models.load(entry.model)
    analysis = analyse(model)
    rng = np.random.default_rng(0)
    orders = {g.name: tuple(rng.permutation(len(g)).tolist()) for g in analysis.groups}
    with np.load(entry.calibration) as z:
        feeds = [{key: z[key][:16] for key in z.files}]
    before = {n: stored(model, n).tobytes() for n in models.constants(model)}
    done = reorder_safely(analysis, orders, feeds)
    assert {n: stored(model, n).tobytes() for n in models.constants(model)} == before
    assert done.check is not None
    assert done.check.ok
    assert done.orders.keys() | done.declined.keys() == orders.keys()
    assert any(sorted(o) != list(o) for o in done.orders.values())
    moved = [n for n, b in before.items() if stored(done.model, n).tobytes() != b]
    assert moved
    assert [n.op_type for n in done.model.ir.graph] == [n.op_type for n in model.ir.graph]
    (wanted, got) = (open_session(m).run(feeds[0])["logits"] for m in (model, done.model))
    np.testing.assert_allclose(got, wanted, atol=2e-4 * np.abs(wanted).max())


def test_an_order_that_changes_outputs_is_put_back() -> None:
    """Units of a group whose slices do not say all there is: the run tells."""
    model = models.load(CNN.model)
    analysis = analyse(model)
    first = analysis.groups[0]
    broken = replace(first, slices=first.slices[:1])
    lying = replace(analysis, groups=(broken, *analysis.groups[1:]))
    orders = {g.name: tuple(range(len(g)))[::-1] for g in lying.groups}
    with np.load(CNN.calibration) as z:
        feeds = [{key: z[key][:8] for key in z.files}]
    done = reorder_safely(lying, orders, feeds)
    assert done.declined == {first.name: "in another order outputs change"}
    assert done.orders.keys() == orders.keys() - {first.name}
    assert done.check is not None
    assert done.check.ok


def test_orders_that_are_none_are_refused() -> None:
    analysis = analyse(models.load(CNN.model))
    group = analysis.groups[0]
    with pytest.raises(OnnxpruneError, match="is not one of its"):
        reorder(analysis, analysis.model, {group.name: (0, 0, 1)})
    with pytest.raises(OnnxpruneError, match="does not name each unit once"):
        Plan(reordered={"a": (0, 2)})


def test_the_command_line_reports_every_weight(cli: Cli, tmp_path: Path) -> None:
    out, plan = tmp_path / "sparse.onnx", tmp_path / "plan.json"
    calib = ("--calib", CNN.calibration, "--calib-samples", "96")
    ran = cli("prune", CNN.model, "--sparsity", "2:4", "--permute", "--recover", "lstsq", *calib,
              "--save-plan", plan, "-o", out, "--json")  # fmt: skip
    report = json.loads(ran.out)
    assert ran.code == 0
    assert report["ok"]
    checks = {row["name"]: row for row in report["checks"]}
    assert checks["weights in a group of 4"]["value"] == 2
    assert any(name.startswith("reordered = original") for name in checks)
    thinned = [row for row in report["sparse"] if not row["reason"]]
    assert thinned
    assert all(row["after"] <= row["before"] for row in thinned)
    found = models.load(out)
    for row in thinned:
        assert np.count_nonzero(stored(found, row["weight"])) <= np.prod(row["shape"]) / 2
    assert any("neither onnxruntime faster" in note for note in report["notes"])
    text = cli("apply", plan, CNN.model, "-o", tmp_path / "again.onnx")
    assert text.code == 0
    assert "zeros short of the plan's" in text.out


def test_a_glob_that_matches_nothing_is_refused(cli: Cli) -> None:
    ran = cli("prune", CNN.model, "--sparsity", "50%", "--skip", "nosuch*")
    assert ran.code == 2
    assert "--skip nosuch* matches no weight" in ran.err


def test_globs_over_weights_do_not_stop_the_removal_of_units() -> None:
    made = prune(CNN.model, ratio=0.25, sparsity=0.5, skip=("head.weight",), recover="none", **DATA)
    assert made.plan.removed
    assert "head.weight" not in made.plan.zeroed
    assert all(check.ok for check in made.checks)


@pytest.mark.parametrize("count", [1, 3])
def test_a_handful_of_inputs_is_enough(count: int) -> None:
    """Of so few, none is put aside to judge refits by."""
    entry = zoo.get("digits_mlp")
    ((name, x),) = zoo.calibration(entry).items()
    made = prune(entry.model, sparsity="50%", calib={name: x[:count]}, cache=False)
    assert made.ok
    assert not made.evaluation.broken
    thinned = [row for row in made.outcomes.get("zeros", ()) if row.method]
    sizes = [np.prod(row.shape) for row in thinned]
    share = sum(row.sparsity * size for row, size in zip(thinned, sizes, strict=True)) / sum(sizes)
    assert share == pytest.approx(0.5, abs=0.01)
