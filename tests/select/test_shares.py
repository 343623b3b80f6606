"""A fraction of all heads, or of all neurons: divided over the layers where it hurts least."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import prune
from onnxprune.data import zoo
from onnxprune.graph.units import Group
from onnxprune.select.allocate import CandidateWidths, Limits, find_widths, ranked
from onnxprune.select.allocate.allocation import divide_shares
from onnxprune.solve.coupled import Curve

seeds = st.integers(0, 10_000)
ratios = st.floats(0.0, 0.8)


def groups(seed: int, kind: str = "head", start: int = 0) -> list[Group]:
    """Groups of a few units each, of one kind."""
    sizes = np.random.default_rng(seed).integers(2, 13, 4)
    return [
        Group(f"layer{k + start}/{kind}", kind, True, "", np.arange(n), (), 1, 1, 4)
        for k, n in enumerate(sizes)
    ]


def curves(seed: int, some: list[Group]) -> dict[str, Curve]:
    """Damage that rises with every unit that goes, by each group's own measure."""
    rng = np.random.default_rng(seed + 1)
    found = {}
    for group in some:
        error = np.append(0.0, np.cumsum(rng.exponential(rng.exponential(), len(group))))[::-1]
        found[group.name] = Curve(np.arange(len(group) + 1), error)
    return found


def spread(space: CandidateWidths, some: list[Group], error: Mapping[str, Curve]) -> dict[str, int]:
    scores = {g.name: np.zeros(len(g)) for g in some}
    allowed = {g: Curve(space.widths[g], c.error[space.widths[g]]) for g, c in error.items()}
    return divide_shares(space, ranked(scores), allowed)


@given(seeds, ratios)
def test_the_share_is_one_of_all_units_and_does_least_damage(seed: int, ratio: float) -> None:
    some, names = groups(seed), {g.name for g in groups(seed)}
    error = curves(seed, some)
    limits = Limits(kinds={"head": ratio})
    space = find_widths(some, limits=limits, together=names)
    if ratio == 0:
        assert not space.shares
        return
    kept = spread(space, some, error)
    units = sum(map(len, some))
    least = sum(limits.floor(len(g)) for g in some)
    assert sum(kept.values()) == max(round(units * (1 - ratio)), least)
    assert all(limits.floor(len(g)) <= kept[g.name] <= len(g) for g in some)
    alike = {g: int(w[0]) for g, w in find_widths(some, limits=limits).widths.items()}
    if sum(alike.values()) <= sum(kept.values()):
        total = sum(error[g].error[n] for g, n in kept.items())
        assert total <= sum(error[g].error[n] for g, n in alike.items()) + 1e-12


@given(seeds, ratios.filter(bool))
def test_scores_decide_where_there_are_no_curves(seed: int, ratio: float) -> None:
    some = groups(seed)
    space = find_widths(some, limits=Limits(kinds={"head": ratio}), together={g.name for g in some})
    rng = np.random.default_rng(seed)
    scores = {g.name: rng.random(len(g)) for g in some}
    kept = divide_shares(space, ranked(scores))
    least = sum(int(w[0]) for w in space.widths.values())
    assert sum(kept.values()) == max(round(sum(map(len, some)) * (1 - ratio)), least)


def test_each_kind_that_a_glob_matches_counts_by_itself() -> None:
    some = [*groups(0), *groups(1, "ffn", start=4)]
    space = find_widths(some, limits=Limits(ratios=(("*", 0.5),)), together={g.name for g in some})
    kept = spread(space, some, curves(0, some))
    for kind in ("head", "ffn"):
        mine = [g for g in some if g.kind == kind]
        units = sum(map(len, mine))
        assert sum(kept[g.name] for g in mine) == round(units * 0.5)


def test_groups_that_are_not_weighed_lose_the_fraction_themselves() -> None:
    some = groups(0)
    weighed = {g.name for g in some[1:]}
    space = find_widths(some, limits=Limits(kinds={"head": 0.5}), together=weighed)
    assert [set(share.groups) for share in space.shares] == [weighed]
    assert abs(int(space.widths[some[0].name][0]) - len(some[0]) / 2) <= 0.5


def test_what_earlier_steps_took_counts() -> None:
    some = groups(0)
    space = find_widths(some, limits=Limits(kinds={"head": 0.5}), together={g.name for g in some})
    first = some[0].name
    later = space.within({first: 1}).decided({first: 1})
    kept = spread(later, some[1:], curves(0, some[1:]))
    assert sum(kept.values()) + 1 == round(sum(map(len, some)) * 0.5)


@pytest.mark.parametrize("how", [None, "uniform"])
def test_a_share_of_the_heads_of_a_real_network(how: str | None) -> None:
    entry = zoo.get("digits_encoder")
    calib = {k: v[:96] for k, v in zoo.calibration(entry).items()}
    found = prune(entry.model, heads=0.5, allocation=how, calib=calib, recover="bias", cache=False)
    assert found.structure.status == "verified"
    assert found.plan.origin.allocation == (how or "global")
    removed = {g: len(units) for g, units in found.plan.removed.items()}
    heads = {g.name: len(g) for g in found.analysis.groups if g.kind == "head"}
    assert removed.keys() <= heads.keys()
    assert sum(removed.values()) == sum(heads.values()) / 2
    if how == "uniform":
        assert all(removed[g] == n / 2 for g, n in heads.items())
