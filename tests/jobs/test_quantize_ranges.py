"""Ranges of activations: passes of any size measure the same, and memory has a limit."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper as oh
from onnx import numpy_helper as nh

from onnxprune import model as models
from onnxprune.config import Options, QuantizeOptions
from onnxprune.jobs.quantize import quantize, quantizer
from onnxprune.jobs.quantize.preparation import prepared
from onnxprune.jobs.quantize.ranges import passes


def network(channels: int = 8, size: int = 16) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    weights = {
        "A": rng.standard_normal((channels, 3, 3, 3)),
        "B": rng.standard_normal((channels, channels, 3, 3)),
        "C": rng.standard_normal((channels, 5)),
    }
    nodes = [
        oh.make_node("Conv", ["x", "A"], ["a"], pads=[1, 1, 1, 1]),
        oh.make_node("Relu", ["a"], ["r"]),
        oh.make_node("Conv", ["r", "B"], ["b"], pads=[1, 1, 1, 1]),
        oh.make_node("GlobalAveragePool", ["b"], ["p"]),
        oh.make_node("Flatten", ["p"], ["f"]),
        oh.make_node("Gemm", ["f", "C"], ["y"]),
    ]
    graph = oh.make_graph(
        nodes,
        "g",
        [oh.make_tensor_value_info("x", 1, ["n", 3, size, size])],
        [oh.make_tensor_value_info("y", 1, ["n", 5])],
        [nh.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 17)], ir_version=8)


@given(st.dictionaries(st.text(min_size=1), st.integers(0, 100)), st.integers(1, 150))
def test_passes_hold_every_name_once_and_no_more_than_fits(
    sizes: dict[str, int], most: int
) -> None:
    groups = passes(sizes, most)
    assert sorted(name for group in groups for name in group) == sorted(sizes)
    for group in groups:
        assert len(group) == 1 or sum(sizes[name] for name in group) <= most


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_ranges_do_not_depend_on_the_passes(method: Any) -> None:
    rng = np.random.default_rng(1)
    feeds = [{"x": rng.standard_normal((n, 3, 16, 16)).astype(np.float32)} for n in (4, 6)]
    model, _ = prepared(models.load(network()))
    settings = QuantizeOptions(ranges=method)
    one, many = (
        dict(quantizer.measure_ranges(model, settings, feeds, most).items())
        for most in (1 << 30, 20_000)
    )
    assert sorted(one) == sorted(many) == ["a", "b", "f", "p", "r", "x", "y"]
    for name, data in one.items():
        assert many[name].range_value == data.range_value


def test_a_batch_of_any_size_is_divided_and_the_result_is_the_same() -> None:
    rng = np.random.default_rng(2)
    calib = rng.standard_normal((40, 3, 16, 16)).astype(np.float32)
    results = [
        quantize(network(), QuantizeOptions(), Options(calib=calib, batch=batch, memory=memory))
        for batch, memory in ((32, "4GB"), (32, "185MB"), (1, "4GB"))
    ]
    stored = [
        {name: value.const_value.numpy() for name, value in models.constants(each.model).items()}
        for each in results
    ]
    for other in stored[1:]:
        assert stored[0].keys() == other.keys()
        for name, array in stored[0].items():
            np.testing.assert_array_equal(array, other[name])


@pytest.mark.heavy
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
@pytest.mark.parametrize("ranges", ["minmax", "percentile"])
def test_large_activations_stay_within_the_memory_budget(tmp_path: Path, ranges: str) -> None:
    onnx.save(network(32, 256), tmp_path / "m.onnx")
    rng = np.random.default_rng(3)
    np.savez(tmp_path / "c.npz", x=rng.standard_normal((32, 3, 256, 256)).astype(np.float32))
    command = [
        sys.executable, "-m", "onnxprune", "quantize", str(tmp_path / "m.onnx"), "--calib",
        str(tmp_path / "c.npz"), "--ranges", ranges, "--memory", "400MB", "-o",
        str(tmp_path / "o.onnx"),
    ]  # fmt: skip
    process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"})
    peak, over = [0], threading.Event()

    def sample() -> None:
        while not over.wait(0.02):
            peak[0] = max(peak[0], private(process.pid))

    watcher = threading.Thread(target=sample)
    watcher.start()
    code = process.wait(timeout=600)
    over.set()
    watcher.join()
    assert code == 0
    assert peak[0] <= 1.1 * 4e8


def private(pid: int) -> int:
    """Bytes of private memory of a process and those it started."""
    root = Path("/proc") / str(pid)
    try:
        lines = (root / "status").read_text().splitlines()
        own = next((int(s.split()[1]) << 10 for s in lines if s.startswith("RssAnon")), 0)
        children = [int(c) for t in (root / "task").iterdir()
                    for c in (t / "children").read_text().split()]  # fmt: skip
    except OSError:
        return 0  # it ended in the meantime
    return own + sum(map(private, children))
