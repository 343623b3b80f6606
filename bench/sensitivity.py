"""A sensitivity sweep by one process, by two, and by a Dask cluster of two workers.

    python -m bench.sensitivity [--rounds 2] [--samples 512]

All groups of a ResNet-20 at five ratios, 512 labelled CIFAR-10 pictures, onnxruntime with one
thread in every process. Times are wall clock from the call to the result: reading the model,
deciding in which order units leave, starting processes and all cells. The cluster is up before, as
clusters are. That its numbers and those of two processes are those of one is checked, not assumed.
The ways take turns, so that whatever else the machine does meets all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from bench.folders import REPOSITORY, SHARED
from bench.tasks import task_of
from onnxprune.select.sensitivity import Sensitivity

RESULTS = Path(__file__).parent / "results" / "sensitivity.json"
GRAPH = "resnet20_cifar10_proj_fused"
ASKED = 1.7
"""How many times faster two processes should be than one."""


def data(samples: int) -> dict[str, Any]:
    """The inputs of a sweep and their labels."""
    task = task_of(GRAPH)
    assert task is not None
    batches = list(task.calibration(SHARED / "data", samples, 1))
    with np.load(SHARED / "data" / "cifar10_calib.npz") as held:
        labels = held["y"][:samples]
    return {
        "calib": {name: np.concatenate([b[name] for b in batches]) for name in batches[0]},
        "calib_samples": samples,
        "labels": labels,
    }


@contextmanager
def cluster() -> Iterator[str]:
    """A scheduler and two workers of one thread each on this machine, as README starts them."""
    from distributed import Client

    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    commands = (
        ["scheduler", "--host", "127.0.0.1", "--port", "0"],
        ["worker", "--nworkers", "2", "--nthreads", "1"],
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "scheduler.json"
        place = ["--scheduler-file", str(file), "--no-dashboard"]
        started = [
            subprocess.Popen(
                [sys.executable, "-m", "dask", *line, *place],
                env=environment,
                start_new_session=True,
                stderr=subprocess.DEVNULL,
            )
            for line in commands
        ]
        try:
            while not file.is_file():
                time.sleep(0.1)
            with Client(scheduler_file=str(file), set_as_default=False) as client:
                client.wait_for_workers(2, timeout=60)
                address = str(client.scheduler.address)
            yield address
        finally:
            for process in reversed(started):
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()


def sweep(inputs: dict[str, Any], how: dict[str, Any]) -> tuple[Sensitivity, float]:
    """One sweep, and its seconds."""
    start = time.perf_counter()
    found = onnxprune.sensitivity(
        SHARED / "models" / f"{GRAPH}.onnx", **inputs, kinds=("groups",), cache=False, **how
    )
    return found, time.perf_counter() - start


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--samples", type=int, default=512)
    parser.add_argument("--results", type=Path, default=RESULTS)
    given = parser.parse_args()
    inputs = data(given.samples)
    seconds: dict[str, list[float]] = {}
    results: dict[str, Sensitivity] = {}
    with cluster() as address:
        ways = {
            "1 process": {"workers": 1},
            "2 processes": {"workers": 2},
            "Dask": {"dask": address},
        }
        for _ in range(given.rounds):
            for name, how in ways.items():
                results[name], took = sweep(inputs, how)
                seconds.setdefault(name, []).append(took)
                print(f"{name}: {took:.1f} s, load {os.getloadavg()[0]:.1f}", flush=True)
    one = results["1 process"]
    best = {name: min(each) for name, each in seconds.items()}
    same = {name: each.cells == one.cells for name, each in results.items()}
    speedup = {name: best["1 process"] / each for name, each in best.items()}
    written = {
        "schema": 1,
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "python": platform.python_version(),
            **{name: version(name) for name in ("onnxruntime", "distributed", "numpy")},
        },
        "graph": GRAPH,
        "groups": len(one.targets),
        "cells": len(one.cells),
        "samples": one.samples,
        "seconds": seconds,
        "speedup": speedup,
        "identical": same,
        "asked": ASKED,
        "accuracy": one.dense,
        "table": {
            row.name: {f"{cell.ratio:g}": cell.value for cell in one.of(row.name)}
            for row in one.targets
        },
    }
    given.results.write_text(json.dumps(written, indent=1) + "\n")
    for name in ways:
        print(f"{name}: {best[name]:.1f} s, {speedup[name]:.2f}x, identical: {same[name]}")


if __name__ == "__main__":
    main()
