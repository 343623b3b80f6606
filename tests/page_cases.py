"""Documents for tests of the page: a real run, what could be measured of it, and bad names."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from typing import Any

from onnxprune import prune, zoo
from onnxprune.report import gather, schema
from onnxprune.report.schema import PointRow, Report

ENTRY = zoo.get("digits_mlp")
HOSTILE = '</script><script>window.broken=1</script><img src=x onerror=window.broken=1>"\u2028&amp;'
"""A name that ends a script, starts another, and brings a handler along."""


@cache
def run() -> Report:
    """What a real run reports."""
    calib = str(ENTRY.calibration)
    made = prune(ENTRY.model, ratio=0.3, calib=calib, calib_samples=64, cache=False)
    return gather.result("prune", made, ENTRY.model.parent / "small.onnx")


def searched() -> Report:
    """The same with models that a search could have visited."""
    macs, params = run().model.macs, run().model.params
    rows = [(1.0, 0.97, True, False), (0.7, 0.96, True, True), (0.5, 0.9, False, False)]
    points = tuple(
        PointRow(
            label=f"macs={part:.0%}",
            macs=round(macs * part),
            params=params if part == 1 else round(params * part),
            bytes=round(4 * params * part),
            latency={"cpu": {"p50_s": 1e-4 * part, "low_s": 9e-5 * part, "high_s": 1.1e-4 * part}},
            metric="accuracy",
            value=value,
            drop=0.97 - value,
            drop_error=0.004,
            samples=500,
            ok=ok,
            chosen=chosen,
        )
        for part, value, ok, chosen in rows
    )
    return replace(run(), points=points)


def as_json(report: Report) -> dict[str, Any]:
    """What --json prints of it."""
    plain: dict[str, Any] = json.loads(json.dumps(schema.to_json(report)))
    return plain


def bench(*names: str) -> dict[str, Any]:
    """A benchmark of some models on two backends; each takes less than the one before."""
    rows = []
    for backend in ("cpu", "openvino"):
        for k, name in enumerate(names):
            p50 = 1e-3 / (1 + k)
            quantiles = [p50 * (0.9 + q / 500) for q in range(101)]
            ratio = 1 / (1 + k)
            rows.append(
                {
                    "model": name,
                    "backend": backend,
                    "precision": "f32",
                    "batch": 1,
                    "threads": 2,
                    "peak_rss_bytes": 1 << 26,
                    "latency": {"p50_s": p50, "p90_s": p50, "p99_s": p50, "quantiles": quantiles},
                    "ratio": None
                    if k == 0
                    else {
                        "to": names[0],
                        "value": ratio,
                        "low": ratio * 0.98,
                        "high": ratio * 1.02,
                        "verdict": "faster",
                    },
                    "score": {"metric": "accuracy", "before": 0.97, "after": 0.97 - 0.01 * k},
                }
            )
    return {
        "schema": "onnxprune.bench",
        "version": 1,
        "environment": {"cpu": "some processor", "cores": 2, "memory_bytes": 1 << 34},
        "protocol": {"runs": 400},
        "models": [{"name": name, "path": f"out/{name}", "bytes": 1000} for name in names],
        "rows": rows,
        "declined": [{"backend": "cuda", "reason": "no device", "install": "pip install x"}],
    }


def sweep(model: str, targets: list[tuple[str, str]]) -> dict[str, Any]:
    """A sweep in which every target costs more than the one before it, and a block costs all."""
    ratios = [0.25, 0.5]
    cells = [
        {"target": name, "ratio": ratio, "drop": (k + 1) * ratio * 0.012, "kl": 1 / (k + 1)}
        for k, (name, _) in enumerate(targets)
        for ratio in ratios
    ]
    cells.append({"target": "the block", "ratio": 1.0, "value": 0.1, "drop": 0.87, "kl": 3.0})
    rows = [*targets, ("the block", "block")]
    return {
        "schema": "onnxprune.sensitivity",
        "version": 1,
        "structure": "abc",
        "model": model,
        "metric": {"name": "accuracy", "higher_is_better": True, "dense": 0.97},
        "samples": 100,
        "ratios": ratios,
        "targets": [{"name": name, "kind": kind, "units": 4} for name, kind in rows],
        "cells": cells,
        "recommended": {"drop": 0.01, "ratios": {targets[0][0]: 0.25}},
        "declined": [{"target": "head", "reason": "it reaches the output"}],
    }
