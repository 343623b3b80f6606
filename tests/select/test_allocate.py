from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.cost import Cost
from onnxprune.graph.units import Group, Role, Slice
from onnxprune.quantities import Budget
from onnxprune.select.allocate import (
    TABLE,
    Alignment,
    Axis,
    CandidateWidths,
    Limits,
    alignments,
    allocate,
    axes_of,
    find_widths,
    ranked,
    repair_widths,
    uniform,
)
from onnxprune.select.allocate.candidate_widths import _widths

Array = npt.NDArray[Any]
Piece = tuple[str, int]
"""A group's name (or ``""`` for indices that stay) and how many rows each of its units has."""


@dataclass(frozen=True)
class Net:
    """Matrices whose axes are groups side by side; what a matrix costs is its size."""

    groups: tuple[Group, ...]
    shapes: Mapping[str, tuple[int, ...]]
    work: Mapping[str, int]

    def axes(self, alignment: int = 1) -> tuple[Axis, ...]:
        return axes_of(
            self.groups, self.shapes, lambda s: Alignment(1 if s.role == "scales" else alignment)
        )

    def cost(self, removed: Mapping[str, Sequence[int]]) -> Cost:
        gone: dict[tuple[str, int], set[int]] = {}
        for group in self.groups:
            for cut in group.slices:
                rows = cut.rows[list(removed.get(group.name, ()))]
                gone.setdefault((cut.tensor, cut.axis), set()).update(rows.ravel().tolist())
        macs = params = 0
        for tensor, shape in self.shapes.items():
            left = [n - len(gone.get((tensor, k), ())) for k, n in enumerate(shape)]
            params += math.prod(left)
            macs += math.prod(left) * self.work[tensor]
        return Cost(macs, params, 4 * params)

    def only(self, kind: str) -> Callable[[Mapping[str, Sequence[int]]], int]:
        return lambda removed: self.cost(removed).of(kind)

    def scores(self, seed: int) -> dict[str, Array]:
        random = np.random.default_rng(seed)
        return {g.name: random.random(len(g)) * random.uniform(0.5, 2) for g in self.groups}


def net(sizes: Mapping[str, int], matrices: Sequence[tuple[list[Piece], list[Piece]]]) -> Net:
    """Build one from ``(output axis, input axis)`` of every matrix."""
    slices: dict[str, list[Slice]] = {name: [] for name in sizes}
    shapes, work = {}, {}
    for k, sides in enumerate(matrices):
        tensor, shape = f"w{k}", []
        for axis, pieces in enumerate(sides):
            role: Role = "reads" if axis else "writes"
            start = 0
            for name, per_unit in pieces:
                if not name:
                    start += per_unit
                    continue
                rows = start + np.arange(sizes[name] * per_unit).reshape(-1, per_unit)
                slices[name].append(Slice(tensor, axis, rows, role, (f"{tensor}.out",)))
                start += rows.size
            shape.append(start)
        shapes[tensor], work[tensor] = tuple(shape), 1 + 7 * k % 5
    groups = [
        Group(name, "channel", True, "", np.arange(1, size + 1), tuple(slices[name]), 1, 1, 4)
        for name, size in sizes.items()
    ]
    return Net(tuple(groups), shapes, work)


@st.composite
def nets(draw: st.DrawFn) -> Net:
    """Chains, forks and concatenations of two to five groups."""
    sizes = {f"g{k}": draw(st.integers(1, 40)) for k in range(draw(st.integers(2, 5)))}
    piece = st.tuples(st.sampled_from(["", *sizes]), st.sampled_from([1, 1, 1, 2, 4]))
    sides = st.lists(piece, min_size=1, max_size=3, unique_by=lambda p: p[0])
    matrices = draw(st.lists(st.tuples(sides, sides), min_size=1, max_size=5))
    chain = [([(name, 1)], [(other, 1)]) for name, other in pairwise(sizes)]
    return net(sizes, chain + matrices)


def chain(*sizes: int) -> Net:
    """A plain stack of layers between a fixed input and a fixed output."""
    names = {f"g{k}": n for k, n in enumerate(sizes)}
    ends = [("", 3), *((n, 1) for n in names), ("", 10)]
    return net(names, [([b], [a]) for a, b in pairwise(ends)])


def totals(axes: Sequence[Axis], removed: Mapping[str, Sequence[int]]) -> list[int]:
    return [a.total(removed) for a in axes]


@given(
    made=nets(),
    part=st.floats(0.15, 1),
    kind=st.sampled_from(["macs", "params", "bytes"]),
    policy=st.sampled_from(["uniform", "global"]),
    alignment=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 999),
)
def test_a_budget_is_met_from_below_and_tightly(
    made: Net, part: float, kind: Any, policy: Any, alignment: int, seed: int
) -> None:
    axes = made.axes(alignment)
    space = find_widths(made.groups, axes)
    scores, dense = made.scores(seed), made.cost({})
    target = Budget(kind, part, relative=True)
    limit = target.limit(getattr(dense, kind))

    def run(budget: Budget) -> Any:
        return allocate(space, scores, target=budget, cost=made.only(kind), policy=policy)

    try:
        found = run(target)
    except OnnxpruneError as error:
        # What the message offers instead can be had.
        words = error.message.split("below ")[1].split()[0]
        least = int(words.replace(",", ""))
        assert least > limit
        met = run(Budget(kind, least, relative=False))
        assert getattr(made.cost(met.removed), kind) == least
        return
    left = getattr(made.cost(found.removed), kind)
    assert left <= limit
    assert min(totals(axes, found.removed)) >= 1
    ranking = uniform(scores) if policy == "uniform" else ranked(scores)
    for group in space.free:
        assert found.kept[group] in space.widths[group]
        assert found.kept[group] >= math.ceil(space.units[group] * 0.2 - 1e-9)
        more = space.above(group, found.kept[group])
        if more is not None:
            wider = repair_widths(space, ranking, {**found.kept, group: more})
            assert getattr(made.cost(ranking.removed(wider)), kind) > limit


@given(made=nets(), ratio=st.floats(0, 0.8), seed=st.integers(0, 99))
def test_uniform_removes_the_same_part_of_every_group(made: Net, ratio: float, seed: int) -> None:
    scores = made.scores(seed)
    found = allocate(find_widths(made.groups), scores, ratio=ratio)
    for group in made.groups:
        name, size = group.name, len(group)
        gone = found.removed.get(name, ())
        at_floor = size - len(gone) == math.ceil(0.2 * size - 1e-9)
        assert at_floor or abs(len(gone) - ratio * size) < 1 + 1e-9
        worst = np.argsort(scores[name], kind="stable")[: len(gone)]
        assert set(gone) == set(worst.tolist())


@given(
    sizes=st.lists(st.integers(2, 70), min_size=1, max_size=6),
    ratio=st.floats(0.01, 0.79),
    alignment=st.sampled_from([1, 4, 8, 16]),
    seed=st.integers(0, 99),
)
def test_a_uniform_ratio_comes_as_near_in_sum_as_widths_next_to_it_allow(
    sizes: list[int], ratio: float, alignment: int, seed: int
) -> None:
    """No choice of the two widths around the ratio, one for each group, has a nearer total."""
    made = chain(*sizes)
    space = find_widths(made.groups, made.axes(alignment))
    assume(space.free)
    found = allocate(space, made.scores(seed), ratio=ratio)
    wanted = {g: space.units[g] * (1 - ratio) for g in space.free}
    options = []
    for group in space.free:
        widths = space.widths[group]
        below, above = widths[widths <= wanted[group]], widths[widths >= wanted[group]]
        options.append({int(w) for w in (*below[-1:], *above[:1])})
        assert found.kept[group] in options[-1]
    total = sum(wanted.values())
    best = min(abs(sum(each) - total) for each in product(*options))
    assert abs(sum(found.kept[g] for g in space.free) - total) == pytest.approx(best, abs=1e-6)


@given(made=nets(), ratio=st.floats(0, 0.6), seed=st.integers(0, 99))
def test_global_removes_the_lowest_scores_wherever_they_are(
    made: Net, ratio: float, seed: int
) -> None:
    scores, space = made.scores(seed), find_widths(made.groups)
    assume(space.free)
    units = sum(space.units[g] for g in space.free)
    reachable = 1 - sum(int(space.widths[g][0]) for g in space.free) / units
    assume(ratio <= reachable)
    found = allocate(space, scores, ratio=ratio, policy="global")
    gone = sum(map(len, found.removed.values()))
    assert abs(gone - ratio * units) <= 0.5 + 1e-9
    kept = [
        min(np.delete(scores[g], found.removed.get(g, ())), default=np.inf)
        for g in space.free
        if found.kept[g] > space.widths[g][0]  # a group at its floor can lose no more
    ]
    lost = [scores[g][list(units)].max() for g, units in found.removed.items()]
    assert not kept or not lost or min(kept) > max(lost)


@given(
    made=nets(),
    ratio=st.floats(0.001, 0.6),
    own=st.none() | st.floats(0.001, 0.6),
    alignment=st.sampled_from([1, 4, 16]),
    seed=st.integers(0, 99),
)
def test_a_group_that_a_ratio_leaves_whole_has_a_reason(
    made: Net, ratio: float, own: float | None, alignment: int, seed: int
) -> None:
    limits = Limits(ratios=() if own is None else (("g0", own),))
    space = find_widths(made.groups, made.axes(alignment), limits)
    found = allocate(space, made.scores(seed), ratio=ratio)
    whole = {g.name for g in made.groups if g.name not in found.removed}
    assert found.unchanged.keys() | found.declined.keys() >= whole
    assert not found.unchanged.keys() & (found.declined.keys() | found.removed.keys())
    for name, why in found.unchanged.items():
        assert f"of {len(made.scores(seed)[name])} units is " in why


@pytest.mark.parametrize("policy", ["uniform", "global"])
def test_scores_that_tie_are_spread_over_the_groups(policy: Any) -> None:
    made = chain(30, 30, 30)
    scores = {g.name: np.zeros(30) for g in made.groups}
    calls = []

    def cost(removed: Mapping[str, Sequence[int]]) -> int:
        calls.append(removed)
        return made.cost(removed).macs

    target = Budget("macs", 0.5, relative=True)
    found = allocate(find_widths(made.groups), scores, target=target, cost=cost, policy=policy)
    kept = list(found.kept.values())
    assert max(kept) - min(kept) <= 2
    assert len(calls) < 40  # bisection, not one unit at a time


def test_a_ratio_that_cannot_be_had_says_what_can() -> None:
    made = chain(16, 16)
    space = find_widths(made.groups, made.axes(16))
    with pytest.raises(OnnxpruneError, match=r"at most 50\.0% can go together, not 60\.0%"):
        allocate(space, made.scores(0), ratio=0.6, policy="global")


def test_a_budget_that_cannot_be_met_is_refused() -> None:
    made = chain(16, 16)
    names = [group.name for group in made.groups]
    space = find_widths(made.groups, made.axes(), unscored={names[0]: "nobody can read it"})
    with pytest.raises(OnnxpruneError, match=r"macs cannot go below"):
        allocate(
            space,
            made.scores(0),
            target=Budget("macs", 0.01, relative=True),
            cost=made.only("macs"),
        )


# Rounding


@pytest.mark.parametrize(
    ("size", "widths"),
    [
        (64, [16, 32, 48, 64]),
        (40, [16, 32, 40]),
        (24, [16, 24]),
        (16, [8, 16]),
        (12, [8, 12]),
        (8, [4, 8]),
        (4, [2, 4]),
        (2, [1, 2]),
        (1, [1]),
    ],
)
def test_widths_are_multiples_and_narrow_groups_fall_back(size: int, widths: list[int]) -> None:
    made = chain(size)
    assert find_widths(made.groups, made.axes(16)).widths["g0"].tolist() == widths


MEASURED = {
    "Conv": {4: 94, 8: 149, 12: 221, 14: 305, 16: 227, 18: 528, 24: 594, 32: 599, 40: 1189}
    | {48: 1198, 56: 2086, 64: 2074},
    "depthwise": {4: 34, 6: 63, 8: 44, 12: 59, 14: 152, 16: 38, 18: 130, 24: 72, 32: 76}
    | {40: 122, 48: 122, 56: 185, 64: 188},
}
"""Microseconds by channels, as in the table's sources (onnxruntime 1.31, one core, AVX-512)."""


@pytest.mark.parametrize("op", ["Conv", "depthwise"])
@pytest.mark.parametrize("size", [16, 24, 32, 48, 64])
def test_no_width_runs_slower_than_a_larger_one(op: str, size: int) -> None:
    made = chain(size)
    shapes = dict(made.shapes)
    group = made.groups[0]
    if op == "depthwise":
        per_channel = Slice("dw", 0, np.arange(size)[:, None], "scales", ("dw.out",))
        group = Group("g0", "channel", True, "", group.atoms, (*group.slices, per_channel), 1, 1, 4)
        shapes["dw"] = (size, 1, 3, 3)
    ops = {f"{tensor}.out": "Conv" for tensor in shapes}
    widths = find_widths([group], axes_of([group], shapes, alignments(shapes, ops))).widths["g0"]
    took = [MEASURED[op][w] for w in widths.tolist()]
    assert took == sorted(took)
    assert len(widths) > 1 or (op, size) == ("depthwise", 16)


def test_a_block_of_the_kernel_is_not_split_and_the_reason_is_given() -> None:
    cut = Slice("dw", 0, np.arange(16)[:, None], "scales", ("y",))
    group = Group("g", "channel", True, "", np.arange(16), (cut,), 1, 1, 4)
    shapes = {"dw": (16, 1, 3, 3)}
    space = find_widths([group], axes_of([group], shapes, alignments(shapes, {"y": "Conv"})))
    assert space.free == ()
    assert "multiples of 16" in space.declined["g"]


@pytest.mark.parametrize(
    ("provider", "op", "round_to", "wanted"),
    [
        ("cpu", "Conv", None, 16),
        ("cpu", "MatMul", None, 1),
        ("cpu", "Gemm", None, 1),
        ("openvino", "MatMul", None, 32),
        ("tensorrt", "Conv", None, 8),
        ("cpu", "Conv", 4, 4),
        ("cpu", "MatMul", 12, 12),
    ],
)
def test_the_default_multiple_depends_on_provider_and_operator(
    provider: str, op: str, round_to: int | None, wanted: int
) -> None:
    cut = Slice("w", 1, np.arange(64)[:, None], "reads", ("y",))
    alignment = alignments({"w": (8, 64)}, {"y": op}, provider=provider, round_to=round_to)
    assert alignment(cut).wanted == wanted


def test_biases_and_gains_follow_what_they_scale() -> None:
    cut = Slice("b", 0, np.arange(64)[:, None], "scales", ("y",))
    assert alignments({"b": (64,)}, {"y": "Conv"})(cut) == Alignment(1, 1)


def test_every_line_of_the_table_has_a_source_and_every_lookup_an_answer() -> None:
    assert all(rule.source for rule in TABLE)
    assert (TABLE[-1].provider, TABLE[-1].op) == ("*", "*")


def test_rows_per_unit_count_towards_the_multiple() -> None:
    """A head of 12 rows suits multiples of 16 in fours; one of 64 rows always does."""
    made = net(
        {"heads": 16, "wide": 6}, [([("heads", 12)], [("", 3)]), ([("wide", 64)], [("", 3)])]
    )
    space = find_widths(made.groups, made.axes(16))
    assert space.widths["heads"].tolist() == [4, 8, 12, 16]
    assert space.widths["wide"].tolist() == [2, 3, 4, 5, 6]


def test_indices_that_stay_do_not_spoil_the_rounding_of_the_rest() -> None:
    """Most axes have 64 channels; one has 3 more in front and can never suit the others."""
    made = net(
        {"g": 64},
        [([("g", 1)], [("", 3)]), ([("", 4)], [("g", 1)]), ([("", 4)], [("", 3), ("g", 1)])],
    )
    assert find_widths(made.groups, made.axes(16)).widths["g"].tolist() == [16, 32, 48, 64]


@given(
    sizes=st.lists(st.integers(4, 40), min_size=2, max_size=4),
    ratio=st.floats(0, 0.8),
    alignment=st.sampled_from([4, 8, 16]),
    seed=st.integers(0, 99),
)
def test_what_is_only_cut_together_is_rounded_together(
    sizes: list[int], ratio: float, alignment: int, seed: int
) -> None:
    """Groups without an axis of their own (a split): the kernel sees their total."""
    named = {f"g{k}": n for k, n in enumerate(sizes)}
    made = net(named, [([(g, 1) for g in named], [("", 5)])])
    axes = made.axes(alignment)
    space = find_widths(made.groups, axes)
    found = allocate(space, made.scores(seed), ratio=ratio)
    (left,) = totals(axes, found.removed)
    wanted = sum(space.nearest(g, n * (1 - ratio)) for g, n in named.items())
    possible = -(-wanted // alignment) * alignment <= sum(sizes)
    assert left == sum(sizes) or left % (alignment if possible else 2) == 0
    assert abs(left - sum(sizes) * (1 - ratio)) <= alignment + len(sizes) / 2


@given(made=nets(), seed=st.integers(0, 99), ratio=st.floats(0, 0.8))
def test_settling_only_gives_back_and_stays_on_the_lattice(
    made: Net, seed: int, ratio: float
) -> None:
    space = find_widths(made.groups, made.axes(16))
    ranking = uniform(made.scores(seed))
    wanted = {g: space.nearest(g, n * (1 - ratio)) for g, n in space.units.items()}
    settled = repair_widths(space, ranking, wanted)
    for group, kept in settled.items():
        assert kept >= wanted[group]
        assert kept in space.widths[group]
    assert repair_widths(space, ranking, settled) == settled


# An axis keeps an index


def _latin(size: int) -> tuple[list[Group], tuple[Axis, ...]]:
    """Two groups cross on one axis: index i leaves with unit i of one or n-1-i of the other."""
    shapes = {"w": (size, 4)}
    rows = np.arange(size)[:, None]
    groups = [
        Group(
            name,
            "channel",
            True,
            "",
            np.arange(size),
            (Slice("w", 0, r, "writes", ("y",)),),
            1,
            1,
            4,
        )
        for name, r in (("a", rows), ("b", rows[::-1].copy()))
    ]
    return groups, axes_of(groups, shapes)


@given(size=st.integers(2, 30), ratio=st.floats(0, 0.8), seed=st.integers(0, 99))
def test_groups_that_cross_never_empty_an_axis(size: int, ratio: float, seed: int) -> None:
    groups, axes = _latin(size)
    random = np.random.default_rng(seed)
    scores = {g.name: random.random(size) for g in groups}
    found = allocate(find_widths(groups, axes), scores, ratio=ratio)
    assert totals(axes, found.removed)[0] >= 1
    assert all(found.kept.values())


def test_ratios_asked_for_by_name_may_contradict_each_other() -> None:
    groups, axes = _latin(4)
    limits = Limits(ratios=(("*", 0.5),))
    scores = {"a": np.array([0.0, 0, 1, 1]), "b": np.array([0.0, 0, 1, 1])}
    with pytest.raises(OnnxpruneError, match="axis 0 of 'w' would lose every index"):
        allocate(find_widths(groups, axes, limits), scores)


def test_heads_and_their_dimensions_share_an_axis() -> None:
    """Product columns: 4 heads of 8 dimensions; totals are products, not sums."""
    index = np.arange(32).reshape(4, 8)
    groups = [
        Group(n, n, True, "", np.arange(len(r)), (Slice("w", 0, r, "reads", ("y",)),), 1, 1, 4)
        for n, r in (("head", index), ("head-dim", index.T.copy()))
    ]
    axes = axes_of(groups, {"w": (32, 5)})
    assert axes[0].crossing
    assert axes[0].total({"head": [0, 3], "head-dim": [1, 2, 7]}) == 2 * 5


def test_one_axis_per_node_that_reads_a_shared_tensor() -> None:
    """It is copied where its readers come to differ, so each has a total of its own."""
    rows = np.arange(8)[:, None]
    groups = [
        Group(n, "channel", True, "", np.arange(4), (Slice("w", 0, r, "reads", (n,)),), 1, 1, 4)
        for n, r in (("a", rows[:4]), ("b", rows[4:]))
    ]
    axes = axes_of(groups, {"w": (8, 3)})
    assert [sorted(a.rows) for a in axes] == [["a"], ["b"]]


# What the user allows


def _kinds() -> Net:
    made = chain(8, 8, 8)
    kinds = ("channel", "head", "ffn")
    groups = [
        Group(
            f"layer{k}/x",
            kind,
            kind != "ffn",
            "it is normalised" if kind == "ffn" else "",
            g.atoms,
            g.slices,
            1,
            1,
            4,
        )
        for k, (kind, g) in enumerate(zip(kinds, made.groups, strict=True))
    ]
    return Net(tuple(groups), made.shapes, made.work)


def _kept(limits: Limits, **options: Any) -> Mapping[str, int]:
    made = _kinds()
    return allocate(find_widths(made.groups, made.axes(), limits), made.scores(0), **options).kept


def test_inexact_groups_are_left_alone_unless_allowed() -> None:
    made = _kinds()
    assert "it is normalised" in find_widths(made.groups).declined["layer2/x"]
    assert _kept(Limits(), ratio=0.5) == {"layer0/x": 4, "layer1/x": 4, "layer2/x": 8}
    assert _kept(Limits(allow_inexact=True), ratio=0.5)["layer2/x"] == 4


def test_kinds_and_globs_have_ratios_of_their_own() -> None:
    limits = Limits(kinds={"head": 0.25})
    assert _kept(limits, ratio=0.5) == {"layer0/x": 4, "layer1/x": 6, "layer2/x": 8}
    limits = Limits(kinds={"head": 0.25}, ratios=(("layer*", 0.5), ("layer1*", 0.75)))
    assert _kept(limits) == {"layer0/x": 4, "layer1/x": 2, "layer2/x": 8}
    assert _kept(Limits(skip=("*0/x",)), ratio=0.5)["layer0/x"] == 8
    assert _kept(Limits(ratios=(("layer0*", 0.0),)), ratio=0.5)["layer0/x"] == 8


def test_nothing_is_removed_unless_asked_for() -> None:
    assert set(_kept(Limits()).values()) == {8}


def test_a_ratio_of_its_own_holds_under_a_budget() -> None:
    made = _kinds()
    limits = Limits(ratios=(("layer1*", 0.75),), allow_inexact=True)
    found = allocate(
        find_widths(made.groups, made.axes(), limits),
        made.scores(0),
        target=Budget("macs", 0.4, relative=True),
        cost=made.only("macs"),
    )
    assert found.kept["layer1/x"] == 2
    assert made.cost(found.removed).macs <= 0.4 * made.cost({}).macs


@given(floor=st.integers(1, 12), most=st.floats(0, 0.95), size=st.integers(1, 20))
def test_a_group_never_falls_below_its_floor(floor: int, most: float, size: int) -> None:
    made = chain(size)
    limits = Limits(min_width=floor, max_ratio=most)
    smallest = find_widths(made.groups, limits=limits).smallest()["g0"]
    assert smallest >= min(floor, size)
    assert size - smallest <= most * size + 1e-9


@pytest.mark.parametrize(
    ("limits", "hint"),
    [
        (Limits(skip=("layer1/y",)), "layer1/x"),
        (Limits(ratios=(("laier2/x", 0.5),)), "layer2/x"),
        (Limits(kinds={"heads": 0.5}), "head"),
    ],
)
def test_what_matches_nothing_is_refused_with_the_nearest_name(limits: Limits, hint: str) -> None:
    with pytest.raises(OnnxpruneError, match="matches no") as caught:
        find_widths(_kinds().groups, limits=limits)
    assert f"{hint!r}" in caught.value.hint


def test_a_glob_may_be_meant_for_a_block() -> None:
    assert find_widths(_kinds().groups, limits=Limits(skip=("block*",)), known=["block1"]).free


@pytest.mark.parametrize("bad", [{"kinds": {"head": 0.9}}, {"max_ratio": 1.0}, {"min_width": 0}])
def test_limits_that_contradict_themselves_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(OnnxpruneError):
        Limits(**bad)


def test_groups_that_could_not_be_scored_stay_and_say_why() -> None:
    made = chain(8, 8)
    space = find_widths(made.groups, unscored={"g0": "not scored by wanda"})
    found = allocate(space, {"g1": np.arange(8.0)}, ratio=0.5)
    assert found.kept == {"g0": 8, "g1": 4}
    assert found.declined["g0"] == "not scored by wanda"


def test_missing_scores_are_refused() -> None:
    made = chain(8)
    with pytest.raises(OnnxpruneError, match="'g0' needs 8 scores and has none"):
        allocate(find_widths(made.groups), {}, ratio=0.5)
    with pytest.raises(OnnxpruneError, match="not finite"):
        allocate(find_widths(made.groups), {"g0": np.full(8, np.nan)}, ratio=0.5)


def test_scores_without_a_currency_are_compared_within_their_group() -> None:
    made = chain(10, 10)
    scores = {"g0": np.arange(1.0, 11), "g1": np.arange(1.0, 11) * 1e6}
    space = find_widths(made.groups)
    alone = allocate(space, scores, ratio=0.4, policy="global")
    fair = allocate(space, scores, ratio=0.4, policy="global", comparable=False)
    assert alone.kept == {"g0": 2, "g1": 10}
    assert fair.kept == {"g0": 6, "g1": 6}


def test_damage_is_weighed_against_what_it_saves() -> None:
    """Equal scores: what is five times as dear goes, and what saves nothing stays."""
    made = net(
        {"cheap": 20, "dear": 20, "free": 20},
        [([("cheap", 1)], [("", 4)]), ([("dear", 1)], [("", 20)]), ([("", 0)], [("free", 1)])],
    )
    made = Net(made.groups, made.shapes, dict.fromkeys(made.shapes, 1))
    scores = {g.name: np.linspace(1, 1.5, 20) for g in made.groups}
    target = Budget("macs", 0.6, relative=True)
    kept = {
        additive: allocate(
            find_widths(made.groups),
            scores,
            target=target,
            cost=made.only("macs"),
            additive=additive,
        ).kept
        for additive in (False, True)
    }
    assert kept[True]["dear"] < 20
    assert kept[True]["cheap"] == kept[True]["free"] == 20
    assert kept[False]["cheap"] == kept[False]["dear"] < 20
    assert kept[False]["free"] == 20  # it was given back: that costs nothing


def test_two_groups_of_one_name_are_refused() -> None:
    made = chain(4)
    with pytest.raises(OnnxpruneError, match="share a name"):
        find_widths([*made.groups, *made.groups])


def test_the_lattice_says_which_width_is_nearest() -> None:
    space = CandidateWidths({"g": 64}, {"g": np.array([16, 32, 64])}, ("g",), {}, ())
    assert [space.nearest("g", w) for w in (0, 23.9, 24, 48, 47, 99)] == [16, 16, 32, 64, 32, 64]
    assert [space.above("g", k) for k in (0, 16, 40, 64)] == [16, 32, 64, None]


@pytest.mark.parametrize("required", [(4, 4), (4, 6), (2, 8)])
def test_widths_suit_all_axes_that_a_group_decides(required: tuple[int, int]) -> None:
    rows = np.arange(48, dtype=np.int64)[:, None]
    axes = [Axis(f"axis {k}", 48, Alignment(r, r), {"g": rows}) for k, r in enumerate(required)]
    widths = _widths("g", 48, 1, axes)
    assert len(widths) > 2
    assert all(width % r == 0 for width in widths for r in required)
