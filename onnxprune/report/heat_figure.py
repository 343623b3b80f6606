"""A sensitivity sweep as a picture, SVG or PNG; needs matplotlib."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.report.heat import change_of, columns_of, scale_of, unit_of
from onnxprune.select.sensitivity import Sensitivity

ENDINGS = (".png", ".svg")
_DOTS = 200
"""Dots per inch of a PNG."""


def draw(found: Sensitivity, path: Path) -> None:
    """Write the heat-map: rows in the order of the network, columns by ratio, darker is worse.

    Args:
        found: the sweep.
        path: ends in ``.png`` or ``.svg``.

    Raises:
        OnnxpruneError: matplotlib is not installed, or the file cannot be written.
    """
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ratios, unit = columns_of(found), unit_of(found)
    cells = {(cell.target, cell.ratio): cell for cell in found.cells if cell.drop is not None}
    table = np.full((len(found.targets), len(ratios)), np.nan)
    for i, row in enumerate(found.targets):
        for j, ratio in enumerate(ratios):
            cell = cells.get((row.name, ratio))
            table[i, j] = np.nan if cell is None else cell.drop
    factor = 100.0 if unit == "fraction" else 1.0
    names = [row.name for row in found.targets]
    size = (
        3.2 + 0.09 * max(map(len, names), default=0) + 0.62 * len(ratios),
        1.4 + 0.24 * len(names),
    )
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    scale = scale_of(found)
    image = axes.imshow(table * factor, "YlOrRd", aspect="auto", vmin=0, vmax=scale * 2 * factor)
    axes.set_xticks(range(len(ratios)), ["gone" if r == 1 else f"{r * 100:g} %" for r in ratios])
    axes.set_yticks(range(len(names)), names, fontsize=7)
    for i, j in np.argwhere(~np.isnan(table)):
        text = change_of(cells[names[i], ratios[j]], found)
        ink = "white" if table[i, j] > 1.3 * scale else "#333333"
        axes.text(j, i, text, ha="center", va="center", fontsize=6.5, color=ink)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("pruned, one target at a time, nothing refitted")
    dense = f"{found.dense * factor:.4g}{' %' if unit == 'fraction' else ''}"
    axes.set_title(f"{found.model}: {found.metric} {dense}, {found.samples} inputs", fontsize=9)
    label = f"{found.metric}, {'points' if unit == 'fraction' else 'change'} for the worse"
    figure.colorbar(image, ax=axes, label=label, shrink=min(1.0, 12 / max(len(names), 1)))
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    try:
        figure.savefig(part, dpi=_DOTS)
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise OnnxpruneError(
            f"{path} cannot be written: {error.strerror}", hint="check the folder"
        ) from error


def require() -> None:
    """Refuse where there is nothing to draw with.

    Raises:
        OnnxpruneError: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl  # noqa: F401
    except ImportError as error:
        raise OnnxpruneError(
            "pictures are drawn by matplotlib, which is not installed",
            hint="pip install 'onnxprune[plot]', or leave -o out: the terminal shows the same",
        ) from error
