"""What onnxprune reaches, graph by graph: 30 % of every exact group removed at random and verified.

    python -m bench.coverage --results bench/results/coverage.json [FOLDER ...]

Every graph: how many units and heads can go, which part of the parameters, how long analysis and
surgery take, and how far the cut graph is from the dense one with the same units masked, at two
sets of input shapes. Made-up inputs; accuracy is no subject here.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np

from bench.folders import FOLDERS
from onnxprune import model as models
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.graph.analysis import analyse
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import cut

PART = 0.3


def measure(path: Path) -> dict[str, object]:
    """One graph."""
    row: dict[str, object] = {"graph": path.stem}
    try:
        model = models.load(path)
        start = time.process_time()
        analysis = analyse(model)
        row["analyse_cpu_s"] = round(time.process_time() - start, 3)
        rng = np.random.default_rng(0)
        removed: dict[str, list[int]] = {}
        for group in analysis.groups:
            count = max(1, int(len(group) * PART))
            if group.exact and len(group) > 1:
                removed[group.name] = sorted(rng.choice(len(group), count, replace=False).tolist())
                if analysis.emptied(removed):
                    del removed[group.name]
        heads = [g for g in analysis.groups if g.kind in ("head", "kv-group")]
        row |= {
            "groups": len(analysis.groups),
            "units": sum(map(len, analysis.groups)),
            "removed": sum(map(len, removed.values())),
            "heads": sum(map(len, heads)),
            "heads_removed": sum(len(removed.get(g.name, ())) for g in heads),
            "blocks": len(analysis.blocks),
            "reachable": round(analysis.reachable, 4),
        }
        start = time.process_time()
        small = cut(analysis, removed)
        row["cut_cpu_s"] = round(time.process_time() - start, 3)
        check = check_equivalence(small, mask_model(analysis, removed), synthetic_inputs(analysis))
        row |= {"error": check.value, "limit": check.limit, "verified": check.ok}
    except OnnxpruneError as error:
        row["refused"] = error.message.replace(str(path), path.name)
    return row


def main() -> None:
    """All graphs of the given folders, one line each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folders", nargs="*", type=Path, default=list(FOLDERS.values()))
    parser.add_argument("--results", type=Path, required=True)
    given = parser.parse_args()
    rows = []
    for path in (p for folder in given.folders for p in sorted(Path(folder).glob("*.onnx"))):
        rows.append(measure(path))
        print(json.dumps(rows[-1]), flush=True)
    verified = [r for r in rows if r.get("verified")]
    conditions = {
        "part of every exact group removed": PART,
        "machine": f"{platform.machine()}, 2 cores, shared",
        "versions": {p: version(p) for p in ("onnxprune", "onnx", "onnx-ir", "onnxruntime")},
    }
    summary = {
        "graphs": len(rows),
        "verified": len(verified),
        "verified with something removed": sum(bool(r["removed"]) for r in verified),
        "refused": sum("refused" in r for r in rows),
        "largest error": max((r["error"] for r in verified), default=None),
    }
    document = {"conditions": conditions, "summary": summary, "rows": rows}
    given.results.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(summary))


if __name__ == "__main__":
    main()
