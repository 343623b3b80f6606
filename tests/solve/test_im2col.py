from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from onnxprune.solve import im2col as patches
from onnxprune.solve.im2col import Window


def run(window: Window, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The reference: onnxruntime on one node."""
    attributes: dict[str, Any] = {
        "kernel_shape": window.kernel,
        "strides": window.strides,
        "dilations": window.dilations,
        "group": window.group,
        "auto_pad": window.auto_pad,
    }
    if window.auto_pad == "NOTSET" and not window.output_shape:
        attributes["pads"] = window.pads
    if window.transposed:
        attributes["output_padding"] = window.output_padding
        if window.output_shape:
            attributes["output_shape"] = window.output_shape
    op = "ConvTranspose" if window.transposed else "Conv"
    node = helper.make_node(op, ["x", "w"], ["y"], **attributes)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return np.asarray(session.run(None, {"x": x})[0])


@st.composite
def cases(draw: st.DrawFn, *, transposed: bool) -> tuple[Window, np.ndarray, np.ndarray]:
    rank = draw(st.integers(1, 3))

    def each(low: int, high: int) -> tuple[int, ...]:
        return tuple(draw(st.integers(low, high)) for _ in range(rank))

    kernel, strides, dilations, sizes = each(1, 3), each(1, 3), each(1, 2), each(1, 7)
    group = draw(st.sampled_from([1, 1, 2, 3]))
    auto_pad = draw(st.sampled_from(["NOTSET", "NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"]))
    if auto_pad.startswith("SAME") and not transposed:
        dilations = (1,) * rank  # onnxruntime refuses the pair
    window = Window(
        kernel,
        strides,
        dilations,
        each(0, 2) + each(0, 2),
        auto_pad,
        group,
        transposed,
        tuple(draw(st.integers(0, s - 1)) for s in strides) if transposed else (),
    )
    ins, outs = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    x = rng.standard_normal((2, ins * group, *sizes)).astype(np.float32)
    shape = (ins * group, outs) if transposed else (outs * group, ins)
    weight = rng.standard_normal((*shape, *kernel)).astype(np.float32)
    assume(all(o > 0 for o in patches.output_sizes(window, sizes)))
    return window, x, weight


def check(window: Window, x: np.ndarray, weight: np.ndarray) -> None:
    y = run(window, x, weight)
    assert patches.output_sizes(window, x.shape[2:]) == y.shape[2:]
    total = y.shape[0] * int(np.prod(y.shape[2:]))
    positions = patches.sample_positions(total, max(total // 2, 1), seed=1)
    matrix = patches.window_weight(weight, window)
    np.testing.assert_array_equal(patches.stored_weight(matrix, window), weight)
    for chosen in (None, positions):
        got = patches.window_rows(x, window, chosen) @ matrix
        want = patches.window_targets(y, window.group, chosen)
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)


@given(cases(transposed=False))
@settings(max_examples=120, deadline=None)
def test_rows_times_weight_is_the_convolution(case: tuple[Window, np.ndarray, np.ndarray]) -> None:
    check(*case)


@given(cases(transposed=True))
@settings(max_examples=120, deadline=None)
def test_rows_times_weight_is_the_transposed_convolution(
    case: tuple[Window, np.ndarray, np.ndarray],
) -> None:
    check(*case)


@pytest.mark.parametrize("shape", [(7, 9), (8, 10)])
def test_output_shape_of_a_transposed_convolution_decides_its_pads(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((1, 2, 4, 5)).astype(np.float32)
    weight = rng.standard_normal((2, 3, 3, 3)).astype(np.float32)
    check(Window((3, 3), (2, 2), transposed=True, output_shape=shape), x, weight)


@given(cases(transposed=False) | cases(transposed=True))
@settings(max_examples=80, deadline=None)
def test_a_few_rows_are_some_of_all_rows(case: tuple[Window, np.ndarray, np.ndarray]) -> None:
    """However they are read: one by one or all laid out, with the channels anywhere."""
    window, x, _ = case
    every = patches.window_rows(x, window)
    tokens = [patches.token_rows(x, axis) for axis in range(x.ndim)]
    with pytest.MonkeyPatch.context() as patch:
        for sparse in (0, 10**6):
            patch.setattr(patches, "_SPARSE", sparse)
            for positions in (np.arange(every.shape[1]), np.array([every.shape[1] // 2])):
                got = patches.window_rows(x, window, positions)
                np.testing.assert_array_equal(got, every[:, positions])
            for axis, all_of in enumerate(tokens):
                positions = np.arange(0, all_of.shape[1], 2)
                got = patches.token_rows(x, axis, positions)
                np.testing.assert_array_equal(got, all_of[:, positions])


@pytest.mark.parametrize("axis", [-1, -2, 0])
def test_token_rows_contract_the_chosen_axis(axis: int) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.standard_normal((3, 3, 3)), rng.standard_normal((3, 5))
    want = np.moveaxis(np.tensordot(x, weight, (axis, 0)), -1, axis)
    positions = np.array([0, 4, 7])
    got = patches.token_rows(x, axis, positions) @ weight
    np.testing.assert_allclose(got, patches.token_rows(want, axis, positions))


def test_positions_are_a_sorted_repeatable_sample() -> None:
    drawn = patches.sample_positions(1000, 100, seed=3)
    assert len(np.unique(drawn)) == 100
    assert (np.diff(drawn) > 0).all()
    np.testing.assert_array_equal(drawn, patches.sample_positions(1000, 100, seed=3))
    assert not np.array_equal(drawn, patches.sample_positions(1000, 100, seed=4))
    np.testing.assert_array_equal(patches.sample_positions(5, 100, seed=0), np.arange(5))
