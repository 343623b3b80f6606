"""Structured pruning, system by system and graph by graph: what is removed, and does it still run?

    python -m bench.structured --system onnxsim --peer PYTHON --results FILE.json [--only GLOB]
    python -m bench.structured --system onnxprune --results FILE.json
    python -m bench.structured_table FILE.json ... [--all]

Every (system, method, graph) is one process with a time limit and its own peak memory; a second
process judges the file it wrote (bench/judge.py).  Results are saved after each graph, and a run
continues where an earlier one stopped.  This process imports nothing heavy on purpose: on Linux a
child's peak memory is never reported below its parent's.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.folders import FOLDERS

HERE = Path(__file__).resolve().parent
PROGRAMS = {"onnxsim": "onnxsim_peer.py", "onnxprune": "onnxprune_run.py"}
METHODS = {
    "onnxsim": ("l2-cpp", "l2-py", "wanda", "l2-cpp+sim", "l2-py+sim", "wanda+sim"),
    "onnxprune": ("l2", "data", "budget"),
}
RATIOS = {"zoo": (0.5,), "shared": (0.25, 0.5), "wild": (0.5,)}
BATCHES = 32  # of calibration: 16 samples each where the batch is free, one where it is fixed
_FOLDER = re.compile(r"(?<![\w/])/[^\s'\":]*/")  # results name files, not where they were
_THREADS = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_VERSIONS = """
import importlib.metadata, json, platform
wanted = {"numpy", "onnx", "onnxruntime", "onnxsim", "onnx-ir", "onnxprune"}
found = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
print(json.dumps({"python": platform.python_version()} | {n: found[n] for n in wanted & {*found}}))
"""


def limited(
    command: Sequence[str], seconds: float, env: Mapping[str, str] = _THREADS
) -> dict[str, Any]:
    """Run a command: its last line as JSON, seconds, peak MiB; `error` where it has none."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=env, cwd=HERE.parent)
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        while pid == 0:
            time.sleep(0.02)
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid == 0 and time.perf_counter() - start > seconds:
                process.kill()
                pid, status, usage = os.wait4(process.pid, 0)
                status = -1
        process.returncode = os.waitstatus_to_exitcode(status) if status >= 0 else -1
        out.seek(0)
        err.seek(0)
        lines = out.read().decode(errors="replace").strip().splitlines()
        complaints = err.read().decode(errors="replace").strip().splitlines()
    found: dict[str, Any] = {
        "wall_s": round(time.perf_counter() - start, 2),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "peak_mib": usage.ru_maxrss // 1024,
    }
    if status == -1:
        return {**found, "error": f"stopped after {seconds:.0f} s"}
    if process.returncode < 0:
        return {**found, "error": f"killed by signal {-process.returncode}"}
    if process.returncode > 0 or not lines:
        said = next((line for line in reversed(complaints) if line.strip()), "no message")
        return {**found, "error": _FOLDER.sub("", said)[:300]}
    return {**found, **json.loads(lines[-1])}


def graphs(kinds: Iterable[str], pattern: str) -> list[tuple[str, str, Path]]:
    """(kind, name, path) of every graph on this machine that matches."""
    return [
        (kind, path.stem, path)
        for kind in kinds
        for path in sorted(FOLDERS[kind].glob("*.onnx"))
        if fnmatch.fnmatch(path.stem, pattern)
    ]


def machine() -> dict[str, Any]:
    """What it ran on, without naming the machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if "model name" in line), "")
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "cpu": model or platform.machine(),
        "cores": os.cpu_count(),
        "memory_gib": round(pages / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
    }


def run(options: argparse.Namespace) -> None:
    """Fill the results file, one graph at a time."""
    results: Path = options.results
    stored = json.loads(results.read_text()) if results.exists() else {"rows": [], "dense": {}}
    versions = subprocess.check_output([options.peer, "-c", _VERSIONS], text=True)
    commit = ["git", "describe", "--always", "--dirty"]
    stored |= {
        "schema": 1,
        "commit": subprocess.check_output(commit, text=True, cwd=HERE).strip(),
        "system": options.system,
        "machine": machine(),
        "versions": json.loads(versions),
        "conditions": {
            "threads": 1,
            "calibration_batches": BATCHES,
            "ratios": RATIOS,
            "time_limit_s": options.limit,
        },
    }
    done = {(row["graph"], row["method"], row["ratio"]) for row in stored["rows"]}
    methods = options.method or METHODS[options.system]
    for kind, name, path in graphs(options.kind or FOLDERS, options.only):
        todo = [(m, r) for m in methods for r in RATIOS[kind] if (name, m, r) not in done]
        if todo:
            _one_graph(stored, options, kind, path, todo)
            results.parent.mkdir(parents=True, exist_ok=True)
            results.write_text(_text(stored))


def _text(stored: Mapping[str, Any]) -> str:
    """The results as JSON with one line for each row, which keeps files and diffs readable."""
    head = json.dumps({k: v for k, v in stored.items() if k not in {"rows", "dense"}}, indent=1)
    rows = ",\n".join(json.dumps(row) for row in stored["rows"])
    dense = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in stored["dense"].items())
    return f'{head[:-2]},\n"dense": {{\n{dense}\n}},\n"rows": [\n{rows}\n]\n}}\n'


def _one_graph(
    stored: dict[str, Any],
    options: argparse.Namespace,
    kind: str,
    path: Path,
    todo: Iterable[tuple[str, float]],
) -> None:
    judge = [sys.executable, "-m", "bench.judge", "--kind", kind, "--score", path.stem]
    if path.stem not in stored["dense"]:
        stored["dense"][path.stem] = limited(judge, options.limit)
    with tempfile.TemporaryDirectory() as folder:
        calibration = Path(folder) / "calibration.npz"
        subprocess.run(
            [*judge, "--calibration", str(calibration), "--batches", str(BATCHES)],
            cwd=HERE.parent,
            env=_THREADS,
            check=True,
        )
        for method, ratio in todo:
            out = Path(folder) / "pruned.onnx"
            for old in (out, out.with_suffix(".base")):
                old.unlink(missing_ok=True)
            command = [options.peer, str(HERE / PROGRAMS[options.system]), str(path), str(out)]
            command += ["--method", method, "--ratio", str(ratio)]
            command += ["--calibration", str(calibration)]
            row = {"graph": path.stem, "kind": kind, "method": method, "ratio": ratio}
            row["run"] = limited(command, options.limit)
            if out.exists():
                row["judged"] = limited([*judge, str(out)], options.limit)
            stored["rows"].append(row)
            print(_progress(row), flush=True)


def _progress(row: Mapping[str, Any]) -> str:
    found = row.get("judged", row["run"])
    said = found.get("error") or f"{found['params']}/{found['params_dense']} parameters"
    return f"{row['graph']} {row['method']} {row['ratio']}: {said}"


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.structured", description=__doc__)
    parser.add_argument("--system", choices=tuple(PROGRAMS), required=True)
    parser.add_argument("--peer", default=sys.executable, help="the Python that has the system")
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--kind", action="append", choices=tuple(FOLDERS))
    parser.add_argument("--method", action="append")
    parser.add_argument("--only", default="*", help="a glob over graph names")
    parser.add_argument("--limit", type=float, default=300, help="seconds for each process")
    run(parser.parse_args())


if __name__ == "__main__":
    main()
