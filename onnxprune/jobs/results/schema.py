"""The report: plain data with a version, the same behind every way of showing it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from onnxprune.jobs.results.couplings import CouplingRow
from onnxprune.jobs.results.weights import StoredRow, ZerosRow
from onnxprune.quantities import Unit

SCHEMA = "onnxprune.report"
VERSION = 2
"""Raised when a field changes its meaning or goes away; a new field does not raise it."""

Command = Literal["inspect", "prune", "apply", "recover"]


@dataclass(frozen=True)
class TensorRow:
    """One input or output of the model; ``shape`` holds sizes, names of open sizes, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class ModelRow:
    """What the model is.

    Attributes:
        name: its file, or the name of its graph.
        producer: the exporter and its version, as the file says.
        opsets: version by operator domain (``""`` is the standard one).
        nodes: nodes in all graphs, subgraph bodies included.
        params, bytes: elements and bytes of all stored weights.
        macs: multiply-accumulates at the input shapes ``analysed``: of one sample, or of one run
            where the model fixes the batch size.
    """

    name: str
    producer: str
    ir_version: int
    opsets: Mapping[str, int]
    nodes: int
    inputs: tuple[TensorRow, ...]
    outputs: tuple[TensorRow, ...]
    params: int
    macs: int
    bytes: int
    analysed: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class GroupRow:
    """One group of interchangeable units.

    Attributes:
        units, kept: how many there are, and how many stay (equal before pruning).
        exact: whether removal equals masking; otherwise ``reason`` says what it changes.
        tensors: how many stored tensors are cut.
        params, macs, bytes: what one unit costs in the dense model.
    """

    name: str
    kind: str
    units: int
    kept: int
    exact: bool
    reason: str
    tensors: int
    params: int
    macs: int
    bytes: int


@dataclass(frozen=True)
class BlockRow:
    """A residual branch of ``nodes`` nodes, and whether it is bypassed."""

    name: str
    nodes: int
    params: int
    macs: int
    bypassed: bool


@dataclass(frozen=True)
class NotPrunableRow:
    """Why axes of stored tensors cannot be cut.

    Attributes:
        reason: the one they share.
        axes: how many.
        params: elements of the tensors that no group reaches on any other axis.
        example: one of the nodes it is due to, or one of the tensors.
    """

    reason: str
    axes: int
    params: int
    example: str


@dataclass(frozen=True)
class Reachable:
    """How much of the model pruning can touch, in elements of stored weights.

    Attributes:
        params: all of them.
        exact: those that leave with some unit of an exact group.
        inexact: those that only units of inexact groups take along.
    """

    params: int
    exact: int
    inexact: int


@dataclass(frozen=True)
class Measure:
    """One quantity before and after; None where it does not apply.

    Attributes:
        error: standard error of ``pruned - dense``, both models having seen the same samples; None
            where the quantity is counted, or no error is known.
    """

    name: str
    dense: float | None
    pruned: float | None
    unit: Unit
    error: float | None = None


@dataclass(frozen=True)
class OutputRow:
    """How close one output of the pruned model is to the original's; None where it has no meaning.

    Attributes:
        name: of the output.
        top1: for class scores, fraction of rows whose largest entry is at the same place.
        kl: for class scores, mean divergence KL(original || pruned) of a row, in nats.
        cosine: between all elements of both.
        relative_error: ``||pruned - original|| / ||original||``.
        max_abs_error: largest absolute difference of an element.
        snr_db: signal to noise in decibel; infinite if equal.
        broken: elements that are finite in one model only.
        reason: why it could not be compared, empty if it was.
    """

    name: str
    top1: float | None
    kl: float | None
    cosine: float | None
    relative_error: float | None
    max_abs_error: float | None
    snr_db: float | None
    broken: int
    reason: str


@dataclass(frozen=True)
class RefitRow:
    """One layer that was considered for refitting to what the original computed.

    Attributes:
        node: the layer.
        method: what won: ``none`` (it was left as it was), ``bias``, ``scale`` or ``lstsq``.
        before, after: relative squared error of its output on held-out samples.
        reason: why it was not tried; empty if it was.
    """

    node: str
    method: str
    before: float
    after: float
    reason: str


@dataclass(frozen=True)
class SparseRow:
    """One weight whose entries were, or might have been, set to zero.

    Attributes:
        weight: its name; empty where its node was declined before.
        node: the layer that multiplies with it.
        shape: of the stored tensor.
        method: how its zeros were chosen; empty if it was left as it is.
        refit: what won for the others: ``none``, ``bias`` or ``pcg``.
        sparsity: the part of it that is zeroed.
        before, after: relative squared error of the layer's output on held-out samples, as masked
            and as refitted; None without data.
        reason: why it was left; empty if it was not.
    """

    weight: str
    node: str
    shape: tuple[int, ...]
    method: str
    refit: str
    sparsity: float
    before: float | None
    after: float | None
    reason: str


@dataclass(frozen=True)
class PointRow:
    """One model that was made on the way to the smallest that is good enough.

    Attributes:
        label: the budget it was made for.
        macs, params, bytes: what it costs.
        latency: by backend, ``p50_s``, ``low_s`` and ``high_s``, where it was timed.
        metric: what it was judged by; ``agreement`` or ``cosine`` without labels.
        value: of that.
        drop: what was lost of it.
        drop_error: standard error of ``drop``, both models having seen the same samples; None
            where none is known.
        samples: how many inputs it was judged on.
        ok: whether that is good enough.
        chosen: whether it is the one that was taken.
    """

    label: str
    macs: int
    params: int
    bytes: int
    latency: Mapping[str, Mapping[str, float]]
    metric: str
    value: float | None
    drop: float
    drop_error: float | None
    samples: int
    ok: bool
    chosen: bool


@dataclass(frozen=True)
class CheckRow:
    """One check: what was measured, against what limit, and whether it passed."""

    name: str
    ok: bool
    value: float
    limit: float


@dataclass(frozen=True)
class Report:
    """Everything one run has to say.

    Attributes:
        command: the command that made it.
        onnxprune: version that made it.
        couplings: what leaves with one unit of each group.
        options: by flag name, those that are not at their default.
        refits: what recovery did to each layer; empty where there was nothing to fit to.
        sparse: what became of every weight, where single weights were set to zero.
        weights: zeros, patterns and sizes of weights that have zeros.
        stored: the form of every weight, where they are not all written dense.
        measures: before and after.
        outputs: how close they are, on ``samples`` inputs that nothing was fitted to; empty where
            the inputs were synthetic.
        as_given: the same before anything was refitted, of a model that came pruned; else empty.
        points: every model that was visited, where ``max-drop`` decided how much to remove.
        checks: the verdict; empty where nothing was pruned.
        notes: whole sentences on what was declined and why, in the order it happened.
        output: the file written, or None (dry run, or a bad verdict).
    """

    command: Command
    onnxprune: str
    model: ModelRow
    reachable: Reachable
    groups: tuple[GroupRow, ...] = ()
    blocks: tuple[BlockRow, ...] = ()
    not_prunable: tuple[NotPrunableRow, ...] = ()
    couplings: tuple[CouplingRow, ...] = ()
    options: Mapping[str, object] = field(default_factory=dict)
    refits: tuple[RefitRow, ...] = ()
    sparse: tuple[SparseRow, ...] = ()
    weights: tuple[ZerosRow, ...] = ()
    stored: tuple[StoredRow, ...] = ()
    measures: tuple[Measure, ...] = ()
    outputs: tuple[OutputRow, ...] = ()
    as_given: tuple[OutputRow, ...] = ()
    samples: int = 0
    points: tuple[PointRow, ...] = ()
    checks: tuple[CheckRow, ...] = ()
    notes: tuple[str, ...] = ()
    output: str | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)


def to_json(report: Report) -> dict[str, object]:
    """The report as JSON values: its fields, with ``schema``, ``version`` and ``ok``."""
    head: dict[str, object] = {"schema": SCHEMA, "version": VERSION, "ok": report.ok}
    return head | {name: plain(value) for name, value in asdict(report).items()}


def plain(value: object) -> object:
    """Values for JSON, which has no infinity and no NaN: they become text, never a number."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
