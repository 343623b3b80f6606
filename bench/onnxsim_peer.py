"""onnxsim's structured pruning of one graph, in an environment of its own.

Run by bench/structured.py as `python bench/onnxsim_peer.py MODEL OUT --method l2-cpp --ratio 0.5
--calibration FEEDS.npz`; needs onnxsim 0.8.1, onnx, onnxruntime and numpy.  Methods, each applied
as its documentation says, channels first and then attention heads:

* `l2-cpp`: `apply_structured_pruning_cpp`, `apply_attention_head_pruning_cpp` (no data)
* `l2-py`: `apply_structured_pruning`, `apply_attention_head_pruning` (no data; the Python module
  matches some graphs that its C++ port does not)
* `wanda`: `apply_structured_wanda_pruning`, `apply_attention_head_wanda_pruning` (calibrated)

`+sim` behind a method runs `onnxsim.simplify` first and keeps that graph as OUT.base, which is then
what parameters are counted against.  Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxsim


def feeds(path: Path) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The calibration batches that bench/judge.py wrote as `batch/input` arrays."""
    batches: dict[str, dict[str, np.ndarray[Any, Any]]] = defaultdict(dict)
    with np.load(path) as stored:
        for key in stored.files:
            batch, name = key.split("/", 1)
            batches[batch][name] = stored[key]
    return [batches[key] for key in sorted(batches)]


def prune(
    model: onnx.ModelProto, method: str, ratio: float, calibration: Path
) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    """The model after channel pruning, and after head pruning on top."""
    if method == "l2-cpp":
        channels = onnxsim.apply_structured_pruning_cpp(model, sparsity=ratio)
        return channels, onnxsim.apply_attention_head_pruning_cpp(channels, sparsity=ratio)
    if method == "l2-py":
        channels = onnxsim.apply_structured_pruning(model, sparsity=ratio)
        return channels, onnxsim.apply_attention_head_pruning(channels, sparsity=ratio)
    data = feeds(calibration)
    channels = onnxsim.apply_structured_wanda_pruning(model, calibration_data=data, sparsity=ratio)
    return channels, onnxsim.apply_attention_head_wanda_pruning(
        channels, calibration_data=data, sparsity=ratio
    )


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", required=True)
    parser.add_argument("--ratio", type=float, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    options = parser.parse_args()
    model = onnx.load(options.model)
    start = time.perf_counter()
    method, _, simplified = options.method.partition("+")
    if simplified:
        model = onnxsim.simplify(model)[0]
        onnx.save(model, options.out.with_suffix(".base"))
    channels, final = prune(model, method, options.ratio, options.calibration)
    seconds = time.perf_counter() - start
    onnx.save(final, options.out)
    same = channels.SerializeToString() == final.SerializeToString()
    print(json.dumps({"seconds": seconds, "head_step_changed_the_model": not same}))


if __name__ == "__main__":
    main()
