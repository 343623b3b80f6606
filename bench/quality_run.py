"""onnxprune on one network, as bench/quality.py asks: the counterpart of bench/quality_peer.py.

Run as `python bench/quality_run.py MODEL OUT --calibration FEEDS.npz --asked '{"target": ...}'`,
the options as JSON.  Nothing is taken from earlier runs.  Prints one JSON line.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from onnxprune_run import feeds

import onnxprune


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--calibration", type=Path, required=True)
    parser.add_argument("--asked", type=json.loads, required=True)
    options = parser.parse_args()
    batches = feeds(options.calibration)
    samples = sum(len(next(iter(each.values()))) for each in batches)
    start = time.perf_counter()
    made = onnxprune.prune(
        options.model, calib=batches, calib_samples=samples, cache=False, **options.asked
    )
    made.save(options.out, force=True)
    seconds = time.perf_counter() - start
    errors = [each.after for each in made.outcomes.get("zeros", ()) if each.after is not None]
    found: dict[str, Any] = {
        "seconds": round(seconds, 2),
        "samples": samples,
        "verified": made.ok,
        "checks": {check.name: check.ok for check in made.checks},
        "criterion": made.plan.origin.criterion,
    }
    if errors:
        found["layer_error"] = round(float(np.mean(errors)), 5)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
