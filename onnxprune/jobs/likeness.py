"""Whether refitted units are those that a plan keeps.

A refit changes every weight of a layer, so the values alone do not say which units a cut has kept.
But what is refitted still resembles what it was: if the weights at the place of a kept unit
resemble those of a removed unit, and not its own, then another plan was applied.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.axes import Axis
from onnxprune.graph.plan import Plan

Float = npt.NDArray[np.float64]

_RELATED = 0.3
"""Cosine from which on a refitted unit may be what it was."""
_ALIKE = 0.8
"""Cosine from which on weights of two units are those of one."""
_MOST = 1 << 26
"""Numbers of a tensor that is compared."""


def exchanged_units(
    analysis: Analysis, plan: Plan, small: models.Model, changed: Collection[str]
) -> dict[str, tuple[int, ...]]:
    """Kept units, by group, at whose places the weights resemble a removed unit more.

    Groups with any weight that was not refitted are passed over: there, values tell. So are plans
    that put units into another order. Of a refitted
    unit, one weight that resembles its own is enough.

    Args:
        analysis: of the dense model.
        plan: what is said to be removed.
        small: the cut model, with the names of the dense one.
        changed: names of its refitted weights.
    """
    result: dict[str, tuple[int, ...]] = {}
    if plan.reordered:
        return result
    stored = models.constants(small)
    for name, places in _places(analysis, plan, changed).items():
        removed = np.asarray(plan.removed[name], np.int64)
        count = len(analysis.group(name))
        kept = np.setdiff1d(np.arange(count), removed)
        related, exchanged = np.zeros(len(kept), np.bool_), np.zeros(len(kept), np.bool_)
        for value, axes, k, rows in places:
            tensor = stored.get(value.name or "")
            pair = None if tensor is None else _rows(analysis, plan, value, axes, k, rows, tensor)
            if pair is None:
                continue
            cosines = _cosines(pair[1].reshape(len(kept), -1), pair[0])
            mine = cosines[np.arange(len(kept)), kept]
            other = cosines[:, removed].max(1, initial=-1.0)
            related |= mine > _RELATED
            exchanged |= other > _ALIKE
        odd = kept[exchanged & ~related]
        if odd.size:
            result[name] = tuple(odd.tolist())
    return result


def _cosines(one: Float, two: Float) -> Float:
    """Cosine of every row of one matrix with every row of another; 0 with rows of zeros."""
    sizes = np.linalg.norm(one, axis=1)[:, None] * np.linalg.norm(two, axis=1)[None, :]
    return (one @ two.T) / np.where(sizes > 0, sizes, 1.0)


_Place = tuple[ir.Value, Sequence[Axis], int, npt.NDArray[np.int64]]


def _places(analysis: Analysis, plan: Plan, changed: Collection[str]) -> Mapping[str, list[_Place]]:
    """Where the units of a group are in stored weights: the axis, and the indices of each unit."""
    units = {
        int(atom): (name, k)
        for name in plan.removed
        for k, atom in enumerate(analysis.group(name).atoms)
    }
    places: dict[str, list[_Place]] = defaultdict(list)
    space, passed = analysis.walk.space, set()
    for use in analysis.walk.uses:
        for k, axis in enumerate(use.axes):
            columns = space.columns(axis)
            labels = [] if not columns else [units.get(int(a)) for a in space.labels(columns[0])]
            names = {each[0] for each in labels if each is not None}
            if not names:
                continue
            if len(columns) > 1 or len(names) > 1 or None in labels:
                continue
            (name,) = names
            if (use.value.name or "") not in changed:
                passed.add(name)
                continue
            order = np.asarray([each[1] for each in labels if each is not None])
            count = len(analysis.group(name))
            if (
                len(order) % count
                or (np.bincount(order, minlength=count) != len(order) // count).any()
            ):
                continue
            rows = np.argsort(order, kind="stable").reshape(count, -1)
            places[name].append((use.value, use.axes, k, rows))
    return {name: each for name, each in places.items() if name not in passed}


def _rows(
    analysis: Analysis,
    plan: Plan,
    value: ir.Value,
    axes: Sequence[Axis],
    k: int,
    rows: npt.NDArray[np.int64],
    small: ir.Value,
) -> tuple[Float, Any] | None:
    """The weights of every unit of the dense model, and those of the kept ones in the cut."""
    dense, now = models.constant(value), models.constant(small)
    if dense is None or now is None or dense.size > _MOST:
        return None
    keep = analysis.keep(plan.removed)
    array = dense.numpy().astype(np.float64)
    for at, axis in enumerate(axes):
        if at != k and axis.columns:
            array = np.compress(keep(axis), array, at)
    kept = keep(axes[k])
    other = now.numpy().astype(np.float64)
    if other.shape[:k] + other.shape[k + 1 :] != array.shape[:k] + array.shape[k + 1 :]:
        return None
    if other.shape[k] != int(kept.sum()):
        return None
    array, other = (np.moveaxis(each, k, 0) for each in (array, other))
    place = np.cumsum(kept) - 1
    left = rows[kept[rows].all(1)]
    return array[rows].reshape(len(rows), -1), other[place[left]]
