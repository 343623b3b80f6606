"""The latency of a model under any removal, predicted from times of its segments at a few widths.

A segment's time depends on the widths of the groups that cut it. It is known with all of them
dense, with those of each kind alone at every width they may have (lines), and with all of them at
once (the diagonal). In between, what two cuts leave is the product of what each leaves, corrected
by what the diagonal says of cutting both as deep as the shallower one is. The model is cut once per
set of widths, with groups that meet in a segment cut in turn, so that few sets serve all segments.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.shapes import propagate
from onnxprune.graph.surgery import draft
from onnxprune.select.allocate import CandidateWidths
from onnxprune.select.latency.segments import Segment, costly_nodes, segments
from onnxprune.select.latency.subgraph import extract_subgraph
from onnxprune.select.latency.table import Table

Float = npt.NDArray[np.float64]
Kept = Mapping[str, int]

_NOTHING: Mapping[str, Sequence[int]] = MappingProxyType({})
_TURNS = 4
"""Groups that meet are told apart by this many colours; where more meet, some are cut together."""
_SURE = 0.98
"""Part of a wider one's time below which a width is believed to be faster without a second look."""
_DIAGONAL = 6
"""Sets of widths with everything cut."""


@dataclass(eq=False)
class _Line:
    """The fraction of a segment's time that one kind of groups leaves, by width.

    Attributes:
        groups: those of the kind that cut it.
        known: part of their units kept -> part of the time left.
        keys: part of their units kept -> under which key the table has that time.
    """

    groups: tuple[str, ...]
    known: dict[float, float] = field(default_factory=lambda: {1.0: 1.0})
    keys: dict[float, str] = field(default_factory=dict)


@dataclass(eq=False)
class _Timed:
    """One segment: its dense seconds, its lines, and what is special about cutting all."""

    name: str
    nodes: frozenset[str]
    seconds: float
    lines: list[_Line]
    joint: dict[float, float] = field(default_factory=lambda: {1.0: 1.0})


class Predictor:
    """Nanoseconds of one run of an analysed model under any removal: a `CostMeasure`.

    Attributes:
        untimed: segments that could not be timed, by name; they count for nothing.
    """

    kind = "latency"
    stairs = True

    def __init__(
        self,
        analysis: Analysis,
        table: Table,
        shapes: Mapping[str, tuple[int, ...]],
        candidates: CandidateWidths,
        progress: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._analysis = analysis
        self._table = table
        self._shapes = shapes
        self._costly = costly_nodes(analysis)
        self._units = {g.name: len(g) for g in analysis.groups}
        self._widths = {
            g: np.unique([*w, self._units[g]])
            for g, w in candidates.widths.items()
            if g in self._units
        }
        self.untimed: list[str] = []
        self._timed = self._dense(progress)
        self._probe(progress)
        self._lines = [_compiled(each, self._units) for each in self._timed]

    def measure(
        self, removed: Mapping[str, Sequence[int]] = _NOTHING, bypassed: Sequence[str] = ()
    ) -> int:
        """The latency of the model without those units and blocks."""
        dead = {n for name in bypassed for n in self._analysis.block(name).nodes}
        kept = {g: n - len(removed.get(g, ())) for g, n in self._units.items()}
        total = 0.0
        for each, lines in zip(self._timed, self._lines, strict=True):
            if dead and each.nodes & dead:
                continue
            total += each.seconds * _left(kept, *lines)
        return round(total * 1e9)

    # -- times --------------------------------------------------------------------------------

    def _dense(self, progress: Callable[[str], None]) -> list[_Timed]:
        touching = _Touching(self._analysis)
        timed = []
        progress("timing the layers")
        for number, (segment, _, seconds) in enumerate(self._times({}), start=1):
            progress(f"timing the layers, {number} done")
            if not np.isfinite(seconds):
                self.untimed.append(segment.name)
                continue
            groups = [g for g in touching(segment) if len(self._widths.get(g, ())) > 1]
            nodes = frozenset(identity(n) for n in segment.nodes)
            timed.append(_Timed(segment.name, nodes, seconds, [_Line((g,)) for g in groups]))
        colour = _coloured([[g for line in each.lines for g in line.groups] for each in timed])
        for each in timed:
            by_colour: dict[int, list[str]] = {}
            for line in each.lines:
                by_colour.setdefault(colour[line.groups[0]], []).extend(line.groups)
            each.lines = [_Line(tuple(groups)) for _, groups in sorted(by_colour.items())]
        self._colour = colour
        return timed

    def _probe(self, progress: Callable[[str], None]) -> None:
        """Time every line and the diagonal; once more where a width seems no faster than a larger.

        It may be so, or something else ran on the machine.
        """
        sets = list(self._sets())
        for count, (colour, kept) in enumerate(sets):
            progress(f"timing the layers at other widths, {count + 1} of {len(sets)}")
            self._learn(colour, kept, None)
        for colour, kept in sets:
            again = {each.name for each in self._timed if self._doubts(each, colour, kept)}
            if again:
                progress("timing some of them again")
                self._learn(colour, kept, again)

    def _doubts(self, each: _Timed, colour: int | None, kept: Kept) -> bool:
        """Whether some width of a segment is no faster than a larger one, at the first look."""
        for line in each.lines:
            if self._colour[line.groups[0]] != colour:
                continue
            part = _part(line.groups, kept, self._units)
            wider = [known for other, known in line.known.items() if other > part]
            slow = part in line.known and line.known[part] >= min(wider, default=1.0) * _SURE
            if slow and line.keys.get(part) not in self._table.doubted:
                return True
        return False

    def _learn(self, colour: int | None, kept: Kept, again: Collection[str] | None) -> None:
        """Time the segments at some widths; only those named in ``again``, if it is given."""
        removed = {g: range(n, self._units[g]) for g, n in kept.items() if n < self._units[g]}
        by_name = {each.name: each for each in self._timed}
        try:
            for segment, key, seconds in self._times(removed, again):
                each = by_name.get(segment.name)
                if each is not None and np.isfinite(seconds) and each.seconds > 0:
                    self._note(each, colour, kept, key, seconds / each.seconds)
        except OnnxpruneError:  # sizes that cannot follow this cut: it will not be chosen
            return

    def _note(self, each: _Timed, colour: int | None, kept: Kept, key: str, ratio: float) -> None:
        if colour is not None:
            for line in each.lines:
                if self._colour[line.groups[0]] == colour:
                    part = _part(line.groups, kept, self._units)
                    line.known[part], line.keys[part] = ratio, key
        elif len(each.lines) > 1:
            alone = [_interpolated(line, kept, self._units) for line in each.lines]
            depth = max(_part(line.groups, kept, self._units) for line in each.lines)
            each.joint[depth] = ratio / max(float(np.prod(alone)), 1e-9)

    def _sets(self) -> Iterator[tuple[int | None, dict[str, int]]]:
        """Widths to time at: of groups of one colour, others dense; then of all."""
        for colour in sorted(set(self._colour.values())):
            yield from ((colour, kept) for kept in self._steps(colour))
        if len(set(self._colour.values())) > 1:
            every = self._steps(None)
            at = np.linspace(0, len(every) - 1, min(_DIAGONAL, len(every))).round().astype(int)
            yield from ((None, every[k]) for k in np.unique(at))

    def _steps(self, colour: int | None) -> list[dict[str, int]]:
        chosen = [g for g, c in self._colour.items() if colour in (None, c)]
        most = max(len(self._widths[g]) for g in chosen)
        steps = []
        for k in range(most - 1):
            part = k / (most - 1)
            steps.append(
                {g: int(self._widths[g][int(part * (len(self._widths[g]) - 1))]) for g in chosen}
            )
        return steps

    def _times(
        self, removed: Mapping[str, Sequence[int]], again: Collection[str] | None = None
    ) -> Iterator[tuple[Segment, str, float]]:
        model = draft(self._analysis, removed) if removed else self._analysis.model
        facts = propagate(model, self._shapes)
        for segment in segments(model, facts, self._costly):
            if again is not None and segment.name not in again:
                continue
            subgraph = extract_subgraph(model, facts, segment)
            if subgraph is None:
                yield segment, "", float("nan")
            else:
                look = self._table.seconds if again is None else self._table.again
                yield segment, subgraph.key, look(subgraph)


class _Touching:
    """Which groups cut the values of a segment."""

    def __init__(self, analysis: Analysis) -> None:
        self._analysis = analysis
        self._owner = np.full(len(analysis.walk.space), -1, np.int64)
        for number, group in enumerate(analysis.groups):
            self._owner[group.atoms] = number

    def __call__(self, segment: Segment) -> list[str]:
        walk, groups = self._analysis.walk, set()
        outputs = [v for node in segment.nodes for v in node.outputs]
        for value in (*segment.inputs, *segment.stored, *outputs):
            for axis in walk.axes.get(value.name or "", ()):
                for column in walk.space.columns(axis) if axis.columns else ():
                    groups.update(np.unique(self._owner[column]).tolist())
        return [self._analysis.groups[k].name for k in sorted(groups - {-1})]


def _coloured(meetings: Sequence[Sequence[str]]) -> dict[str, int]:
    """A colour for each group, others where they meet as far as there are colours."""
    near: dict[str, dict[str, int]] = {}
    for meeting in meetings:
        for group in meeting:
            others = near.setdefault(group, {})
            for other in meeting:
                if other != group:
                    others[other] = others.get(other, 0) + 1
    colour: dict[str, int] = {}
    for group in sorted(near, key=lambda g: -len(near[g])):
        taken = [0] * _TURNS
        for other, times in near[group].items():
            if other in colour:
                taken[colour[other]] += times
        colour[group] = int(np.argmin(taken))
    return colour


def _part(groups: Sequence[str], kept: Kept, units: Kept) -> float:
    """Which part of their units stays."""
    return sum(kept.get(g, units[g]) for g in groups) / sum(units[g] for g in groups)


def _interpolated(line: _Line, kept: Kept, units: Kept) -> float:
    at = sorted(line.known)
    return float(np.interp(_part(line.groups, kept, units), at, [line.known[k] for k in at]))


_Compiled = tuple[list[tuple[tuple[str, ...], int, Float, Float]], Float, Float]


def _compiled(each: _Timed, units: Kept) -> _Compiled:
    """The same as sorted arrays."""
    lines = []
    for line in each.lines:
        at = np.array(sorted(line.known))
        fractions = np.array([line.known[k] for k in at])
        lines.append((line.groups, sum(units[g] for g in line.groups), at, fractions))
    depths = np.array(sorted(each.joint))
    return lines, depths, np.array([each.joint[k] for k in depths])


def _left(
    kept: Kept, lines: list[tuple[tuple[str, ...], int, Float, Float]], depths: Float, joint: Float
) -> float:
    """Which part of a segment's time is left."""
    product, shallowest = 1.0, 0.0
    for groups, of, at, fractions in lines:
        part = sum(kept[g] for g in groups) / of
        product *= float(np.interp(part, at, fractions))
        shallowest = max(shallowest, part)
    if len(lines) > 1:
        product *= float(np.interp(shallowest, depths, joint))
    return product
