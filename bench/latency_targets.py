"""Latencies that are asked for, and what the models that come back take.

    python -m bench.latency_targets [--case resnet20_cifar10_proj_fused/latency=0.5x@cpu]
    python -m bench.latency_targets --list
    python -m bench.latency_targets --table

Each case runs ``onnxprune prune --target ... --threads 1`` in a process of its own, as a user
would, and then times the file it wrote against the dense one in others, by the protocol of
``onnxprune bench`` with more processes and rounds than pruning spends on it.  Units are scored by
``l2`` and nothing is recovered: neither changes the clock.  ``0.65 of dense`` is an absolute
latency, that part of what the dense model is measured to take just before.  Results are saved after
each case.  What layers take is kept in ``bench/cache``: remove it to measure everything anew.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.folders import FOLDERS
from bench.latency import feeds
from onnxprune.evaluate.environment import environment
from onnxprune.evaluate.protocol import Case, Declined, Settings, measure
from onnxprune.solve.bootstrap import ratio

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results" / "latency_targets.json"
FILES = HERE / "cache" / "latency_targets"
MODELS = ("resnet20_cifar10_proj_fused", "mobilenetv1_0.75_imagenet_bn")
ABSOLUTE = "0.65 of dense"
TARGETS = (
    "latency=0.75x@cpu",
    "latency=0.6x@cpu",
    "latency=0.5x@cpu",
    "latency=0.6x@openvino",
    ABSOLUTE,
)
THREADS = 1
HOW = Settings(processes=5, rounds=12, slice_s=0.05, warm_s=3.0)
TOLERANCE = 0.05


def timed(backend: str, name: str, paths: tuple[Path, ...]) -> list[np.ndarray[Any, Any]]:
    """Seconds ``[processes, rounds]`` of each file."""
    found = measure(Case(backend, paths, feeds(name), THREADS), HOW)
    for each in found:
        if isinstance(each, Declined):
            sys.exit(f"{name} on {backend}: {each.reason}")
    return [each.medians for each in found if not isinstance(each, Declined)]


def case(name: str, target: str) -> dict[str, Any]:
    """One target: prune, then measure."""
    dense, out = FOLDERS["shared"] / f"{name}.onnx", FILES / f"{name}.onnx"
    asked, wanted = target, 0.0
    if target == ABSOLUTE:
        (alone,) = timed("cpu", name, (dense,))
        wanted = round(float(np.median(alone)) * float(target.split(maxsplit=1)[0]), 7)
        asked = f"latency={wanted * 1e3:.4g}ms@cpu"
    FILES.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    command = [sys.executable, "-m", "onnxprune", "prune", str(dense), "-o", str(out), "--json"]
    command += ["--target", asked, "--threads", str(THREADS), "--recover", "none", "--force"]
    cache = {"ONNXPRUNE_CACHE": str(HERE / "cache" / "times")}
    started = time.perf_counter()
    ran = subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, **cache}
    )
    row: dict[str, Any] = {"model": name, "target": target, "asked": asked}
    row |= {"exit": ran.returncode, "seconds": round(time.perf_counter() - started, 1)}
    if ran.returncode not in (0, 1):
        return row | {"error": ran.stderr.strip()[-300:]}
    said = json.loads(ran.stdout)
    whole, left = timed(asked.partition("@")[2], name, (dense, out))
    between = ratio(whole, left)
    reached = float(np.median(left)) if wanted else between.value
    limit = wanted or float(asked.partition("=")[2].partition("x")[0])
    macs = next(m for m in said["measures"] if m["name"] == "MACs")
    return row | {
        "said": next(c["value"] for c in said["checks"] if c["name"].startswith("latency")),
        "limit": limit,
        "reached": reached,
        "off": reached / limit - 1,
        "ok": abs(reached / limit - 1) <= TOLERANCE,
        "ratio": [between.value, between.low, between.high],
        "macs": macs["pruned"] / macs["dense"],
    }


def run(cases: list[tuple[str, str]], *, again: bool) -> None:
    """Fill the results file, one case at a time."""
    for name, target in cases:
        stored = json.loads(RESULTS.read_text()) if RESULTS.exists() else {"rows": []}
        rest = [r for r in stored["rows"] if (r["model"], r["target"]) != (name, target)]
        if len(rest) < len(stored["rows"]) and not again:
            continue
        before = environment()
        row = case(name, target)
        row["load_average"] = [*before.load_average, *environment().load_average]
        head = {"schema": 1, "environment": asdict(before), "protocol": asdict(HOW)}
        rows = sorted([*rest, row], key=lambda r: (MODELS.index(r["model"]), r["target"]))
        RESULTS.write_text(json.dumps(head | {"threads": THREADS, "rows": rows}, indent=1) + "\n")
        show([row])


def show(rows: list[dict[str, Any]]) -> None:
    """The rows as a table in Markdown."""
    for row in rows:
        start = f"| {row['model']} | {row['asked']} |"
        if "error" in row:
            print(start, row["error"], "|")
            continue
        value, low, high = row["ratio"]
        print(
            f"{start} {row['off']:+.1%} | {value:.3f} ({low:.3f} to {high:.3f}) | "
            f"{row['macs']:.3f} | {row['seconds']:.0f} s | {'yes' if row['ok'] else 'no'} |",
            flush=True,
        )


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.latency_targets", description=__doc__)
    every = {f"{name}/{target}": (name, target) for name in MODELS for target in TARGETS}
    parser.add_argument("--case", action="append", choices=tuple(every), metavar="MODEL/TARGET")
    parser.add_argument("--list", action="store_true", help="the cases")
    parser.add_argument("--table", action="store_true", help="show what there is")
    options = parser.parse_args()
    if options.list:
        print("\n".join(every))
    elif options.table:
        print("| model | asked | off by | of dense, measured | MACs | took | within 5 % |")
        print("|---|---|---|---|---|---|---|")
        show(json.loads(RESULTS.read_text())["rows"])
    else:
        chosen = [every[name] for name in options.case or every]
        run(chosen, again=bool(options.case))


if __name__ == "__main__":
    main()
