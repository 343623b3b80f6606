"""The results of bench/structured.py as markdown: `python -m bench.structured_table FILE.json ...`.

The default is one row for each network or trained graph at ratio 0.5, systems side by side, each
with its best method: how many of a network's exports it prunes, the median share of parameters and
attention heads left, and for how many exports a method wrote a file that does not run, or
stopped.  Graphs that onnxruntime does not run to begin with are left out.

`--scores` is one row for each trained graph and ratio: each system's best score with the share of
parameters it left.  `--graphs` is one row for each graph and system, with `--all` for each method:
*parameters* in floating-point constants before and after; *reached*, the share of them in tensors
that were made smaller; *= masked*, the largest relative difference from the dense graph with the
same units zeroed; the task's *score* or why there is none; seconds and peak memory of pruning.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
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


@dataclass(frozen=True)
class Results:
    """Rows by (graph, ratio, system), and what the judge says of the dense graphs."""

    rows: Mapping[tuple[str, float, str], Sequence[Mapping[str, Any]]]
    dense: Mapping[str, Mapping[str, Any]]

    @property
    def systems(self) -> list[str]:
        """The systems, by name."""
        return sorted({system for _, _, system in self.rows})


def read(files: Iterable[Path]) -> Results:
    """All results in these files, less the graphs that do not run when dense."""
    rows: dict[tuple[str, float, str], list[Mapping[str, Any]]] = {}
    dense: dict[str, Mapping[str, Any]] = {}
    for path in files:
        stored = json.loads(path.read_text())
        dense |= {name: found for name, found in stored["dense"].items() if found.get("valid")}
        for row in stored["rows"]:
            if row["graph"] in dense:
                key = (row["graph"], row["ratio"], stored["system"])
                rows.setdefault(key, []).append(row)
    return Results(rows, dense)


def networks(results: Results, ratio: float = 0.5) -> None:
    """Print one row for each network, systems side by side."""
    families: dict[str, dict[str, list[Sequence[Mapping[str, Any]]]]] = {}
    for (graph, r, system), rows in sorted(results.rows.items()):
        if r == ratio:
            of = families.setdefault(graph.split("__")[0], {s: [] for s in results.systems})
            of[system].append(rows)
    columns = ("pruned", "parameters", "heads", "broken or stopped")
    print("| network | " + " | ".join(f"{s}: {c}" for s in results.systems for c in columns) + " |")
    print("|--" * (1 + len(columns) * len(results.systems)) + "|")
    for family, of in families.items():
        cells = [c for system in results.systems for c in _family(of[system], results.dense)]
        print(f"| {family} | " + " | ".join(cells) + " |")
    for system in results.systems:
        chosen = [outcome(best(rows)) for of in families.values() for rows in of[system]]
        tally = ", ".join(f"{chosen.count(kind)} {kind}" for kind in OUTCOMES)
        print(f"\n{system}, ratio {ratio:g}: {tally}")


def _family(
    exports: Sequence[Sequence[Mapping[str, Any]]], dense: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str, str, str]:
    """The cells of one network and system; `exports` has the rows of all methods for each."""
    chosen = [best(rows) for rows in exports]
    pruned = [row for row in chosen if outcome(row) == "pruned"]
    left = [row["judged"]["params"] / row["judged"]["params_dense"] for row in pruned]
    heads = [
        row["judged"]["heads"] / dense[row["graph"]]["heads"]
        for row in chosen
        if dense[row["graph"]].get("heads") and "heads" in row.get("judged", {})
    ]
    broken = sum(any(outcome(r) in {"broken", "failed"} for r in rows) for rows in exports)
    return (
        f"{len(pruned)}/{len(chosen)}",
        f"{100 * median(left):.0f} %" if left else "",
        f"{100 * median(heads):.0f} %" if heads else "",
        str(broken) if broken else "",
    )


def scores(results: Results) -> None:
    """Print, for each graph with a task, each system's best score and what it left for it."""
    columns = " | ".join(f"{s}: score | left" for s in results.systems)
    print(f"| graph | ratio | dense | {columns} |")
    print("|--" * (3 + 2 * len(results.systems)) + "|")
    for graph, ratio in sorted({(graph, ratio) for graph, ratio, _ in results.rows}):
        dense = results.dense[graph]
        if "score" not in dense:
            continue
        better = min if dense["unit"] == "nats" else max
        cells = [graph, f"{ratio:g}", f"{dense['score']:.2f} {dense['unit']}"]
        for system in results.systems:
            rows = results.rows.get((graph, ratio, system), ())
            judged = [row["judged"] for row in rows if outcome(row) == "pruned"]
            if judged:
                found = better(judged, key=lambda j: j["score"])
                left = 100 * found["params"] / found["params_dense"]
                cells += [f"{found['score']:.2f}", f"{left:.0f} %"]
            else:
                cells += ["nothing removed" if rows else "", ""]
        print("| " + " | ".join(cells) + " |")


def graphs(results: Results, *, every: bool) -> None:
    """Print each system's best method (or every one) for each graph and ratio."""
    print(
        "| graph | ratio | system | method | outcome | parameters | reached | heads "
        "| = masked | score | s | MiB |\n|--|--|--|--|--|--|--|--|--|--|--|--|"
    )
    for (graph, ratio, system), rows in sorted(results.rows.items()):
        for row in rows if every else [best(rows)]:
            print(_line(graph, ratio, system, row, results.dense[graph]))


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
    parser.add_argument("--graphs", action="store_true", help="one row for each graph and system")
    parser.add_argument("--all", action="store_true", help="every method, not the best")
    parser.add_argument("--scores", action="store_true", help="what the pruned graphs still do")
    options = parser.parse_args()
    results = read(options.files)
    if options.scores:
        scores(results)
    elif options.graphs or options.all:
        graphs(results, every=options.all)
    else:
        networks(results)


if __name__ == "__main__":
    main()
