"""How many unlabelled inputs it takes: the same budget met from few of them and from more.

    python -m bench.few_samples [--peer OTHER/bin/python] [--only GLOB]
    python -m bench.few_samples --table

Every system gets the first so many of the calibration inputs of bench/quality.py, in batches of as
many as there; scores and costs are counted as there. onnxsim has no budget: of its methods the one
that keeps most accuracy at this cost or less, given all inputs, is run (results/quality.json), and
networks that it leaves as they are are left out. Results: results/few_samples.json.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
from collections.abc import Iterator
from typing import Any

from bench.quality import Run, one, revision, score
from bench.quality_cases import path_of
from bench.structured import HERE, limited, machine

RESULTS = HERE / "results" / "few_samples.json"
CASES: dict[str, tuple[str, tuple[int, ...]]] = {
    "resnet20_cifar10_proj_bn": ("macs=66.7%", (16, 64, 256)),
    "mobilenetv1_0.75_imagenet_bn": ("macs=76.9%", (40, 80, 200)),
    "digits_rescnn": ("macs=50%", (16, 64, 256)),
}
"""The budget of each network, and numbers of inputs."""
_RIVALS = {"resnet20_cifar10_proj_bn": ("structured-wanda-global+sim", "33%")}
_LIMIT = 1800.0


def runs(peer: str | None) -> Iterator[tuple[str, Run]]:
    """Systems and what they are to do."""
    for graph, (target, counts) in CASES.items():
        for count in counts:
            asked = ("--asked", json.dumps({"target": target}))
            yield "onnxprune", Run(graph, target, "quality_run.py", asked, count)
            if peer and graph in _RIVALS:
                method, amount = _RIVALS[graph]
                asked = ("--method", method, "--amount", amount)
                label = f"{method} {amount}"
                yield "onnxsim", Run(graph, label, "quality_peer.py", asked, count)


def table(found: dict[str, Any]) -> None:
    """What was measured, as markdown."""
    print("| network | MACs | inputs | onnxprune | onnxsim (its MACs) | dense |")
    print("|---|---|---|---|---|---|")
    rows = {(r["system"], r["graph"], r["inputs"]): r.get("judged", {}) for r in found["rows"]}
    for graph, (_, counts) in CASES.items():
        dense = found["dense"].get(graph)
        for count in counts if dense else ():
            ours, theirs = (rows.get((s, graph, count), {}) for s in ("onnxprune", "onnxsim"))
            (unit, value), *_ = dense["scores"].items()
            share = ours["macs"] / dense["macs"]
            other = "-"
            if theirs:
                other = f"{theirs['scores'][unit]:.1f} ({theirs['macs'] / dense['macs']:.3f})"
            mine = ours["scores"][unit]
            print(f"| {graph} | {share:.3f} | {count} | {mine:.1f} | {other} | {value:.1f} |")


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(
        prog="python -m bench.few_samples",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--peer", help="the Python that has onnxsim 0.8.1")
    parser.add_argument("--only", default="*", help="a glob over networks")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    stored: dict[str, Any] = {"schema": 1, "dense": {}, "rows": []}
    if RESULTS.exists():
        stored = json.loads(RESULTS.read_text())
    if options.table:
        table(stored)
        return
    commit = revision()
    for system, run in runs(options.peer):
        graph = run.graph
        if not fnmatch.fnmatch(graph, options.only):
            continue
        if not path_of(graph).exists():
            print(f"{graph}: not on this machine")
            continue
        if graph not in stored["dense"]:
            stored["dense"][graph] = limited(score(graph), _LIMIT)
        same = (system, graph, run.samples)
        row = {"system": system, "graph": graph, "inputs": run.samples, "load": os.getloadavg()[0]}
        python = options.peer if system == "onnxsim" else sys.executable
        row |= one(run, python, _LIMIT) | {"commit": commit}
        stored["rows"] = [
            r for r in stored["rows"] if (r["system"], r["graph"], r["inputs"]) != same
        ] + [row]
        stored["machine"] = machine()
        RESULTS.write_text(json.dumps(stored, indent=1) + "\n")
        print(*same, row.get("judged", row["run"]), flush=True)
    table(stored)


if __name__ == "__main__":
    main()
