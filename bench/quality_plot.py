"""Scores against multiply-accumulates and against zeros, one panel for each network.

Drawn by `python -m bench.quality --plot` from the results, as SVG and PNG; needs matplotlib.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")  # before pyplot looks for a screen

import matplotlib.pyplot as plt
from matplotlib.axes import Axes

from bench.quality_cases import CASES, lower_is_better

_COLOURS = {"onnxprune": "#0b6e4f", "onnxsim": "#c1554d", "dense": "#8a8a8a"}
_TITLES = {
    "resnet20_cifar10_proj_bn": "ResNet-20, CIFAR-10",
    "resnet20_cifar10_optA_bn": "ResNet-20 (padded shortcuts)",
    "shufflenetv2_x0_5_cifar10_bn": "ShuffleNetV2 0.5x, CIFAR-10",
    "mobilenetv1_0.75_imagenet_bn": "MobileNetV1 0.75x, ImageNet",
    "resnet8_cifar10_mlperftiny_bn": "ResNet-8, CIFAR-10",
    "minilm_l6_sts_sst2": "MiniLM-L6",
    "stories260k_llama_legacy": "Llama 260 k, TinyStories",
}
_VARIANTS = ("_fused", "_dynamo")
"""Other exports of a network that has a panel."""
_THIN = ("magnitude", "wanda", "sparsegpt")
_STYLE: dict[Any, Any] = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#555555",
    "axes.grid": True,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.8,
    "axes.axisbelow": True,
    "font.size": 9,
    "figure.constrained_layout.hspace": 0.06,
    "figure.constrained_layout.wspace": 0.04,
    "svg.fonttype": "none",
    "svg.hashsalt": "onnxprune",
}
Point = tuple[float, float]


@dataclass(frozen=True)
class Panel:
    """One network: the score of the dense one, and lines of (cost, score) by name of the line."""

    title: str
    score: str
    dense: float
    lines: Mapping[str, Sequence[Point]]


def plot(stored: Mapping[str, Any], folder: Path) -> None:
    """Draw both pictures into a folder."""
    figures = {
        "quality_macs": (_macs(stored), "MACs left", "Accuracy against multiply-accumulates left"),
        "quality_sparsity": (_zeros(stored), "zeros", "Scores against the share of zeros"),
    }
    for name, (panels, label, title) in figures.items():
        if panels:
            _draw(panels, label, title, folder / name)


def _points(stored: Mapping[str, Any], graph: str) -> list[tuple[str, str, Mapping[str, Any]]]:
    """(system, label, judged) of what was measured of a network."""
    return [
        (row["system"], row["label"], row["judged"])
        for row in stored["rows"]
        if row["graph"] == graph and "scores" in row.get("judged", {})
    ]


def _networks(stored: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """The dense networks, in the order of the cases."""
    order = dict.fromkeys(case.graph for cases in CASES.values() for case in cases)
    shown = [graph for graph in order if not graph.endswith(_VARIANTS)]
    return [(graph, stored["dense"][graph]) for graph in shown if graph in stored["dense"]]


def _macs(stored: Mapping[str, Any]) -> list[Panel]:
    """Whole units removed: the dense network is where every line begins."""
    panels = []
    for graph, dense in _networks(stored):
        score = next(iter(dense.get("scores", {})), None)
        if score is None:
            continue
        found = _points(stored, graph)
        ours = [
            (j["macs"] / dense["macs"], j["scores"][score])
            for system, label, j in found
            if system == "onnxprune" and label.startswith("macs=")
        ]
        theirs = [
            (j["macs"] / dense["macs"], j["scores"][score])
            for system, label, j in found
            if system == "onnxsim" and not label.startswith(_THIN) and j["macs"]
        ]
        start = (1.0, dense["scores"][score])
        if len(ours) > 1:
            lines = {"onnxprune": [start, *ours], "onnxsim": hull([start, *theirs], score)}
            panels.append(Panel(_TITLES.get(graph, graph), score, start[1], lines))
    return panels


def hull(points: Sequence[Point], score: str) -> list[Point]:
    """The best of many methods: each point that no smaller network beats."""
    sign = -1 if lower_is_better(score) else 1
    best: list[Point] = []
    for cost, value in sorted(points):
        if not best or sign * value > sign * best[-1][1]:
            best.append((cost, value))
    return best


def _zeros(stored: Mapping[str, Any]) -> list[Panel]:
    """Single weights set to zero, at even sparsities and, as points of their own, at 2:4."""
    panels = []
    for graph, dense in _networks(stored):
        for score, value in dense.get("scores", {}).items():
            lines: dict[str, list[Point]] = {}
            for system, label, judged in _points(stored, graph):
                method, _, amount = label.rpartition(" ")
                name = f"{system} {method}".strip()
                if system == "onnxprune" and label not in {"2:4", *_PARTS}:
                    continue
                if system == "onnxsim" and method not in _THIN[1:]:
                    continue
                share = 0.5 if amount == "2:4" else float(amount.rstrip("%")) / 100
                kind = " 2:4" if amount == "2:4" else ""
                lines.setdefault(name + kind, []).append((share, judged["scores"][score]))
            if any(name.startswith("onnxprune") for name in lines):
                started = {
                    name: points if name.endswith("2:4") else [(0.0, value), *points]
                    for name, points in lines.items()
                }
                title = f"{_TITLES.get(graph, graph)}"
                panels.append(Panel(title, score, value, started))
    return panels


_PARTS = tuple(f"{part}%" for part in range(5, 100, 5))


def _draw(panels: Sequence[Panel], label: str, title: str, path: Path) -> None:
    columns = min(3 if len(panels) < 10 else 4, len(panels))
    rows = -(-len(panels) // columns)
    with plt.rc_context(_STYLE):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(3.3 * columns, 2.5 * rows + 0.8),
            squeeze=False,
            layout="constrained",
        )
        handles: dict[str, Any] = {}
        for axes, panel in zip(grid.flat, panels, strict=False):
            handles |= _panel(axes, panel, label)
        for axes in list(grid.flat)[len(panels) :]:
            axes.set_visible(False)
        figure.suptitle(title, fontsize=12, x=0.01, ha="left", weight="bold")
        figure.legend(
            handles.values(), handles, loc="outside lower center", ncols=columns + 1, frameon=False
        )
        figure.savefig(path.with_suffix(".svg"), metadata={"Date": None})
        figure.savefig(path.with_suffix(".png"), dpi=150, metadata={"Software": None})
        plt.close(figure)


def _panel(axes: Axes, panel: Panel, label: str) -> dict[str, Any]:
    """Draw one network; the lines by the name they have in the legend."""
    handles: dict[str, Any] = {
        "dense": axes.axhline(panel.dense, color=_COLOURS["dense"], linestyle=":", linewidth=1.2)
    }
    for name, points in sorted(panel.lines.items()):
        system = name.split()[0]
        kind = name.removeprefix(system).strip()
        x, y = zip(*sorted(points), strict=True)
        (handles[name],) = axes.plot(
            [100 * v for v in x],
            y,
            color=_COLOURS[system],
            linestyle="none" if "2:4" in kind else "--" if "wanda" in kind else "-",
            marker={"": "o", "sparsegpt": "o", "wanda": "."}.get(kind, "D"),
            markerfacecolor="white" if kind.startswith("wanda") else None,
            markersize=5,
            linewidth=1.6,
        )
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlabel(f"{label}, %")
    axes.set_ylabel(panel.score)
    if label.startswith("MACs"):
        axes.invert_xaxis()
    return handles
