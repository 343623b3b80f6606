"""What pruning costs: real networks with real scores, onnxprune beside onnxsim 0.8.1.

    python -m bench.quality --system onnxprune [--set asked] [--only GLOB] [--again]
    python -m bench.quality --system onnxsim --peer OTHER/bin/python [--only GLOB]
    python -m bench.quality --table        # from what was measured, with what is asked
    python -m bench.quality --plot         # results/quality_macs and quality_sparsity, svg and png

Both systems get the same unlabelled calibration inputs, and none of them is scored
(bench/quality_cases.py). Every run is a process of its own, timed from start to end with the
threads its user would get; another process counts and scores the file it wrote, with the same code
for both systems. Results are saved after each run, and a run that is there already is not repeated
without --again.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.quality_cases import CASES, path_of, rivals
from bench.structured import _VERSIONS, HERE, limited, machine

RESULTS = HERE / "results" / "quality.json"


@dataclass(frozen=True)
class Run:
    """One process: what it is given after the model, and how many inputs (0: all there are)."""

    graph: str
    label: str
    program: str
    arguments: tuple[str, ...]
    samples: int = 0


def runs(options: argparse.Namespace) -> Iterator[Run]:
    """What is to be run, in order."""
    cases = [case for name in options.set or CASES for case in CASES[name]]
    if options.system == "onnxsim":
        found = [
            Run(
                graph,
                f"{method} {amount}",
                "quality_peer.py",
                ("--method", method, "--amount", amount),
            )
            for graph, method, amount in rivals(cases)
        ]
    else:
        found = [
            Run(c.graph, c.label, "quality_run.py", ("--asked", json.dumps(dict(c.asked))))
            for c in cases
        ]
    for run in found:
        if any(fnmatch.fnmatch(n, options.only) for n in (run.graph, f"{run.graph} {run.label}")):
            yield run


def read() -> dict[str, Any]:
    """What has been measured."""
    empty: dict[str, Any] = {"schema": 1, "systems": {}, "dense": {}, "rows": []}
    return json.loads(RESULTS.read_text()) if RESULTS.exists() else empty


def write(stored: Mapping[str, Any]) -> None:
    """Replace the results: one line for each row, which keeps files and diffs readable."""
    head = json.dumps({k: v for k, v in stored.items() if k not in {"rows", "dense"}}, indent=1)
    order = sorted(stored["rows"], key=lambda r: (r["graph"], r["system"], r["label"]))
    rows = ",\n".join(json.dumps(row) for row in order)
    dense = ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in stored["dense"].items())
    part = RESULTS.with_suffix(".part")
    part.write_text(f'{head[:-2]},\n"dense": {{\n{dense}\n}},\n"rows": [\n{rows}\n]\n}}\n')
    part.replace(RESULTS)


def measure(options: argparse.Namespace) -> None:
    """Run what is missing, one after the other."""
    versions = json.loads(subprocess.check_output([options.peer, "-c", _VERSIONS], text=True))
    commit = revision()
    done = {(r["graph"], r["label"]) for r in read()["rows"] if r["system"] == options.system}
    for run in runs(options):
        if (run.graph, run.label) in done and not options.again:
            continue
        if not path_of(run.graph).exists():
            print(f"{run.graph}: not on this machine")
            continue
        row = {"system": options.system, "graph": run.graph, "label": run.label, "commit": commit}
        load = os.getloadavg()[0]
        row |= one(run, options.peer, options.limit) | {"load_before": round(load, 1)}
        stored = read()  # now: somebody else may have added to it meanwhile
        if run.graph not in stored["dense"]:
            stored["dense"][run.graph] = limited(score(run.graph), options.limit)
        stored["systems"][options.system] = {
            "versions": versions,
            "machine": machine(),
            "time_limit_s": options.limit,
        }
        same = (options.system, run.graph, run.label)
        kept = [r for r in stored["rows"] if (r["system"], r["graph"], r["label"]) != same]
        write({**stored, "rows": [*kept, row]})
        said = row.get("judged", row["run"])
        dense = stored["dense"][run.graph].get("scores")
        print(run.graph, run.label, said.get("error") or said["scores"], "dense", dense, flush=True)


def kept_at(system: str, graph: str, label: str) -> Path | None:
    """Where a sparse network is kept for bench/layer_error.py; None if it is not one of those."""
    amount = label.removeprefix("sparsegpt ") if system == "onnxsim" else label
    if amount not in {"50%", "2:4"}:
        return None
    return HERE / "cache" / "quality" / f"{graph}__{system}__{amount.replace(':', 'of')}.onnx"


def revision() -> str:
    """Of the code that measures."""
    describe = ["git", "describe", "--always", "--dirty"]
    return subprocess.check_output(describe, text=True, cwd=HERE).strip()


def score(graph: str, *more: str) -> list[str]:
    """The command that judges a network, see bench/quality_score.py."""
    return [sys.executable, "-m", "bench.quality_score", graph, *more]


def one(run: Run, python: str, limit: float) -> dict[str, Any]:
    """One run in an interpreter, and the judgement of what it wrote."""
    with tempfile.TemporaryDirectory() as folder:
        feeds, out = Path(folder) / "calibration.npz", Path(folder) / "pruned.onnx"
        command = score(run.graph, "--calibration", str(feeds), "--samples", str(run.samples))
        subprocess.run(command, cwd=HERE.parent, check=True)
        command = [python, str(HERE / run.program), str(path_of(run.graph)), str(out)]
        command += ["--calibration", str(feeds), *run.arguments]
        row: dict[str, Any] = {"run": limited(command, limit, os.environ)}
        if out.exists():
            row["judged"] = limited(score(run.graph, str(out)), limit)
            system = "onnxsim" if run.program == "quality_peer.py" else "onnxprune"
            if (kept := kept_at(system, run.graph, run.label)) is not None:
                kept.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(out, kept)
    return row


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--system", choices=("onnxprune", "onnxsim"))
    parser.add_argument("--peer", default=sys.executable, help="the Python that has the system")
    parser.add_argument("--set", action="append", choices=tuple(CASES))
    parser.add_argument("--only", default="*", help="a glob over networks, or over cases")
    parser.add_argument("--again", action="store_true", help="also what was measured before")
    parser.add_argument("--limit", type=float, default=1800, help="seconds for each process")
    parser.add_argument("--table", action="store_true")
    parser.add_argument("--plot", action="store_true")
    options = parser.parse_args()
    if options.system:
        measure(options)
    if options.table:
        from bench.quality_table import table

        table(read())
    if options.plot:
        from bench.quality_plot import plot

        plot(read(), RESULTS.parent)


if __name__ == "__main__":
    main()
