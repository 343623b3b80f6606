"""The parts of an analysis: units, groups, blocks and the axes that must stay.

They are plain frozen data that know no model and import no onnx.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Role = Literal["reads", "writes", "scales"]
"""How a stored tensor uses the units of a group: *reads* contracts them (a consumer), *writes*
produces them, *scales* holds one value per unit (bias, BatchNormalization, gains)."""


@dataclass(frozen=True, eq=False)
class Slice:
    """The rows of one axis of one stored tensor that leave with each unit of a group.

    Attributes:
        tensor: name of the initializer (or of the output of the Constant node) that is cut.
        axis: the axis that is cut.
        rows: int64 ``[units, rows per unit]``, indices along that axis.
        role: how the tensor uses the units.
        nodes: identities (first output names) of the nodes that use the tensor this way.
    """

    tensor: str
    axis: int
    rows: npt.NDArray[np.int64]
    role: Role
    nodes: tuple[str, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Group:
    """Interchangeable units: removing any one of them cuts the same axes by the same amount.

    Attributes:
        name: stable and readable: the producer's name and the kind.
        kind: ``channel``, ``head``, ``kv-group``, ``head-dim``, ``ffn``, ``hidden-unit``,
            ``expert`` or ``width`` (a residual stream); and of an interface that may change
            ``vocabulary``, ``class``, ``embedding-dim`` or ``input-feature``.
        exact: whether removal equals masking; if not, ``reason`` names what depends on the width.
        atoms: int64 ``[units]``, each unit in the algebra.
        slices: everything stored that leaves with a unit.
        params, macs, bytes: cost of one unit at dense widths.
        interface: names of the graph inputs and outputs that lose an index with a unit; empty
            unless the interface may change.
        renormalised: the operator that normalises over the units; empty for none. Scores of the
            units that remain are then those of the original, renormalised.
    """

    name: str
    kind: str
    exact: bool
    reason: str
    atoms: npt.NDArray[np.int64]
    slices: tuple[Slice, ...]
    params: int
    macs: int
    bytes: int
    interface: tuple[str, ...] = ()
    renormalised: str = ""

    def __repr__(self) -> str:
        exact = "exact" if self.exact else "inexact"
        return f"<Group {self.name}: {len(self)} units of kind {self.kind}, {exact}>"

    def __len__(self) -> int:
        return len(self.atoms)


@dataclass(frozen=True)
class Pinned:
    """An axis of a stored tensor that cannot lose an index, and why."""

    tensor: str
    axis: int
    size: int
    reason: str


@dataclass(frozen=True)
class Block:
    """A residual branch that can be bypassed: ``output`` is replaced by ``skip``.

    Attributes:
        nodes: identities of the nodes that die with it.
        params, macs: saved without it, at dense widths.
    """

    name: str
    output: str
    skip: str
    nodes: tuple[str, ...]
    params: int
    macs: int
