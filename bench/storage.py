"""Weights on disk: bytes, load time, peak memory and latency of every form, beside its peers.

    python -m bench.storage --models resnet20_cifar10_proj_bn [--sparsity 0.5 0.8 0.9]
        [--repeats 3] [--peer OTHER/bin/python] [--results bench/results/storage.json]
    python -m bench.storage --table [--results bench/results/storage.json]

Every matrix and kernel of a model (256 values or more) loses its smallest weights: the same share
of each, by magnitude.  What is measured is storage, not quality.  Forms: dense; sparse
(`sparse_initializer`; for OpenVINO `Constant.sparse_value`, all it reads); packed with exact, fp16
and int8 values.  Peers: zstd of the dense file (level 3, and 19 where the file is small), which no
runtime reads, and onnxsim's simplified model (`--peer` is a Python that has onnxsim).

Bytes are those of files.  Each load and run happens in a process of its own (a fork of one that has
only imported the runtime), one form after the other in an order that changes with every repeat.
Load is CPU time from the path to a session that can run, graph optimisations at their default; peak
is the highest resident memory of that process (VmHWM, reset before loading, what was there before
taken off); latency is CPU time of the fastest of many runs at batch 1 on one thread.  Of repeats,
the median is kept, and for latency also the least and the most.  OpenVINO computes in f32.  Linux
only.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

SHARED = Path(os.environ.get("ONNXPRUNE_SHARED", Path(__file__).parents[2] / "shared" / "data"))
RESULTS = Path(__file__).parent / "results" / "storage.json"
SECONDS, RUNS = 0.5, 15  # of runs per process, at least
FORMS = {
    "dense": ("dense", "exact"),
    "sparse": ("sparse", "exact"),
    "packed": ("packed", "exact"),
    "packed fp16": ("packed", "fp16"),
    "packed int8": ("packed", "int8"),
}
RUN = ("dense", "sparse", "packed", "packed fp16")
"""Forms that are loaded and run; int8 differs from fp16 in bytes and one more product at load."""


def thin(source: Path, sparsity: float, target: Path) -> int:
    """Zero the smallest weights of every matrix and kernel; how many weights those have."""
    from onnxprune import model as models
    from onnxprune.solve.masks import keep_top, magnitude

    model = models.clone(models.load(source))
    size = 0
    for value in models.constants(model).values():
        tensor = models.constant(value)
        assert tensor is not None
        if tensor.dtype.name != "FLOAT" or len(tensor.shape) < 2 or tensor.size < 256:
            continue
        array = tensor.numpy()
        kept = keep_top(magnitude(array), sparsity)
        models.set_constant(value, np.where(kept, array, np.float32(0)))
        size += array.size
    models.save(model, target)
    return size


def compressed(path: Path) -> dict[str, int]:
    """Bytes of the file under zstd."""
    import zstandard

    data = path.read_bytes()
    levels = (3, 19) if len(data) < 16 << 20 else (3,)  # level 19 takes minutes of larger ones
    return {
        f"zstd -{level}": len(zstandard.ZstdCompressor(level=level).compress(data))
        for level in levels
    }


def simplified(path: Path, peer: str, folder: Path) -> int | None:
    """Bytes of what onnxsim makes of the file; None if it fails."""
    target = folder / "simplified.onnx"
    command = [peer, "-m", "onnxsim", str(path), str(target)]
    ran = subprocess.run(command, capture_output=True, check=False)
    return target.stat().st_size if ran.returncode == 0 and target.exists() else None


def memory(key: str) -> int:
    """KiB that /proc says."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return int(line.split()[1])
    raise KeyError(key)


def inputs(shapes: dict[str, tuple[Any, ...]], floats: set[str]) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    made = {}
    for name, shape in shapes.items():
        sizes = [
            size if isinstance(size, int) else (1 if k == 0 else 64) for k, size in enumerate(shape)
        ]
        made[name] = (
            rng.standard_normal(sizes).astype(np.float32)
            if name in floats
            else np.ones(sizes, np.int64)
        )
    return made


def in_onnxruntime(path: str) -> tuple[Any, Any]:
    """A function that loads, and one that makes a run of what was loaded."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = 1

    def load() -> Any:
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def runner(session: Any) -> Any:
        given = session.get_inputs()
        floats = {each.name for each in given if "float" in each.type}
        feeds = inputs({each.name: tuple(each.shape) for each in given}, floats)
        return lambda: session.run(None, feeds)

    return load, runner


def in_openvino(path: str) -> tuple[Any, Any]:
    """The same with OpenVINO's own API."""
    import openvino

    core = openvino.Core()
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}

    def load() -> Any:
        return core.compile_model(core.read_model(path), "CPU", settings)

    def runner(compiled: Any) -> Any:
        shapes, floats = {}, set()
        for each in compiled.inputs:
            sizes = [d.get_length() if d.is_static else None for d in each.get_partial_shape()]
            shapes[each.get_any_name()] = tuple(sizes)
            if each.get_element_type() == openvino.Type.f32:
                floats.add(each.get_any_name())
        feeds, request = inputs(shapes, floats), compiled.create_infer_request()
        return lambda: request.infer(feeds)

    return load, runner


def work(runtime: str, path: str) -> dict[str, float]:
    """Load and run one file in this process."""
    load, runner = {"onnxruntime": in_onnxruntime, "openvino": in_openvino}[runtime](path)
    before = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    cpu, wall = time.process_time(), time.perf_counter()
    loaded = load()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    peak, held = memory("VmHWM") - before, memory("VmRSS") - before
    run = runner(loaded)
    run()
    fastest, until, runs = float("inf"), time.perf_counter() + SECONDS, 0
    while time.perf_counter() < until or runs < RUNS:
        runs += 1
        start = time.process_time()
        run()
        fastest = min(fastest, time.process_time() - start)
    return {
        "load_cpu_s": cpu,
        "load_wall_s": wall,
        "peak_mib": peak / 1024,
        "held_mib": held / 1024,
        "latency_ms": fastest * 1e3,
    }


def serve(runtime: str) -> None:
    """Measure each file named on stdin in a child of its own, which finds the runtime imported."""
    __import__(runtime)
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            print(json.dumps(work(runtime, line.strip())), flush=True)
            os._exit(0)
        os.waitpid(child, 0)


class Server:
    """The other end of `serve`."""

    def __init__(self, runtime: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "bench.storage", "--serve", runtime],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment,
            cwd=Path(__file__).parents[1],
        )  # fmt: skip

    def measure(self, path: Path) -> dict[str, float]:
        """What one file takes."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(path, file=self.process.stdin, flush=True)
        found: dict[str, float] = json.loads(self.process.stdout.readline())
        return found

    def close(self) -> None:
        """Let it go."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def summary(runs: list[dict[str, float]]) -> dict[str, float]:
    made = {key: round(statistics.median(run[key] for run in runs), 4) for key in runs[0]}
    latencies = [run["latency_ms"] for run in runs]
    return made | {
        "latency_least_ms": round(min(latencies), 4),
        "latency_most_ms": round(max(latencies), 4),
        "repeats": len(runs),
    }


def case(name: str, sparsity: float, repeats: int, peer: str | None) -> dict[str, Any]:
    """Everything about one model at one sparsity."""
    from onnxprune.config import StoreOptions
    from onnxprune.jobs.store import store

    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "thinned.onnx"
        weights = thin(SHARED / "models" / f"{name}.onnx", sparsity, dense)
        files, sizes, spent = {}, {}, {}
        for label, (form, values) in FORMS.items():
            path = Path(folder) / f"{label.replace(' ', '_')}.onnx"
            asked = StoreOptions(form, values=values, always=label == "sparse")  # type: ignore[arg-type]
            start = time.process_time()
            store(dense, asked).save(path)
            spent[label] = round(time.process_time() - start, 3)
            files[label], sizes[label] = path, path.stat().st_size
        node = Path(folder) / "node.onnx"
        store(dense, StoreOptions("sparse", always=True, backend=("openvino",))).save(node)
        sizes |= compressed(dense)
        if peer:
            size = simplified(dense, peer, Path(folder))
            sizes |= {"onnxsim": size} if size is not None else {}
        runs: dict[tuple[str, str], list[dict[str, float]]] = {}
        servers = {runtime: Server(runtime) for runtime in ("onnxruntime", "openvino")}
        for repeat in range(repeats):
            order = [(runtime, label) for runtime in ("onnxruntime", "openvino") for label in RUN]
            random.Random(repeat).shuffle(order)
            for runtime, label in order:
                path = node if (runtime, label) == ("openvino", "sparse") else files[label]
                runs.setdefault((runtime, label), []).append(servers[runtime].measure(path))
        for server in servers.values():
            server.close()
    return {
        "model": name,
        "sparsity": sparsity,
        "weights": weights,
        "bytes": sizes,
        "graph_bytes": sizes["dense"] - 4 * weights,
        "store_cpu_s": spent,
        "runs": {f"{runtime} {label}": summary(found) for (runtime, label), found in runs.items()},
    }


def versions() -> dict[str, str]:
    from importlib.metadata import version

    names = ("onnxprune", "onnx", "onnxruntime", "openvino", "numpy", "zstandard")
    return {name: version(name) for name in names}


def table(results: dict[str, Any]) -> None:
    """Bytes as a share of the dense file, then what runtimes do."""
    for one in results["cases"].values():
        dense = one["bytes"]["dense"]
        print(f"\n{one['model']}  {one['sparsity']:.0%} zeros  dense {dense / 2**20:.2f} MiB")
        print("  " + "  ".join(f"{k} {v / dense:.3f}x" for k, v in one["bytes"].items()))
        for key, run in one["runs"].items():
            print(
                f"  {key:<24} load {run['load_cpu_s']:.3f} s  peak {run['peak_mib']:6.1f} MiB  "
                f"latency {run['latency_ms']:.3f} ms "
                f"({run['latency_least_ms']:.3f}-{run['latency_most_ms']:.3f})"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="*", default=[])
    parser.add_argument("--sparsity", nargs="*", type=float, default=[0.5, 0.8, 0.9])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--peer", help="a Python with onnxsim")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve:
        serve(given.serve)
        return
    results = json.loads(given.results.read_text()) if given.results.exists() else {"cases": {}}
    for name in given.models:
        for sparsity in given.sparsity:
            made = case(name, sparsity, given.repeats, given.peer)
            results["cases"][f"{name} {sparsity:g}"] = made
            results["versions"] = versions()
            given.results.write_text(json.dumps(results, indent=1) + "\n")
    if given.table or given.models:
        table(results)


if __name__ == "__main__":
    main()
