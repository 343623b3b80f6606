"""Rows of a report about the models that a search went through."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LatencyRow:
    """Seconds of one run on one backend: the median, and the ends of its 95 % interval."""

    p50_s: float
    low_s: float | None = None
    high_s: float | None = None


@dataclass(frozen=True)
class PointRow:
    """One model that was tried.

    Attributes:
        label: what it is called, such as the budget it was made for.
        macs, params, bytes: what is left.
        latency: by backend, where it was measured.
        metric: what ``value`` is of; empty where only the drop is known.
        value: the metric; None without labels.
        drop: what was lost: of the metric, or of agreement with the original.
        ok: whether that is within what was allowed.
        chosen: whether this is the one that was taken.
    """

    label: str
    macs: int
    params: int
    bytes: int
    latency: Mapping[str, LatencyRow] = field(default_factory=dict)
    metric: str = ""
    value: float | None = None
    drop: float = 0.0
    ok: bool = True
    chosen: bool = False
