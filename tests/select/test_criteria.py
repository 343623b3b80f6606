from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.units import Group, Role, Slice
from onnxprune.select.criteria import (
    Inapplicable,
    InputStatistics,
    UnitSlice,
    criterion,
    get,
    names,
    pool,
    registry,
    score,
    unit_slices,
)
from onnxprune.testing import check_criterion, sample_slices

Array = npt.NDArray[Any]
BUILT_IN = [
    *("l1", "l2", "bn-scale", "lamp", "fpgm", "random"),
    *("wanda", "ria", "mean-activation", "fluctuation", "output-error", "obs"),
]


def group_of(*slices: Slice, units: int, name: str = "g") -> Group:
    return Group(name, "channel", True, "", np.arange(1, units + 1), slices, 0, 0, 0)


def cut(
    tensor: str, axis: int, units: int, role: Role, per_unit: int = 1, nodes: tuple[str, ...] = ()
) -> Slice:
    rows = np.arange(units * per_unit).reshape(units, per_unit)
    return Slice(tensor, axis, rows, role, nodes or (f"{tensor}.out",))


def statistics(rows: Array, blocks: int = 1) -> InputStatistics:
    """Of rows ``[count, features]``."""
    centred = (rows - rows.mean(axis=0)).reshape(len(rows), blocks, -1)
    return InputStatistics(
        len(rows),
        rows.mean(axis=0),
        rows.var(axis=0),
        np.abs(rows).mean(axis=0),
        np.einsum("rbi,rbj->bij", centred, centred) / len(rows),
        blocks,
    )


@pytest.fixture
def own_registry() -> Iterator[None]:
    """Whatever a test registers is gone after it."""
    before = dict(registry._REGISTERED)
    yield
    registry._REGISTERED.clear()
    registry._REGISTERED.update(before)


@pytest.mark.parametrize("name", BUILT_IN)
def test_every_built_in_keeps_the_contract(name: str) -> None:
    check_criterion(name, trials=10)


def test_the_built_ins_are_all_listed() -> None:
    assert set(BUILT_IN) <= set(names())
    assert all(get(name).summary for name in BUILT_IN)


def _first_row(slices: Sequence[UnitSlice]) -> Array:
    if not slices:
        raise Inapplicable("nothing")
    return np.asarray(slices[0].matrix[:, 0], np.float64)


def _half(slices: Sequence[UnitSlice]) -> Array:
    return get("l1").function(slices).astype(np.float32)  # type: ignore[no-any-return]


def _log(slices: Sequence[UnitSlice]) -> Array:
    l1: Array = get("l1").function(slices)
    with np.errstate(divide="ignore"):
        return np.log(l1)


def _greedy(slices: Sequence[UnitSlice]) -> Array:
    for one in slices:
        one.matrix[0] += 1
    return get("l1").function(slices)  # type: ignore[no-any-return]


def _falling(slices: Sequence[UnitSlice]) -> Array:
    return -get("l1").function(slices)  # type: ignore[no-any-return]


def _shift(slices: Sequence[UnitSlice]) -> Array:
    return get("output-error").function(slices) - 1  # type: ignore[no-any-return]


def _fickle() -> Callable[[Sequence[UnitSlice]], Array]:
    noise = np.random.default_rng(0)
    return lambda slices: noise.random(len(slices[0].features))


def _careless(slices: Sequence[UnitSlice]) -> Array:
    return np.ones(len(slices[0].features) if slices else 0)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (_first_row, "reordered"),
        (_half, "float32"),
        (_log, "not finite"),
        (_greedy, "changed"),
        (_falling, "fell in rank"),
        (_fickle(), "other scores"),
        (_careless, "Inapplicable"),
        (_shift, "negative"),
    ],
)
@pytest.mark.usefixtures("own_registry")
def test_the_conformance_check_catches_what_breaks_the_contract(
    function: Callable[..., Any], complaint: str
) -> None:
    claim: Any = "damage" if function is _shift else "monotone"
    criterion("broken", claims=("comparable", claim))(function)
    with pytest.raises(AssertionError, match=f"broken: .*({complaint})"):
        check_criterion("broken")


@pytest.mark.usefixtures("own_registry")
def test_damage_that_is_an_average_is_caught() -> None:
    for claim in ("pruning error", "damage"):  # the second is its name of before
        with pytest.raises(OnnxpruneError, match="claims a pruning error"):
            criterion("broken", claims=(claim,))
        criterion("broken", claims=("comparable", claim))(get("l1").function)
        assert get("broken").claims == {"comparable", "pruning error"}
    with pytest.raises(OnnxpruneError, match="claims 'fast'"):
        criterion("broken", claims=("fast",))
    with pytest.raises(AssertionError, match="does not add up"):
        check_criterion("broken")


def test_an_unregistered_function_is_not_a_criterion() -> None:
    with pytest.raises(AssertionError, match="not registered"):
        check_criterion(_falling)


@pytest.mark.parametrize("name", ["l1", "l2", "lamp", "fpgm", "wanda", "ria", "fluctuation", "obs"])
@given(factor=st.floats(1e-3, 1e3), which=st.integers(0, 4))
def test_no_tensor_weighs_more_for_being_large(name: str, factor: float, which: int) -> None:
    slices = sample_slices(np.random.default_rng(3))
    before = get(name).function(slices)
    one = slices[which]
    slices[which] = UnitSlice(
        one.tensor, one.axis, one.role, one.use, one.matrix * factor, one.features, one.inputs
    )
    np.testing.assert_allclose(get(name).function(slices), before, rtol=1e-4)


@pytest.mark.parametrize("name", ["l1", "l2", "wanda", "ria", "mean-activation", "fpgm"])
@given(copies=st.integers(1, 5), seed=st.integers(0, 99))
def test_more_tensors_do_not_make_a_group_dearer(name: str, copies: int, seed: int) -> None:
    slices = sample_slices(np.random.default_rng(seed))
    scores = get(name).function(slices * copies)
    assert np.mean(scores) == pytest.approx(1)
    np.testing.assert_allclose(scores, get(name).function(slices), rtol=1e-9)


def test_lamp_is_its_definition() -> None:
    random = np.random.default_rng(0)
    weight = np.repeat(random.standard_normal((6, 3)), 2, axis=0)  # every unit has a twin
    slices = unit_slices(group_of(cut("w", 0, 12, "writes"), units=12), lambda _: weight)
    square = np.square(weight).sum(axis=1)
    expected = [s / square[square >= s * (1 - 1e-12)].sum() for s in square]
    np.testing.assert_allclose(get("lamp").function(slices), expected, rtol=1e-9)


def test_fpgm_prefers_what_others_cannot_stand_for() -> None:
    random = np.random.default_rng(1)
    weight = random.standard_normal((40, 7)).astype(np.float32)
    weight[7] = weight.mean(axis=0)
    slices = unit_slices(group_of(cut("w", 0, 40, "writes"), units=40), lambda _: weight)
    scores = get("fpgm").function(slices)
    distance = np.linalg.norm(weight[:, None] - weight[None], axis=2).sum(axis=1)
    np.testing.assert_allclose(scores, distance / distance.mean(), rtol=1e-5)
    assert scores.argmin() == 7


def test_random_differs_by_seed_and_by_group() -> None:
    draw = get("random").function
    weight = np.ones((8, 2), np.float32)
    one = unit_slices(group_of(cut("a", 0, 8, "writes"), units=8), lambda _: weight)
    two = unit_slices(group_of(cut("b", 0, 8, "writes"), units=8), lambda _: weight)
    assert not np.allclose(draw(one, seed=0), draw(one, seed=1))
    assert not np.allclose(draw(one, seed=0), draw(two, seed=0))


def _patches(image: Array, kernel: int) -> Array:
    """[n, c, h, w] -> [positions, c * kernel * kernel], channel first."""
    windows = sliding_window_view(image, (kernel, kernel), axis=(2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, image.shape[1] * kernel * kernel)


@given(
    blocks=st.sampled_from([1, 2, 3]),
    kernel=st.sampled_from([1, 3]),
    units=st.integers(2, 4),
    per_unit=st.integers(1, 2),
    seed=st.integers(0, 99),
)
def test_damage_of_a_convolution_is_what_the_data_say(
    blocks: int, kernel: int, units: int, per_unit: int, seed: int
) -> None:
    """output-error is the error of zeroing a unit; obs the rise left by the best refit."""
    random = np.random.default_rng(seed)
    inner, out = units * per_unit + 1, 4  # one channel stays
    # Correlated, but far from singular: there the ridge is meant to make a difference.
    mixing = np.eye(blocks * inner) + 0.2 * random.standard_normal((blocks * inner,) * 2)
    image = np.einsum("cd,nchw->ndhw", mixing, random.standard_normal((6, blocks * inner, 7, 7)))
    weight = random.standard_normal((blocks * out, inner, kernel, kernel))
    rows = _patches(image + 0.3, kernel)
    inputs = statistics(rows, blocks)
    group = group_of(cut("w", 1, units, "reads", per_unit), units=units)
    slices = unit_slices(group, lambda _: weight, {("w", "w.out"): inputs})

    features = inner * kernel * kernel
    split = rows.reshape(len(rows), blocks, features)
    flat = weight.reshape(blocks, out, features)
    dense = np.einsum("rbk,bok->rbo", split, flat)
    zeroed, refitted = [], []
    for unit in range(units):
        gone = np.zeros(inner, bool)
        gone[unit * per_unit : (unit + 1) * per_unit] = True
        gone = np.repeat(gone, kernel * kernel)
        error = dense - np.einsum("rbk,bok->rbo", split, np.where(gone, 0, flat))
        zeroed.append(np.square(error).sum() / np.square(dense).sum())
        left = 0.0
        for b in range(blocks):
            kept = np.column_stack([split[:, b, ~gone], np.ones(len(rows))])
            left += np.linalg.lstsq(kept, dense[:, b])[1].sum()
        refitted.append(left / np.square(dense - dense.mean(axis=0)).sum())
    np.testing.assert_allclose(get("output-error").function(slices), zeroed, rtol=1e-6)
    # The ridge, 1e-4 of the mean variance, is all that parts the two.
    np.testing.assert_allclose(get("obs").function(slices), refitted, rtol=0.1, atol=2e-4)


@given(blocks=st.sampled_from([1, 2]), whole=st.booleans(), seed=st.integers(0, 99))
def test_a_transposed_convolution_is_laid_out_by_channel_and_tap(
    blocks: int, whole: bool, seed: int
) -> None:
    """[I, O/g, *kernel]: a unit is the same channel of every group, or a whole group's channels."""
    random = np.random.default_rng(seed)
    per, out, taps = 4, 3, 6
    weight = random.standard_normal((blocks * per, out, 2, 3))
    channels = np.arange(blocks * per).reshape(blocks, per)
    rows = channels if whole else channels.T
    group = group_of(Slice("w", 0, rows, "reads", ("y",)), units=len(rows))
    inputs = statistics(random.standard_normal((50, blocks * per * taps)), blocks)
    (one,) = unit_slices(group, lambda _: weight, {("w", "y"): inputs})
    for unit, mine in enumerate(rows):
        expected = weight[mine].reshape(len(mine), out, taps).transpose(0, 2, 1).reshape(-1, out)
        got = one.matrix[np.sort(one.features[unit])]
        np.testing.assert_array_equal(got, expected)  # rows of a unit ascend
    assert np.isfinite(get("obs").function([one])).all()


@given(
    axis=st.integers(0, 2),
    per_unit=st.integers(1, 3),
    units=st.integers(1, 4),
    rest=st.integers(0, 3),
)
def test_a_unit_owns_exactly_its_rows(axis: int, per_unit: int, units: int, rest: int) -> None:
    shape = [2, 3, 5]
    shape[axis] = units * per_unit + rest
    weight = np.random.default_rng(axis).standard_normal(shape)
    group = group_of(cut("w", axis, units, "writes", per_unit), units=units)
    (one,) = unit_slices(group, lambda _: weight)
    for unit, rows in enumerate(group.slices[0].rows):
        own = np.take(weight, rows, axis=axis)
        np.testing.assert_allclose(np.abs(one.weight[unit]).sum(), np.abs(own).sum())
    assert one.matrix.size == weight.size


@given(sizes=st.lists(st.integers(1, 9), min_size=1, max_size=4), blocks=st.sampled_from([1, 2]))
def test_pooled_statistics_are_those_of_all_rows(sizes: list[int], blocks: int) -> None:
    random = np.random.default_rng(len(sizes))
    parts = [random.standard_normal((n, 4)) * 3 + 10 for n in sizes]
    pooled = pool([statistics(p, blocks) for p in parts])
    whole = statistics(np.concatenate(parts), blocks)
    assert pooled is not None
    assert pooled.count == whole.count
    for name in ("mean", "var", "mean_abs", "covariance", "rms"):
        np.testing.assert_allclose(getattr(pooled, name), getattr(whole, name), atol=1e-9)


def test_a_tensor_read_by_two_nodes_counts_both() -> None:
    random = np.random.default_rng(5)
    weight = random.standard_normal((3, 4))
    group = group_of(cut("w", 0, 3, "reads", nodes=("a", "b")), units=3)
    rows = {"a": random.standard_normal((40, 3)), "b": random.standard_normal((90, 3)) + 2}
    slices = unit_slices(
        group, lambda _: weight, {("w", node): statistics(x) for node, x in rows.items()}
    )
    both = np.concatenate(list(rows.values()))
    expected = [np.square(np.outer(both[:, j], weight[j])).sum() for j in range(3)]
    np.testing.assert_allclose(
        get("output-error").function(slices), np.array(expected) / np.square(both @ weight).sum()
    )


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.int8, ml_dtypes.int4])
def test_narrow_weights_are_scored_as_the_numbers_they_hold(dtype: npt.DTypeLike) -> None:
    weight = (np.random.default_rng(0).standard_normal((6, 600)) * 3).astype(dtype)
    group = group_of(cut("w", 0, 6, "writes"), units=6)
    narrow = unit_slices(group, lambda _: weight)
    wide = unit_slices(group, lambda _: weight.astype(np.float64))
    for name in ("l1", "l2", "lamp", "fpgm"):
        np.testing.assert_allclose(get(name).function(narrow), get(name).function(wide), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(dtype: npt.DTypeLike, bad: float) -> None:
    weight = np.ones((4, 3), np.float32)
    weight[2, 1] = bad
    weight = weight.astype(dtype)
    group = group_of(cut("conv1.weight", 0, 4, "writes"), units=4)
    with pytest.raises(OnnxpruneError, match=r"conv1\.weight"):
        unit_slices(group, lambda _: weight)


def test_an_attention_mask_may_be_infinite() -> None:
    mask = np.full((4, 2), -np.inf, np.float32)
    stored = {"mask": mask, "w": np.ones((4, 3), np.float32)}
    group = group_of(cut("mask", 0, 4, "scales"), cut("w", 0, 4, "writes"), units=4)
    assert np.isfinite(get("l1").function(unit_slices(group, stored.__getitem__))).all()


def test_a_table_that_masks_is_scored_by_its_other_entries() -> None:
    table = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    masks = np.vstack([np.full((1, 4), -np.inf, np.float32), table])
    group = group_of(cut("bias", 1, 4, "writes"), units=4)
    for name in ("l1", "l2"):
        score = get(name).function(unit_slices(group, lambda _: masks, use=lambda _: "Gather.data"))
        np.testing.assert_allclose(score, get(name).function(unit_slices(group, lambda _: table)))
    with pytest.raises(OnnxpruneError, match="infinity"):
        unit_slices(group, lambda _: masks, use=lambda _: "Conv.W")


def test_indices_and_shapes_carry_no_magnitude() -> None:
    stored: dict[str, Array] = {"index": np.arange(4), "w": np.ones((4, 3), np.float32)}
    group = group_of(cut("index", 0, 4, "scales"), cut("w", 0, 4, "writes"), units=4)
    assert [s.tensor for s in unit_slices(group, stored.__getitem__)] == ["w"]


def test_statistics_of_another_layer_are_refused() -> None:
    group = group_of(cut("w", 0, 4, "reads"), units=4)
    wrong = statistics(np.ones((3, 5)))
    with pytest.raises(OnnxpruneError, match="5 features do not fit axis 0 of 'w'"):
        unit_slices(group, lambda _: np.ones((4, 2)), {("w", "w.out"): wrong})


def test_scoring_declines_with_a_reason() -> None:
    stored = {"gamma": np.array([3.0, -1, 2]), "w": np.ones((3, 2))}
    plain = group_of(cut("w", 0, 3, "writes"), units=3, name="plain")
    normal = group_of(
        cut("w", 0, 3, "writes"), cut("gamma", 0, 3, "scales"), units=3, name="normal"
    )
    uses = {"gamma": "BatchNormalization.scale", "w": "Conv.W"}
    scores = score([plain, normal], "bn-scale", stored.__getitem__, use=lambda s: uses[s.tensor])
    np.testing.assert_array_equal(scores.values["normal"], [3, 1, 2])
    assert "no BatchNormalization" in scores.declined["plain"]
    assert set(scores.values) | set(scores.declined) == {"plain", "normal"}


def test_a_criterion_without_its_data_is_refused() -> None:
    group = group_of(cut("w", 0, 3, "reads"), units=3)
    with pytest.raises(OnnxpruneError, match="needs calibration data"):
        score([group], "wanda", lambda _: np.ones((3, 2)))
    elsewhere = {("other", "node"): statistics(np.ones((2, 3)))}
    scores = score([group], "wanda", lambda _: np.ones((3, 2)), statistics=elsewhere)
    assert "inputs of w were not calibrated" in scores.declined["g"]


def test_obs_declines_where_only_moments_are_known() -> None:
    group = group_of(cut("w", 0, 3, "reads"), units=3)
    known = InputStatistics(9, np.zeros(3), np.ones(3))
    scores = score([group], "obs", lambda _: np.ones((3, 2)), statistics={("w", "w.out"): known})
    assert "no covariance" in scores.declined["g"]


def test_the_nearest_name_is_suggested() -> None:
    with pytest.raises(OnnxpruneError) as caught:
        get("fluctuations")
    assert "'fluctuation'" in caught.value.hint


@pytest.mark.parametrize(
    ("result", "complaint"),
    [
        (np.ones(4), r"shape \(4,\)"),
        (np.ones(3, np.float32), "float32"),
        ([1.0, 2.0, 3.0], "list"),
        (np.array([1, np.nan, 2]), "not finite"),
    ],
)
@pytest.mark.usefixtures("own_registry")
def test_a_plug_in_that_breaks_its_contract_is_named(result: Any, complaint: str) -> None:
    criterion("broken")(lambda _: result)
    group = group_of(cut("w", 0, 3, "writes"), units=3)
    with pytest.raises(OnnxpruneError, match=f"'broken' on 'g' gave .*{complaint}"):
        score([group], "broken", lambda _: np.ones((3, 2)))


PLUGIN = """
import numpy as np
from onnxprune.select.criteria import Inapplicable, criterion

@criterion("largest", claims=("monotone",))
def largest(slices):
    "The largest weight."
    if not slices:
        raise Inapplicable("nothing stored")
    return np.max([abs(s.weight).max(axis=(1, 2)) for s in slices], axis=0).astype(np.float64)
"""


def _install(folder: Path, name: str, source: str, entry: str) -> None:
    """What pip leaves behind."""
    (folder / f"{name}.py").write_text(source)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[onnxprune.criteria]\n{entry}\n")


@pytest.mark.usefixtures("own_registry")
def test_a_plug_in_is_found_by_its_entry_point(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _install(tmp_path, "plug_good", PLUGIN, "largest = plug_good:largest")
    _install(tmp_path, "plug_bad", "import no_such_module", "bad = plug_bad:f")
    _install(tmp_path, "plug_idle", "def f(slices): ...", "idle = plug_idle:f")
    monkeypatch.syspath_prepend(tmp_path)
    assert {"largest", "bad", "idle"} <= set(names())
    check_criterion("largest")
    with pytest.raises(OnnxpruneError, match="'bad' of plug_bad cannot be imported"):
        get("bad")
    with pytest.raises(OnnxpruneError, match="registers none of that name"):
        get("idle")


@pytest.mark.usefixtures("own_registry")
def test_a_name_is_taken_once() -> None:
    with pytest.raises(OnnxpruneError, match="two criteria are called 'l1'"):
        criterion("l1")(_falling)
