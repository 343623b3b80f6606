"""Which part of the parameters of real graphs is reached, and what keeps the rest.

    python -m bench.reach --results bench/results/reach.json [--before FILE] [FOLDER ...]

A parameter is reached if at least one unit takes it along; ``exact`` counts units whose removal
equals masking; ``interface`` is the same where graph inputs and outputs may lose indices too. The
graphs are those of strangers (``folders.py``: wild, shared) and those that packages ship
(``packages.py``). ``before``: the results of another version, to be set beside.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from bench.folders import FOLDERS, REPOSITORY
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import analyse
from onnxprune.jobs.results.reachable import reachable

FIGURES = ("reached", "exact", "heads")
REASONS = 3


def measure(path: Path) -> dict[str, Any]:
    """One graph."""
    start = time.process_time()
    try:
        analysis = analyse(path)
    except OnnxpruneError as error:
        return {"refused": error.message.replace(str(path), path.name)}
    seconds = time.process_time() - start
    share = reachable(analysis)
    sizes = {stored.name: stored.size for stored in analysis.tensors}
    reasons: Counter[str] = Counter()
    for axis in analysis.pinned:
        reasons[axis.reason] += sizes[axis.tensor]
    heads = [group for group in analysis.groups if group.kind in ("head", "kv-group")]
    row: dict[str, Any] = {
        "parameters": analysis.params,
        "reached": round(analysis.reachable, 4),
        "exact": round(share.exact / max(share.params, 1), 4),
        "heads": sum(map(len, heads)),
        "analyse_cpu_s": round(seconds, 2),
    }
    if analysis.reachable < 0.9:
        row["kept by"] = [reason for reason, _ in reasons.most_common(REASONS)]
    row["interface"] = _opened(path)
    return row


def _opened(path: Path) -> dict[str, Any]:
    """What is reached where the interface may change, and the kinds of groups that this opens."""
    start = time.process_time()
    analysis = analyse(path, interface=True)
    share = reachable(analysis)
    kinds = Counter(group.kind for group in analysis.groups if group.interface)
    return {
        "reached": round(analysis.reachable, 4),
        "exact": round(share.exact / max(share.params, 1), 4),
        "opens": dict(kinds.most_common()),
        "analyse_cpu_s": round(time.process_time() - start, 2),
    }


def _mean(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    return {key: round(sum(row[key] for row in rows) / len(rows), 4) for key in FIGURES[:2]}


def main() -> None:
    """All graphs of the given folders, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    packages = REPOSITORY / "bench" / "cache" / "packages"
    folders = [FOLDERS["wild"], FOLDERS["shared"], packages]
    parser.add_argument("folders", nargs="*", type=Path, default=folders)
    parser.add_argument("--before", type=Path)
    parser.add_argument("--results", type=Path, required=True)
    settings = parser.parse_args()
    earlier = json.loads(settings.before.read_text(encoding="utf-8")) if settings.before else {}
    rows = {}
    for path in (p for folder in settings.folders for p in sorted(Path(folder).glob("*.onnx"))):
        row = measure(path)
        old = earlier.get("rows", {}).get(path.stem, {})
        row["before"] = {key: old[key] for key in FIGURES if key in old}
        rows[path.stem] = row
        print(path.stem, json.dumps(row), flush=True)
    read = [row for row in rows.values() if "refused" not in row]
    summary = {
        "graphs": len(rows),
        "mean": _mean(read),
        "mean_interface": _mean([row["interface"] for row in read]),
        "before": earlier.get("summary", {}).get("mean"),
    }
    versions = {p: version(p) for p in ("onnxprune", "onnx", "onnx-ir", "onnxruntime")}
    document = {"versions": versions, "summary": summary, "rows": rows}
    settings.results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
