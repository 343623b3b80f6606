"""The results of bench/quality.py as markdown, and whether what is asked was met.

*drop* is the loss of the score against the dense network on the same inputs (of nats, the rise);
*onnxsim* is its best result of at most the same cost: of all its methods and ratios that leave no
more multiply-accumulates (or parameters) than the budget, or of its methods for zeros at the same
sparsity. Seconds and memory are those of the whole process, load and save included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bench.quality_cases import CASES, MEMORY_MIB, SECONDS, Case, lower_is_better

Row = Mapping[str, Any]
_SLACK = 1.005
"""A rival may exceed a budget by this: its ratios do not meet one exactly."""


@dataclass(frozen=True)
class Line:
    """One score of one case.

    Attributes:
        case: which.
        score: its name.
        dense, ours, theirs: values; None where there is none.
        method: of the rival's best.
        allowed: the largest drop that is good enough, None where nothing is asked.
        row: what was measured of onnxprune.
    """

    case: Case
    score: str
    dense: float
    ours: float | None
    theirs: float | None
    method: str
    allowed: float | None
    row: Row

    @property
    def drop(self) -> float | None:
        """What was lost; negative where something was gained."""
        return None if self.ours is None else _drop(self.score, self.dense, self.ours)

    @property
    def met(self) -> bool | None:
        """Whether what is asked was met; None where nothing is, or nothing was measured."""
        if self.allowed is None or self.drop is None:
            return None
        return self.drop <= self.allowed + 1e-9


def lines(stored: Mapping[str, Any], cases: Iterable[Case]) -> list[Line]:
    """Every score of the cases whose dense network was measured."""
    rows = {(r["system"], r["graph"], r["label"]): r for r in stored["rows"]}
    made = []
    for case in cases:
        dense = stored["dense"].get(case.graph)
        if not dense or "scores" not in dense:
            continue
        mine = rows.get(("onnxprune", case.graph, case.label), {})
        for score, value in dense["scores"].items():
            best, method = rival(stored, case, score, mine)
            allowed = case.drop.get(score)
            half = rows.get(("onnxsim", case.graph, f"{case.half_of} {case.sparsity}"))
            if half and "scores" in half.get("judged", {}):
                allowed = _drop(score, value, half["judged"]["scores"][score]) / 2
            ours = mine.get("judged", {}).get("scores", {}).get(score)
            made.append(Line(case, score, value, ours, best, method, allowed, mine))
    return made


def rival(stored: Mapping[str, Any], case: Case, score: str, mine: Row) -> tuple[float | None, str]:
    """The best score of onnxsim at no more than the cost of a case, and its method."""
    dense = stored["dense"][case.graph]
    kind, part = "macs", mine.get("judged", {}).get("macs", 0) / dense["macs"]
    if target := case.asked.get("target"):
        kind, _, text = target.partition("=")
        part = float(text.rstrip("%")) / 100
    found, tried = [], False
    for row in stored["rows"]:
        judged = row.get("judged", {})
        if (row["system"], row["graph"]) != ("onnxsim", case.graph) or "scores" not in judged:
            continue
        method, _, amount = row["label"].rpartition(" ")
        thin = method in {"magnitude", "wanda", "sparsegpt"}
        if case.sparsity:
            fits = thin and amount == case.sparsity
        else:
            fits = not thin and judged[kind] <= _SLACK * part * dense[kind]
        tried |= thin == bool(case.sparsity)
        if fits:
            found.append((judged["scores"][score], row["label"]))
    best = min if lower_is_better(score) else max
    if not found:
        return None, "none so small" if tried and not case.sparsity else ""
    return best(found, key=lambda pair: pair[0])


def table(stored: Mapping[str, Any]) -> None:
    """Print every set of cases, and what was met."""
    met: list[bool] = []
    for name, cases in CASES.items():
        measured = [line for line in lines(stored, cases) if line.row or name == "asked"]
        if not measured:
            continue
        print(f"\n### {name}\n")
        print(
            "| network | budget | score | dense | onnxprune | drop | asked | onnxsim | with |",
            end="",
        )
        print(" cost | s | CPU s | MiB |\n" + "|--" * 13 + "|")
        for line in measured:
            print("| " + " | ".join(_cells(line, stored)) + " |")
            met += [line.met] if line.met is not None else []
    asked = sum(len(case.drop) or 1 for case in CASES["asked"])
    print(f"\n{sum(met)} of {asked} drops asked for were met, {asked - len(met)} not measured\n")
    _limits(stored)
    for system, about in stored["systems"].items():
        versions = ", ".join(f"{k} {v}" for k, v in about["versions"].items())
        print(f"{system}: {about['machine']['cores']} cores, {versions}")


def _cells(line: Line, stored: Mapping[str, Any]) -> list[str]:
    judged, ran = line.row.get("judged", {}), line.row.get("run", {})
    dense = stored["dense"][line.case.graph]
    digits = 3 if lower_is_better(line.score) else 2
    ours = ran.get("error", "")[:60] if line.ours is None else f"{line.ours:.{digits}f}"
    asked = "" if line.allowed is None else f"<= {line.allowed:.{digits}f}"
    if line.met is not None:
        asked += " met" if line.met else " **missed**"
    cost = ""
    if judged.get("macs"):
        zeros = f"{100 * judged['zeros']:.0f} % zeros"
        cost = zeros if line.case.sparsity else f"{judged['macs'] / dense['macs']:.3f}x MACs"
    return [
        line.case.graph,
        line.case.label,
        line.score,
        f"{line.dense:.{digits}f}",
        ours,
        "" if line.drop is None else f"{line.drop:.{digits}f}",
        asked,
        "" if line.theirs is None else f"{line.theirs:.{digits}f}",
        line.method,
        cost,
        *(f"{ran[k]:.0f}" if k in ran else "" for k in ("wall_s", "cpu_s", "peak_mib")),
    ]


def _limits(stored: Mapping[str, Any]) -> None:
    """Print how long and large the longest and largest runs of onnxprune were."""
    mine = [r for r in stored["rows"] if r["system"] == "onnxprune" and "wall_s" in r["run"]]
    for start, limit in SECONDS.items():
        took = [(r["run"]["wall_s"], r["label"]) for r in mine if r["graph"].startswith(start)]
        if took:
            worst, label = max(took)
            said = "met" if worst <= limit else "missed"
            print(f"{start}: at most {worst:.0f} s ({label}); asked {limit} s, {said}")
    peaks = [(r["run"]["peak_mib"], r["graph"], r["label"]) for r in mine if "peak_mib" in r["run"]]
    if peaks:
        peak, graph, label = max(peaks)
        said = "met" if peak <= MEMORY_MIB else "missed"
        print(f"memory: at most {peak} MiB ({graph} {label}); asked {MEMORY_MIB} MiB, {said}")


def _drop(score: str, dense: float, value: float) -> float:
    return value - dense if lower_is_better(score) else dense - value
