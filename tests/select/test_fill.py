"""Steps that are given back up to a limit: those of trying every step anew, in linear time."""

from __future__ import annotations

import time

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_allocate import Net, nets

from onnxprune import analyse, prune
from onnxprune import model as models
from onnxprune.config import split
from onnxprune.data import zoo
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.prune import choose_plan
from onnxprune.jobs.run import open_run
from onnxprune.select.allocate import Ranking, find_widths, ranked
from onnxprune.select.allocate.candidate_widths import CandidateWidths
from onnxprune.select.allocate.fill import CostOfWidths, CountUnits, fill
from onnxprune.select.allocate.repair_widths import repair_widths


def filled_one_by_one(
    candidates: CandidateWidths,
    ranking: Ranking,
    measure: CostOfWidths,
    limit: int,
    kept: dict[str, int],
) -> dict[str, int]:
    """The definition: of all steps that may still fit, the most important is tried next."""
    changed = True
    while changed:
        changed, waiting = False, set(candidates.free)
        while True:
            above = {g: candidates.above(g, kept[g]) for g in waiting}
            steps = {g: more for g, more in above.items() if more is not None}
            if not steps:
                break
            group = max(steps, key=lambda g: (ranking.mean_key(g, kept[g], steps[g]), g))
            wider = repair_widths(candidates, ranking, {**kept, group: steps[group]})
            if measure(wider) <= limit:
                kept, changed = wider, True
            else:
                waiting.discard(group)
    return kept


@settings(deadline=None)
@given(
    made=nets(),
    alignment=st.sampled_from([1, 4, 16]),
    share=st.floats(0.2, 1),
    seed=st.integers(0, 99),
)
def test_steps_are_those_of_trying_all_anew(
    made: Net, alignment: int, share: float, seed: int
) -> None:
    space, ranking = find_widths(made.groups, made.axes(alignment)), ranked(made.scores(seed))
    kept = repair_widths(space, ranking, space.smallest())
    measure = CostOfWidths(ranking, made.only("params"))
    limit = max(int(made.cost({}).params * share), measure(kept))
    expected = filled_one_by_one(space, ranking, measure, limit, kept)
    assert fill(space, ranking, measure, limit, kept) == expected


@given(made=nets(), seed=st.integers(0, 99), data=st.data())
def test_units_are_counted_step_by_step(made: Net, seed: int, data: st.DataObject) -> None:
    space = find_widths(made.groups)
    units, kept = CountUnits(space.free), space.dense()
    assert units(kept) == sum(kept[group] for group in space.free)
    for _ in range(5):
        group = data.draw(st.sampled_from(sorted(space.units)))
        kept[group] = data.draw(st.integers(0, space.units[group]))
        assert units.change({group: kept[group]}) == sum(kept[g] for g in space.free)


@pytest.mark.parametrize("name", zoo.names())
def test_a_change_costs_what_the_whole_does(name: str) -> None:
    analysis = analyse(models.load(zoo.get(name).model))
    rng, whole, changed = np.random.default_rng(0), CostModel(analysis), CostModel(analysis)
    blocks = [block.name for block in analysis.blocks][:1]
    removed: dict[str, list[int]] = {}
    for turn in range(20):
        group = analysis.groups[int(rng.integers(len(analysis.groups)))]
        count = int(rng.integers(0, len(group)))
        units = sorted(rng.choice(len(group), count, replace=False).tolist())
        removed[group.name] = units
        bypassed = blocks if turn % 3 == 0 else []
        assert changed.change({group.name: units}, bypassed) == whole(removed, bypassed)
        if turn % 7 == 0:
            assert changed(removed) == whole(removed)


def layers(nodes: int) -> onnx.ModelProto:
    """A chain of Gemm and Relu."""
    rng, width, stored, chain = np.random.default_rng(0), 16, [], []
    for k in range(nodes // 2):
        weight = (rng.standard_normal((width, width)) / 3).astype(np.float32)
        stored.append(onnx.numpy_helper.from_array(weight, f"w{k}"))
        chain.append(onnx.helper.make_node("Gemm", [f"h{k}", f"w{k}"], [f"g{k}"]))
        chain.append(onnx.helper.make_node("Relu", [f"g{k}"], [f"h{k + 1}"]))
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])
        for name in ("h0", f"h{nodes // 2}")
    ]
    graph = onnx.helper.make_graph(chain, "chain", ends[:1], ends[1:], stored)
    return onnx.helper.make_model(
        graph, ir_version=9, opset_imports=[onnx.helper.make_opsetid("", 17)]
    )


def test_a_budget_is_divided_in_time_in_proportion_to_the_nodes() -> None:
    seconds = []
    for nodes in (600, 2400):
        config = split("prune", {"target": "macs=70%", "round_to": 1}, None)[0]
        run = open_run(models.load(layers(nodes)), config)
        start = time.process_time()
        choice = choose_plan(run)
        seconds.append(time.process_time() - start)
        assert len(choice.plan.removed) > nodes / 4
    assert seconds[1] < 8 * seconds[0]  # 4 times as many nodes: their square is 16 times as much


@pytest.mark.heavy
def test_a_model_of_many_nodes_meets_a_budget_in_linear_time() -> None:
    seconds = []
    for nodes in (2000, 4000, 8000):
        model = models.load(layers(nodes))
        start = time.process_time()
        assert prune(model, target="macs=70%", round_to=1).ok
        seconds.append(time.process_time() - start)
    assert seconds[2] < 3 * seconds[1] < 9 * seconds[0]  # squares would be 4 and 16
