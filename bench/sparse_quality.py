"""What zeros cost: real networks at 50 %, 70 % and 2:4 beside the dense ones.

    python -m bench.sparse_quality [--only GLOB]

Calibration inputs are unlabelled and none of them is scored; tasks and data are those of
bench/tasks.py. Results go to bench/results/sparse_quality.json after every run, and a run that is
there already is not repeated. Figures of onnxsim 0.8.1 were measured on the same data by the same
scores, with 512 calibration inputs.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from bench.folders import FOLDERS
from bench.structured import machine
from bench.tasks import Run, task_of
from onnxprune import plan, prune
from onnxprune.backends import open_session

RESULTS = Path(__file__).parent / "results" / "sparse_quality.json"
MODELS = FOLDERS["shared"]
DATA = MODELS.parent / "data"

CASES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stories260k_llama_legacy", {"sparsity": "50%"}),
    ("stories260k_llama_legacy", {"sparsity": "50%", "sparse_allocation": "sensitivity"}),
    ("stories260k_llama_legacy", {"sparsity": "2:4"}),
    ("stories260k_llama_legacy", {"sparsity": "2:4", "permute": True}),
    ("resnet20_cifar10_proj_bn", {"sparsity": "70%"}),
    ("resnet20_cifar10_proj_bn", {"sparsity": "2:4"}),
    ("resnet20_cifar10_proj_bn", {"sparsity": "2:4", "permute": True}),
    ("minilm_l6_sts_sst2", {"sparsity": "50%"}),
    ("minilm_l6_sts_sst2", {"sparsity": "2:4"}),
    ("minilm_l6_sts_sst2", {"sparsity": "2:4", "permute": True}),
    ("minilm_l6_sts_sst2", {"sparsity": "50%", "sparse_method": "sparsegpt"}),
    ("minilm_l6_sts_sst2", {"sparsity": "2:4", "sparse_method": "sparsegpt", "permute": True}),
    ("minilm_l6_sts_sst2", {"sparsity": "2:4", "sparse_method": "magnitude", "recover": "none"}),
)
BATCHES = {"stories": (10, 4), "resnet20": (32, 64), "minilm": (32, 32)}
PEER: dict[str, dict[str, dict[str, float]]] = {
    "minilm_l6_sts_sst2": {
        "SparseGPT 50%": {"STS-B Spearman": 81.41, "SST-2 %": 79.52, "seconds": 165},
        "SparseGPT 2:4": {"STS-B Spearman": 80.98, "SST-2 %": 76.66, "seconds": 165},
        "Wanda 2:4": {"STS-B Spearman": 77.21, "SST-2 %": 72.82, "seconds": 6},
        "magnitude 50%": {"STS-B Spearman": 79.69, "SST-2 %": 77.48, "seconds": 2},
    },
    "stories260k_llama_legacy": {
        "SparseGPT 50%": {"nats": 3.357, "seconds": 4},
        "SparseGPT 2:4": {"nats": 4.020, "seconds": 4},
        "Wanda 50%": {"nats": 4.019, "seconds": 3},
    },
}
"""onnxsim 0.8.1."""


def sentiment(run: Run) -> float:
    """Accuracy on the SST-2 test sentences, in percent."""
    with np.load(DATA / "minilm_stsb_sst2_tokens.npz") as z:
        ids, lengths, y = z["sst2_test_ids"], z["sst2_test_len"], z["sst2_test_y"]
    order, hits = np.argsort(lengths, kind="stable"), 0
    for i in range(0, len(ids), 64):
        rows = order[i : i + 64]
        mask = np.arange(int(lengths[rows].max())) < lengths[rows, None]
        tokens = np.where(mask, ids[rows, : mask.shape[1]], 0).astype(np.int64)
        logits = run({"input_ids": tokens, "attention_mask": mask.astype(np.int64)})[1]
        hits += int((logits.argmax(1) == y[rows]).sum())
    return 100.0 * hits / len(ids)


def scores(stem: str, model: object) -> dict[str, float]:
    """Every score of a network."""
    session = open_session(model)  # type: ignore[arg-type]

    def run(feeds: dict[str, Any]) -> list[Any]:
        return list(session.run(feeds).values())

    task = task_of(stem)
    assert task is not None
    found = {task.unit: round(task.score(run, DATA, 100), 4)}
    if stem.startswith("minilm"):
        found["SST-2 %"] = round(sentiment(run), 2)
    return found


def measure(stem: str, flags: dict[str, Any]) -> dict[str, Any]:
    """Prune one network and score it."""
    task = task_of(stem)
    assert task is not None
    count, batch = next(b for name, b in BATCHES.items() if stem.startswith(name))
    feeds = list(task.calibration(DATA, count, batch))
    start, cpu = time.perf_counter(), time.process_time()
    made = prune(MODELS / f"{stem}.onnx", calib=feeds, calib_samples=count * batch, **flags)
    wall, busy = time.perf_counter() - start, time.process_time() - cpu
    errors = [each.after for each in made.thinned if each.after is not None]
    masks: dict[str, plan.PackedMask] = dict(made.plan.zeroed)
    size = sum(mask.size for mask in masks.values())
    return {
        "model": stem,
        "asked": flags,
        "calibration inputs": sum(len(next(iter(f.values()))) for f in feeds),
        "scores": scores(stem, made.model),
        "sparsity": round(1 - sum(mask.kept for mask in masks.values()) / size, 5),
        "weights thinned": size,
        "weights left": [[e.weight, e.reason] for e in made.thinned if e.reason],
        "mean relative squared error of layers": round(float(np.mean(errors)), 5)
        if errors
        else None,
        "checks": {c.name: c.ok for c in made.verdict.checks},
        "wall_s": round(wall, 1),
        "cpu_s": round(busy, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*", help="names of networks")
    only = parser.parse_args().only
    found: dict[str, Any] = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    found.setdefault("machine", machine())
    found["onnxsim 0.8.1"] = PEER
    dense, runs = found.setdefault("dense", {}), found.setdefault("runs", [])
    for stem, flags in CASES:
        if not fnmatch.fnmatch(stem, only):
            continue
        if stem not in dense:
            dense[stem] = scores(stem, MODELS / f"{stem}.onnx")
        if any(run["model"] == stem and run["asked"] == flags for run in runs):
            continue
        runs.append(measure(stem, flags))
        last = runs[-1]
        print(stem, flags, last["scores"], "dense", dense[stem], f"{last['cpu_s']} s", flush=True)
        RESULTS.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
