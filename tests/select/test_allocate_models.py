"""Scores, widths, budgets and plans on trained networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.activations.groups import readers
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import CostModel, cost
from onnxprune.graph.layers.sources import use_of
from onnxprune.graph.plan import Origin, Plan, check, load_plan
from onnxprune.graph.surgery import cut
from onnxprune.quantities import budget
from onnxprune.runtime import open_session
from onnxprune.select import criteria
from onnxprune.select.allocate import Allocation, Limits, alignments, allocate, axes_of, find_widths
from onnxprune.select.criteria import InputStatistics, Scores

Statistics = dict[tuple[str, str], InputStatistics]
MODELS = ("digits_rescnn", "digits_encoder", "digits_lstm", "digits_mlp")


def stored(analysis: Analysis) -> Callable[[str], npt.NDArray[Any]]:
    """Reads any tensor that is cut."""
    found = {}
    for graph in models.graphs(analysis.model):
        values = [*graph.initializers.values(), *(v for node in graph for v in node.outputs)]
        for value in values:
            tensor = models.constant(value)
            if tensor is not None:
                found[value.name] = tensor
    return lambda name: found[name].numpy()


def statistics(analysis: Analysis, entry: zoo.Entry, count: int = 200) -> Statistics:
    """Per channel, from calibration data."""
    layers = [*readers(analysis, analysis.groups)]
    session = open_session(analysis.model, outputs=sorted({layer.x for layer in layers}))
    seen = session.run({k: v[:count] for k, v in zoo.calibration(entry).items()})
    found = {}
    for layer in layers:
        value = seen[layer.x].astype(np.float64)
        rows = np.moveaxis(value, layer.axis, -1).reshape(-1, value.shape[layer.axis])
        mean = rows.mean(axis=0)
        found[layer.weight, layer.node] = InputStatistics(
            count=len(rows),
            mean=mean,
            var=rows.var(axis=0),
            mean_abs=np.abs(rows).mean(axis=0),
            covariance=((rows - mean).T @ (rows - mean) / len(rows))[None],
        )
    return found


def run(
    analysis: Analysis, scores: Scores, target: str, *, round_to: int | None = None
) -> Allocation:
    shapes = {t.name: [a.size or 0 for a in t.axes] for t in analysis.tensors}
    ops = {call.name: call.op for _, call in analysis.walk.calls}
    axes = axes_of(analysis.groups, shapes, alignments(shapes, ops, round_to=round_to))
    return allocate(
        find_widths(analysis.groups, axes, Limits(), unscored=scores.declined),
        scores.values,
        target=budget(target),
        cost=CostModel(analysis).only(budget(target).kind).measure,
        comparable=scores.comparable,
        additive=scores.additive,
    )


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("target", ["macs=60%", "params=80%", "bytes=80%"])
def test_a_budget_holds_for_the_model_that_is_written(name: str, target: str) -> None:
    analysis = analyse(models.load(zoo.get(name).model))
    scores = criteria.score(analysis.groups, "l2", stored(analysis))
    found = run(analysis, scores, target)
    assert found.removed
    assert not analysis.emptied(found.removed)
    kind, limit = budget(target).kind, budget(target).limit
    small = analyse(cut(analysis, found.removed))
    assert getattr(cost(small), kind) == getattr(cost(analysis, found.removed), kind)
    assert getattr(cost(small), kind) <= limit(getattr(cost(analysis), kind))


def test_convolutions_keep_whole_blocks_on_the_cpu() -> None:
    analysis = analyse(models.load(zoo.get("digits_rescnn").model))
    scores = criteria.score(analysis.groups, "l2", stored(analysis))
    small = cut(analysis, run(analysis, scores, "macs=60%").removed)
    dense = {v.name: v for v in analysis.model.ir.graph.initializers.values()}
    changed = 0
    for name, value in small.ir.graph.initializers.items():
        before, after = models.constant(dense[name]), models.constant(value)
        if before is None or after is None or len(before.shape) != 4:
            continue
        for old, new in list(zip(before.numpy().shape, after.numpy().shape, strict=True))[:2]:
            changed += new != old
            assert new == old or new % (16 if old > 16 else 8) == 0
    assert changed


@pytest.mark.parametrize("name", ["digits_rescnn", "digits_encoder"])
def test_measured_damage_is_a_better_guide_than_chance(name: str) -> None:
    entry = zoo.get(name)
    analysis = analyse(models.load(entry.model))
    known = statistics(analysis, entry)
    accuracy = {}
    for criterion in ("output-error", "fluctuation", "random"):
        scores = criteria.score(
            analysis.groups, criterion, stored(analysis), statistics=known, use=use_of(analysis)
        )
        assert set(scores.values) == {g.name for g in analysis.groups}
        removed = run(analysis, scores, "macs=80%", round_to=1).removed
        accuracy[criterion] = zoo.measure(entry, open_session(cut(analysis, removed)).run)
    for criterion in ("output-error", "fluctuation"):
        assert accuracy[criterion] > entry.measured - 0.02
        assert accuracy[criterion] > accuracy["random"] + 0.05


def test_network_slimming_finds_the_gains_of_a_real_graph() -> None:
    analysis = analyse(models.load(zoo.get("digits_rescnn").model))
    scores = criteria.score(analysis.groups, "bn-scale", stored(analysis), use=use_of(analysis))
    assert scores.values
    normalised = {
        node.inputs[1].name
        for node in analysis.model.ir.graph
        if node.op_type == "BatchNormalization" and node.inputs[1] is not None
    }
    read = stored(analysis)
    for group in analysis.groups:
        gains = [np.abs(read(s.tensor)[s.rows]) for s in group.slices if s.tensor in normalised]
        assert (group.name in scores.values) == bool(gains)
        if gains:
            expected = np.mean([g.sum(axis=1) for g in gains], axis=0)
            np.testing.assert_allclose(scores.values[group.name], expected, rtol=1e-6)


def test_a_plan_carries_over_to_another_checkpoint_and_no_further(tmp_path: Path) -> None:
    model = models.load(zoo.get("digits_mlp").model)
    analysis = analyse(model)
    scores = criteria.score(analysis.groups, "l1", stored(analysis))
    plan = Plan(
        run(analysis, scores, "macs=60%").removed,
        origin=Origin(models.structure_hash(model), "l1", "global", "macs=60%"),
        units={g.name: len(g) for g in analysis.groups},
    )
    path = plan.save(tmp_path / "plan.json")

    sibling = models.clone(model)
    for value in sibling.ir.graph.initializers.values():
        tensor = models.constant(value)
        if tensor is not None and tensor.numpy().dtype == np.float32:
            models.set_constant(value, tensor.numpy() * np.float32(0.5))
    loaded = load_plan(path)
    assert loaded == plan
    other = analyse(sibling)
    check(loaded, models.structure_hash(sibling), other.groups, other.blocks)
    assert cost(analyse(cut(other, loaded.removed))) == cost(analysis, plan.removed)

    stranger = models.load(zoo.get("digits_encoder").model)
    with pytest.raises(OnnxpruneError, match=r"another graph .* has no group"):
        check(loaded, models.structure_hash(stranger), analyse(stranger).groups)
