"""The share of a model that pruning can remove, and the reasons why the rest stays."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping

import numpy as np
import numpy.typing as npt

from onnxprune.graph.analysis import Analysis
from onnxprune.graph.units import Group, Pinned
from onnxprune.jobs.results.schema import NotPrunableRow, Reachable

_Sizes = Mapping[str, tuple[int, ...]]
_Free = dict[tuple[str, int], npt.NDArray[np.bool_]]

_NAMED = re.compile(r"\s*`([^`]*)`")
"""A name inside a reason, as in: Softmax `attn/Softmax_output_0` runs over it."""


def not_prunable_rows(analysis: Analysis) -> tuple[NotPrunableRow, ...]:
    """The reasons why axes stay, those that hold most parameters first.

    Reasons that differ only in the node they name are one row, with the first node as its example.
    A tensor counts towards the reasons of its pinned axes with the elements that no unit takes
    along on another axis.
    """
    sizes = _sizes(analysis)
    free = _free(analysis.groups, sizes)
    axes_by_reason: dict[str, list[Pinned]] = defaultdict(list)
    for pinned in analysis.pinned:
        axes_by_reason[_NAMED.sub("", pinned.reason)].append(pinned)
    rows = []
    for reason, axes in axes_by_reason.items():
        params = sum(_staying(name, sizes, free) for name in {each.tensor for each in axes})
        named = _NAMED.search(axes[0].reason)
        example = named[1] if named else axes[0].tensor
        rows.append(NotPrunableRow(reason, len(axes), params, example))
    return tuple(sorted(rows, key=lambda row: (-row.params, -row.axes, row.reason)))


def reachable(analysis: Analysis) -> Reachable:
    """How many stored elements some unit takes along, with and without the inexact groups."""
    sizes = _sizes(analysis)
    whole = sum(int(np.prod(shape)) for shape in sizes.values())
    staying = []
    for groups in ([g for g in analysis.groups if g.exact], analysis.groups):
        free = _free(groups, sizes)
        staying.append(sum(_staying(name, sizes, free) for name in sizes))
    return Reachable(params=whole, exact=whole - staying[0], inexact=staying[0] - staying[1])


def _sizes(analysis: Analysis) -> dict[str, tuple[int, ...]]:
    return {
        stored.name: tuple(axis.size or 0 for axis in stored.axes)
        for stored in analysis.tensors
        if not stored.filled
    }


def _free(groups: Iterable[Group], sizes: _Sizes) -> _Free:
    """(tensor, axis) -> bool mask of the indices that leave with some unit of ``groups``."""
    free: _Free = {}
    for cut in (cut for group in groups for cut in group.slices):
        if cut.tensor in sizes:
            key = (cut.tensor, cut.axis)
            mask = free.setdefault(key, np.zeros(sizes[cut.tensor][cut.axis], np.bool_))
            mask[cut.rows.ravel()] = True
    return free


def _staying(name: str, sizes: _Sizes, free: _Free) -> int:
    """Elements of a tensor that remain when every removable unit is removed."""
    count = 1
    for axis, size in enumerate(sizes.get(name, (0,))):
        free_indices = free.get((name, axis))
        count *= size if free_indices is None else size - int(free_indices.sum())
    return count
