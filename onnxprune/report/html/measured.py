"""What the page reads of the documents that `onnxprune bench` and `sensitivity` print."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePath

from onnxprune.report.schema import OutputRow


@dataclass(frozen=True)
class BenchedModel:
    """One model that was measured, and its size."""

    name: str
    path: str = ""
    bytes: int | None = None
    macs: int | None = None
    params: int | None = None

    @property
    def file(self) -> str:
        """The name of its file."""
        return PurePath(self.path or self.name).name


@dataclass(frozen=True)
class Latency:
    """Seconds of one run; ``quantiles`` at 0, 1, ... 100 %."""

    p50_s: float
    p90_s: float | None = None
    p99_s: float | None = None
    mean_s: float | None = None
    runs: int | None = None
    quantiles: tuple[float, ...] = ()


@dataclass(frozen=True)
class Ratio:
    """Latency in terms of another model's, with its 95 % interval and what that says."""

    to: str
    value: float
    low: float
    high: float
    verdict: str = ""


@dataclass(frozen=True)
class Score:
    """The task metric of the first model and of this one, on the backend."""

    metric: str
    before: float
    after: float


@dataclass(frozen=True)
class BenchRow:
    """One model on one backend with one batch size and number of threads."""

    model: str
    backend: str
    latency: Latency
    precision: str = ""
    version: str = ""
    batch: int | None = None
    threads: int | None = None
    load_s: float | None = None
    first_run_s: float | None = None
    peak_rss_bytes: int | None = None
    ratio: Ratio | None = None
    fidelity: tuple[OutputRow, ...] = ()
    score: Score | None = None


@dataclass(frozen=True)
class Unavailable:
    """A backend that was not measured, why, and what installs it."""

    backend: str
    reason: str
    install: str = ""


@dataclass(frozen=True)
class Bench:
    """A document of ``onnxprune bench``; the first model is what the others are compared with."""

    models: tuple[BenchedModel, ...]
    rows: tuple[BenchRow, ...]
    onnxprune: str = ""
    environment: Mapping[str, object] = field(default_factory=dict)
    protocol: Mapping[str, object] = field(default_factory=dict)
    declined: tuple[Unavailable, ...] = ()


@dataclass(frozen=True)
class SweptMetric:
    """What a sweep measured, and its value for the dense model."""

    name: str
    higher_is_better: bool = True
    dense: float | None = None


@dataclass(frozen=True)
class Target:
    """What a sweep prunes at every ratio: a group, a block or a weight."""

    name: str
    kind: str
    units: int | None = None
    params: int | None = None
    macs: int | None = None


@dataclass(frozen=True)
class Cell:
    """One target at one ratio."""

    target: str
    ratio: float
    value: float | None = None
    drop: float | None = None
    kl: float | None = None
    cosine: float | None = None
    relative_error: float | None = None


@dataclass(frozen=True)
class Recommended:
    """Ratios that together should lose no more than ``drop``, and what they did lose."""

    drop: float | None = None
    ratios: Mapping[str, float] = field(default_factory=dict)
    measured: float | None = None


@dataclass(frozen=True)
class Unswept:
    """A target that was not swept, and why."""

    target: str
    reason: str


@dataclass(frozen=True)
class Sensitivity:
    """A document of ``onnxprune sensitivity``."""

    model: str
    metric: SweptMetric
    ratios: tuple[float, ...]
    targets: tuple[Target, ...]
    cells: tuple[Cell, ...]
    onnxprune: str = ""
    samples: int | None = None
    recommended: Recommended | None = None
    declined: tuple[Unswept, ...] = ()
