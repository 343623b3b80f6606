"""The report: plain data with a version, the same behind every way of showing it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Literal

from onnxprune.jobs.results.couplings import CouplingRow
from onnxprune.jobs.results.weights import StoredRow, ZerosRow
from onnxprune.quantities import Unit
from onnxprune.types import Quality, Structure, Tails

SCHEMA = "onnxprune.report"
VERSION = 2
"""Raised when a field changes its meaning or goes away; a new field does not raise it."""
FORMER = {"reachable": "reach", "not_prunable": "pinned", "as_given": "given"}
"""Names of version 1, which stand beside those of today for one version."""

Command = Literal["inspect", "prune", "apply", "recover"]


@dataclass(frozen=True)
class TensorRow:
    """One input or output of the model; ``shape`` holds sizes, names of open sizes, or None."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...] | None


@dataclass(frozen=True)
class ModelRow:
    """The dense model.

    Attributes:
        name: of its file, else of its graph.
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
        units, kept: number of units before and after (equal before pruning).
        exact: whether removal equals masking; otherwise ``reason`` says what it changes.
        tensors: number of stored tensors that are cut.
        stays: why no unit leaves a group although a removal was requested; empty otherwise.
        params, macs, bytes: cost of one unit in the dense model.
        interface: inputs and outputs of the model that lose an index with a unit.
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
    stays: str = ""
    interface: tuple[str, ...] = ()


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
    """A reason why axes of stored tensors cannot be cut.

    Attributes:
        reason: in words.
        axes: number of axes.
        params: elements of their tensors that no group reaches on any other axis.
        example: a node that causes it, or one of the tensors.
    """

    reason: str
    axes: int
    params: int
    example: str


@dataclass(frozen=True)
class Reachable:
    """How much of the model pruning can remove, in elements of stored weights.

    Attributes:
        params: all elements.
        exact: elements that leave with some unit of an exact group.
        inexact: further elements, which only units of inexact groups take along.
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
        ratio: of both as measured in turns, where that is not the quotient of the two.
    """

    name: str
    dense: float | None
    pruned: float | None
    unit: Unit
    error: float | None = None
    ratio: float | None = None


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
        unexplained: squared error over the variance of the original from sample to sample.
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
    unexplained: float | None = None


@dataclass(frozen=True)
class RefitRow:
    """One layer that was considered for refitting to what the original computed.

    Attributes:
        node: the layer.
        method: the best on held-out samples: ``none`` (unchanged), ``bias``, ``scale`` or
            ``lstsq``.
        before, after: relative squared error of its output on held-out samples.
        reason: why no refit was tried; empty if one was.
    """

    node: str
    method: str
    before: float
    after: float
    reason: str


@dataclass(frozen=True)
class SparseRow:
    """One weight that was considered for sparsity.

    Attributes:
        weight: its name; empty where its node was declined.
        node: the layer that multiplies with it.
        shape: of the stored tensor.
        method: how its zeros were chosen; empty if it is unchanged.
        refit: how its other entries were refitted: ``none``, ``bias`` or ``pcg``.
        sparsity: share of its entries that are zeroed.
        before, after: relative squared error of the layer's output on held-out samples, as masked
            and as refitted; None without data.
        reason: why it is unchanged; empty if it is not.
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
    """One model that a search visited.

    Attributes:
        label: its budget.
        macs, params, bytes: its cost.
        latency: by backend, ``p50_s``, ``low_s`` and ``high_s``, where it was timed.
        metric: name of the metric; ``agreement`` or ``cosine`` without labels.
        value: of the metric.
        drop: loss of the metric against the dense model.
        drop_error: standard error of ``drop``, both models having seen the same samples; None
            where none is known.
        samples: number of inputs of the evaluation.
        ok: whether the drop is within the limit.
        chosen: whether the search chose it.
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
    """One check: the measured value, its limit, and whether it passed."""

    name: str
    ok: bool
    value: float
    limit: float


@dataclass(frozen=True)
class Report:
    """The report of one run.

    Attributes:
        command: the command that made it.
        onnxprune: version of the program.
        closed: what pruning can remove where inputs and outputs stay as they are; None unless
            they may change.
        interface: what changed of them, as in ``NAME.interface.json``; None where nothing did.
        couplings: what leaves with one unit of each group.
        options: by flag name, those that are not at their default.
        refits: recovery of each layer; empty without data.
        sparse: the zeros of every weight, where a sparsity was requested.
        weights: zeros, patterns and sizes of weights that have zeros.
        stored: the form of every weight, where they are not all written dense.
        measures: size, latency and metric before and after.
        outputs: comparison with the dense model on ``samples`` held-out inputs; empty where the
            inputs were synthetic.
        available: inputs that the data hold; None where that is unknown.
        as_given: the same for a model that was pruned elsewhere, before any refit; else empty.
        points: models that a search for ``max-drop`` visited.
        checks: empty where nothing was pruned.
        structure: whether the result is what its plan says; None where nothing was pruned.
        quality: whether it does what the dense model does; None where nothing was pruned.
        tails: the worst class, the worst samples, and groups of samples; None where nothing was
            compared, or on synthetic inputs.
        notes: whole sentences on what was declined and why, in the order it happened.
        output: the file written, or None (dry run, or a failed check).
        argv: the command line as it was run, program first; empty for a call from Python.
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
    available: int | None = None
    points: tuple[PointRow, ...] = ()
    checks: tuple[CheckRow, ...] = ()
    notes: tuple[str, ...] = ()
    output: str | None = None
    structure: Structure | None = None
    quality: Quality | None = None
    argv: tuple[str, ...] = ()
    tails: Tails | None = None
    closed: Reachable | None = None
    interface: Mapping[str, object] | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed and the result is not broken."""
        broken = self.quality is not None and self.quality.broken
        return all(check.ok for check in self.checks) and not broken


def to_json(report: Report) -> dict[str, object]:
    """The report as JSON values: its fields, with ``schema``, ``version`` and ``ok``."""
    head: dict[str, object] = {"schema": SCHEMA, "version": VERSION, "ok": report.ok}
    document = head | {name: plain(value) for name, value in asdict(report).items()}
    return document | {former: document[name] for name, former in FORMER.items()}


def plain(value: object) -> object:
    """Values for JSON, which has no infinity and no NaN: they become text, never a number."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
