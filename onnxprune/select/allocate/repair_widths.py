"""From wanted widths to possible ones: totals of the axes that several groups share.

Widths of single groups are candidates already. The repair concerns totals: none may be
zero, and where the groups of an axis have no axis of their own to decide their widths, the total is
what gets rounded. Settling only ever gives units back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from onnxprune.errors import OnnxpruneError
from onnxprune.select.allocate.alignment import Axis
from onnxprune.select.allocate.candidate_widths import CandidateWidths
from onnxprune.select.allocate.ranking import Ranking


def repair_widths(
    candidates: CandidateWidths, ranking: Ranking, wanted: Mapping[str, int]
) -> dict[str, int]:
    """Give back as few units as needed for every shared axis to keep an index and a good total.

    Rounding a shared total is best effort: it happens where fewer indices than the multiple have to
    come back, and never at the expense of another shared axis; half the multiple is tried next.

    Args:
        candidates: the allowed widths.
        ranking: which units come back first.
        wanted: by group, how many units to keep; all of them candidates.

    Raises:
        OnnxpruneError: ratios that were asked for group by group would empty an axis.
    """
    kept = dict(wanted)
    shared = [a for a in candidates.axes if len(a.rows) > 1]
    for axis in (a for a in shared if a.crossing):
        _keep_one(axis, candidates, ranking, kept)
    rounded = [a for a in shared if a.alignment.wanted > 1 and not a.crossing]
    while any(_round_total(axis, shared, candidates, ranking, kept) for axis in rounded):
        pass
    return kept


def parts_of(candidates: CandidateWidths) -> dict[str, CandidateWidths]:
    """By group, the candidates with the shared axes alone that its width can have an effect on.

    Groups that share no axis are absent. Parts are repaired independently of each other.
    """
    shared = [axis for axis in candidates.axes if len(axis.rows) > 1]
    owner: dict[str, str] = {}

    def root(group: str) -> str:
        while owner.setdefault(group, group) != group:
            owner[group] = owner[owner[group]]
            group = owner[group]
        return group

    for axis in shared:
        first, *others = axis.rows
        for other in others:
            owner[root(other)] = root(first)
    axes: dict[str, list[Axis]] = {}
    for axis in shared:
        axes.setdefault(root(next(iter(axis.rows))), []).append(axis)
    parts = {name: replace(candidates, axes=tuple(some)) for name, some in axes.items()}
    return {group: parts[root(group)] for group in list(owner)}


def repair_near(
    parts: Mapping[str, CandidateWidths],
    ranking: Ranking,
    wanted: Mapping[str, int],
    change: Mapping[str, int],
) -> dict[str, int]:
    """The repaired widths of all groups that a change of some wanted widths can have an effect on.

    Args:
        parts: of the candidates, see :func:`parts_of`.
        ranking: which units come back first.
        wanted: by group, how many units to keep.
        change: the same for some groups, instead.
    """
    result = {group: width for group, width in change.items() if group not in parts}
    some = {id(part): part for group in change if (part := parts.get(group)) is not None}
    for part in some.values():
        groups = {name for axis in part.axes for name in axis.rows}
        around = {name: change.get(name, wanted[name]) for name in groups}
        result |= repair_widths(part, ranking, around)
    return result


def _total(axis: Axis, candidates: CandidateWidths, kept: Mapping[str, int]) -> int:
    """The width of an axis whose groups lie side by side."""
    return axis.size - sum(axis.per_unit(g) * (candidates.units[g] - kept[g]) for g in axis.rows)


def _keep_one(
    axis: Axis, candidates: CandidateWidths, ranking: Ranking, kept: dict[str, int]
) -> None:
    """Groups that cross each other can empty an axis though each keeps some of its units."""
    while axis.total(ranking.removed({g: kept[g] for g in axis.rows})) == 0:
        steps = [
            (ranking.mean_key(g, kept[g], more), g, more)
            for g in axis.rows
            if (more := candidates.above(g, kept[g])) is not None
        ]
        if not steps:
            raise OnnxpruneError(
                f"{axis.where} would lose every index",
                hint=f"remove less of {' or '.join(repr(g) for g in axis.rows)}",
            )
        _, group, more = max(steps)
        kept[group] = more


def _round_total(
    axis: Axis,
    shared: Sequence[Axis],
    candidates: CandidateWidths,
    ranking: Ranking,
    kept: dict[str, int],
) -> bool:
    """Bring the total of one axis to a multiple by giving back fewer indices; whether any were."""
    total, multiple = _total(axis, candidates, kept), axis.alignment.wanted
    while total < axis.size and multiple > 1 and total % multiple:
        steps = _steps(axis, -total % multiple, candidates, ranking, kept)
        if steps and not _spoils(steps, axis, shared, candidates, kept):
            kept.update(steps)
            return True
        multiple //= 2
    return False


def _steps(
    axis: Axis, missing: int, candidates: CandidateWidths, ranking: Ranking, kept: Mapping[str, int]
) -> dict[str, int]:
    """Widths that add exactly ``missing`` indices, the most important first; empty if none do."""
    steps: dict[str, int] = {}
    while missing:
        options = []
        for group in axis.rows:
            now = steps.get(group, kept[group])
            more = candidates.above(group, now)
            if more is not None and axis.per_unit(group) * (more - now) <= missing:
                options.append((ranking.mean_key(group, now, more), group, more))
        if not options:
            return {}
        _, group, more = max(options)
        missing -= axis.per_unit(group) * (more - steps.get(group, kept[group]))
        steps[group] = more
    return steps


def _spoils(
    steps: Mapping[str, int],
    axis: Axis,
    shared: Sequence[Axis],
    candidates: CandidateWidths,
    kept: Mapping[str, int],
) -> bool:
    """Whether the steps take another axis off its multiple."""
    after = {**kept, **steps}
    for other in shared:
        if other is axis or other.crossing or not steps.keys() & other.rows.keys():
            continue
        wanted, new = other.alignment.wanted, _total(other, candidates, after)
        if new != other.size and new % wanted and not _total(other, candidates, kept) % wanted:
            return True
    return False
