"""Damage in the currency of the outputs, and mixtures of calibration samples to fit to."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.mixtures import ENOUGH, mixable, with_mixtures
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.units import Slice
from onnxprune.runtime import open_session
from onnxprune.select.allocate import Alignment
from onnxprune.select.allocate.alignment import alignments
from onnxprune.select.importance.curves import Reader, calibrate, eliminate_groups
from onnxprune.select.importance.error_curves import split_batches
from onnxprune.select.importance.output_errors import repairable, scale_to_outputs, without
from onnxprune.solve.group_obs import Consumer, Elimination, eliminate
from onnxprune.solve.moments import moments, shrunk

Feeds = dict[str, npt.NDArray[Any]]


@pytest.fixture(scope="module", params=["digits_mlp", "digits_rescnn"])
def measured(
    request: pytest.FixtureRequest,
) -> tuple[Analysis, dict[str, Reader], dict[str, Elimination], list[Feeds]]:
    entry = zoo.get(request.param)
    analysis = analyse(models.load(entry.model))
    pictures = zoo.calibration(entry)
    batches = [{k: v[at : at + 32] for k, v in pictures.items()} for at in (0, 32, 64)]
    readers = calibrate(analysis, batches, rows=10**6)
    return analysis, readers, eliminate_groups(analysis.groups, readers)[0], batches


def run(model: models.Model, batches: list[Feeds]) -> npt.NDArray[Any]:
    session = open_session(model)
    return np.concatenate([next(iter(session.run(f).values())) for f in batches])


def test_without_nothing_is_the_dense_model(measured: Any) -> None:
    analysis, readers, swept, batches = measured
    group = next(g for g in analysis.groups if g.name in swept)
    same = without(analysis, group, [], readers)
    np.testing.assert_allclose(
        run(same, batches), run(analysis.model, batches), rtol=1e-3, atol=1e-3
    )


def test_units_that_are_gone_are_not_read(measured: Any) -> None:
    analysis, readers, swept, _ = measured
    for group in analysis.groups:
        if group.name not in swept:
            continue
        model = without(analysis, group, [0], readers)
        values = {v.name: v for v in models.values(model.ir.graph)}
        for cut in group.slices:
            if cut.role == "reads":
                stored = models.constant(values[cut.tensor]).numpy()
                assert not np.take(stored, cut.rows[0], axis=cut.axis).any()


def test_damage_of_what_the_output_reads_is_the_error_of_the_output(measured: Any) -> None:
    """Where the only reader makes the output, the damage is exact, and the currency must agree."""
    analysis, readers, swept, batches = measured
    output = analysis.model.ir.graph.outputs[0].name
    ends = [n for n, r in readers.items() if r.epilogue.value == output]
    assert ends
    dense = run(analysis.model, batches).astype(np.float64)
    tried = 0
    for group in analysis.groups:
        reading = {n for s in group.slices if s.role == "reads" for n in s.nodes}
        if group.name not in swept or reading != set(ends[:1]):
            continue
        tried += 1
        one = swept[group.name]
        priced = scale_to_outputs(analysis, [group], {group.name: one}, readers, batches)[
            group.name
        ]
        width = round(len(group) / 2)
        model = without(analysis, group, one.order[: len(group) - width], readers)
        error = ((run(model, batches) - dense) ** 2).sum()
        assert priced.error[width] == pytest.approx(
            error / ((dense - dense.mean(axis=0)) ** 2).sum(), rel=0.02
        )
        spread = ((dense - dense.mean(axis=0)) ** 2).sum()
        # The curve speaks of rows that were not seen, which are never better.
        assert one.error[width] > 0.8 * error / spread
    assert tried


def test_directions_that_were_never_seen_are_not_free() -> None:
    """With fewer rows than inputs, least squares does without most of them: on these rows."""
    rng = np.random.default_rng(0)
    few, many = (moments(rng.standard_normal((1, rows, 64))) for rows in (32, 20_000))
    weight = rng.standard_normal((64, 8))
    units = np.arange(64)

    def half_gone(xx: npt.NDArray[np.float64]) -> float:
        norm = float((weight**2).sum())
        consumer = Consumer(xx, weight, units, units[:, None], norm)
        return float(eliminate([consumer], 64).error[32])

    truth = half_gone(np.eye(64))
    assert half_gone(few.xx[0]) < 0.1 * truth
    assert half_gone(shrunk(few.xx[0], few.count)) > 0.5 * truth
    assert half_gone(shrunk(many.xx[0], many.count)) == pytest.approx(truth, rel=0.1)


@given(rows=st.integers(2, 400), seed=st.integers(0, 99))
def test_shrinking_keeps_the_whole_variance(rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    xx = moments(rng.standard_normal((1, rows, 12)) * rng.uniform(0.1, 9, 12)).xx[0]
    found = shrunk(xx, rows)
    assert np.trace(found) == pytest.approx(np.trace(xx))
    assert np.linalg.eigvalsh(found)[0] >= np.linalg.eigvalsh(xx)[0] - 1e-9
    np.testing.assert_array_equal(found, found.T)


def test_the_curves_stay_curves(measured: Any) -> None:
    analysis, readers, swept, batches = measured
    priced = scale_to_outputs(analysis, analysis.groups, swept, readers, batches)
    assert priced.keys() == swept.keys()
    for name, one in priced.items():
        assert np.array_equal(one.order, swept[name].order)
        assert np.isfinite(one.error).all()
        assert (np.diff(one.error) <= 0).all()


def test_only_units_between_two_layers_are_repaired_from_both_sides() -> None:
    analysis = analyse(models.load(zoo.get("digits_rescnn").model))
    joint = repairable(analysis, analysis.groups)
    readers = {
        g.name: {n for s in g.slices if s.role == "reads" for n in s.nodes} for g in analysis.groups
    }
    assert joint
    assert all(len(readers[name]) == 1 for name in joint)


@pytest.mark.parametrize("fixed", [False, True])
@given(sizes=st.lists(st.integers(1, 7), min_size=1, max_size=12))
@settings(max_examples=40, deadline=None)
def test_what_damage_is_measured_on_was_not_fitted_to(fixed: bool, sizes: list[int]) -> None:
    analysis = analyse(models.load(zoo.get("digits_mlp").model))
    assert not isinstance(analysis.model.ir.graph.inputs[0].shape[0], int)
    if fixed:
        analysis.model.ir.graph.inputs[0].shape = ir.Shape([sizes[0], 64])
    ends = np.cumsum([0, *sizes])
    batches = [{"image": np.arange(a, b)[:, None]} for a, b in itertools.pairwise(ends)]
    known, unseen = (
        [int(k) for feeds in part for k in feeds["image"].ravel()]
        for part in split_batches(analysis, batches)
    )
    if len(sizes) == 1 and (fixed or sizes[0] == 1):
        assert known == unseen == list(range(ends[-1]))
        return
    assert known
    assert unseen
    assert sorted(known + unseen) == list(range(ends[-1]))


@given(
    samples=st.integers(2, 40),
    batch=st.integers(2, 9),
    seed=st.integers(0, 99),
    room=st.integers(0, 2000),
)
def test_mixtures_lie_between_samples(samples: int, batch: int, seed: int, room: int) -> None:
    x = np.random.default_rng(seed).standard_normal((samples, 3, 2)).astype(np.float32)
    given_ = [{"x": x[at : at + batch]} for at in range(0, samples, batch)]
    found = with_mixtures(given_, most_bytes=room, seed=seed)
    kept = [f for f in found if any(f is g for g in given_)]
    assert [id(f) for f in kept] == [id(f) for f in given_]
    made = [f["x"] for f in found if not any(f is g for g in given_)]
    assert sum(m.nbytes for m in made) <= max(room - x.nbytes, 0)
    for mixed in made:
        assert mixed.dtype == np.float32
        assert (mixed >= x.min(axis=0) - 1e-6).all()
        assert (mixed <= x.max(axis=0) + 1e-6).all()
        assert not any(np.array_equal(m, s) for m in mixed for s in x)


@given(st.integers(2, 60), st.integers(2, 20), st.integers(2, 7), st.integers(0, 99))
def test_what_judges_is_in_no_mixture_that_is_fitted_to(
    samples: int, batch: int, held: int, seed: int
) -> None:
    x = 1.5 * np.eye(samples)  # a mixture says which samples it is of
    given_ = [{"x": x[at : at + batch]} for at in range(0, samples, batch)]
    found = with_mixtures(given_, most_bytes=1 << 30, holdout_every=held, seed=seed)
    rows = np.concatenate([feeds["x"] for feeds in found])
    judges = np.arange(len(rows)) % held == held - 1
    judging = {int(k) for row in rows[judges] for k in np.flatnonzero(row)}
    fitted = {int(k) for row in rows[~judges] for k in np.flatnonzero(row)}
    assert not judging & fitted
    assert judging | fitted == set(range(samples))


def test_enough_samples_are_not_mixed() -> None:
    feeds = [{"x": np.random.default_rng(0).random((64, 2))} for _ in range(ENOUGH // 64)]
    assert with_mixtures(feeds, most_bytes=1 << 30) == feeds


@pytest.mark.parametrize(
    "array",
    [
        np.arange(24).reshape(4, 3, 2),
        np.array([[1.0, 0.0], [1.0, 1.0]]),
        np.random.default_rng(0).random((1, 5)),
        np.random.default_rng(0).random(8),
    ],
    ids=["whole numbers", "a mask", "a single sample", "no batch axis"],
)
def test_what_does_not_vary_freely_is_not_mixed(array: npt.NDArray[Any]) -> None:
    feeds = [{"x": array}]
    assert not mixable(feeds)
    assert with_mixtures(feeds, most_bytes=1 << 30) == feeds


@pytest.mark.parametrize("size", [8, 16, 24, 64, 256])
def test_narrow_axes_keep_their_choices(size: int) -> None:
    cut = Slice("w", 0, np.arange(size)[:, None], "writes", ("y",))
    found = alignments({"w": (size, 3, 3, 3)}, {"y": "Conv"}, choices=8)(cut)
    assert size // found.wanted >= 8
    assert found.wanted <= 16
    deep = Slice("w", 0, np.arange(size)[:, None], "scales", ("y",))
    required = alignments({"w": (size, 1, 3, 3)}, {"y": "Conv"}, choices=8)(deep)
    assert alignments({"w": (size, 1, 3, 3)}, {"y": "Conv"})(deep) == Alignment(16, 16)
    assert required == Alignment(max(8, min(16, size // 8)), max(8, min(16, size // 8)))
