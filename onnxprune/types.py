"""Values that every room speaks of: checks, and what became of layers."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """One thing that was checked: good when ``value`` is within ``limit``."""

    name: str
    ok: bool
    value: float
    limit: float


@dataclass(frozen=True)
class LayerOutcome:
    """What became of one layer.

    Attributes:
        layer: its node; of a normalisation too.
        method: how it was changed. Refits after a cut: ``none`` (nothing was better), ``bias``,
            ``scale``, ``lstsq`` or ``pair``, of a normalisation ``bias``, ``scale``, ``affine`` or
            ``statistics``. Zeros: how the mask was found, ``given`` where it was there; empty where
            none was.
        before: relative squared error of its output on held-out samples, as cut or masked; None
            where nothing was measured.
        after: the same as it is now.
        reason: why nothing was tried; empty if it was.
        weight: name of the weight that has zeros; empty for a refit after a cut, and where a node
            was declined before its weight was looked at.
        shape: of that weight, as stored.
        sparsity: share of its entries that is masked.
        refit: how the weights that stay were changed: ``none``, ``bias``, ``lstsq`` or ``pcg``.
    """

    layer: str
    method: str = ""
    before: float | None = None
    after: float | None = None
    reason: str = ""
    weight: str = ""
    shape: tuple[int, ...] = ()
    sparsity: float = 0.0
    refit: str = "none"
