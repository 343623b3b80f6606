"""Pruning, 2:4 and INT8 together: size, latency and metric beside the dense fp32 model.

    python -m bench.combination make minilm_l6_sts_sst2          # the one command; minutes
    python -m bench.combination latency minilm_l6_sts_sst2       # onnxruntime and OpenVINO
    python -m bench.combination score minilm_l6_sts_sst2         # the task, both runtimes

``make`` does what ``onnxprune quantize MODEL --prune RECIPE --calib DATA -o OUT`` does with the
recipe and the settings below, and keeps the pruned float model, so that ``score`` says what each
stage costs; then ``onnxprune store --store packed`` for the bytes on disk. A transformer is
quantized with ``--dynamic``: ranges of its activations differ from token to token. In a network of
depthwise convolutions 2:4 is left to the layers of at least 256 inputs and outputs. Results go to
``results/combination.json`` as they are found. Latency is process CPU time of one inference on one
thread at batch 1 (sentences of 64 tokens), the least of interleaved runs. The published example
that this repeats went from 400 MB and 50 ms to 50 MB and 8 ms: 8 times smaller, 6 times faster.
Needs `pip install '.[cpu,openvino]'` and the folder of real models.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.folders import REPOSITORY, SHARED
from bench.structured import machine
from bench.tasks import sentiment, task_of
from onnxprune import model as models
from onnxprune.config import Options, QuantizeOptions, StoreOptions, from_flags
from onnxprune.evaluate.environment import environment
from onnxprune.jobs.prune import prune
from onnxprune.jobs.quantize import quantize
from onnxprune.jobs.store import store

RESULTS = Path(__file__).parent / "results" / "combination.json"
CACHE = REPOSITORY / "bench" / "cache" / "combination"
Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], list[Array]]

RECIPES: dict[str, dict[str, object]] = {
    "minilm_l6_sts_sst2": {"heads": 0.25, "ratios": {"*:ffn": 0.5}, "sparsity": "2:4"},
    "mobilenetv1_0.75_imagenet_bn": {"sparsity": "2:4", "skip_small": 256},
}
SETTINGS = {"minilm_l6_sts_sst2": QuantizeOptions(dynamic=True)}
_TOKENS = 64


def batches(stem: str, count: int, batch: int) -> list[dict[str, Array]]:
    """Calibration inputs of the task."""
    task = task_of(stem)
    assert task is not None
    return list(task.calibration(SHARED / "data", count, batch))


def make(stem: str, asked: argparse.Namespace) -> None:
    """Prune, thin, quantize and store; the file of every stage goes to the cache."""
    CACHE.mkdir(parents=True, exist_ok=True)
    path = SHARED / "models" / f"{stem}.onnx"
    recipe = RECIPES[stem] | dict(pair.split("=", 1) for pair in asked.set)
    data = Options(calib=batches(stem, asked.batches, 16), batch=16)
    # Without data the recipe goes by the weights alone: other weights, the same size and latency.
    blind = {"calib": "random", "recover": "none"}
    first = from_flags(recipe | (blind if asked.blind else {"calib": data.calib, "batch": 16}))
    started = time.process_time()
    pruned = prune(path, first, progress=print)
    pruned.save(CACHE / f"{stem}.pruned.onnx", force=True)
    made = quantize(pruned.model, SETTINGS.get(stem, QuantizeOptions()), data, progress=print)
    seconds = time.process_time() - started
    out = CACHE / f"{stem}.onnx"
    made.save(out, force=True)
    packed = store(made.model, StoreOptions("packed"))
    models.save(packed.model, CACHE / f"{stem}.packed.onnx")
    row = {
        "recipe": {key: str(value) for key, value in recipe.items()} | {"blind": asked.blind},
        "calibration_samples": sum(len(next(iter(b.values()))) for b in data.calib),  # type: ignore[attr-defined]
        "cpu_s": round(seconds, 1),
        "checks": {check.name: check.ok for check in (*pruned.checks, *made.checks)},
        "notes": [*pruned.notes, *made.notes],
        "file_bytes": {
            "dense": path.stat().st_size,
            "int8": out.stat().st_size,
            "int8 packed": (CACHE / f"{stem}.packed.onnx").stat().st_size,
        },
    }
    sizes = row["file_bytes"]
    row["smaller"] = {name: round(sizes["dense"] / sizes[name], 2) for name in sizes}
    _keep(stem, row)


def onnxruntime(path: Path, threads: int = 1) -> Run:
    """A function that runs a model in onnxruntime."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda feeds: session.run(None, feeds)


def openvino(path: Path, threads: int = 1) -> Run:
    """A function that runs a model in OpenVINO, in fp32 where it is not quantized."""
    import openvino as ov

    settings = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
    made = ov.Core().compile_model(str(path), "CPU", settings)
    request = made.create_infer_request()

    def run(feeds: dict[str, Array]) -> list[Array]:
        found = request.infer(feeds)
        return [np.array(found[output]) for output in made.outputs]

    return run


RUNTIMES: dict[str, Callable[[Path], Run]] = {"onnxruntime": onnxruntime, "openvino": openvino}


def one_input(stem: str) -> dict[str, Array]:
    """A single sample: a picture, or a sentence of 64 tokens."""
    feeds = batches(stem, 1, 1)[0]
    if "input_ids" not in feeds:
        return feeds
    ids = np.resize(feeds["input_ids"], (1, _TOKENS))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids)}


def latency(stem: str, asked: argparse.Namespace) -> None:
    """CPU milliseconds of the dense and the combined model, taken in turn."""
    feeds, found = one_input(stem), {}
    for name in asked.runtimes:
        paths = {"dense": SHARED / "models" / f"{stem}.onnx", "int8": CACHE / f"{stem}.onnx"}
        runs = {key: RUNTIMES[name](path) for key, path in paths.items()}
        best = dict.fromkeys(runs, float("inf"))
        for turn in range(asked.runs):
            for key, run in runs.items():
                started = time.process_time()
                run(feeds)
                if turn > 2:
                    best[key] = min(best[key], (time.process_time() - started) * 1e3)
        found[name] = {key: round(ms, 3) for key, ms in best.items()}
        found[name]["faster"] = round(best["dense"] / best["int8"], 2)
    _keep(stem, {"cpu_ms": found, "latency_load": round(os.getloadavg()[0], 1)})


def score(stem: str, asked: argparse.Namespace) -> None:
    """The task's score of the model at every stage."""
    task = task_of(stem)
    assert task is not None
    found: dict[str, dict[str, float]] = {}
    for name in asked.runtimes:
        for key, path in (
            ("dense", SHARED / "models" / f"{stem}.onnx"),
            ("pruned", CACHE / f"{stem}.pruned.onnx"),
            ("int8", CACHE / f"{stem}.onnx"),
        ):
            run = RUNTIMES[name](path)
            each = found.setdefault(name, {})
            each[f"{key}: {task.unit}"] = round(task.score(run, SHARED / "data", 16), 2)
            if stem.startswith("minilm"):
                each[f"{key}: SST-2 %"] = round(sentiment(run, SHARED / "data", 16), 2)
            print(name, key, each)
    _keep(stem, {"score": found})


def _keep(stem: str, fields: dict[str, Any]) -> None:
    known = json.loads(RESULTS.read_text())["models"] if RESULTS.exists() else {}
    known[stem] = known.get(stem, {}) | fields
    packages = ("onnxprune", "onnxruntime", "openvino", "numpy")
    report = {
        "what": "pruned, 2:4 and INT8 beside dense fp32; CPU ms, one thread, least of interleaved",
        "published": {"smaller": 8.0, "faster": 6.25},
        "versions": {name: version(name) for name in packages},
        "machine": machine() | {"features": environment().features},
        "models": dict(sorted(known.items())),
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps({stem: fields}, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("stage", choices=("make", "latency", "score"))
    parser.add_argument("model", choices=tuple(RECIPES))
    parser.add_argument("--batches", type=int, default=16, help="calibration batches of 16")
    parser.add_argument("--set", nargs="*", default=[], metavar="FLAG=VALUE", help="recipe flags")
    parser.add_argument("--blind", action="store_true", help="prune by weights alone")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES))
    asked = parser.parse_args()
    {"make": make, "latency": latency, "score": score}[asked.stage](asked.model, asked)


if __name__ == "__main__":
    main()
