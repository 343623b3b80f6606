"""Two plans compared and merged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.plan.core import Origin, PackedMask, Plan, ranges


@dataclass(frozen=True)
class PlanDiff:
    """The differences of two plans; false when they do the same.

    Attributes:
        removed: group -> (units only the first removes, units only the second removes).
        bypassed: (blocks only the first bypasses, blocks only the second does).
        zeroed: weight -> (entries only the first zeroes, entries only the second zeroes); a weight
            that has masks of different shapes counts with all the zeros of each.
        reordered: groups whose units stand in different orders.
        origin: field -> (in the first, in the second), where they differ; not counted by truth.
    """

    removed: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
    bypassed: tuple[tuple[str, ...], tuple[str, ...]]
    zeroed: Mapping[str, tuple[int, int]]
    reordered: tuple[str, ...]
    origin: Mapping[str, tuple[object, object]]

    def __bool__(self) -> bool:
        return bool(self.removed or any(self.bypassed) or self.zeroed or self.reordered)

    def __str__(self) -> str:
        lines = [f"{name}: {a!r} | {b!r}" for name, (a, b) in self.origin.items()]
        for group, (first, second) in self.removed.items():
            lines += [f"- {group} [{ranges(first)}]"] if first else []
            lines += [f"+ {group} [{ranges(second)}]"] if second else []
        for sign, blocks in zip("-+", self.bypassed, strict=True):
            lines += [f"{sign} {name} bypassed" for name in blocks]
        lines += [f"~ {group} reordered" for group in self.reordered]
        for weight, (one, two) in self.zeroed.items():
            lines += [f"- {weight}: {one} zeros"] if one else []
            lines += [f"+ {weight}: {two} zeros"] if two else []
        return "\n".join(lines) or "no difference"


def diff(first: Plan, second: Plan) -> PlanDiff:
    """The differences of two plans."""
    removed = {}
    for group in dict.fromkeys((*first.removed, *second.removed)):
        a, b = set(first.removed.get(group, ())), set(second.removed.get(group, ()))
        if a != b:
            removed[group] = (tuple(sorted(a - b)), tuple(sorted(b - a)))
    zeroed = {}
    for weight in dict.fromkeys((*first.zeroed, *second.zeroed)):
        counts = _zeros_apart(first.zeroed.get(weight), second.zeroed.get(weight))
        if any(counts):
            zeroed[weight] = counts
    mine, theirs = dict.fromkeys(first.bypassed), dict.fromkeys(second.bypassed)
    return PlanDiff(
        removed=removed,
        bypassed=(
            tuple(b for b in mine if b not in theirs),
            tuple(b for b in theirs if b not in mine),
        ),
        zeroed=zeroed,
        reordered=tuple(
            group
            for group in dict.fromkeys((*first.reordered, *second.reordered))
            if first.reordered.get(group) != second.reordered.get(group)
        ),
        origin={
            f.name: (a, b)
            for f in fields(Origin)
            if (a := getattr(first.origin, f.name)) != (b := getattr(second.origin, f.name))
        },
    )


def _zeros_apart(first: PackedMask | None, second: PackedMask | None) -> tuple[int, int]:
    if first is not None and second is not None and first.shape == second.shape:
        one = np.bitwise_count(second.bits & ~first.bits).sum(dtype=np.int64)
        two = np.bitwise_count(first.bits & ~second.bits).sum(dtype=np.int64)
        return int(one), int(two)
    one, two = (m.size - m.kept if m is not None else 0 for m in (first, second))
    return one, two


def merge(first: Plan, second: Plan) -> Plan:
    """Everything that either plan does: unions of removals, intersections of kept weights.

    Raises:
        OnnxpruneError: they were made for different graphs, disagree on the size of a group or of
            a weight, or would together remove a whole group.
    """
    a, b = first.origin, second.origin
    if a.structure and b.structure and a.structure != b.structure:
        raise OnnxpruneError(
            f"the plans were made for different graphs, {a.structure[:12]} and {b.structure[:12]}",
            hint="merge plans of one graph (any checkpoint of it)",
        )
    units = dict(first.units)
    for group, size in second.units.items():
        if units.setdefault(group, size) != size:
            raise OnnxpruneError(
                f"one plan knows {units[group]} units of group {group!r}, the other {size}"
            )
    zeroed = dict(first.zeroed)
    for weight, mask in second.zeroed.items():
        other = zeroed.get(weight, mask)
        if other.shape != mask.shape:
            raise OnnxpruneError(
                f"the plans' masks of {weight!r} have shapes {list(other.shape)} and "
                f"{list(mask.shape)}"
            )
        zeroed[weight] = PackedMask(mask.shape, mask.bits & other.bits)
    removed = {
        group: tuple({*first.removed.get(group, ()), *second.removed.get(group, ())})
        for group in dict.fromkeys((*first.removed, *second.removed))
    }
    if first.reordered != second.reordered:
        raise OnnxpruneError(
            "the plans put units in different orders, and masks belong to one of them",
            hint="merge them before one of them reorders",
        )
    if first.interface != second.interface:
        raise OnnxpruneError(
            "the plans keep other ids or classes, so their groups are not the same",
            hint="merge plans with one --vocab and one --keep-outputs",
        )
    bypassed = (*first.bypassed, *second.bypassed)
    origin = _merged(a, b)
    return Plan(removed, bypassed, zeroed, origin, units, first.reordered, first.interface)


def _merged(a: Origin, b: Origin) -> Origin:
    """Both origins in one: texts that differ are joined."""
    texts = {
        name: " + ".join(dict.fromkeys(t for t in (getattr(a, name), getattr(b, name)) if t))
        for name in ("criterion", "allocation", "budget", "calibration")
    }
    return replace(
        a,
        structure=a.structure or b.structure,
        seed=a.seed if a.seed == b.seed else None,
        memory=a.memory if a.memory == b.memory else None,
        versions={**a.versions, **b.versions},
        **texts,
    )
