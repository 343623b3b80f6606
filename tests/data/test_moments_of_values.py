"""Statistics gathered feed by feed equal those of all the data at once."""

from __future__ import annotations

import os
import sys
import tracemalloc
from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data import Tap, collect, observe, open_calibration
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import open_session

FLOAT = TensorProto.FLOAT
Array = npt.NDArray[Any]


def network(*nodes: onnx.NodeProto, shape: list[Any], **weights: Array) -> models.Model:
    """A model from x to y whose nodes are given."""
    graph = helper.make_graph(
        list(nodes),
        "g",
        [helper.make_tensor_value_info("x", FLOAT, shape)],
        [helper.make_tensor_value_info("y", FLOAT, None)],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)])
    made.ir_version = 9
    return models.load(made)


def convolution(channels: int = 6) -> models.Model:
    weight = np.random.default_rng(0).standard_normal((channels, 3, 3, 3)).astype(np.float32)
    return network(
        helper.make_node("Conv", ["x", "W"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["y"]),
        shape=["N", 3, "H", "W"],
        W=weight,
    )


IDENTITY = network(helper.make_node("Identity", ["x"], ["y"]), shape=["N", None, None])


def reference(array: Array, axis: int) -> Array:
    """``[rows, channels]`` in float64."""
    moved = np.moveaxis(np.asarray(array, np.float64), axis, -1)
    return moved.reshape(-1, moved.shape[-1])


@given(
    parts=st.lists(st.integers(1, 6), min_size=1, max_size=6),
    channels=st.integers(1, 5),
    inner=st.integers(1, 4),
    axis=st.sampled_from([1, 2, -1, -2]),
    offset=st.sampled_from([0.0, 3.0, 1e4]),
    seed=st.integers(0, 1000),
)
def test_any_batching_gives_numpys_moments(
    parts: list[int], channels: int, inner: int, axis: int, offset: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    data = (rng.standard_normal((sum(parts), channels, inner)) + offset).astype(np.float32)
    feeds = [{"x": part} for part in np.split(data, np.cumsum(parts)[:-1])]
    tap = Tap("x", axis, covariance=True)
    found = collect(IDENTITY, feeds, [tap], progress=False)[tap]
    rows = reference(data, axis)
    assert found.count == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.var, rows.var(0), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(found.var + found.mean**2, (rows**2).mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.mean_abs, np.abs(rows).mean(0), rtol=1e-12)
    assert found.covariance is not None
    covariance = np.cov(rows.T, bias=True).reshape(1, rows.shape[1], rows.shape[1])
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-9, atol=1e-9)
    gram = found.covariance[0] + np.outer(found.mean, found.mean)
    np.testing.assert_allclose(gram, rows.T @ rows / len(rows), rtol=1e-9, atol=1e-9)


def test_taps_of_a_network_equal_its_values() -> None:
    model = convolution()
    data = np.random.default_rng(1).standard_normal((7, 3, 9, 8)).astype(np.float32)
    values = open_session(model, outputs=["c"]).run({"x": data})
    taps = [Tap("c", 1, covariance=True), Tap("y", 1), Tap("y", 3), Tap("x", 1), Tap("W", 0)]
    session = open_session(model)
    calibration = open_calibration(data, session.inputs, batch=3)
    found = collect(model, calibration, taps)
    assert list(found) == taps
    weight = models.constant(models.constants(model)["W"])
    assert weight is not None
    arrays = {**values, "x": data, "W": weight.numpy()}
    for tap, statistics in found.items():
        rows = reference(arrays[tap.value], tap.axis)
        np.testing.assert_allclose(statistics.mean, rows.mean(0), atol=1e-6)
        np.testing.assert_allclose(statistics.var, rows.var(0), rtol=1e-5)
        assert (statistics.covariance is not None) == tap.covariance


def test_covariances_within_blocks() -> None:
    data = np.random.default_rng(1).standard_normal((50, 6, 1)).astype(np.float32)
    tap = Tap("x", 1, covariance=True, blocks=2)
    found = collect(IDENTITY, [{"x": data}], [tap])[tap].covariance
    assert found is not None
    whole = np.cov(data[:, :, 0].T, bias=True)
    np.testing.assert_allclose(found[0], whole[:3, :3], atol=1e-7)
    np.testing.assert_allclose(found[1], whole[3:, 3:], atol=1e-7)
    with pytest.raises(OnnxpruneError, match="do not make 4 equal blocks"):
        collect(IDENTITY, [{"x": data}], [Tap("x", 1, covariance=True, blocks=4)])


def test_wide_covariances_keep_their_digits() -> None:
    """Above 1024 channels products are taken in float32; a large mean must not cost them."""
    rng = np.random.default_rng(0)
    data = (rng.standard_normal((600, 1100, 1)) + 50).astype(np.float32)
    tap = Tap("x", 1, covariance=True)
    found = collect(IDENTITY, [{"x": part} for part in np.split(data, 3)], [tap])[tap].covariance
    assert found is not None
    want = np.cov(data[:, :, 0].astype(np.float64).T, bias=True)
    assert np.abs(found[0] - want).max() < 1e-5


def test_limited_rows_still_estimate_the_covariance_and_leave_the_rest_exact() -> None:
    rng = np.random.default_rng(0)
    mix = rng.standard_normal((4, 4))
    data = np.einsum("ij,njp->nip", mix, rng.standard_normal((20, 4, 64 * 64))).astype(np.float32)
    tap = Tap("x", 1, covariance=True)
    whole = collect(IDENTITY, [{"x": data}], [tap])[tap]
    some = collect(IDENTITY, [{"x": data}], [tap], rows=4000)[tap]
    np.testing.assert_array_equal(some.var, whole.var)
    assert whole.covariance is not None
    assert some.covariance is not None
    error = np.linalg.norm(some.covariance - whole.covariance)
    assert 0 < error < 0.1 * np.linalg.norm(whole.covariance)


@pytest.mark.parametrize(
    ("number", "dtype"),
    [
        (TensorProto.FLOAT16, np.float16),
        (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
        (TensorProto.INT8, np.int8),
        (TensorProto.BOOL, np.bool_),
    ],
)
def test_other_element_types(number: int, dtype: Any) -> None:
    model = network(
        helper.make_node("Cast", ["x"], ["h"], to=number),
        helper.make_node("Cast", ["h"], ["y"], to=FLOAT),
        shape=["N", 4],
    )
    data = (np.random.default_rng(0).standard_normal((30, 4)) * 20).astype(np.float32)
    tap = Tap("h", 1, covariance=True)
    found = collect(model, [{"x": data}], [tap])[tap]
    rows = data.astype(dtype).astype(np.float64)
    np.testing.assert_allclose(found.mean, rows.mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.var, rows.var(0), rtol=1e-12)
    assert found.covariance is not None
    gram = found.covariance[0] + np.outer(found.mean, found.mean)
    np.testing.assert_allclose(gram, rows.T @ rows / 30, rtol=1e-9)


def chain(length: int) -> models.Model:
    names = ["x", *(f"v{index}" for index in range(length - 1)), "y"]
    return network(
        *(helper.make_node("Neg", [a], [b]) for a, b in pairwise(names)),
        shape=["N", 1000],
    )


def test_a_memory_limit_makes_passes_and_changes_nothing() -> None:
    data = np.random.default_rng(0).standard_normal((40, 1000)).astype(np.float32)
    feeds = [{"x": part} for part in np.split(data, 4)]  # 40 kB per value and feed
    model = chain(6)
    names = ["v0", "v1", "v2", "v3", "y"]
    whole = list(observe(model, feeds, names))
    assert len(whole) == 4
    parts = list(observe(model, feeds, names, limit=100_000))
    assert len(parts) == 12
    for values in parts:
        assert sum(array.nbytes for array in values.values()) <= 100_000
    for name in names:
        one = np.concatenate([values[name] for values in whole])
        other = np.concatenate([values[name] for values in parts if name in values])
        np.testing.assert_array_equal(one, other)
    assert len(list(observe(model, feeds, names, limit=1))) == 20

    taps = [Tap(name, 1) for name in names]
    unlimited, limited = collect(model, feeds, taps), collect(model, feeds, taps, limit=100_000)
    for tap in taps:
        np.testing.assert_array_equal(unlimited[tap].var, limited[tap].var)


def test_activations_are_not_kept() -> None:
    data = np.random.default_rng(0).standard_normal((64, 100_000)).astype(np.float32)
    model = network(
        helper.make_node("Reshape", ["x", "s"], ["y"]),
        shape=["N", 100_000],
        s=np.array([0, 10, 10_000]),
    )
    feeds = [{"x": part} for part in np.split(data, 64)]
    tap = Tap("y", 1, covariance=True)
    tracemalloc.start()
    collect(model, feeds, [tap])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < data.nbytes / 3


def test_what_cannot_be_measured_is_refused() -> None:
    ones = [{"x": np.ones((2, 3, 4), np.float32)}]
    with pytest.raises(OnnxpruneError, match=r"has shape \[2, 3, 4\], hence no axis 3"):
        collect(IDENTITY, ones, [Tap("x", 3)])
    with pytest.raises(OnnxpruneError, match="no value 'z'"):
        collect(IDENTITY, ones, [Tap("z", 0)])
    with pytest.raises(OnnxpruneError, match="'x' held nothing"):
        collect(IDENTITY, [{"x": np.ones((0, 3, 4), np.float32)}], [Tap("x", 1)])
    with pytest.raises(OnnxpruneError, match="'x' held nothing"):
        collect(IDENTITY, [], [Tap("x", 1)])
    with pytest.raises(OnnxpruneError, match="so it has no channels"):
        collect(IDENTITY, [*ones, {"x": np.ones((2, 5, 4), np.float32)}], [Tap("x", 1)])
    with pytest.raises(OnnxpruneError, match="only be gone through once"):
        collect(IDENTITY, iter(ones), [Tap("x", 1), Tap("y", 1)])
    for bad in (np.nan, np.inf):
        with pytest.raises(OnnxpruneError, match="'y' is NaN or infinite"):
            collect(IDENTITY, [{"x": np.full((2, 3, 4), bad, np.float32)}], [Tap("y", 1)])
    assert collect(IDENTITY, ones, []) == {}


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_progress_is_for_terminals_only(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    feeds = [{"x": np.ones((2, 3, 4), np.float32)}] * 3
    list(observe(IDENTITY, feeds, ["y"]))
    assert capfd.readouterr() == ("", "")
    master, slave = os.openpty()
    os.set_blocking(master, False)
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patched:
        patched.setattr(sys, "stderr", terminal)
        list(observe(IDENTITY, feeds, ["y"]))
        shown = os.read(master, 100_000)
    os.close(master)
    assert b"Observing" in shown
    assert capfd.readouterr() == ("", "")
