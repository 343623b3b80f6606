from __future__ import annotations

import json
import pickle
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.plan import (
    ComputedMask,
    Origin,
    PackedMask,
    Plan,
    check,
    diff,
    load_plan,
    merge,
    pack,
    save_plan,
    versions,
)
from onnxprune.graph.units import Block, Group

SIZES = {"layer1/conv1:channel": 16, "layer1/conv2:channel": 32, "attention:head": 12}
SHAPES = {"conv1.weight": (4, 3, 3, 3), "fc.weight": (10, 7), "scalar": ()}
BLOCKS = ("block0", "block1")
GROUPS = tuple(
    Group(name, "channel", True, "", np.arange(size), (), 1, 1, 4) for name, size in SIZES.items()
)
BRANCHES = tuple(Block(name, f"{name}.out", f"{name}.in", (), 1, 1) for name in BLOCKS)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    names = draw(st.lists(st.sampled_from(sorted(SIZES)), unique=True))
    masked = draw(st.lists(st.sampled_from(sorted(SHAPES)), unique=True))
    cuts = {
        n: tuple(draw(st.sets(st.integers(0, SIZES[n] - 1), max_size=SIZES[n] - 1))) for n in names
    }
    masks = {n: pack(draw(npst.arrays(np.bool_, SHAPES[n]))) for n in masked}
    origin = Origin(
        structure=draw(st.sampled_from(["", "abc"])),
        criterion=draw(st.text(max_size=5)),
        budget="macs=50%",
        seed=draw(st.integers(0, 9)),
        versions={"onnxprune": "0.1"},
    )
    bypassed = tuple(draw(st.lists(st.sampled_from(BLOCKS), unique=True)))
    return Plan(cuts, bypassed, masks, origin, draw(st.sampled_from([{}, SIZES])))


@given(plan=plans(), another=plans())
def test_a_saved_plan_is_the_same_plan(
    plan: Plan, another: Plan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    for one in (another, plan):  # the second save replaces the first
        assert one.save(path) == path
        assert load_plan(path) == one
        left = {p.name for p in path.parent.iterdir()}
        assert len(left) == 1 + bool(one.zeroed)
        assert len({p.stat().st_mode for p in path.parent.iterdir()}) == 1


@given(plan=plans())
def test_masks_that_stay_in_their_file_are_the_same_masks(
    plan: Plan, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("plan") / "plan.json"
    plan.save(path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("onnxprune.graph.plan.core._MAPPED", 0)
        assert load_plan(path) == plan
    for file in path.parent.glob("*.safetensors"):
        bits = {name: mask.bits for name, mask in plan.zeroed.items()}
        assert file.read_bytes() == safetensors.numpy.save(bits)


def test_a_computed_mask_is_the_packed_one_and_is_packed_to_travel() -> None:
    mask = np.random.default_rng(0).random((5, 7)) < 0.5
    computed = ComputedMask(mask.shape, int(mask.sum()), mask.copy)
    assert computed == pack(mask)
    assert (computed.kept, computed.size) == (mask.sum(), 35)
    back = pickle.loads(pickle.dumps(computed))
    assert type(back) is PackedMask
    assert back == pack(mask)


@given(mask=npst.arrays(np.bool_, npst.array_shapes(min_dims=0, max_side=9, min_side=0)))
def test_a_mask_takes_one_bit_per_weight(mask: np.ndarray[Any, Any]) -> None:
    packed = pack(mask)
    np.testing.assert_array_equal(packed.unpack(), mask)
    assert packed.kept == mask.sum()
    assert packed.bits.nbytes == -(-mask.size // 8)


def test_bits_past_the_end_of_a_mask_do_not_count() -> None:
    assert PackedMask((3,), np.array([0b10111111], np.uint8)) == pack(np.array([True, False, True]))


def test_a_mask_has_to_hold_its_shape() -> None:
    with pytest.raises(OnnxpruneError, match=r"shape \[9\]"):
        PackedMask((9,), np.zeros(1, np.uint8))
    with pytest.raises(OnnxpruneError, match="not of float64"):
        pack(np.ones(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("units", "complaint"),
    [((3, 3), "unit 3 .* twice"), ((-1,), "unit -1"), (tuple(range(16)), "all 16 units")],
)
def test_impossible_removals_are_refused(units: tuple[int, ...], complaint: str) -> None:
    with pytest.raises(OnnxpruneError, match=complaint):
        Plan({"layer1/conv1:channel": units}, units=SIZES)


def test_a_plan_travels_to_other_processes() -> None:
    plan = Plan({"attention:head": (2, 1)}, ("block0",), {"fc.weight": pack(np.ones((2, 3), bool))})
    assert pickle.loads(pickle.dumps(plan)) == plan


def test_the_caller_cannot_change_a_plan_afterwards() -> None:
    cuts: dict[str, tuple[int, ...]] = {"attention:head": (1, 2)}
    plan = Plan(cuts)
    cuts["attention:head"] = (5,)
    assert plan.removed == {"attention:head": (1, 2)}


def test_a_plan_prints_what_it_does() -> None:
    plan = Plan(
        {"attention:head": (0, 1, 2, 5)},
        ("block1",),
        {"fc.weight": pack(np.arange(70).reshape(10, 7) % 2 == 0)},
        Origin("0123456789abcdef", "l2", "global", "macs=50%"),
        SIZES,
    )
    text = str(plan)
    assert re.search(r"attention:head\s+-4 of 12\s+\[0-2, 5\]", text)
    assert "block1  bypassed" in text
    assert "50 % of 10x7 zeroed" in text
    assert text.startswith("plan for graph 0123456789ab: l2, global, macs=50%")
    assert "nothing is removed" in str(Plan())


# The file


def _edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    plan = Plan(
        {"attention:head": (1, 2)}, (), {"fc.weight": pack(np.eye(4, dtype=bool))}, Origin("abc")
    )
    return save_plan(plan, tmp_path / "plan.json")


def test_a_plan_can_be_edited_by_hand(saved: Path) -> None:
    text = saved.read_text()
    assert '    "attention:head": [1, 2]\n' in text  # one line per group
    saved.write_text(text.replace("[1, 2]", "[11]"))
    assert load_plan(saved).removed == {"attention:head": (11,)}


def test_a_plan_written_by_hand_needs_only_what_it_does(tmp_path: Path) -> None:
    path = tmp_path / "mine.json"
    path.write_text(
        '{"format": "onnxprune-plan", "version": 1, "removed": {"attention:head": [4]}}'
    )
    check(load_plan(path), "any", GROUPS)


@pytest.mark.parametrize(
    ("change", "complaint", "hint"),
    [
        (lambda d: d.update(remove=1), "no key 'remove'", "'removed'"),
        (lambda d: d["origin"].update(sede=1), "no key 'sede'", ""),
        (lambda d: d.update(version=2), "version 2", "upgrade"),
        (lambda d: d.update(format="x"), "is not a plan", "onnxprune-plan"),
        (lambda d: d.update(removed={"g": [1.5]}), "whole numbers", "removed"),
        (lambda d: d.update(removed={"g": [True]}), "whole numbers", "removed"),
        (lambda d: d.update(removed=[1]), "not a well-formed plan", "removed"),
        (lambda d: d.update(removed={"g": [4, 4]}), "unit 4 .* twice", ""),
        (lambda d: d["zeroed"].update(file="../x.safetensors"), "cannot be in", "beside"),
        (lambda d: d["zeroed"].update(file="x.safetensors"), "not there", "both files"),
        (lambda d: d["zeroed"].update(sha256="0" * 64), "does not hold", "both files"),
        (lambda d: d["zeroed"].update(shapes={"fc": [4, 4]}), "disagree", ""),
        (lambda d: d["zeroed"].update(shapes={"fc.weight": [9, 9]}), r"shape \[9, 9\]", ""),
    ],
)
def test_a_damaged_plan_is_refused_with_its_path(
    saved: Path, change: Callable[[dict[str, Any]], None], complaint: str, hint: str
) -> None:
    _edit(saved, change)
    with pytest.raises(OnnxpruneError, match=complaint) as caught:
        load_plan(saved)
    assert str(saved) in caught.value.message
    assert hint in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"version": 1}'])
def test_what_is_no_plan_is_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(OnnxpruneError, match=r"other\.json"):
        load_plan(path)


def test_a_missing_plan_or_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxpruneError, match="cannot be read"):
        load_plan(tmp_path / "none.json")
    with pytest.raises(OnnxpruneError, match="cannot be written"):
        Plan().save(tmp_path / "none" / "plan.json")


def test_a_write_that_fails_leaves_the_old_plan(saved: Path) -> None:
    before = load_plan(saved)
    plan = Plan({"attention:head": (7,)}, origin=Origin(versions={"x": object()}))  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        plan.save(saved)
    assert load_plan(saved) == before
    assert len(list(saved.parent.iterdir())) == 2


def test_two_plans_in_one_folder_do_not_touch_each_other(saved: Path) -> None:
    twin = saved.with_name("plan2.json")
    other = Plan(zeroed={"fc.weight": pack(~np.eye(4, dtype=bool))})
    other.save(twin)
    Plan().save(saved)
    assert load_plan(twin) == other
    assert len(list(saved.parent.iterdir())) == 3


# Whether it fits


@given(plan=plans())
def test_a_plan_fits_the_graph_it_was_made_for(plan: Plan) -> None:
    check(plan, "abc", GROUPS, BRANCHES, SHAPES)


@pytest.mark.parametrize(
    ("plan", "complaint", "hint"),
    [
        (Plan({"layer1/conv3:channel": (1,)}), "no group", "layer1/conv"),
        (Plan({"attention:head": (12,)}), "no unit 12", "0 to 11"),
        (Plan({"attention:head": tuple(range(12))}), "all 12 units", "at least one"),
        (Plan({"attention:head": (1,)}, units={"attention:head": 16}), "has 12 units", ""),
        (Plan(bypassed=("block",)), "no block", "block"),
        (Plan(zeroed={"fc.weigth": pack(np.ones((10, 7), bool))}), "no weight", "'fc.weight'"),
        (Plan(zeroed={"fc.weight": pack(np.ones((7, 10), bool))}), r"shape \[10, 7\]", ""),
    ],
)
def test_what_the_graph_does_not_have_is_named(plan: Plan, complaint: str, hint: str) -> None:
    with pytest.raises(OnnxpruneError, match=complaint) as caught:
        check(plan, "abc", GROUPS, BRANCHES, SHAPES)
    assert hint in caught.value.hint


def test_another_graph_is_refused_with_the_first_mismatch() -> None:
    origin = Origin("f" * 64)
    plan = Plan({"attention:head": (1,), "layer9:channel": (0,)}, origin=origin)
    with pytest.raises(OnnxpruneError, match=r"another graph \(f{12}, .*no group 'layer9:channel'"):
        check(plan, "0" * 64, GROUPS)
    with pytest.raises(OnnxpruneError, match="the graphs differ elsewhere"):
        check(Plan({"attention:head": (1,)}, origin=origin), "0" * 64, GROUPS)


# Two plans


@given(first=plans(), second=plans())
def test_a_difference_is_what_one_does_and_the_other_does_not(first: Plan, second: Plan) -> None:
    apart = diff(first, second)
    for group in SIZES:
        a, b = (set(p.removed.get(group, ())) for p in (first, second))
        assert apart.removed.get(group, ((), ())) == (tuple(sorted(a - b)), tuple(sorted(b - a)))
    for weight, shape in SHAPES.items():
        keep = [
            p.zeroed[weight].unpack() if weight in p.zeroed else np.ones(shape, bool)
            for p in (first, second)
        ]
        counts = (int((keep[1] & ~keep[0]).sum()), int((keep[0] & ~keep[1]).sum()))
        assert apart.zeroed.get(weight, (0, 0)) == counts
    assert set(apart.bypassed[0]) == set(first.bypassed) - set(second.bypassed)
    assert not diff(first, first)
    assert str(diff(first, first)) == "no difference"


@given(first=plans(), second=plans())
def test_a_merged_plan_does_all_that_either_does(first: Plan, second: Plan) -> None:
    whole = [
        g
        for g, n in {**first.units, **second.units}.items()
        if len({*first.removed.get(g, ()), *second.removed.get(g, ())}) == n
    ]
    if whole:
        with pytest.raises(OnnxpruneError, match="removes all"):
            merge(first, second)
        return
    both = merge(first, second)
    for group in SIZES:
        expected = {*first.removed.get(group, ()), *second.removed.get(group, ())}
        assert set(both.removed.get(group, ())) == expected
    assert set(both.bypassed) == {*first.bypassed, *second.bypassed}
    for one in (first, second):
        apart = diff(one, both)
        assert not any(a for a, _ in apart.removed.values())
        assert not apart.bypassed[0]
        assert not any(a for a, _ in apart.zeroed.values())
    assert not diff(merge(first, first), first)


@pytest.mark.parametrize(
    ("first", "second", "complaint"),
    [
        (Plan(origin=Origin("a")), Plan(origin=Origin("b")), "different graphs"),
        (Plan(units={"g": 4}), Plan(units={"g": 5}), "4 units of group 'g', the other 5"),
        (
            Plan(zeroed={"w": pack(np.ones(3, bool))}),
            Plan(zeroed={"w": pack(np.ones(4, bool))}),
            "masks of 'w'",
        ),
        (
            Plan({"g": (0,)}, units={"g": 2}),
            Plan({"g": (1,)}, units={"g": 2}),
            "all 2 units of group 'g'",
        ),
    ],
)
def test_plans_that_contradict_each_other_are_not_merged(
    first: Plan, second: Plan, complaint: str
) -> None:
    with pytest.raises(OnnxpruneError, match=complaint):
        merge(first, second)


def test_a_merged_origin_tells_of_both() -> None:
    both = merge(
        Plan(origin=Origin("a", "l2", budget="macs=50%", seed=1)),
        Plan(origin=Origin("", "wanda", budget="macs=50%", seed=2)),
    ).origin
    assert (both.structure, both.criterion, both.budget, both.seed) == (
        "a",
        "l2 + wanda",
        "macs=50%",
        None,
    )


def test_versions_are_those_installed() -> None:
    assert versions()["numpy"] == np.__version__
