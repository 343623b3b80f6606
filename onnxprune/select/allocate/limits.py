"""Limits set by the user: which groups may be cut, how far, and which by a ratio of their own."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from onnxprune.errors import OnnxpruneError, spelled, stated, suggest, suggest_glob
from onnxprune.graph.units import Group
from onnxprune.quantities import plural


@dataclass(frozen=True)
class Limits:
    """Guard rails of an allocation.

    Attributes:
        max_ratio: the largest fraction of a group's units that may go.
        min_width: the fewest units a group keeps (all of them if it has no more).
        allow_inexact: also cut groups whose removal changes a normalisation.
        kinds: fraction removed of a kind of group (``head``), whatever the ratio or budget.
        ratios: (glob over group names, fraction removed); the last match counts, over ``kinds``.
            Whether a fraction is one of each group or one of all their units together is for
            :func:`select` to be told.
        skip: globs over the names of groups that are left alone.

    Raises:
        OnnxpruneError: a ratio lies outside [0, ``max_ratio``], or a limit leaves nothing.
    """

    max_ratio: float = 0.8
    min_width: int = 1
    allow_inexact: bool = False
    kinds: Mapping[str, float] = field(default_factory=dict)
    ratios: tuple[tuple[str, float], ...] = ()
    skip: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.max_ratio < 1:
            raise OnnxpruneError(
                f"the largest ratio {self.max_ratio:g} (max-ratio) is not at least 0 and below 1",
                hint="a group keeps at least one unit; to drop a whole branch, bypass its block",
            )
        if self.min_width < 1:
            raise OnnxpruneError(f"a smallest width of {self.min_width} leaves nothing")
        for name, ratio in (*self.kinds.items(), *self.ratios):
            self.check(ratio, name)

    def check(self, ratio: float, name: str) -> None:
        """Refuse a ratio that the limits do not allow.

        Raises:
            OnnxpruneError: it is outside [0, ``max_ratio``].
        """
        if not 0 <= ratio <= self.max_ratio:
            raise OnnxpruneError(
                f"the ratio {ratio:g} for {name} is not between 0 and {self.max_ratio:g}",
                hint="ask for less, or raise the largest ratio a group may lose (max-ratio)",
            )

    def floor(self, units: int) -> int:
        """The fewest of so many units that must stay."""
        by_ratio = math.ceil(units * (1 - self.max_ratio) - 1e-9)
        return min(max(by_ratio, self.min_width, 1), units)


@dataclass(frozen=True)
class Share:
    """Groups of one kind that lose a fraction of all their units together.

    Attributes:
        ratio: the fraction.
        groups: their names.
    """

    ratio: float
    groups: tuple[str, ...]


@dataclass(frozen=True)
class Selected:
    """The limits applied to each group.

    Attributes:
        fixed: by group, the fraction it loses itself, whatever the ratio or budget.
        shares: fractions that groups lose together; such groups are not in ``fixed``.
        declined: why a group is not cut, by group.
    """

    fixed: Mapping[str, float]
    shares: tuple[Share, ...]
    declined: Mapping[str, str]


def select(
    groups: Sequence[Group],
    limits: Limits,
    *,
    unscored: Mapping[str, str] | None = None,
    known: Iterable[str] = (),
    together: Container[str] = (),
) -> Selected:
    """Apply globs, kinds and exactness to the groups.

    Args:
        groups: groups of one analysis.
        limits: what the user allows.
        unscored: by group, why no criterion could score it.
        known: other names globs may be meant for, such as those of blocks.
        together: the groups whose scores can be weighed against each other. Those that one glob or
            kind names and that are of one kind share its fraction; every other group loses it
            itself.

    Raises:
        OnnxpruneError: a glob or a kind matches nothing; the nearest name is suggested.
    """
    _check_names(groups, limits, list(known))
    fixed: dict[str, float] = {}
    shared: dict[tuple[str, str, float], list[str]] = {}
    declined: dict[str, str] = {}
    for group in groups:
        source, ratio = group.kind, limits.kinds.get(group.kind)
        for pattern, own in limits.ratios:
            if fnmatchcase(group.name, pattern):
                source, ratio = pattern, own
        skipped = next((p for p in limits.skip if fnmatchcase(group.name, p)), None)
        if skipped is not None:
            declined[group.name] = f"skipped, as {skipped!r} asks"
        elif ratio == 0:
            declined[group.name] = "its ratio is 0"
        elif not (group.exact or limits.allow_inexact):
            missing = spelled("--allow-inexact")
            declined[group.name] = (
                f"inexact, and that is not allowed without {missing}: {group.reason}"
            )
        elif group.name in (unscored or {}):
            declined[group.name] = (unscored or {})[group.name]
        elif ratio is not None and group.name in together:
            shared.setdefault((source, group.kind, ratio), []).append(group.name)
        elif ratio is not None:
            fixed[group.name] = ratio
    shares = [Share(ratio, tuple(some)) for (*_, ratio), some in shared.items()]
    fixed |= {s.groups[0]: s.ratio for s in shares if len(s.groups) == 1}
    return Selected(fixed, tuple(s for s in shares if len(s.groups) > 1), declined)


def _check_names(groups: Sequence[Group], limits: Limits, known: Sequence[str]) -> None:
    names, kinds = [g.name for g in groups], sorted({g.kind for g in groups})
    for glob in limits.skip:
        _refuse_unmatched("--skip", glob, names, known)
    for glob, _ in limits.ratios:
        _refuse_unmatched("--ratios", glob, names)
    for kind in limits.kinds:
        if kind not in kinds:
            raise OnnxpruneError(f"{kind!r} matches no kind of group", hint=suggest(kind, kinds))


def _refuse_unmatched(
    option: str, glob: str, groups: Sequence[str], others: Iterable[str] = ()
) -> None:
    names = [*groups, *others]
    if not any(fnmatchcase(name, glob) for name in names):
        every = f"`onnxprune inspect` lists all {plural(len(groups), 'group')}"
        what = "group, block or weight" if others else "group"
        raise OnnxpruneError(
            f"{stated(option, glob)} matches no {what}", hint=suggest_glob(glob, names, every)
        )
