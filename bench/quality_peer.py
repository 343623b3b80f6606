"""onnxsim's calibrated pruning of one network, in an environment of its own.

Run by bench/quality.py as `python bench/quality_peer.py MODEL OUT --method METHOD --amount 50%
--calibration FEEDS.npz`; needs onnxsim 0.8.1, onnx, onnxruntime and numpy.  Methods, each applied
as its documentation says:

* `structured-l2`, `structured-wanda`, `structured-wanda-global`: channels, then attention heads;
  `+sim` behind one runs `onnxsim.simplify` first
* `magnitude`, `wanda`, `sparsegpt`: single weights, a part of them or `2:4`

Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import onnx
import onnxsim
from onnxsim import pruning
from onnxsim_peer import feeds, prune

_WEIGHTS = {
    "magnitude": pruning.apply_magnitude_pruning,
    "wanda": pruning.apply_wanda_pruning,
    "sparsegpt": pruning.apply_sparsegpt_pruning,
}
_UNITS = {"structured-l2": "l2-py", "structured-wanda": "wanda"}


def thin(model: onnx.ModelProto, method: str, amount: str, data: list[Any]) -> onnx.ModelProto:
    """Single weights set to zero."""
    kept, colon, of = amount.partition(":")
    how: dict[str, Any] = {"n": int(kept), "m": int(of)} if colon else {"sparsity": part(amount)}
    if method != "magnitude":
        how["calibration_data"] = data
    return _WEIGHTS[method](model, **how)


def part(text: str) -> float:
    """A percentage as a fraction."""
    return float(text.rstrip("%")) / 100


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", required=True)
    parser.add_argument("--amount", required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    options = parser.parse_args()
    model = onnx.load(options.model)
    data = feeds(options.calibration)
    method, _, simplified = options.method.partition("+")
    start = time.perf_counter()
    if simplified:
        model = onnxsim.simplify(model)[0]
    if method in _WEIGHTS:
        final = thin(model, method, options.amount, data)
    elif method == "structured-wanda-global":
        ratio = part(options.amount)
        channels = pruning.apply_structured_wanda_pruning(
            model, calibration_data=data, sparsity=ratio, global_sparsity=True
        )
        final = pruning.apply_attention_head_wanda_pruning(
            channels, calibration_data=data, sparsity=ratio
        )
    else:
        final = prune(model, _UNITS[method], part(options.amount), options.calibration)[1]
    onnx.save(final, options.out)
    print(json.dumps({"seconds": round(time.perf_counter() - start, 2)}))


if __name__ == "__main__":
    main()
