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
class Alignment:
    """Which widths of an axis its kernel runs well at.

    Attributes:
        wanted: multiples of this are fast; half or a quarter of it where an axis is too narrow.
        required: any width that is no multiple of this is slower than a larger one.
    """

    wanted: int = 1
    required: int = 1


@dataclass(frozen=True, eq=False)
class Axis:
    """One axis of one tensor as one node reads it.

    Attributes:
        where: name of the axis in messages.
        size: dense width.
        alignment: the widths its kernel likes.
        rows: by group, int64 ``[units, rows per unit]``, which indices leave with each unit.
    """

    where: str
    size: int
    alignment: Alignment
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
        removed_ = np.zeros(self.size, np.bool_)
        for group, rows in self.rows.items():
            removed_[rows[np.asarray(removed.get(group, ()), np.int64)]] = True
        return int(self.size - removed_.sum())


def axes_of(
    groups: Iterable[Group],
    shapes: Mapping[str, Sequence[int]],
    alignment: Callable[[Slice], Alignment] = lambda _: Alignment(),
) -> tuple[Axis, ...]:
    """Every distinct axis that the groups cut.

    A tensor that several nodes share is one axis per node, since it is copied where they come to
    need different parts of it.

    Args:
        groups: groups of one analysis.
        shapes: the dense shape of every tensor that is cut.
        alignment: the widths the kernel behind a slice likes.
    """
    rows: dict[tuple[str, int, str], dict[str, list[I64]]] = {}
    alignments: dict[tuple[str, int, str], Alignment] = {}
    for group in groups:
        for cut in group.slices:
            for node in cut.nodes or ("",):
                key = (cut.tensor, cut.axis, node)
                rows.setdefault(key, {}).setdefault(group.name, []).append(cut.rows)
                one, other = alignment(cut), alignments.get(key, Alignment())
                alignments[key] = Alignment(
                    max(one.wanted, other.wanted), max(one.required, other.required)
                )
    axes: dict[object, Axis] = {}
    for (tensor, axis, node), parts in rows.items():
        whole = {g: _union(p) for g, p in parts.items()}
        size, liked = int(shapes[tensor][axis]), alignments[tensor, axis, node]
        same = (size, liked, tuple((g, r.shape, r.tobytes()) for g, r in whole.items()))
        axes.setdefault(same, Axis(f"axis {axis} of {tensor!r}", size, liked, whole))
    return tuple(axes.values())


def _union(parts: Sequence[I64]) -> I64:
    """Rows that leave with each unit by any of several cuts."""
    if len(parts) == 1:
        return parts[0].reshape(len(parts[0]), -1)
    both = np.concatenate([p.reshape(len(p), -1) for p in parts], axis=1)
    # Units are interchangeable, so each has the same number of distinct rows.
    return np.stack([np.unique(unit) for unit in both])


@dataclass(frozen=True)
class Rule:
    """One line of the table.

    Attributes:
        provider: short name of what runs the model; ``*`` for any other.
        op: the operator, ``depthwise`` for a Conv with one channel per group, ``*`` for any other.
        alignment: the widths it runs well at.
        source: where the number comes from.
    """

    provider: str
    op: str
    alignment: Alignment
    source: str


TABLE = (
    Rule(
        "cpu",
        "Conv",
        Alignment(16),
        "onnxruntime 1.31 lays channels out in blocks of 16 (AVX-512). ResNet-50 at 0.7 of its "
        "width takes 0.65 of the time with any widths, 0.48 with multiples of 16 and equal MACs; "
        "every width minus one takes 1.25. A chain of 3x3 convolutions at 32x32 with 4, 8, 12, 14 "
        "and 16 channels takes 94, 149, 221, 305 and 227 us: half of 16 pays, 14 does not",
    ),
    Rule(
        "cpu",
        "depthwise",
        Alignment(16, required=16),
        "onnxruntime 1.31: 1x1 and depthwise 3x3 in turn at 32x32 with 8, 12, 14 and 16 channels "
        "take 44, 59, 152 and 38 us",
    ),
    Rule(
        "cpu",
        "*",
        Alignment(1),
        "onnxruntime 1.31, BERT-base in float32: no step in K or N of a matrix product beyond the "
        "noise of 5 %",
    ),
    Rule(
        "openvino",
        "*",
        Alignment(32),
        "OpenVINO 2026.4 computes in bfloat16 where it can (AMX): ResNet-50 at 0.7 of its width "
        "takes 0.45 of the time with multiples of 32, 0.63 with multiples of 8; BERT-base with a "
        "hidden size of 538 takes 0.70, with 544 0.56",
    ),
    Rule(
        "*",
        "*",
        Alignment(8),
        "not measured: the least that NVIDIA's ASP and ModelOpt ask for of a sparse product, and "
        "what half-precision matrix units are fed with",
    ),
)
"""The first line that fits counts."""

CHOICES = 8
"""The least number of widths to leave an axis where accuracy at a number of multiplications or
bytes is asked for, not speed. Rounding buys speed with accuracy, and on narrow layers too much of
it: a ResNet-20 with 16 to 64 channels and half of its multiplications answers 87.4 % of 1,000
unseen pictures right in multiples of 16, 88.6 % in multiples of an eighth of each layer."""

STEPS = 12
"""The least number of widths to leave an axis where they are timed: the clock then says which are
fast, and the table above has no say."""

_DEPTHWISE = 8
"""What may be left then of a multiple that is required: 8 channels take 1.2 times as long as 16."""


def rule_for(provider: str, op: str) -> Rule:
    """The line of the table for an operator on a provider."""
    return next(r for r in TABLE if r.provider in (provider, "*") and r.op in (op, "*"))


def alignments(
    shapes: Mapping[str, Sequence[int]],
    ops: Mapping[str, str],
    *,
    provider: str = "cpu",
    round_to: int | None = None,
    choices: int = 1,
    timed: bool = False,
) -> Callable[[Slice], Alignment]:
    """The grain of whatever a slice cuts.

    Args:
        shapes: the dense shape of every tensor that is cut.
        ops: the operator of every node that reads one.
        provider: short name of what will run the model.
        round_to: a multiple that takes the place of the table's.
        choices: multiples are halved until an axis has so many, those required down to 8.
        timed: widths will be timed, so they are only as many as that allows, whatever the table.

    Returns:
        A function for `alignment.axes_of`. Vectors that scale their units one by one have no grain
        of their own: they are fused or follow what they scale.
    """

    def alignment(cut: Slice) -> Alignment:
        # A convolution scales its channels one by one exactly if it is depthwise.
        depthwise = cut.role == "scales" and len(shapes[cut.tensor]) > 2
        result = Alignment()
        for node in cut.nodes:
            op = ops.get(node, "")
            if cut.role == "scales" and not (depthwise and op == "Conv"):
                continue
            size = int(shapes[cut.tensor][cut.axis])
            if round_to is not None:
                one = Alignment(round_to)
            elif timed:
                one = Alignment(_power_of_two(size // STEPS))
            else:
                one = rule_for(provider, "depthwise" if depthwise else op).alignment
                one = _finer(one, size, choices)
            result = Alignment(max(result.wanted, one.wanted), max(result.required, one.required))
        return result

    return alignment


def _finer(alignment: Alignment, size: int, choices: int) -> Alignment:
    """The largest power of two within a grain that leaves an axis of this size its choices."""
    if choices == 1:
        return alignment
    finest = _power_of_two(size // choices)
    required = min(alignment.required, max(finest, _DEPTHWISE))
    return Alignment(max(min(alignment.wanted, finest), required), required)


def _power_of_two(most: int) -> int:
    """The largest that is not above ``most``; 1 if there is none."""
    return 1 << max(most.bit_length() - 1, 0)
