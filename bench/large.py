"""What pruning large models without data costs: private memory and CPU time per weight.

    python -m bench.large MODEL.onnx ... [--jobs 2:4,50%,external] [--out DIR] [--json results.json]
    python -m bench.large --nodes 1000,2000,4000,8000 --jobs ratio [--out DIR] [--json results.json]

With --nodes the models are chains of that many Gemm and Relu, 16 wide: what grows faster than their
length shows in CPU seconds per node.

Every job is one run of the command line, in a process of its own, from reading the model to the
written file. Reported are the peak of private memory (sampled RssAnon: what the machine must have;
pages of mapped files may be dropped), the peak of resident memory (VmHWM), CPU seconds, and the
wall time beside that of a copy of the same files just before. Outputs are removed. Linux only.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx

JOBS = {
    "2:4": ("prune", "--sparsity", "2:4"),
    "50%": ("prune", "--sparsity", "50%"),
    "global": ("prune", "--sparsity", "50%", "--sparse-allocation", "global"),
    "external": ("store", "--store", "external"),
    "ratio": ("prune", "--ratio", "0.3"),
}
_ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def chain(nodes: int, path: Path) -> Path:
    """Write a chain of Gemm and Relu, 16 wide."""
    rng, width, inits, ops = np.random.default_rng(0), 16, [], []
    for k in range(nodes // 2):
        for name, array in (
            (f"w{k}", rng.standard_normal((width, width)) / 3),
            (f"b{k}", rng.standard_normal(width) / 10),
        ):
            inits.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
        ops.append(onnx.helper.make_node("Gemm", [f"h{k}", f"w{k}", f"b{k}"], [f"g{k}"]))
        ops.append(onnx.helper.make_node("Relu", [f"g{k}"], [f"h{k + 1}"]))
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", width])
        for name in ("h0", f"h{nodes // 2}")
    ]
    graph = onnx.helper.make_graph(ops, "chain", ends[:1], ends[1:], inits)
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, ir_version=9, opset_imports=opset), path)
    return path


def files_of(model: Path) -> list[Path]:
    """A model file and the files that its weights are in."""
    proto = onnx.load(model, load_external_data=False)
    names = {
        entry.value
        for tensor in proto.graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    return [model, *sorted(model.with_name(name) for name in names)]


def weights_of(model: Path) -> int:
    """How many numbers a model stores."""
    proto = onnx.load(model, load_external_data=False)
    total = 0
    for tensor in proto.graph.initializer:
        size = 1
        for length in tensor.dims:
            size *= length
        total += size
    return total


def copied(files: list[Path], folder: Path) -> float:
    """Seconds that a copy of files takes, until it is on the disk."""
    start = time.perf_counter()
    for file in files:
        copy = folder / f"copy-{file.name}"
        shutil.copyfile(file, copy)
        with copy.open("rb+") as stream:
            os.fsync(stream.fileno())
    seconds = time.perf_counter() - start
    for file in files:
        (folder / f"copy-{file.name}").unlink()
    return seconds


def status(pid: int) -> Iterator[tuple[str, float]]:
    """The figures of a process in /proc, in MiB; nothing once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        key, _, value = line.partition(":")
        if key in ("RssAnon", "VmHWM"):
            yield key, int(value.split()[0]) / 1024


def measure(model: Path, job: str, folder: Path) -> dict[str, Any]:
    """Run one job, and report what it took."""
    output = folder / f"out-{model.name}"
    command, *flags = JOBS[job]
    line = [sys.executable, "-m", "onnxprune", command, str(model), *flags, "-o", str(output)]
    copy = copied(files_of(model), folder)
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start, peaks = time.perf_counter(), {"RssAnon": 0.0, "VmHWM": 0.0}
    with subprocess.Popen(
        line, env=_ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        while process.poll() is None:
            for key, value in status(process.pid):
                peaks[key] = max(peaks[key], value)
            time.sleep(0.005)
        said = process.stdout.read() if process.stdout else ""
    wall = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    for file in folder.glob(f"{output.name}*"):
        file.unlink()
    weights, nodes = weights_of(model), len(onnx.load(model, load_external_data=False).graph.node)
    return {
        "model": model.stem,
        "job": job,
        "weights": weights,
        "nodes": nodes,
        "exit": process.returncode,
        "private MiB": round(peaks["RssAnon"]),
        "resident MiB": round(peaks["VmHWM"]),
        "CPU s": round(cpu, 2),
        "CPU s per 1e9 weights": round(cpu / weights * 1e9, 1),
        "CPU ms per node": round(cpu / nodes * 1e3, 2),
        "wall s": round(wall, 1),
        "copy s": round(copy, 1),
        "said": said.strip().splitlines()[-1] if process.returncode and said else "",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", type=Path)
    parser.add_argument("--nodes", default="", help="also chains of so many nodes")
    parser.add_argument("--jobs", default="2:4,50%,external", help=f"of {', '.join(JOBS)}")
    parser.add_argument("--out", type=Path, help="folder for outputs (default: the model's)")
    parser.add_argument("--json", type=Path, help="also write the figures there")
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(dir=args.out) as folder:
        chains = [
            chain(int(n), Path(folder) / f"chain{n}.onnx") for n in args.nodes.split(",") if n
        ]
        for model in (*args.models, *chains):
            for job in args.jobs.split(","):
                rows.append(measure(model, job, args.out or model.parent))
                print(json.dumps(rows[-1]), flush=True)
                if args.json:
                    args.json.write_text(json.dumps(document(rows), indent=1) + "\n")


def document(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The figures and their conditions."""
    packages = {name: version(name) for name in ("numpy", "onnx", "onnx-ir")}
    conditions = {
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "load": round(os.getloadavg()[0], 1),
        "versions": {"python": platform.python_version(), **packages},
    }
    return {"conditions": conditions, "rows": rows}


if __name__ == "__main__":
    main()
