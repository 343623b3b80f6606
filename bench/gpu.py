"""Dense against 2:4 engines on an NVIDIA GPU: what full TensorRT picks, and what it gains.

    python -m bench.gpu MODEL.onnx [--shapes input=8x3x224x224] [--out FOLDER]

Thins the model to 2:4, builds fp16 engines of both with `tensorrt` (pip install tensorrt), with
sparse weights allowed for the second, and says for every layer what the log's ``(Sparsity)`` lines
and the engine inspector tell; then times both engines with interleaved runs and gives the interval
of their ratio. Where `trtexec` is installed its log is read too. Results go to
``results/gpu.json``. Without a GPU or without TensorRT it says what is missing, and ends with 2:
engines for other machines are built without either by `onnxprune build --runtime tensorrt_rtx`.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from bench.structured import machine
from onnxprune import model as models
from onnxprune.config import BuildOptions
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import signature_of
from onnxprune.quantities import shapes
from onnxprune.runtime.engines import build, commands, sparsity
from onnxprune.runtime.engines.runtime import find
from onnxprune.sparse.eligibility import layers
from onnxprune.sparse.nm import thin

RESULTS = Path(__file__).parent / "results" / "gpu.json"
_DRAWS = 2000


def missing() -> str:
    """What this machine lacks for the comparison; empty if it lacks nothing."""
    if (
        shutil.which("nvidia-smi") is None
        or subprocess.run(["nvidia-smi"], check=False, capture_output=True).returncode
    ):
        return "no NVIDIA GPU answers here (nvidia-smi)"
    try:
        find("tensorrt")
    except OnnxpruneError as problem:
        return problem.message
    return ""


def told(plan: bytes) -> tuple[sparsity.Layer, ...]:
    """What the inspector of an engine says about sparse weights."""
    import tensorrt as trt

    engine = trt.Runtime(trt.Logger(trt.Logger.ERROR)).deserialize_cuda_engine(plan)
    text = engine.create_engine_inspector().get_engine_information(trt.LayerInformationFormat.JSON)
    return sparsity.from_inspector(text)


def seen(
    model: models.Model, log: tuple[sparsity.Layer, ...], inspector: tuple[sparsity.Layer, ...]
) -> list[dict[str, Any]]:
    """Per layer of the graph: what the rule says, the log's lines, and the inspector."""
    said = {
        key: sparsity.by_node(each, model) for key, each in (("log", log), ("inspector", inspector))
    }
    rows = []
    for layer in layers(model):
        row: dict[str, Any] = {"node": layer.node, "state": layer.state, "reason": layer.reason}
        for key, found in said.items():
            row[key] = sparsity.word(found[layer.node]) if layer.node in found else ""
        tactic = said["inspector"].get(layer.node)
        rows.append(row | {"tactic": tactic.tactic if tactic else ""})
    return rows


def ratio(dense: list[float], sparse: list[float], seed: int = 0) -> dict[str, Any]:
    """Dense over sparse medians with a bootstrap interval over paired runs.

    Args:
        dense: seconds of every run.
        sparse: seconds of the run beside each.
        seed: of the resampling.
    """
    pairs = np.array([dense, sparse])
    rng = np.random.default_rng(seed)
    draws = rng.integers(0, pairs.shape[1], (_DRAWS, pairs.shape[1]))
    medians = np.median(pairs[:, draws], axis=2)
    low, high = np.quantile(medians[0] / medians[1], [0.025, 0.975])
    whole = np.median(pairs, axis=1)
    verdict = "faster" if low > 1 else "slower" if high < 1 else "no speed-up"
    return {
        "value": float(whole[0] / whole[1]),
        "low": float(low),
        "high": float(high),
        "verdict": verdict,
    }


def drawn(model: models.Model, best: dict[str, tuple[int, ...]]) -> dict[str, Any]:
    """One set of made-up inputs of the sizes that engines are tuned for."""
    rng = np.random.default_rng(0)
    found = {}
    for spec in signature_of(model):
        shape = best.get(spec.name) or tuple(spec.shape)
        real = np.issubdtype(spec.dtype, np.floating)
        draw = rng.standard_normal(shape) if real else np.ones(shape)
        found[spec.name] = draw.astype(spec.dtype)
    return found


def timed(plans: dict[str, bytes], feeds: dict[str, Any], runs: int) -> dict[str, list[float]]:
    """Seconds of interleaved runs of engines, copies to and from the device included."""
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner

    runners = {name: TrtRunner(EngineFromBytes(plan)) for name, plan in plans.items()}
    for runner in runners.values():
        runner.activate()
    found: dict[str, list[float]] = {name: [] for name in runners}
    try:
        for turn in range(runs + 20):
            for name, runner in runners.items():
                started = time.perf_counter()
                runner.infer(feeds)
                if turn >= 20:
                    found[name].append(time.perf_counter() - started)
    finally:
        for runner in runners.values():
            runner.deactivate()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--shapes", action="append", metavar="NAME=SIZES")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--out", type=Path, default=Path("gpu"), help="engines and logs")
    asked = parser.parse_args()
    if lacks := missing():
        print(f"not measured: {lacks}", file=sys.stderr)
        print(
            "engines without one: onnxprune build MODEL --engine OUT --runtime tensorrt_rtx",
            file=sys.stderr,
        )
        sys.exit(2)
    asked.out.mkdir(parents=True, exist_ok=True)
    best = shapes(asked.shapes) if asked.shapes else {}
    dense = models.load(asked.model)
    sparse = models.clone(dense)
    thin(sparse, 2, 4)
    made = {
        name: build(
            model,
            BuildOptions(
                sparse_weights=name == "2:4", precision="fp16", shapes=best, runtime="tensorrt"
            ),
        )
        for name, model in (("dense", dense), ("2:4", sparse))
    }
    for name, each in made.items():
        stem = name.replace(":", "")
        (asked.out / f"{stem}.engine").write_bytes(each.plan)
        models.save(each.model, asked.out / f"{stem}.onnx")
    two_four = made["2:4"]
    feeds = drawn(dense, best)
    seconds = timed({name: each.plan for name, each in made.items()}, feeds, asked.runs)
    row: dict[str, Any] = {
        "layers": seen(two_four.model, two_four.layers, told(two_four.plan)),
        "p50_ms": {name: 1e3 * float(np.median(each)) for name, each in seconds.items()},
        "ratio": ratio(seconds["dense"], seconds["2:4"]),
        "engine_bytes": {name: len(each.plan) for name, each in made.items()},
    }
    if shutil.which("trtexec"):
        line = commands.trtexec(
            two_four.runtime,
            asked.out / "24.onnx",
            asked.out / "trtexec.engine",
            BuildOptions(sparse_weights=True, shapes=best),
        )
        done = subprocess.run(shlex.split(line), check=False, capture_output=True, text=True)
        row["trtexec"] = [asdict(each) for each in sparsity.from_log(done.stdout.splitlines())]
    known = json.loads(RESULTS.read_text())["models"] if RESULTS.exists() else {}
    gpu = subprocess.run(
        ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"],
        check=False,
        capture_output=True,
        text=True,
    ).stdout.strip()
    report = {
        "what": "2:4 by magnitude against dense, fp16, full TensorRT",
        "gpu": gpu,
        "versions": {name: version(name) for name in ("onnxprune", "tensorrt", "polygraphy")},
        "machine": machine(),
        "models": known | {asked.model.stem: row},
    }
    RESULTS.write_text(json.dumps(report, indent=1) + "\n")
    print(json.dumps(row["ratio"] | row["p50_ms"], indent=1))


if __name__ == "__main__":
    main()
