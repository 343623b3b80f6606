"""The results of bench/structured.py as markdown: `python -m bench.structured_table FILE.json ...`.

Columns: *parameters* in floating-point constants before and after; *reached*, the share of them
in tensors that the system made smaller; attention *heads*; *= masked*, the largest relative
difference between the pruned graph and the dense graph with the same units zeroed; the task's
*score* or why there is none; seconds and peak memory of pruning.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

OUTCOMES = ("pruned", "untouched", "broken", "failed")


def outcome(row: Mapping[str, Any]) -> str:
    """`pruned`, `untouched`, `broken` (written, but unusable) or `failed` (nothing written)."""
    if "judged" not in row:
        return "failed"
    judged = row["judged"]
    if "params" not in judged or not judged.get("valid", False):
        return "broken"
    return "pruned" if judged["params"] < 0.999 * judged["params_dense"] else "untouched"


def best(rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A system's best row for one graph: valid, fewest parameters left, then best score."""

    def key(row: Mapping[str, Any]) -> tuple[int, float, float]:
        judged = row.get("judged", {})
        left = judged.get("params", 0) / max(judged.get("params_dense", 1), 1)
        score = judged.get("score", 0.0) * (1 if judged.get("unit") == "nats" else -1)
        return OUTCOMES.index(outcome(row)), round(left, 2), score

    return min(rows, key=key)


def table(files: Iterable[Path], *, every: bool) -> None:
    """Print each system's best method (or every one) for each graph and ratio, and the tally."""
    print(
        "| graph | ratio | system | method | outcome | parameters | reached | heads "
        "| = masked | score | s | MiB |\n|--|--|--|--|--|--|--|--|--|--|--|--|"
    )
    groups: dict[tuple[str, float, str], list[Mapping[str, Any]]] = {}
    dense: dict[str, Mapping[str, Any]] = {}
    for path in files:
        stored = json.loads(path.read_text())
        dense |= stored["dense"]
        for row in stored["rows"]:
            groups.setdefault((row["graph"], row["ratio"], stored["system"]), []).append(row)
    for (graph, ratio, system), rows in sorted(groups.items()):
        for row in rows if every else [best(rows)]:
            print(_line(graph, ratio, system, row, dense[graph]))
    for system in sorted({system for _, _, system in groups}):
        chosen = [outcome(best(rows)) for (_, _, s), rows in groups.items() if s == system]
        tally = ", ".join(f"{chosen.count(kind)} {kind}" for kind in OUTCOMES)
        print(f"\n{system}: {tally}")


def _line(
    graph: str, ratio: float, system: str, row: Mapping[str, Any], dense: Mapping[str, Any]
) -> str:
    ran, judged = row["run"], row.get("judged", {})
    cells = [graph, f"{ratio:g}", system, row["method"], outcome(row)]
    if "params" in judged:
        cells.append(f"{judged['params_dense']} -> {judged['params']}")
        reach = judged["params_touched"] / max(judged["params_dense"], 1)
        cells.append(f"{100 * reach:.0f} %")
    else:
        cells += ["", ""]
    before, after = dense.get("heads", 0), judged.get("heads")
    cells.append(f"{before} -> {after}" if before and after is not None else "")
    cells.append(f"{ran['masked_error']:.0e}" if "masked_error" in ran else "")
    if "score" in judged:
        cells.append(f"{dense['score']:.2f} -> {judged['score']:.2f} {judged['unit']}")
    else:
        cells.append(judged.get("error", ran.get("error", ""))[:80].replace("|", "/"))
    cells += [f"{ran.get('seconds', ran['wall_s']):.1f}", str(ran["peak_mib"])]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="python -m bench.structured_table", description=__doc__)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--all", action="store_true", help="every method, not the best")
    options = parser.parse_args()
    table(options.files, every=options.all)


if __name__ == "__main__":
    main()
