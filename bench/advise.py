"""The estimates of `onnxprune advise` beside what its own commands lead to.

    python -m bench.advise [--only STEM] [--threads 1]

For every model and backend: `advise`, then the command that it prints for structured pruning, run
as it is, then the original and the result timed beside each other in fresh processes. Estimated and
measured are the shares of multiply-accumulates, stored bytes and latency that remain. Where advice
is not to prune, the command of the target that was tried is run all the same. On a busy machine
`advise` takes the time of the processor for the latency, and so does the measurement, with one
thread. Networks of CIFAR-10 get 128 pictures with --calib, the others none. Rows that are there
already are kept.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

import onnxprune
from bench.folders import FOLDERS, REPOSITORY, SHARED
from bench.tasks import task_of
from onnxprune.evaluate.environment import environment
from onnxprune.evaluate.protocol import Case, Declined, Settings, Timing
from onnxprune.evaluate.protocol import measure as protocol
from onnxprune.jobs.bench.samples import open_samples
from onnxprune.quantities import shapes as read_shapes
from onnxprune.solve.bootstrap import Interval, ratio

RESULTS = Path(__file__).parent / "results" / "advise.json"
BACKENDS = ("cpu", "openvino")
MODELS = (
    ("stories260k_llama_legacy", False),
    ("resnet8_cifar10_mlperftiny_fused", True),
    ("minilm_l6_sts_sst2", False),
    ("mobilenetv1_0.75_imagenet_bn", False),
    ("resnet20_cifar10_proj_fused", True),
    ("shufflenetv2_x0_5_cifar10_fused", True),
)
"""Stems, and whether calibration inputs are given."""
SHAPES = {
    "minilm_l6_sts_sst2": {"input_ids": "1x64", "attention_mask": "1x64"},
    "stories260k_llama_legacy": {"input_ids": "1x128"},
}
PICTURES = 128
NEAR = 0.15


def run(folder: Path, *words: str) -> dict[str, Any]:
    """The JSON that a command of onnxprune prints."""
    paths = os.pathsep.join(filter(None, (str(REPOSITORY), os.environ.get("PYTHONPATH", ""))))
    done = subprocess.run(
        [sys.executable, "-m", "onnxprune", *words, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode or not done.stdout:
        raise SystemExit(f"onnxprune {shlex.join(words)}: {done.stderr}")
    return dict(json.loads(done.stdout))


def calibration(stem: str, folder: Path) -> Path:
    """A file of calibration inputs."""
    task = task_of(stem)
    assert task is not None
    batches = list(task.calibration(SHARED / "data", PICTURES, 1))
    path = folder / "calib.npz"
    np.savez(path, **{name: np.concatenate([b[name] for b in batches]) for name in batches[0]})
    return path


def timed(
    dense: Path, pruned: Path, backend: str, shapes: list[str], clock: str, threads: int
) -> Interval:
    """The share of the latency that remains, measured with more rounds than `advise` takes."""
    samples, _ = open_samples(onnxprune.load(dense), shapes=read_shapes(shapes))
    settings = Settings(processes=4, rounds=8, slice_s=0.04, seed=1, clock=clock)  # type: ignore[arg-type]
    one, other = protocol(Case(backend, (dense, pruned), samples.timed(1), threads), settings)
    for each in (one, other):
        if isinstance(each, Declined):
            raise SystemExit(each.reason)
    assert isinstance(one, Timing)
    assert isinstance(other, Timing)
    return ratio(one.medians, other.medians)


def measure(stem: str, backend: str, *, calib: bool, threads: int) -> dict[str, Any]:
    """One row: advice, its command, and what that leads to."""
    model = FOLDERS["shared"] / f"{stem}.onnx"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = ["--calib", str(calibration(stem, folder))] if calib else []
        shapes = [f"{key}={sizes}" for key, sizes in SHAPES.get(stem, {}).items()]
        inputs += [word for each in shapes for word in ("--shapes", each)]
        alone = ["--threads", str(threads), "--backend", backend]
        advice = run(folder, "advise", str(model), *inputs, *alone)
        row = next(each for each in advice["advice"] if each["method"] == "structured")
        trial = next(t for t in advice["evidence"]["trials"] if t["method"] == "structured")
        command = row["command"]
        if not command:
            words = ["onnxprune", "prune", str(model), "--target", trial["amount"]]
            words += [*(["--backend", backend] if backend != "cpu" else []), *inputs]
            command = shlex.join([*words, "-o", "pruned.onnx"])
        words = shlex.split(command)
        if not calib and "DATA.npz" in words:  # what was tried, which had no inputs either
            del words[words.index("DATA.npz") - 1 : words.index("DATA.npz") + 1]
        costs = {each["name"]: each for each in run(folder, *words[1:])["measures"]}
        written = folder / words[words.index("-o") + 1]
        between = timed(model, written, backend, shapes, trial["clock"], threads)
    measured = {
        "macs": costs["MACs"]["pruned"] / costs["MACs"]["dense"],
        "bytes": costs["weights"]["pruned"] / costs["weights"]["dense"],
        "latency": between.value,
    }
    estimated = {"macs": trial["macs"], "bytes": trial["bytes"], "latency": trial["latency"]}
    return {
        "model": stem,
        "backend": backend,
        "word": row["word"],
        "command": " ".join(Path(word).name for word in words),
        "estimated": {k: round(v, 4) for k, v in estimated.items()},
        "latency_between": [round(trial["low"], 4), round(trial["high"], 4)],
        "measured": {k: round(v, 4) for k, v in measured.items()},
        "measured_between": [round(between.low, 4), round(between.high, 4)],
        "clock": trial["clock"],
        "off": {k: round(estimated[k] / measured[k] - 1, 4) for k in measured},
        "load_average": environment().load_average,
    }


def summary(rows: list[dict[str, Any]], threads: int) -> dict[str, Any]:
    """All rows, with how many estimates are near and how far the worst of them is off."""
    here = environment()
    return {
        "conditions": f"{here.cpu}, {here.cores} cores shared with other work (load average in "
        f"each row), {threads} thread, batch 1; onnxruntime {version('onnxruntime')}, openvino "
        f"{version('openvino')}; where the clock is cpu, the time of the processor stands in for "
        "latency",
        "within": NEAR,
        "share_within": {
            kind: f"{sum(abs(r['off'][kind]) <= NEAR for r in rows)} of {len(rows)}"
            for kind in ("macs", "bytes", "latency")
        },
        "furthest_percent": {
            kind: round(100 * max(abs(r["off"][kind]) for r in rows), 1)
            for kind in ("macs", "bytes", "latency")
        },
        "rows": rows,
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--results", type=Path, default=RESULTS)
    args = parser.parse_args()
    rows = json.loads(args.results.read_text())["rows"] if args.results.is_file() else []
    known = {(row["model"], row["backend"]) for row in rows}
    for stem, calib in MODELS:
        for backend in BACKENDS:
            if (stem, backend) in known or args.only not in stem:
                continue
            row = measure(stem, backend, calib=calib, threads=args.threads)
            rows.append(row)
            print(json.dumps(row), flush=True)
            result = summary(rows, args.threads)
            args.results.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
