"""What bench/gpu.py makes of logs, of layer information and of timings; it runs only on a GPU.

The log and the layer information are those of `test_build_sparsity`, quoted from public threads:
github.com/NVIDIA/TensorRT issues 4054, 4056 and 4020, shortened.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bench import gpu
from engine_log import CONVOLUTION, LOG, network
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.runtime.engines.sparsity import from_inspector, from_log
from onnxprune.sparse.nm import sparsify_nm


def test_log_inspector_and_rule_stand_side_by_side() -> None:
    model = models.clone(models.load(network()))
    sparsify_nm(model, 2, 4)
    inspector = {"Layers": [CONVOLUTION | {"Metadata": "[ONNX Layer: Conv_619]"}]}
    first, second = gpu.seen(
        model, from_log(LOG.splitlines()), from_inspector(json.dumps(inspector))
    )
    assert (first["state"], first["log"], first["inspector"]) == ("eligible", "picked", "picked")
    assert "sparse_int8int8" in first["tactic"]
    assert (second["log"], second["inspector"], second["tactic"]) == ("", "", "")


@pytest.mark.parametrize(
    ("factor", "verdict"), [(1.5, "faster"), (1.0, "no speed-up"), (0.7, "slower")]
)
def test_a_ratio_has_an_interval_and_a_verdict(factor: float, verdict: str) -> None:
    rng = np.random.default_rng(3)
    sparse = (1e-3 * (1 + 0.1 * rng.random(200))).tolist()
    dense = (factor * 1e-3 * (1 + 0.1 * rng.random(200))).tolist()
    found = gpu.ratio(dense, sparse)
    assert found["verdict"] == verdict
    assert found["low"] <= found["value"] <= found["high"]
    assert found["value"] == pytest.approx(factor, rel=0.03)


def test_inputs_are_drawn_for_the_sizes_that_are_tuned_for() -> None:
    model = models.load(zoo.get("chars_decoder").model)
    found = gpu.drawn(model, {"tokens": (2, 5)})
    assert found["tokens"].shape == (2, 5)
    assert found["tokens"].dtype == np.int64


def test_without_a_gpu_it_says_so() -> None:
    if not gpu.missing():
        pytest.skip("there is a GPU here")
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", str(zoo.get("digits_mlp").model)],
        check=False,  # that it fails is the point
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert "not measured: " in done.stderr
    assert done.stdout == ""
