"""What pruning with calibration data costs: CPU seconds and private memory, and what it is worth.

    python -m bench.memory [--only GLOB] [--code now=. --code before=TREE] [--again]
    python -m bench.memory --table

Every run is one process with one thread, from reading the model to the written file. CPU seconds
are those of the process, and count in full what a busy machine's caches cost; memory is the peak of
RssAnon, sampled every 20 ms. Results of two versions of the code stand side by side where both were
measured (`git worktree add --detach TREE COMMIT`). Results: bench/results/memory.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench import packages
from bench.folders import REPOSITORY
from bench.latency import dense
from bench.package_inputs import feeds, picture
from bench.quality_cases import path_of
from bench.structured import machine

RESULTS = REPOSITORY / "bench" / "results" / "memory.json"
CASES = (
    ("resnet20_cifar10_optA_bn", "macs=50%", 512),
    ("resnet20_cifar10_proj_fused", "macs=60%", 512),
    ("resnet8_cifar10_mlperftiny_fused", "macs=60%", 512),
    ("shufflenetv2_x0_5_cifar10_bn", "macs=66.7%", 512),
    ("mobilenetv1_0.75_imagenet_bn", "macs=60%", 100),
    ("brainmaze_eeg_models__spindle-detector-eeg", "macs=70%", 32),
    ("rapidocr_onnxruntime__ch_ppocr_mobile_v2.0_cls_infer", "macs=60%", 32),
    ("rapidocr_onnxruntime__ch_PP-OCRv4_rec_infer", "macs=60%", 8),
    ("resnet50", "macs=60%", 300),
)
"""Networks, budgets and numbers of calibration inputs; ``resnet50`` has random weights."""


def pictures(count: int) -> Iterator[dict[str, Any]]:
    """Smooth pictures with edges for ``resnet50``, one at a time."""
    rng = np.random.default_rng(1)
    for _ in range(count):
        yield {"image": picture((1, 3, 224, 224), rng)}


def one(name: str, target: str, samples: int, tree: Path) -> dict[str, Any]:
    """One run of one version of the code, and the score of what it wrote."""
    built = name == "resnet50"
    package = dense(name) if built else packages.CACHE / f"{name}.onnx"
    with tempfile.TemporaryDirectory() as folder:
        inputs, out = Path(folder) / "feeds.npz", Path(folder) / "out.onnx"
        if package.exists():
            batches = enumerate(pictures(samples) if built else feeds(package, samples, 1))
            named = {f"{i:05d}/{key}": v for i, batch in batches for key, v in batch.items()}
            np.savez(inputs, **named)  # type: ignore[arg-type]  # numpy takes arrays
        else:
            score = [sys.executable, "-m", "bench.quality_score", name]
            count = ["--calibration", str(inputs), "--samples", str(samples)]
            subprocess.run([*score, *count], cwd=REPOSITORY, check=True)
        model = package if package.exists() else path_of(name)
        script = str(REPOSITORY / "bench" / "quality_run.py")
        command = ["env", f"PYTHONPATH={tree.resolve()}", sys.executable, script, str(model)]
        command += [str(out), "--calibration", str(inputs)]
        row = packages.run([*command, "--asked", json.dumps({"target": target})], 7200)
        if out.exists() and package.exists() and not built:
            row["error"] = packages.unseen_error(package, out)
        elif out.exists() and not built:
            judged = subprocess.check_output([*score, str(out)], cwd=REPOSITORY, text=True)
            row["scores"] = json.loads(judged)["scores"]
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="*")
    parser.add_argument("--code", action="append", help="NAME=TREE, a version of the code")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
    trees = dict(each.split("=", 1) for each in options.code or ["now=."])
    for name, target, samples in () if options.table else CASES:
        for code, tree in trees.items():
            key = {"model": name, "target": target, "samples": samples, "code": code}
            rest = [row for row in stored["rows"] if not key.items() <= row.items()]
            known = len(rest) < len(stored["rows"]) and not options.again
            if known or not fnmatch.fnmatch(name, options.only):
                continue
            load = round(os.getloadavg()[0], 1)
            row = {**key, **one(name, target, samples, Path(tree)), "load": load}
            stored = {**stored, "machine": machine(), "rows": [*rest, row]}
            RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
            print(json.dumps(row), flush=True)
    print("| model | target | inputs | code | CPU s | private MiB | score or error |")
    print("|---|---|---|---|---|---|---|")
    for row in stored["rows"]:
        worth = row.get("scores") or row.get("error", "")
        cells = [row[k] for k in ("model", "target", "samples", "code", "cpu_s", "private_mib")]
        print("| " + " | ".join(map(str, [*cells, worth])) + " |")


if __name__ == "__main__":
    main()
