"""Two layers with a depthwise convolution between them, refitted together."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data.activations.between import find_maker
from onnxprune.data.activations.rows import Sample
from onnxprune.graph.analysis import analyse
from onnxprune.graph.layers.linear import find_layers, refittable
from onnxprune.graph.surgery import cut
from onnxprune.recovery.reconstruct import reconstruct
from onnxprune.recovery.refit import Settings
from onnxprune.runtime import open_session
from onnxprune.solve import patch_sampling as crops
from onnxprune.solve.im2col import Window, window_rows
from onnxprune.solve.pairs import refit_pair
from onnxprune.solve.two_layer import IDENTITY, Filter, Pair, Rows, Side, relu

Array = npt.NDArray[Any]
seeds = st.integers(0, 10_000)
WINDOWS = (
    Window((3, 3), pads=(1, 1, 1, 1)),
    Window((3, 3), strides=(2, 2), pads=(1, 1, 1, 1)),
    Window((2, 3), dilations=(2, 1), pads=(0, 1, 1, 0)),
)


def drawn(window: Window, count: int, seed: int) -> crops.Crops:
    return crops.sample_crops(window, 6, (8, 8), count, seed)


@given(st.sampled_from(WINDOWS), seeds)
@settings(max_examples=30)
def test_filtering_is_the_convolution_and_unfiltering_its_transpose(
    window: Window, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    maps, weight = rng.standard_normal((6, 5, 8, 8)), rng.standard_normal((window_taps(window), 5))
    some = drawn(window, 40, seed)
    values = maps.transpose(0, 2, 3, 1).reshape(-1, 5)[some.hidden]
    made = some.filtered(values, weight)
    alone = Window(**{**vars(window), "group": 5})
    rows = window_rows(maps, alone, some.outputs)  # [channel, rows, taps]
    np.testing.assert_allclose(made, np.einsum("crt,tc->rc", rows, weight), atol=1e-12)
    gradient = rng.standard_normal(made.shape)
    back = some.unfiltered(gradient, weight)
    assert (back * values).sum() == pytest.approx((gradient * made).sum(), rel=1e-9, abs=1e-9)


def window_taps(window: Window) -> int:
    return int(np.prod(window.kernel))


def problem(seed: int, window: Window) -> tuple[Rows, Rows, Pair, Filter]:
    """A third of the hidden channels of a block that is exactly right is gone."""
    rng = np.random.default_rng(seed)
    channels, hidden, outputs = 6, 12, 5
    taps = window_taps(window)
    x = np.cumsum(np.cumsum(rng.standard_normal((40, channels, 8, 8)), 2), 3).astype(np.float32)
    x /= x.std()
    first = rng.standard_normal((channels, hidden)) / 2
    middle = Filter(
        rng.standard_normal((taps, hidden)) / 2, rng.standard_normal(hidden) / 4, relu(0.0, 6.0)
    )
    second = rng.standard_normal((hidden, outputs))

    def rows(images: Array, at: int) -> Rows:
        some = crops.sample_crops(window, len(images), (8, 8), 1200, at)
        seen = window_rows(x[images], Window((1, 1)), some.hidden)
        inner = middle.inner(some, np.maximum(seen[0] @ first, 0))
        wanted = np.clip(inner, 0, 6) @ second + 0.5
        return Rows(some, seen, wanted.astype(np.float32), np.zeros((1, outputs), np.float32))

    kept = np.arange(8)
    pair = Pair(
        np.concatenate([first[:, kept], np.zeros((1, 8))])[None],
        np.concatenate([second[kept], np.full((1, outputs), 0.5)]),
    )
    left = Filter(middle.weight[:, kept], middle.bias[kept], middle.activation)
    return rows(np.arange(30), 0), rows(np.arange(30, 40), 1), pair, left


@pytest.mark.parametrize("window", WINDOWS)
def test_both_layers_do_better_than_the_second_alone(window: Window) -> None:
    better = []
    for seed in range(5):
        train, held, pair, middle = problem(seed, window)
        alone = refit_pair(Side(train, relu(), middle), Side(held, relu(), middle), pair, steps=0)
        both = refit_pair(Side(train, relu(), middle), Side(held, relu(), middle), pair, steps=8)
        assert alone.after < alone.before
        better.append(both.after / alone.after)
    assert max(better) <= 1
    assert min(better) < 0.9


def test_the_direction_is_downhill_as_the_loss_says() -> None:
    """What the step is made of is the gradient: checked against the loss itself."""
    train, _, pair, middle = problem(0, WINDOWS[0])
    side = Side(train, relu(), middle)
    rng = np.random.default_rng(0)
    hidden = side.hidden(pair.first)
    error = side.surplus(side.features(hidden), pair.second)
    slope = side.activation.slope(hidden)
    readers = pair.second[:-1].astype(np.float32)
    back, across = side.back(error @ readers.T, hidden, slope, pair.second[:-1])
    np.testing.assert_allclose(across, across.T, rtol=1e-6, atol=1e-9)
    assert np.linalg.eigvalsh(across)[0] > -1e-6 * np.linalg.eigvalsh(across)[-1]
    move = rng.standard_normal(pair.first[0, :-1].shape)
    said = 2 * float((back * (train.x[0] @ move)).sum())

    def squares(step: float) -> float:
        moved = pair.first.copy()
        moved[0, :-1] += step * move
        left = side.surplus(side.features(side.hidden(moved)), pair.second)
        return float(np.square(left, dtype=np.float64).sum())

    assert said == pytest.approx((squares(1e-3) - squares(-1e-3)) / 2e-3, rel=0.02)


def block(
    activations: tuple[str, str], *, normalised: bool, padded: bool = False
) -> onnx.ModelProto:
    """Two blocks of a network for phones: pointwise, depthwise, pointwise.

    Zeros around what is filtered are added by the convolution or by a Pad before it.
    """
    rng = np.random.default_rng(3)
    nodes, stored, last = [], {}, "x"
    for number, (size, made) in enumerate(((6, 24), (8, 24))):
        shapes = {"a": (made, size, 1, 1), "b": (made, 1, 3, 3), "c": (8, made, 1, 1)}
        for part, shape in shapes.items():
            name = f"{part}{number}"
            stored[f"w{name}"] = rng.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
            stored[f"v{name}"] = 0.1 * rng.standard_normal(shape[0])
            grouped: dict[str, Any] = {"group": made} if part == "b" else {}
            if part == "b" and padded:
                stored["ends"] = np.array([0, 0, 1, 1, 0, 0, 1, 1])
                nodes.append(helper.make_node("Pad", [last, "ends"], [f"p{name}"]))
                last = f"p{name}"
            elif part == "b":
                grouped["pads"] = [1, 1, 1, 1]
            nodes.append(
                helper.make_node("Conv", [last, f"w{name}", f"v{name}"], [name], name, **grouped)
            )
            last = name
            if normalised:
                moments = ("s", "t", "m", "u")
                for key, level in zip(moments, (1.0, 0.0, 0.0, 1.0), strict=True):
                    stored[key + name] = level + 0.1 * rng.random(shape[0])
                nodes.append(
                    helper.make_node(
                        "BatchNormalization", [last, *(k + name for k in moments)], [f"n{name}"]
                    )
                )
                last = f"n{name}"
            kind = dict(zip("ab", activations, strict=True)).get(part, "")
            if kind:
                nodes.append(helper.make_node(kind, [last], [f"r{name}"]))
                last = f"r{name}"
    nodes.append(helper.make_node("GlobalAveragePool", [last], ["y"]))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "phone",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 6, 12, 12])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 8, 1, 1])],
            [
                numpy_helper.from_array(v if v.dtype == np.int64 else v.astype(np.float32), k)
                for k, v in stored.items()
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )


@pytest.mark.parametrize(
    ("activations", "found"),
    [(("Relu", "Relu"), True), (("Relu", ""), True), (("HardSwish", "Tanh"), True),
     (("", "Relu"), True), (("", ""), False)],
)  # fmt: skip
@pytest.mark.parametrize("normalised", [False, True])
def test_makers_are_found_through_filters(
    activations: tuple[str, str], found: bool, normalised: bool
) -> None:
    analysis = analyse(models.load(block(activations, normalised=normalised)))
    values = {v.name or "": v for v in models.values(analysis.model.ir.graph)}
    layers = refittable(find_layers(analysis.model))
    by_name = {layer.node: layer for layer in layers}
    last = by_name[next(n for n in by_name if n.startswith("c0"))]
    maker = find_maker(values, analysis.facts, layers, last)
    assert (maker is not None) == found
    if maker is not None:
        assert maker.filters is not None
        assert maker.layer.node.startswith("a0")
        assert maker.filters.layer.node.startswith("b0")
        assert (maker.filters.activation is IDENTITY) == (not activations[1])
        assert find_maker(values, analysis.facts, layers, maker.filters.layer) is None


@pytest.mark.parametrize(("normalised", "padded"), [(False, False), (True, False), (False, True)])
def test_blocks_come_closer_than_their_layers_alone_bring_them(
    normalised: bool, padded: bool
) -> None:
    rng = np.random.default_rng(0)
    maps = np.cumsum(np.cumsum(rng.standard_normal((192, 6, 12, 12)), 2), 3).astype(np.float32)
    feeds = [{"x": part} for part in np.split(maps / maps.std(), 6)]
    source = block(("Relu", "Relu"), normalised=normalised, padded=padded)
    analysis = analyse(models.load(source))
    hidden = [g for g in analysis.groups if len(g) == 24]
    assert len(hidden) == 2
    removed = {g.name: tuple(range(0, 24, 3)) for g in hidden}
    keep = analysis.keep(removed)

    def kept(value: str, axis: int) -> npt.NDArray[np.bool_]:
        return keep(analysis.walk.axes[value][axis])

    problem = (analysis.model, cut(analysis, removed), kept, analysis.facts)
    off = {}
    for steps in (0, 6):
        fitted = reconstruct(*problem, feeds[:4], Settings(Sample(rows=4000), pairs=steps))
        sessions = [open_session(m) for m in (analysis.model, fitted.model)]
        wanted, given = (np.concatenate([s.run(f)["y"] for f in feeds[4:]]) for s in sessions)
        off[steps] = float(((given - wanted) ** 2).sum() / wanted.var(axis=0).sum())
        said = {o.layer[0]: o for o in fitted.outcomes if o.layer[0] in "abc"}
        assert said["c"].method == ("pair" if steps else "lstsq")
    assert off[6] < 0.9 * off[0]
