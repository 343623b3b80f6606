"""Error curves from a sensitivity sweep: measured on the whole model, in place of estimates.

A sweep measures a few ratios of every group, with nothing refitted; between them a curve runs in
straight lines, from no error at no ratio. Errors of different groups are in one currency, the
divergence of the outputs, and are added.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.sensitivity import Cell, Sensitivity, load_sensitivity
from onnxprune.solve.group_obs import Elimination

Float = npt.NDArray[np.float64]


def sensitivity_curves(analysis: Analysis, config: Options) -> Curves:
    """The order of removal and the error at every width, from the file that options name.

    Args:
        analysis: analysis of the dense model.
        config: the file; whether inexact groups count.

    Returns:
        ``{group: elimination}``, and ``{group: why there is none}``.

    Raises:
        OnnxpruneError: the file cannot be read, or was made of another graph.
    """
    assert config.sensitivity is not None
    sweep = load_sensitivity(config.sensitivity)
    check(sweep, analysis, str(config.sensitivity))
    rows = {row.name: row for row in sweep.targets if row.order}
    curves: dict[str, Elimination] = {}
    missing: dict[str, str] = {}
    for group in analysis.groups:
        if not (group.exact or config.allow_inexact):
            continue
        row = rows.get(group.name)
        if row is None:
            why = sweep.declined.get(group.name, "it was not swept")
            missing[group.name] = f"{config.sensitivity} has no row of it: {why}"
            continue
        removed, error = measured_points(sweep.of(group.name), len(group))
        if len(removed) < 2:
            missing[group.name] = f"{config.sensitivity} has no value of it"
            continue
        kept = np.arange(len(group) + 1)
        curves[group.name] = Elimination(
            np.array(row.order), interpolate(len(group) - kept, removed, error)
        )
    return Curves(curves, missing)


def check(sweep: Sensitivity, analysis: Analysis, where: str) -> None:
    """Refuse a sweep of another graph.

    Raises:
        OnnxpruneError: the graph differs, or the orders are none of its groups.
    """
    sizes = {g.name: len(g) for g in analysis.groups}
    fits = sweep.structure == models.structure_hash(analysis.model) and all(
        sorted(row.order) == list(range(sizes.get(row.name, 0)))
        for row in sweep.targets
        if row.order
    )
    if not fits:
        raise OnnxpruneError(
            f"{where} was measured on another graph ({sweep.model})",
            hint="run `onnxprune sensitivity` on this model",
        )


def measured_points(cells: Sequence[Cell], units: int) -> tuple[Float, Float]:
    """Measured points of one group: removed units and the error, neither ever falling.

    Args:
        cells: cells of one row; those without a value are passed over.
        units: number of units of the group.
    """
    points = {0: 0.0}
    for cell in cells:
        if cell.error is not None and np.isfinite(cell.error) and cell.removed < units:
            points[cell.removed] = max(cell.error, points.get(cell.removed, 0.0))
    removed = np.array(sorted(points), dtype=np.float64)
    return removed, np.maximum.accumulate(np.array([points[int(n)] for n in removed]))


def interpolate(counts: Float | npt.NDArray[np.int64], removed: Float, error: Float) -> Float:
    """The error at any count by linear interpolation; the last line goes on."""
    interpolated = np.interp(counts, removed, error)
    if len(removed) > 1:
        slope = (error[-1] - error[-2]) / (removed[-1] - removed[-2])
        interpolated = interpolated + slope * np.maximum(np.asarray(counts) - removed[-1], 0)
    return np.asarray(interpolated)
