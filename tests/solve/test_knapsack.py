from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.errors import OnnxpruneError
from onnxprune.solve.coupled import Branch, Curve, fit
from onnxprune.solve.knapsack import Drop, Picked, knapsack

seeds = st.integers(0, 10_000)


def tables(seed: int, *, whole: bool) -> tuple[list[np.ndarray], list[np.ndarray]]:
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, rng.integers(1, 5))
    damages = [np.sort(rng.exponential(size=size))[::-1] for size in sizes]
    costs = [np.sort(rng.integers(0, 40, size).astype(float)) for size in sizes]
    return damages, costs if whole else [cost + rng.random(len(cost)) for cost in costs]


def brute(damages: list[np.ndarray], costs: list[np.ndarray], budget: float) -> float:
    """The least damage within a budget by trying everything; infinite if nothing fits."""
    return min(
        (
            sum(d[i] for d, i in zip(damages, pick, strict=True))
            for pick in product(*(range(len(d)) for d in damages))
            if sum(c[i] for c, i in zip(costs, pick, strict=True)) <= budget
        ),
        default=np.inf,
    )


def total(parts: list[np.ndarray], picked: Picked) -> float:
    return float(sum(part[i] for part, i in zip(parts, picked.choices, strict=True)))


@given(seeds, st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_whole_costs_are_solved_exactly(seed: int, share: float) -> None:
    damages, costs = tables(seed, whole=True)
    budget = share * sum(float(c.max()) for c in costs)
    picked = knapsack(damages, costs, budget)
    best = brute(damages, costs, budget)
    if picked is None:
        assert best == np.inf
    else:
        assert total(costs, picked) <= budget
        assert total(damages, picked) == pytest.approx(best)


@given(seeds, st.floats(0, 1))
@settings(max_examples=100, deadline=None)
def test_other_costs_are_solved_to_the_resolution_and_never_exceed_the_budget(
    seed: int, share: float
) -> None:
    damages, costs = tables(seed, whole=False)
    budget = share * sum(float(c.max()) for c in costs)
    picked = knapsack(damages, costs, budget, buckets=400)
    slack = len(costs) * sum(float(c.max() - c.min()) for c in costs) / 400
    if picked is None:
        assert brute(damages, costs, budget - slack) == np.inf
    else:
        assert total(costs, picked) <= budget + 1e-9
        assert total(damages, picked) <= brute(damages, costs, budget - slack) + 1e-12


@given(seeds, st.booleans())
@settings(max_examples=50, deadline=None)
def test_a_larger_budget_never_does_worse(seed: int, whole: bool) -> None:
    damages, costs = tables(seed, whole=whole)
    reached = []
    for budget in np.linspace(0, sum(float(c.max()) for c in costs), 25):
        picked = knapsack(damages, costs, budget, buckets=100)
        reached.append(np.inf if picked is None else total(damages, picked))
    assert all(larger <= smaller for smaller, larger in pairwise(reached))


class Chain:
    """Layers in a row: each costs its inputs times its outputs, and the ends are fixed."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.dense = {f"g{i}": int(n) for i, n in enumerate(rng.integers(3, 7, 3))}
        self.area = rng.integers(1, 10, 4)
        self.curves = {}
        for name, n in self.dense.items():
            gone = np.arange(n)[::-1]
            error = rng.exponential() * gone.astype(np.float64) ** rng.uniform(1, 2.5)
            self.curves[name] = Curve(np.arange(1, n + 1), error)
        self.calls = 0

    def cost(self, widths: Mapping[str, int]) -> float:
        self.calls += 1
        row = [3, *widths.values(), 10]
        return float(sum(a * i * o for a, (i, o) in zip(self.area, pairwise(row), strict=True)))

    def best(self, budget: float) -> float:
        return min(
            sum(float(c.error[w - 1]) for c, w in zip(self.curves.values(), widths, strict=True))
            for widths in product(*(c.widths for c in self.curves.values()))
            if self.cost(dict(zip(self.curves, widths, strict=True))) <= budget
        )


@given(seeds, st.floats(0.3, 1.0))
@settings(max_examples=60, deadline=None)
def test_the_exact_budget_is_met_whatever_the_costs(seed: int, share: float) -> None:
    chain = Chain(seed)
    budget = share * chain.cost(chain.dense)
    try:
        found = fit(chain.curves, chain.cost, budget)
    except OnnxpruneError:
        assert chain.cost(dict.fromkeys(chain.curves, 1)) > budget
        return
    assert found.cost == chain.cost(found.widths) <= budget
    assert all(w in chain.curves[name].widths for name, w in found.widths.items())
    if share == 1.0:
        assert found.widths == chain.dense
    # Nothing is left lying about: no single group could grow within the budget.
    for name, width in found.widths.items():
        if width < chain.dense[name]:
            assert chain.cost({**found.widths, name: width + 1}) > budget


def test_multiplying_costs_are_solved_nearly_as_well_as_by_trying_everything() -> None:
    excess = []
    for seed in range(60):
        chain = Chain(seed)
        budget = 0.5 * chain.cost(chain.dense)
        best = chain.best(budget)
        excess.append(fit(chain.curves, chain.cost, budget).error / max(best, 1e-9) - 1)
    assert min(excess) > -1e-9
    assert np.mean(np.array(excess) < 1e-9) > 0.8
    assert np.mean(excess) < 0.02


def test_the_smallest_cost_is_named_when_the_budget_is_out_of_reach() -> None:
    chain = Chain(0)
    least = chain.cost(dict.fromkeys(chain.curves, 1))
    with pytest.raises(OnnxpruneError, match=f"smallest widths allowed cost {least:g}"):
        fit(chain.curves, chain.cost, least - 1)


def test_a_network_of_many_wide_groups_takes_seconds() -> None:
    rng = np.random.default_rng(0)
    curves = {
        f"g{i}": Curve(np.arange(64, 513, 4), rng.exponential() * np.linspace(1, 0, 113) ** 2)
        for i in range(30)
    }
    calls = 0

    def cost(widths: Mapping[str, int]) -> float:
        nonlocal calls
        calls += 1
        row = [3, *widths.values(), 1000]
        return float(sum(i * o for i, o in pairwise(row)))

    dense = cost(dict.fromkeys(curves, 512))
    found = fit(curves, cost, 0.5 * dense)
    assert 0.499 * dense < found.cost <= 0.5 * dense
    assert calls < 20_000


def with_drops(seed: int, costs: list[np.ndarray]) -> list[Drop]:
    """Branches over some of the groups, in any order, one of them perhaps without groups."""
    rng = np.random.default_rng(seed + 7)
    members = rng.permutation(len(costs))[: rng.integers(0, len(costs) + 1)]
    parts = np.array_split(members, 2)
    return [
        Drop(
            tuple(int(m) for m in part),
            float(rng.exponential(2)),
            float(rng.integers(-10, 20)),
            float(rng.integers(0, 9)),
        )
        for part in parts
    ]


def brute_with_drops(
    damages: list[np.ndarray], costs: list[np.ndarray], drops: list[Drop], budget: float
) -> float:
    best = np.inf
    for gone in product((False, True), repeat=len(drops)):
        dead = {m for d, g in zip(drops, gone, strict=True) for m in d.members if g}
        live = [g for g in range(len(costs)) if g not in dead]
        spent = sum(d.cost if g else d.kept for d, g in zip(drops, gone, strict=True))
        lost = sum(d.error for d, g in zip(drops, gone, strict=True) if g)
        rest = brute([damages[g] for g in live], [costs[g] for g in live], budget - spent)
        best = min(best, lost + rest)
    return best


@given(seeds, st.floats(0, 1))
@settings(max_examples=150, deadline=None)
def test_branches_that_may_go_are_solved_exactly(seed: int, share: float) -> None:
    damages, costs = tables(seed, whole=True)
    drops = with_drops(seed, costs)
    top = sum(float(c.max()) for c in costs) + sum(max(d.cost, d.kept) for d in drops)
    budget = float(np.floor(share * top))
    picked = knapsack(damages, costs, budget, drops=drops)
    best = brute_with_drops(damages, costs, drops, budget)
    if picked is None:
        assert best == np.inf
        return
    dead = {m for at in picked.dropped for m in drops[at].members}
    live = [g for g in range(len(costs)) if g not in dead]
    gone = [at in picked.dropped for at in range(len(drops))]
    spent = sum(d.cost if g else d.kept for d, g in zip(drops, gone, strict=True))
    lost = sum(d.error for d, g in zip(drops, gone, strict=True) if g)
    assert sum(costs[g][picked.choices[g]] for g in live) + spent <= budget
    assert sum(damages[g][picked.choices[g]] for g in live) + lost == pytest.approx(best)


class Branched(Chain):
    """The same, with a branch of its own behind each group: a group's layer and one of 5 by 5."""

    def cost(self, widths: Mapping[str, int]) -> float:
        parts = zip(self.dense, self.area, strict=False)
        return float(sum(widths[f"b{g}"] * a * (5 * widths[g] + 25) for g, a in parts))


@given(seeds, st.floats(0.05, 1.0), st.floats(0, 3))
@settings(max_examples=60, deadline=None)
def test_a_branch_goes_only_where_that_is_cheaper(seed: int, share: float, worth: float) -> None:
    net = Branched(seed)
    branches = {f"b{g}": Branch((g,), worth * float(net.curves[g].error[0])) for g in net.dense}
    whole = net.dense | dict.fromkeys(branches, 1)
    found = fit(net.curves, net.cost, share * net.cost(whole), branches=branches)
    assert found.cost <= share * net.cost(whole)
    kept = net.dense.keys() - {g for b in found.dropped for g in branches[b].members}
    error = sum(net.curves[g].error[found.widths[g] - 1] for g in kept)
    assert found.error == pytest.approx(error + sum(branches[b].error for b in found.dropped))
    try:
        narrow = fit(net.curves, lambda w: net.cost(w | dict.fromkeys(branches, 1)),
                     share * net.cost(whole))  # fmt: skip
    except OnnxpruneError:
        assert found.dropped
    else:
        assert found.error <= narrow.error + 1e-9
        if worth > 2.9 and not narrow.error:
            assert not found.dropped
