"""2:4 by magnitude: ours beside `polygraphy surgeon prune` and onnxsim, on the same files.

    python -m bench.two_four [--models resnet20_cifar10_proj_fused minilm_l6_sts_sst2]

Each tool prunes each model in a process of its own. Reported per tool and model: weights in the
tensors it thinned, nanoseconds of CPU per weight (the pruning step, without loading and saving),
CPU seconds of the whole command, the share of the magnitude of all weights that is left, how many
of the layers that could be 2:4 are eligible for TensorRT's sparse kernels (`onnxprune eligible`),
and the relative error of the first output on real inputs. No tool sees data or refits anything.
Needs `pip install '.[cpu,tensorrt-rtx]' onnxsim` and the folder of real models.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from bench.folders import SHARED
from bench.structured import machine
from bench.tasks import task_of
from onnxprune import model as models
from onnxprune.evaluate.output_comparison import compare
from onnxprune.graph.layers.linear import find_layers, plain
from onnxprune.runtime import open_session
from onnxprune.sparse.eligibility import layers
from onnxprune.sparse.nm import sparsify_nm

RESULTS = Path(__file__).parent / "results" / "two_four.json"
MODELS = (
    "resnet20_cifar10_proj_fused",
    "mobilenetv1_0.75_imagenet_bn",
    "minilm_l6_sts_sst2",
    "stories260k_llama_dynamo",
)


def ours(path: Path, out: Path) -> float:
    """CPU seconds of the step; the result is written."""
    model = models.clone(models.load(path))
    started = time.process_time()
    sparsify_nm(model, 2, 4)
    seconds = time.process_time() - started
    models.save(model, out)
    return seconds


def polygraphy(path: Path, out: Path) -> float:
    """What `polygraphy surgeon prune` calls."""
    from polygraphy.tools.sparse import SparsityPruner

    model = onnx.load(path)
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = SparsityPruner(model).prune()
    seconds = time.process_time() - started
    onnx.save(made, out)
    return seconds


def onnxsim(path: Path, out: Path) -> float:
    """Magnitude pruning of onnxsim with n=2, m=4."""
    from onnxsim import pruning

    model = onnx.load(path)
    started = time.process_time()
    made = pruning.apply_magnitude_pruning(model, n=2, m=4)
    seconds = time.process_time() - started
    onnx.save(made, out)
    return seconds


TOOLS: dict[str, Callable[[Path, Path], float]] = {
    "onnxprune": ours,
    "polygraphy": polygraphy,
    "onnxsim": onnxsim,
}


def seen(model: models.Model) -> dict[str, np.ndarray[Any, Any]]:
    """The weight of every layer by its node, as the node sees it, whatever it is called."""
    found = plain(find_layers(model))
    return {x.node: x.tensor.seen(x.tensor.read()).astype(np.float64) for x in found}


def judge(dense: Path, sparse: Path, stem: str) -> dict[str, Any]:
    """What a tool left of a model."""
    before, after = models.load(dense), models.load(sparse)
    could = {each.node for each in layers(before) if each.state == "dense"}
    found = [each for each in layers(after) if each.node in could]
    old, new = seen(before), seen(after)
    sums = np.zeros(2)
    touched = 0
    for node in could & new.keys():
        one, two = old[node], new[node]
        sums += [np.abs(one).sum(), np.abs(two).sum()]
        touched += one.size if one.shape != two.shape or (one != two).any() else 0
    task = task_of(stem)
    assert task is not None
    feeds = next(task.calibration(SHARED / "data", 1, 32))
    wanted, got = (open_session(each).run(feeds) for each in (before, after))
    first = next(iter(compare(wanted, got).values())) if got else None
    return {
        "weights_thinned": touched,
        "magnitude_kept": round(float(sums[1] / sums[0]), 4),
        "eligible_layers": sum(each.state == "eligible" for each in found),
        "of_layers": len(could),
        "output_error": None if first is None else round(float(first.relative_error or 0), 4),
    }


def command_seconds(tool: str, path: Path, out: Path) -> float | None:
    """CPU seconds of the tool's own command, start to end; None where it has none."""
    commands = {
        "onnxprune": ["onnxprune", "prune", str(path), "--sparsity", "2:4", "-o", str(out)],
        "polygraphy": ["polygraphy", "surgeon", "prune", str(path), "-o", str(out)],
    }
    if tool not in commands:
        return None
    line = [str(Path(sys.executable).with_name(commands[tool][0])), *commands[tool][1:]]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(line, check=True, capture_output=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--tools", nargs="+", default=list(TOOLS))
    parser.add_argument("--json", type=Path, default=RESULTS)
    parser.add_argument("--one", nargs=3, metavar=("TOOL", "MODEL", "OUT"), help="used by itself")
    asked = parser.parse_args()
    if asked.one:
        tool, path, out = asked.one
        print(json.dumps({"step_s": TOOLS[tool](Path(path), Path(out))}))
        return
    for stem in asked.models:
        path = SHARED / "models" / f"{stem}.onnx"
        for tool in asked.tools:
            with tempfile.TemporaryDirectory() as folder:
                out = Path(folder) / "sparse.onnx"
                line = [sys.executable, "-m", "bench.two_four", "--one", tool, str(path), str(out)]
                done = subprocess.run(line, check=True, capture_output=True, text=True)
                seconds = json.loads(done.stdout.splitlines()[-1])["step_s"]
                row = {"model": stem, "tool": tool, **judge(path, out, stem)}
                row["ns_per_weight"] = round(seconds * 1e9 / max(row["weights_thinned"], 1), 1)
                row["step_cpu_s"] = round(seconds, 3)
                row["command_cpu_s"] = command_seconds(tool, path, Path(folder) / "again.onnx")
            _keep(asked.json, row)
            print(json.dumps(row), flush=True)


def _keep(path: Path, row: dict[str, Any]) -> None:
    """Put a row among the results, in place of the one of the same model and tool."""
    known = json.loads(path.read_text())["rows"] if path.exists() else []
    merged = {(each["model"], each["tool"]): each for each in (*known, row)}
    packages = ("onnxprune", "polygraphy", "onnxsim", "onnxruntime", "numpy")
    report = {
        "what": "2:4 by magnitude, no data; CPU time of one thread",
        "versions": {name: version(name) for name in packages},
        "machine": machine(),
        "rows": [merged[key] for key in sorted(merged)],
    }
    path.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
