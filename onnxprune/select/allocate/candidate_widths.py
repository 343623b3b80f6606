"""Candidate widths of groups: rounded to what their kernels like, within the user's limits."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.units import Group
from onnxprune.quantities import figure, percent
from onnxprune.select.allocate.alignment import I64, Axis
from onnxprune.select.allocate.limits import Limits, Share, select


@dataclass(frozen=True, eq=False)
class CandidateWidths:
    """The widths that an allocation may choose from.

    Attributes:
        units: dense width of every group.
        widths: by group, the counts it may keep, ascending. A declined group has its dense width
            only, one with a ratio of its own the width nearest to that; all others end in the
            dense width.
        free: groups whose width a ratio or a budget chooses.
        declined: why a group has no choice, by group.
        axes: all axes, for totals.
        shares: further groups with a choice, with the fraction that they lose together.
    """

    units: Mapping[str, int]
    widths: Mapping[str, I64]
    free: tuple[str, ...]
    declined: Mapping[str, str]
    axes: tuple[Axis, ...]
    shares: tuple[Share, ...] = ()

    def decided(self, kept: Mapping[str, int]) -> CandidateWidths:
        """The same, where the groups of ``kept`` have that width and no choice any more."""
        fixed = {g: np.array([n], np.int64) for g, n in kept.items()}
        return replace(
            self,
            widths={**self.widths, **fixed},
            free=tuple(g for g in self.free if g not in kept),
        )

    def within(self, kept: Mapping[str, int]) -> CandidateWidths:
        """The same, where the groups of ``kept`` have no more than that, which they may keep."""
        narrow = {g: np.append(self.widths[g][self.widths[g] < n], n) for g, n in kept.items()}
        fixed = {g: int(w[0]) for g, w in narrow.items() if len(w) == 1}
        return replace(self, widths={**self.widths, **narrow}).decided(fixed)

    def nearest(self, group: str, wanted: float) -> int:
        """The allowed width nearest to ``wanted``, the larger of two that are equally near."""
        widths = self.widths[group]
        gap = np.abs(widths - wanted)
        return int(widths[len(widths) - 1 - int(np.argmin(gap[::-1]))])

    def above(self, group: str, kept: int) -> int | None:
        """The next larger allowed width."""
        at = int(np.searchsorted(self.widths[group], kept, side="right"))
        return int(self.widths[group][at]) if at < len(self.widths[group]) else None

    def dense(self) -> dict[str, int]:
        """Nothing removed, except where a group has a ratio of its own."""
        return {g: int(w[-1]) for g, w in self.widths.items()}

    def smallest(self) -> dict[str, int]:
        """Every group at its narrowest."""
        return {g: int(w[0]) for g, w in self.widths.items()}


def find_widths(
    groups: Sequence[Group],
    axes: Iterable[Axis] = (),
    limits: Limits | None = None,
    *,
    unscored: Mapping[str, str] | None = None,
    known: Iterable[str] = (),
    together: Container[str] = (),
) -> CandidateWidths:
    """Find the widths that every group may have.

    Args:
        groups: groups of one analysis.
        axes: axes that they cut, with alignments (``axes_of``); without axes nothing is rounded.
        limits: limits that the user has set.
        unscored: by group, why no criterion could score it.
        known: other names globs may be meant for, such as those of blocks.
        together: groups that may share a fraction, see `limits.select`.

    Raises:
        OnnxpruneError: a glob matches nothing, or two groups share a name.
    """
    limits = limits or Limits()
    axes = tuple(axes)
    units = {g.name: len(g) for g in groups}
    if len(units) < len(groups):
        raise OnnxpruneError("two groups share a name, so a plan could not tell them apart")
    chosen = select(groups, limits, unscored=unscored, known=known, together=together)
    own: dict[str, list[Axis]] = {name: [] for name in units}
    for axis in axes:
        if axis.alignment.wanted > 1 and (len(axis.rows) == 1 or axis.crossing):
            for name in axis.rows.keys() & units.keys():
                own[name].append(axis)
    declined = dict(chosen.declined)
    widths: dict[str, I64] = {}
    for name, size in units.items():
        floor = limits.floor(size)
        allowed = _widths(name, size, floor, own[name])
        if name in declined:
            allowed = allowed[-1:]
        elif len(allowed) == 1:
            declined[name] = _why_fixed(size, floor, own[name])
        elif name in chosen.fixed:
            wanted = size * (1 - chosen.fixed[name])
            least = size - int(allowed[-2])
            allowed = allowed[::-1][[int(np.argmin(np.abs(allowed[::-1] - wanted)))]]
            if allowed[0] == size:
                declined[name] = why_whole(chosen.fixed[name], size, least)
        widths[name] = allowed
    choice = [name for name, allowed in widths.items() if len(allowed) > 1]
    shares = tuple(
        Share(share.ratio, some)
        for share in chosen.shares
        if (some := tuple(g for g in share.groups if g in choice))
    )
    sharing = {g for share in shares for g in share.groups}
    free = tuple(name for name in choice if name not in sharing)
    return CandidateWidths(units, widths, free, declined, axes, shares)


def why_whole(ratio: float, units: int, least: int) -> str:
    """Why a share of some units removes none of them.

    Args:
        ratio: the share.
        units: how many there are.
        least: how many leave at once, at least.

    Example:
        >>> why_whole(0.01, 16, 1)
        '1 % of 16 units is 0.16 units, less than half a unit'
    """
    share = f"{percent(ratio)} of {units:,} units is {figure(ratio * units)} units"
    if least == 1 and ratio * units <= least / 2:
        return f"{share}, less than half a unit"
    if ratio * units <= least / 2:
        why = f"nearer to none than to {least:,}, the fewest that a fast width removes"
    else:
        why = "and with the groups that share its axis no narrower width is fast"
    return f"{share}, {why} (--round-to 1 allows any number)"


def _widths(group: str, size: int, floor: int, axes: Sequence[Axis]) -> I64:
    """Counts from ``floor`` to ``size`` that suit the axes this group alone decides.

    Multiples are halved until at least half of the axes can have them below the dense width (a
    group of 16 channels gets 8, one of 12 gets 8). An axis of which an odd number of indices stays
    for other reasons cannot be served together with the others and counts half. The dense width
    is always allowed, for it costs nothing to leave a group alone.
    """
    counts = np.arange(1, size, dtype=np.int64)
    totals = [a.size - a.per_unit(group) * (size - counts) for a in axes]
    run_well = np.ones(len(counts), np.bool_)
    for axis, total in zip(axes, totals, strict=True):
        run_well &= total % axis.alignment.required == 0
    counts, totals = counts[run_well], [t[run_well] for t in totals]
    halvings = 0
    while len(counts) and axes:
        likes, most = np.zeros(len(counts)), 0.0
        for axis, total in zip(axes, totals, strict=True):
            multiple = max(axis.alignment.wanted >> halvings, axis.alignment.required, 1)
            others = axis.size - axis.per_unit(group) * size
            weight = 1.0 if others % multiple == 0 else 0.5
            likes += weight * (total % multiple == 0)
            most += weight
        if likes.max() >= most / 2:
            counts = counts[likes == likes.max()]
            break
        halvings += 1  # ends where every multiple is down to what is required
    return np.append(counts[counts >= floor], size)


def _why_fixed(size: int, floor: int, axes: Sequence[Axis]) -> str:
    if floor >= size:
        return f"it has {size} unit{'s' * (size > 1)}, and at least {floor} must stay"
    multiple = max((a.alignment.required for a in axes), default=1)
    if multiple == 1:
        multiple = max((a.alignment.wanted for a in axes), default=1)
    return f"no width from {floor} to {size - 1} is faster (multiples of {multiple})"
