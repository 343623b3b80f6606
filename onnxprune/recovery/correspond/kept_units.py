"""Which units of a dense model a model that somebody else pruned still has.

The graphs are paired first (``correspond.matching``), then every axis is compared in all tensors
that have it (``correspond.kept_axes``): one set of units per group has to explain all of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.layers.sources import by_identity, read_at
from onnxprune.recovery.correspond.kept_axes import Axes
from onnxprune.recovery.correspond.matching import Matching, match

Array = npt.NDArray[Any]
Bool = npt.NDArray[np.bool_]

_RELATED = 0.3
"""Least mean correlation between the weights of a model and of what was made from it."""
_SAMPLE = 1 << 18
"""Elements of a tensor that likeness is measured on, about."""


@dataclass(frozen=True, eq=False)
class Correspondence:
    """What somebody removed, in the words of the dense model's analysis.

    Attributes:
        matching: which node is which.
        removed: group name -> units that are gone.
        bypassed: names of blocks that are gone.
        likeness: mean correlation of the weights that are left with what they were.
        notes: whole sentences: where the weights do not tell.
    """

    matching: Matching
    removed: Mapping[str, tuple[int, ...]]
    bypassed: tuple[str, ...]
    likeness: float
    notes: tuple[str, ...]


def correspond(analysis: Analysis, pruned: models.Model) -> Correspondence:
    """Find what was removed from the analysed model to make ``pruned``.

    Args:
        analysis: of the dense model.
        pruned: names may differ, values may have changed; the order of units may not.

    Raises:
        OnnxpruneError: it cannot be told, or it was made from another model.
    """
    matching = match(analysis, pruned)
    axes = Axes(analysis)
    nodes = by_identity(pruned)
    for use in analysis.walk.uses:
        place = matching.stored.get((identity(use.node), use.position))
        if place is not None:
            axes.add(use.value, use.axes, read_at(nodes, place), place[0])
    axes.settle_all()
    removed = _removed(analysis, axes.gone)
    return Correspondence(
        matching, removed, tuple(matching.bypassed), _likeness(axes), tuple(axes.notes)
    )


def _removed(analysis: Analysis, gone: Bool) -> dict[str, tuple[int, ...]]:
    """The units that are gone, by group.

    Raises:
        OnnxpruneError: something is gone that is no unit.
    """
    found = {
        group.name: tuple(np.flatnonzero(gone[group.atoms]).tolist())
        for group in analysis.groups
        if gone[group.atoms].any()
    }
    if not np.array_equal(analysis.removed_atoms(found), gone):
        raise OnnxpruneError(
            "something is gone that is no unit of any group",
            hint="see `onnxprune inspect`, which says what can be removed",
        )
    return found


def _likeness(axes: Axes) -> float:
    """The mean correlation of the matrices that are left with what they were.

    Raises:
        OnnxpruneError: it is so low that the models are unrelated.
    """
    total, size = 0.0, 0
    for tensor in {t.name: t for t in axes.tensors}.values():
        if sum(n > 1 for n in tensor.dense.shape.numpy()) < 2:
            continue
        dense, pruned = axes.cut(tensor), tensor.pruned.numpy()
        total += _correlation(dense, pruned) * dense.size
        size += dense.size
    mean = total / size if size else 1.0
    if mean < _RELATED:
        raise OnnxpruneError(
            f"the weights do not resemble those of the dense model (correlation {mean:.2f})",
            hint="give the model that this one was made from",
        )
    return mean


def _correlation(dense: Array, pruned: Array) -> float:
    """The correlation of two tensors of one shape where the second is not zero, means removed.

    1 where both are constant; of large tensors it is that of a part.
    """
    step = max(dense.size // _SAMPLE, 1)
    x, y = (a.ravel()[::step].astype(np.float64) for a in (dense, pruned))
    x, y = x[y != 0], y[y != 0]
    if not len(x):
        return 1.0
    x, y = x - x.mean(), y - y.mean()
    size = float(np.linalg.norm(x) * np.linalg.norm(y))
    return float(x @ y) / size if size > 0 else float(np.array_equal(x, y))
