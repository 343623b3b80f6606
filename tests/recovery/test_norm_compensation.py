"""Normalisations that lost channels, and statistics of what is left: made up for, or left alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.skeletons.net import Net
from norm_cases import NORMS
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.activations.rows import Sample
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.surgery import cut
from onnxprune.recovery.bias_correction import correct
from onnxprune.recovery.norms import find_norms
from onnxprune.recovery.reconstruct import Reconstruction, reconstruct
from onnxprune.recovery.refit import Settings
from onnxprune.runtime import open_session
from onnxprune.solve.affine import Line, Paired, fit, paired, pooled

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

WIDTH, KEPT, TOKENS = 12, 8, 6
GONE = tuple(range(KEPT, WIDTH))
EVERYTHING = Sample(rows=1 << 20)


def recovered(
    dense: models.Model, removed: Mapping[str, Sequence[int]], feeds: Sequence[Feeds], how: str
) -> tuple[Reconstruction, models.Model]:
    """A cut model recovered, and the same as it was cut."""
    analysis = analyse(dense, inputs={k: v.shape for k, v in feeds[0].items()})
    small = cut(analysis, removed)
    keep = analysis.keep(removed)

    def kept(value: str, axis: int) -> npt.NDArray[np.bool_]:
        return keep(analysis.walk.axes[value][axis])

    problem = (dense, small, kept, analysis.facts, feeds)
    if how == "bias":
        return correct(*problem, sample=EVERYTHING), small
    return reconstruct(*problem, Settings(EVERYTHING, pairs=0)), small


def width_of(analysis: Analysis) -> str:
    (group,) = [g for g in analysis.groups if g.kind == "width"]
    return group.name


def stream(norm: str, *, constant: bool) -> models.Model:
    """``x`` and four more channels, normalised and read: they never vary, or they are mixtures."""
    net = Net(1, microsoft=True)
    x = net.input("x", ("batch", TOKENS, KEPT), width=KEPT)
    into = np.zeros((KEPT, WIDTH), np.float32)
    into[:, :KEPT] = np.eye(KEPT)
    if not constant:
        into[:, KEPT:] = 0.7 * net.rng.standard_normal((KEPT, WIDTH - KEPT))
    y = net.node("MatMul", x, net.constant(into), width=WIDTH)
    levels = np.zeros(WIDTH, np.float32)
    levels[KEPT:] = 1.5, -2.0, 3.0, 0.5
    y = NORMS[norm](net, net.node("Add", y, net.constant(levels)))
    proto = net.build(net.dense(y, 5), ("batch", TOKENS, 5))
    for node in proto.graph.node:
        if norm == "native rms" and node.op_type == "LayerNormalization":
            node.op_type = "SimplifiedLayerNormalization"
    return models.load(proto)


def shuffled(batches: int, size: int = 8) -> list[Feeds]:
    """Tokens with the same channels in another order each: mean and variance are always the same.

    Nothing but what a removed channel adds to them tells a token's statistics from another's.
    """
    rng = np.random.default_rng(0)
    one = rng.standard_normal(KEPT).astype(np.float32) + 0.5
    tokens = [rng.permutation(one) for _ in range(batches * size * TOKENS)]
    grid = np.reshape(tokens, (batches, size, TOKENS, KEPT)).astype(np.float32)
    return [{"x": each} for each in grid]


def normals(batches: int, seed: int = 0) -> list[Feeds]:
    rng = np.random.default_rng(seed)
    shape = (16, TOKENS, KEPT)
    return [{"x": rng.standard_normal(shape, dtype=np.float32) + 0.3} for _ in range(batches)]


def error(
    small: models.Model, dense: models.Model, feeds: Sequence[Feeds], output: str = "output"
) -> float:
    made, wanted = open_session(small), open_session(dense)
    pairs = [(made.run(f)[output], wanted.run(f)[output]) for f in feeds]
    moved = sum(float(np.square(a - b).sum()) for a, b in pairs)
    return moved / sum(float(np.square(b - b.mean()).sum()) for _, b in pairs)


EXACT = [name for name in NORMS if not name.startswith("skip")]  # those add a vector on the way


@pytest.mark.parametrize("norm", EXACT)
def test_channels_that_add_the_same_to_mean_and_variance_are_made_up_for_exactly(norm: str) -> None:
    dense = stream(norm, constant=True)
    feeds = shuffled(8)
    fit_to, unseen = feeds[:6], feeds[6:]
    made, small = recovered(dense, {width_of(analyse(dense)): GONE}, fit_to, "bias")
    assert error(small, dense, unseen) > 1e-2
    assert error(made.model, dense, unseen) < 1e-9
    (outcome,) = [o for o in made.outcomes if o.method in ("scale", "affine")]
    assert outcome.after < 1e-9
    assert outcome.before > 1e-3


@pytest.mark.parametrize("how", ["bias", "lstsq"])
@pytest.mark.parametrize("norm", NORMS)
def test_mixtures_of_other_channels_are_made_up_for_in_part(norm: str, how: str) -> None:
    dense = stream(norm, constant=False)
    fit_to, unseen = normals(12), normals(4, seed=1)
    made, small = recovered(dense, {width_of(analyse(dense)): GONE}, fit_to, how)
    assert error(made.model, dense, unseen) < error(small, dense, unseen)
    assert all(o.after <= o.before for o in made.outcomes if not o.reason)
    assert any(o.method in ("scale", "affine") for o in made.outcomes)


@pytest.mark.parametrize("norm", NORMS)
def test_every_normalisation_is_found_with_its_gain(norm: str) -> None:
    dense = stream(norm, constant=False)
    found, others = find_norms(dense.ir.graph, analyse(dense).facts)
    assert len(found) == 1
    assert not others
    (only,) = found
    node = next(n for n in dense.ir.graph if any(v.name == only.gain[0] for v in n.outputs))
    held = node.inputs[only.gain[1]]
    assert held is not None
    tensor = models.constant(held)
    assert tensor is not None
    assert tensor.size == WIDTH
    assert (only.bias is None) == ("rms" in norm)


@pytest.mark.parametrize("through", ["nothing", "Identity"])
def test_a_gain_that_others_read_too_is_left_to_them(through: str) -> None:
    net = Net(4)
    x = net.dense(net.input("x", ("batch", TOKENS, KEPT), width=KEPT), WIDTH)
    gain, bias = net.vector(WIDTH, 0.7, 1.3), net.vector(WIDTH, -0.2, 0.2)
    y = net.node("LayerNormalization", x, gain, bias, axis=-1)
    if through == "Identity":  # as torch exports parameters that are alike
        gain, bias = net.node("Identity", gain), net.node("Identity", bias)
    y = net.node("LayerNormalization", net.node("Add", x, net.dense(y, WIDTH)), gain, bias, axis=-1)
    dense = models.load(net.build(net.dense(y, 5), ("batch", TOKENS, 5)))
    made, _ = recovered(dense, {width_of(analyse(dense)): (1, 5)}, normals(12), "bias")
    assert sum(o.method in ("scale", "affine") for o in made.outcomes) == 2
    nodes = [n for n in made.model.ir.graph if n.op_type == "LayerNormalization"]
    gains = [models.constant(v) for n in nodes if (v := n.inputs[1]) is not None]
    assert gains[0] is not None
    assert gains[1] is not None
    assert not np.array_equal(gains[0].numpy(), gains[1].numpy())


def test_what_has_no_gain_is_declined_with_a_reason() -> None:
    net = Net(5)
    x = net.dense(net.input("x", ("batch", TOKENS, KEPT), width=KEPT), WIDTH)
    y = net.node("Softmax", x, axis=-1)
    dense = models.load(net.build(net.dense(y, 5), ("batch", TOKENS, 5)))
    (group,) = [g for g in analyse(dense).groups if not g.exact]
    made, small = recovered(dense, {group.name: (2, 3)}, normals(12), "lstsq")
    assert ["Softmax has no gain" in o.reason for o in made.outcomes if o.reason] == [True]
    unseen = normals(4, seed=1)
    assert error(made.model, dense, unseen) < error(small, dense, unseen)  # by the layer behind


def test_group_normalisation_of_fewer_channels_in_each_group() -> None:
    net = Net(6, opset=21)
    x = net.conv(net.input("x", ("batch", 3, 8, 8), width=3), WIDTH, 3)
    vectors = net.vector(WIDTH, 0.7, 1.3), net.vector(WIDTH, -0.2, 0.2)
    y = net.node("GroupNormalization", x, *vectors, num_groups=3)
    y = net.conv(y, 4)
    dense = models.load(net.build(y, ("batch", 4, 8, 8)))
    inner = [g for g in analyse(dense).groups if not g.exact]
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((8, 3, 8, 8), dtype=np.float32)} for _ in range(8)]
    made, small = recovered(dense, {inner[0].name: (1,)}, feeds[:6], "bias")
    assert [o.method for o in made.outcomes if "group" in o.layer] == ["affine"]
    assert error(made.model, dense, feeds[6:]) < error(small, dense, feeds[6:])


# -- BatchNormalization ----------------------------------------------------------------------


def read_by(model: models.Model, node: ir.Node, feeds: Sequence[Feeds]) -> Array:
    """What a BatchNormalization reads, ``[rows, C]``."""
    assert node.inputs[0] is not None
    name = node.inputs[0].name or ""
    session = open_session(model, outputs=[name])
    x = np.concatenate([session.run(f, [name])[name] for f in feeds])
    rows: Array = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1]).astype(np.float64)
    return rows


def test_statistics_of_a_batch_normalisation_are_those_of_what_it_reads() -> None:
    entry = zoo.get("digits_rescnn")
    with np.load(entry.calibration) as z:
        (name,) = z.files
        feeds = [{name: z[name][i : i + 24]} for i in range(0, 192, 24)]
    fit_to = [feed for k, feed in enumerate(feeds) if k != 5]  # by that one it is judged
    dense = models.load(entry.model)
    removed = {g.name: tuple(range(len(g) // 3)) for g in analyse(dense).groups}
    made, small = recovered(dense, removed, feeds, "bias")
    assert error(made.model, dense, feeds[5:6], "logits") < error(
        small, dense, feeds[5:6], "logits"
    )
    won = {o.layer for o in made.outcomes if o.method == "statistics"}
    nodes = [n for n in made.model.ir.graph if n.op_type == "BatchNormalization"]
    assert len(won) > len(nodes) / 2
    for node in [n for n in nodes if n.outputs[0].name in won]:
        held = [models.constant(v) for v in node.inputs[3:5] if v is not None]
        mean, variance = (t.numpy() for t in held if t is not None)
        seen = (read_by(made.model, node, fit_to) - mean) / np.sqrt(np.maximum(variance, 1e-30))
        alive = variance > 1e-6 * variance.max()
        np.testing.assert_allclose(seen[:, alive].mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(seen[:, alive].var(axis=0), 1, atol=1e-2)


# -- the numbers -----------------------------------------------------------------------------

numbers = st.integers(0, 2**32 - 1)


def rows_of(seed: int, count: int = 50, channels: int = 4) -> tuple[Array, Array, Line]:
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((count, channels)) * rng.uniform(0.5, 2, channels) + rng.normal()
    t = u * rng.normal(size=channels) + 0.3 * rng.standard_normal((count, channels)) + rng.normal()
    return u, t, Line(rng.normal(size=channels), rng.normal(size=channels))


@given(numbers, st.booleans())
def test_each_channel_for_itself_is_least_squares(seed: int, free: bool) -> None:
    u, t, old = rows_of(seed)
    found = fit(paired(u, t), old, "affine", free_bias=free)
    for c in range(u.shape[1]):
        ones = np.ones((len(u), 1 if free else 0))
        target = t[:, c] if free else t[:, c] - old.offset[c]
        wanted = np.linalg.lstsq(np.hstack([u[:, c : c + 1], ones]), target)[0]
        np.testing.assert_allclose(found.slope[c], wanted[0], atol=1e-8)
        np.testing.assert_allclose(found.offset[c], wanted[1] if free else old.offset[c], atol=1e-8)


@given(numbers, st.booleans())
def test_one_factor_for_all_channels_is_least_squares(seed: int, free: bool) -> None:
    u, t, old = rows_of(seed)
    found = fit(paired(u, t), old, "scale", free_bias=free)
    columns = [(u * old.slope).ravel()]
    if free:
        columns.append(np.broadcast_to(old.slope, u.shape).ravel())
    wanted = np.linalg.lstsq(np.stack(columns, axis=1), (t - old.offset).ravel())[0]
    np.testing.assert_allclose(found.slope, old.slope * wanted[0], atol=1e-8)
    shift = old.slope * wanted[1] if free else 0
    np.testing.assert_allclose(found.offset, old.offset + shift, atol=1e-8)


@given(numbers, st.sampled_from(["none", "bias", "scale", "affine", "statistics"]))
def test_errors_are_those_of_the_rows(seed: int, method: str) -> None:
    u, t, old = rows_of(seed)
    rows = pooled([paired(u[:20], t[:20]), paired(u[20:23], t[20:23]), paired(u[23:], t[23:])])
    whole: Paired = paired(u, t)
    for name in ("mean_u", "mean_t", "uu", "ut", "tt"):
        np.testing.assert_allclose(getattr(rows, name), getattr(whole, name), atol=1e-9)
    line = fit(rows, old, method, free_bias=True)
    direct = np.square(u * line.slope + line.offset - t).mean(axis=0).sum()
    np.testing.assert_allclose(rows.error(line), direct, rtol=1e-8, atol=1e-9)
    assert method in ("none", "statistics") or rows.error(line) <= rows.error(old) + 1e-9


def test_a_channel_that_never_varies_keeps_its_gain() -> None:
    u, t, old = rows_of(0)
    u[:, 1] = 3.0
    for free in (True, False):
        found = fit(paired(u, t), old, "affine", free_bias=free)
        assert found.slope[1] == old.slope[1]
        assert np.isfinite(found.offset).all()
