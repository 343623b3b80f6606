"""onnxprune on one graph, as bench/structured.py asks: the counterpart of bench/onnxsim_peer.py.

Run as `python bench/onnxprune_run.py MODEL OUT --method l2 --ratio 0.5 --calibration FEEDS.npz`.
Methods: `l2`, scored by weights alone; `data`, the criterion onnxprune chooses when it is given
calibration inputs; both remove the ratio from every group.  `budget` is `data` with the ratio taken
of all parameters, removed where it hurts least: what compares with others at equal size.  Counts
are rounded to single units so that small graphs are not spared by their width, and every cut is
verified on the calibration inputs.  Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune


def feeds(path: Path) -> list[dict[str, np.ndarray[Any, Any]]]:
    """The calibration batches that bench/judge.py wrote as `batch/input` arrays."""
    batches: dict[str, dict[str, np.ndarray[Any, Any]]] = defaultdict(dict)
    with np.load(path) as stored:
        for key in stored.files:
            batch, name = key.split("/", 1)
            batches[batch][name] = stored[key]
    return [batches[key] for key in sorted(batches)]


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--method", choices=("l2", "data", "budget"), required=True)
    parser.add_argument("--ratio", type=float, required=True)
    parser.add_argument("--calibration", type=Path, required=True)
    options = parser.parse_args()
    amount: dict[str, Any] = {"ratio": options.ratio}
    if options.method == "budget":
        amount = {"target": f"params={100 * (1 - options.ratio):g}%"}
    start = time.perf_counter()
    result = onnxprune.prune(
        options.model,
        criterion="l2" if options.method == "l2" else None,
        calib=feeds(options.calibration),
        round_to=1,
        **amount,
    )
    seconds = time.perf_counter() - start
    result.save(options.out, force=True)
    proof = [check for check in result.checks if check.name.startswith("pruned = masked")]
    found = {
        "seconds": seconds,
        "verified": result.ok,
        "criterion": result.plan.origin.criterion,
        "reachable": result.analysis.reachable,
        "macs": result.remaining.macs / max(result.dense.macs, 1),
        "groups": len(result.plan.removed),
    }
    if proof:
        found |= {"masked_error": max(c.value for c in proof), "masked_limit": proof[0].limit}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
