"""Axes that lose indices, and how many they have left: where widths are rounded and kept above 0.

Groups are not axes. The axis of a stored tensor may be cut by one group, by several side by side
(what was concatenated or will be split) or by several across each other (heads times dimensions),
and some of its indices may stay whatever happens. A kernel sees the total.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from onnxprune.graph.units import Group, Slice

I64 = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Grain:
    """Which widths of an axis its kernel runs well at.

    Attributes:
        wanted: multiples of this are fast; where an axis is too narrow for it, half, a quarter...
        required: any width that is no multiple of this is slower than a larger one.
    """

    wanted: int = 1
    required: int = 1


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of one tensor as one node reads it.

    Attributes:
        where: names it to the user.
        size: its dense width.
        grain: the widths its kernel likes.
        rows: by group, int64 ``[units, rows per unit]``, which indices leave with each unit.
    """

    where: str
    size: int
    grain: Grain
    rows: Mapping[str, I64]

    @cached_property
    def crossing(self) -> bool:
        """Whether some index can leave with units of more than one group."""
        if len(self.rows) == 1:
            return False
        claimed = np.zeros(self.size, np.int64)
        for rows in self.rows.values():
            claimed[np.unique(rows)] += 1
        return bool((claimed > 1).any())

    def per_unit(self, group: str) -> int:
        """How many indices leave with each unit of a group."""
        return int(self.rows[group].shape[1])

    def total(self, removed: Mapping[str, Sequence[int] | I64]) -> int:
        """Its width once those units have left."""
        gone = np.zeros(self.size, np.bool_)
        for group, rows in self.rows.items():
            gone[rows[np.asarray(removed.get(group, ()), np.int64)]] = True
        return int(self.size - gone.sum())


def axes_of(
    groups: Iterable[Group],
    shapes: Mapping[str, Sequence[int]],
    grain: Callable[[Slice], Grain] = lambda _: Grain(),
) -> tuple[Axis, ...]:
    """Every distinct axis that the groups cut.

    A tensor that several nodes share is one axis per node, since it is copied where they come to
    need different parts of it.

    Args:
        groups: of one analysis.
        shapes: the dense shape of every tensor that is cut.
        grain: the widths the kernel behind a slice likes.
    """
    rows: dict[tuple[str, int, str], dict[str, list[I64]]] = {}
    grains: dict[tuple[str, int, str], Grain] = {}
    for group in groups:
        for cut in group.slices:
            for node in cut.nodes or ("",):
                key = (cut.tensor, cut.axis, node)
                rows.setdefault(key, {}).setdefault(group.name, []).append(cut.rows)
                one, other = grain(cut), grains.get(key, Grain())
                grains[key] = Grain(
                    max(one.wanted, other.wanted), max(one.required, other.required)
                )
    found: dict[object, Axis] = {}
    for (tensor, axis, node), parts in rows.items():
        whole = {g: _union(p) for g, p in parts.items()}
        size, liked = int(shapes[tensor][axis]), grains[tensor, axis, node]
        same = (size, liked, tuple((g, r.shape, r.tobytes()) for g, r in whole.items()))
        found.setdefault(same, Axis(f"axis {axis} of {tensor!r}", size, liked, whole))
    return tuple(found.values())


def _union(parts: Sequence[I64]) -> I64:
    """Rows that leave with each unit by any of several cuts."""
    if len(parts) == 1:
        return parts[0].reshape(len(parts[0]), -1)
    both = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
    # Units are interchangeable, so each has the same number of distinct rows.
    return np.stack([np.unique(unit) for unit in both])
