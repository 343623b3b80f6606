"""Whether the interval of `onnxprune bench` is honest: a model against itself, again and again.

    python -m bench.same_model --count 100
    python -m bench.same_model --table

Every comparison is the whole protocol with its defaults: fresh processes, warm-up, interleaved
rounds, bootstrap. The true ratio is 1, so an interval of 95 % must hold 1 in 95 of 100 runs.
Comparisons are added to `results/same_model.json`, so they may be made in several goes; `--fresh`
forgets the earlier ones.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.evaluate.environment import environment, load
from onnxprune.evaluate.protocol import Case, Settings, Timing, measure
from onnxprune.jobs.bench.samples import open_samples
from onnxprune.solve.bootstrap import ratio

RESULTS = Path(__file__).parent / "results" / "same_model.json"


def compare(case: Case, how: Settings) -> dict[str, Any]:
    started, before = time.perf_counter(), load()
    one, other = measure(case, how)
    assert isinstance(one, Timing)
    assert isinstance(other, Timing)
    found = ratio(one.medians, other.medians, level=how.level, seed=how.seed)
    return {
        "seed": how.seed,
        "ratio": round(found.value, 5),
        "low": round(found.low, 5),
        "high": round(found.high, 5),
        "holds_1": found.low <= 1 <= found.high,
        "p50_ms": round(float(np.median(one.every)) * 1e3, 5),
        "load": round(before, 1),
        "seconds": round(time.perf_counter() - started, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--model", default="digits_rescnn", choices=zoo.names())
    parser.add_argument("--on", default="cpu")
    parser.add_argument("--seed", type=int, default=0, help="of the first comparison")
    parser.add_argument("--fresh", action="store_true")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--json", type=Path, default=RESULTS)
    asked = parser.parse_args()
    known = json.loads(asked.json.read_text()) if asked.json.exists() and not asked.fresh else {}
    rows = known.get("rows", [])
    if not asked.table:
        entry = zoo.get(asked.model)
        samples, _ = open_samples(models.load(entry.model), calib=str(entry.calibration))
        case = Case(asked.on, (entry.model, entry.model), samples.timed(1), threads=1)
        for _ in range(asked.count):
            rows.append(compare(case, replace(Settings(), seed=asked.seed + len(rows))))
            write(asked, rows)
            print(json.dumps(rows[-1]), flush=True)
    held = sum(row["holds_1"] for row in rows)
    widths = sorted(row["high"] - row["low"] for row in rows)
    print(f"1 was inside {held} of {len(rows)}; median width {widths[len(widths) // 2]:.3f}")


def write(asked: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    report = {
        "what": "one model against itself, whole protocol; an interval of 95 % should hold 1",
        "model": asked.model,
        "backend": asked.on,
        "batch": 1,
        "threads": 1,
        "protocol": asdict(Settings()),
        "environment": asdict(environment()),
        "held": sum(row["holds_1"] for row in rows),
        "of": len(rows),
        "rows": rows,
    }
    asked.json.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
