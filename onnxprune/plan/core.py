"""What a plan is: which units, blocks and single weights go, and where that was decided."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError

Bool = npt.NDArray[np.bool_]
_PACKAGES = ("onnxprune", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu")


def versions() -> dict[str, str]:
    """Versions of the installed packages a plan depends on."""
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True)
class Origin:
    """Where a plan comes from.

    Attributes:
        structure: hash of the graph it was made for (``model.structure_hash``); empty for a plan
            written by hand, which then fits any graph that has its groups.
        criterion, allocation, budget: how units were scored, chosen and how many were asked for.
        seed: of everything random; None where plans of different seeds were merged.
        versions: of the packages involved.
        calibration: what the criterion saw.
    """

    structure: str = ""
    criterion: str = ""
    allocation: str = ""
    budget: str = ""
    seed: int | None = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    calibration: str = ""


@dataclass(frozen=True, eq=False)
class PackedMask:
    """Which entries of one weight are kept, one bit each.

    Attributes:
        shape: of the weight.
        bits: uint8 ``[ceil(size / 8)]``, as ``numpy.packbits`` of the flattened mask makes them.
    """

    shape: tuple[int, ...]
    bits: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.bits.dtype != np.uint8 or self.bits.shape != ((self.size + 7) // 8,):
            raise OnnxpruneError(
                f"a mask of shape {list(self.shape)} cannot be held by {self.bits.dtype} "
                f"{list(self.bits.shape)}"
            )
        # The last byte's unused bits count for nothing, so that equal masks have equal bits.
        tail = self.size % 8
        if tail and self.bits[-1] & (0xFF >> tail):
            cleared = self.bits.copy()
            cleared[-1] &= 0xFF ^ (0xFF >> tail)
            object.__setattr__(self, "bits", cleared)

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    def unpack(self) -> Bool:
        """The mask: bool of ``shape``, True = kept."""
        flat = np.unpackbits(self.bits, count=self.size)
        return flat.view(np.bool_).reshape(self.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedMask):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.bits, other.bits)

    __hash__ = None  # type: ignore[assignment]


def pack(mask: Bool) -> PackedMask:
    """Pack a mask, True = kept.

    Raises:
        OnnxpruneError: it is not an array of bool.
    """
    if mask.dtype != np.bool_:
        raise OnnxpruneError(f"a mask is an array of bool, not of {mask.dtype}")
    return PackedMask(mask.shape, np.packbits(mask.reshape(-1)))


@dataclass(frozen=True, eq=False)
class Plan:
    """What is removed and what is zeroed. It knows no model, and is never changed.

    Attributes:
        removed: group name -> indices of the units that go, ascending; only groups that lose some.
        bypassed: names of blocks whose output is replaced by their skip.
        zeroed: weight name -> which of its entries are kept (see :func:`pack`).
        origin: where it comes from.
        units: group name -> how many units the group had when the plan was made, where known: it
            lets the plan be read, and refused for another model, without the first one.
        reordered: group name -> the unit that comes to stand at each position, after the cut and
            before masks, which belong to the new order.

    Raises:
        OnnxpruneError: a unit is named twice or is negative, or a group would lose every unit.
    """

    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ()
    zeroed: Mapping[str, PackedMask] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    units: Mapping[str, int] = field(default_factory=dict)
    reordered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        cut = {name: _indices(name, units) for name, units in self.removed.items()}
        for name, known in self.units.items():
            if len(cut.get(name, ())) >= max(known, 1):
                raise OnnxpruneError(
                    f"the plan removes all {known} units of group {name!r}",
                    hint="keep at least one; to drop a whole branch, bypass its block",
                )
        object.__setattr__(self, "removed", {name: units for name, units in cut.items() if units})
        object.__setattr__(self, "bypassed", tuple(dict.fromkeys(self.bypassed)))
        object.__setattr__(self, "zeroed", dict(self.zeroed))
        object.__setattr__(self, "units", dict(self.units))
        for name, order in self.reordered.items():
            if sorted(order) != list(range(len(order))):
                raise OnnxpruneError(f"the order of group {name!r} does not name each unit once")
        object.__setattr__(self, "reordered", {n: tuple(o) for n, o in self.reordered.items()})

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, with its masks beside it; see ``store.save_plan``."""
        from onnxprune.plan.store import save_plan

        return save_plan(self, path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        mine, theirs = (
            [getattr(plan, f.name) for f in fields(plan) if f.name != "bypassed"]
            for plan in (self, other)
        )
        return mine == theirs and set(self.bypassed) == set(other.bypassed)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        made = self.origin
        how = ", ".join(t for t in (made.criterion, made.allocation, made.budget) if t)
        where = f"graph {made.structure[:12]}" if made.structure else "any graph"
        lines = [f"plan for {where}" + (f": {how}" if how else "")]
        width = max((len(n) for n in (*self.removed, *self.zeroed)), default=0)
        for name, gone in self.removed.items():
            of = f" of {self.units[name]}" if name in self.units else ""
            lines.append(f"  {name:<{width}}  -{len(gone)}{of}  [{ranges(gone)}]")
        lines += [f"  {name}  bypassed" for name in self.bypassed]
        lines += [f"  {name}  reordered" for name in self.reordered]
        for name, mask in self.zeroed.items():
            zeros = 1 - mask.kept / max(mask.size, 1)
            shape = "x".join(map(str, mask.shape))
            lines.append(f"  {name:<{width}}  {zeros:.1%} of {shape} zeroed")
        return "\n".join(lines if len(lines) > 1 else [*lines, "  nothing is removed"])


def ranges(indices: Sequence[int], longest: int = 12) -> str:
    """Ascending indices in few words: ``0-3, 7, 9-12``; cut short after ``longest`` runs."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:longest]]
    return ", ".join(texts + ["..."] * (len(runs) > longest))


def _indices(group: str, units: Iterable[int]) -> tuple[int, ...]:
    """Sorted plain ints."""
    found = sorted(int(unit) for unit in units)
    if found and found[0] < 0:
        raise OnnxpruneError(
            f"the plan removes unit {found[0]} of group {group!r}", hint="units count from 0"
        )
    if len(set(found)) < len(found):
        twice = next(a for a, b in pairwise(found) if a == b)
        raise OnnxpruneError(f"the plan removes unit {twice} of group {group!r} twice")
    return tuple(found)
