"""Damage curves from a sensitivity sweep: what was measured of the whole model, in place of prices.

A sweep measures a few ratios of every group, with nothing refitted; between them a curve runs in
straight lines, from no damage at no ratio. Damages of different groups are in one currency, the
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


def swept_curves(analysis: Analysis, asked: Options) -> Curves:
    """The order of removal and the damage at every width, from the file that options name.

    Args:
        analysis: of the dense model.
        asked: the file; whether inexact groups count.

    Returns:
        ``{group: elimination}``, and ``{group: why there is none}``.

    Raises:
        OnnxpruneError: the file cannot be read, or was made of another graph.
    """
    assert asked.sensitivity is not None
    found = load_sensitivity(asked.sensitivity)
    check(found, analysis, str(asked.sensitivity))
    rows = {row.name: row for row in found.targets if row.order}
    curves: dict[str, Elimination] = {}
    missing: dict[str, str] = {}
    for group in analysis.groups:
        if not (group.exact or asked.allow_inexact):
            continue
        row = rows.get(group.name)
        if row is None:
            why = found.declined.get(group.name, "it was not swept")
            missing[group.name] = f"{asked.sensitivity} has no row of it: {why}"
            continue
        gone, damage = curve(found.of(group.name), len(group))
        if len(gone) < 2:
            missing[group.name] = f"{asked.sensitivity} has no value of it"
            continue
        kept = np.arange(len(group) + 1)
        curves[group.name] = Elimination(
            np.array(row.order), between(len(group) - kept, gone, damage)
        )
    return Curves(curves, missing)


def check(found: Sensitivity, analysis: Analysis, where: str) -> None:
    """Refuse a sweep of another graph.

    Raises:
        OnnxpruneError: the graph differs, or the orders are none of its groups.
    """
    sizes = {g.name: len(g) for g in analysis.groups}
    fits = found.structure == models.structure_hash(analysis.model) and all(
        sorted(row.order) == list(range(sizes.get(row.name, 0)))
        for row in found.targets
        if row.order
    )
    if not fits:
        raise OnnxpruneError(
            f"{where} was measured on another graph ({found.model})",
            hint="run `onnxprune sensitivity` on this model",
        )


def curve(cells: Sequence[Cell], units: int) -> tuple[Float, Float]:
    """What was measured of one group: units that went, and the damage, neither ever falling.

    Args:
        cells: of one row; those without a value are passed over.
        units: of the group.
    """
    points = {0: 0.0}
    for cell in cells:
        if cell.damage is not None and np.isfinite(cell.damage) and cell.removed < units:
            points[cell.removed] = max(cell.damage, points.get(cell.removed, 0.0))
    gone = np.array(sorted(points), dtype=np.float64)
    return gone, np.maximum.accumulate(np.array([points[int(n)] for n in gone]))


def between(wanted: Float | npt.NDArray[np.int64], gone: Float, damage: Float) -> Float:
    """Damage at any count: straight lines, the last of which goes on."""
    found = np.interp(wanted, gone, damage)
    if len(gone) > 1:
        slope = (damage[-1] - damage[-2]) / (gone[-1] - gone[-2])
        found = found + slope * np.maximum(np.asarray(wanted) - gone[-1], 0)
    return np.asarray(found)
