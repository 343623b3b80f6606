"""The result of a measurement: plain data with a version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

from onnxprune.evaluate.environment import Environment
from onnxprune.jobs.results.schema import OutputRow, plain
from onnxprune.quantities import plural
from onnxprune.solve.bootstrap import Verdict

SCHEMA = "onnxprune.bench"
VERSION = 2
"""Raised when a field changes its meaning or goes away; a new field does not raise it."""


@dataclass(frozen=True)
class ModelRow:
    """A model that was measured.

    Attributes:
        name: of the model in the rows.
        path: its file.
        bytes: of the file and of the weights beside it.
        macs, params: of one sample; None where the model could not be analysed.
    """

    name: str
    path: str
    bytes: int
    macs: int | None
    params: int | None


@dataclass(frozen=True)
class Latency:
    """Seconds of a run.

    Attributes:
        p50_s, p90_s, p99_s, mean_s: over all runs of all processes.
        runs: number of runs.
        quantiles: 101 of them, 0 to 100 %.
        stable: whether every process became stable before it was timed.
    """

    p50_s: float
    p90_s: float
    p99_s: float
    mean_s: float
    runs: int
    quantiles: tuple[float, ...]
    stable: bool


@dataclass(frozen=True)
class Ratio:
    """Latency of a model divided by that of another.

    Attributes:
        to: name of the other.
        value: below 1 is faster.
        low, high: the interval.
        verdict: ``no speed-up`` where the interval holds 1.
    """

    to: str
    value: float
    low: float
    high: float
    verdict: Verdict


@dataclass(frozen=True)
class Score:
    """A task metric on this backend: of the first model, and of this one.

    Attributes:
        metric: its name.
        before: of the first model; None where it could not be scored.
        after: of this one; None where it could not be scored.
        error: standard error of ``after - before`` on the same samples; None where none is known,
            and for the first model.
        after_error: standard error of ``after``; None where none is known.
        samples: labelled samples that were scored.
    """

    metric: str
    before: float | None
    after: float | None
    error: float | None = None
    after_error: float | None = None
    samples: int | None = None


@dataclass(frozen=True)
class Row:
    """One model on one backend at one batch size and number of threads.

    Attributes:
        threads: None where the runtime chose.
        load_s: seconds to load the model, the median over processes.
        first_run_s: seconds of the first run, the median over processes.
        peak_rss_bytes: the most physical memory that a process held.
        idle_rss_bytes: the part of it that was held before the model was opened.
        outputs: compared with those of the first model on the same backend; empty for that
            model.
        score: of the task, where there are labels.
        agreement: share of samples whose best class is that of the first model; None where no
            output holds class scores.
        agreement_error: its standard error.
    """

    model: str
    backend: str
    precision: str
    version: str
    batch: int
    threads: int | None
    load_s: float
    first_run_s: float
    peak_rss_bytes: int | None
    idle_rss_bytes: int | None
    latency: Latency
    ratio: Ratio | None
    outputs: tuple[OutputRow, ...] = ()
    score: Score | None = None
    agreement: float | None = None
    agreement_error: float | None = None


@dataclass(frozen=True)
class NoiseFloor:
    """Differences between outputs of one and the same model.

    Attributes:
        backend: where the first model ran, optimised.
        against: the reference, the same model without optimisation.
        outputs: one row per output.
    """

    backend: str
    against: str
    outputs: tuple[OutputRow, ...]


@dataclass(frozen=True)
class DeclinedRow:
    """A measurement that was not made.

    Attributes:
        backend: its name.
        model: empty where the backend is not available at all.
        reason: in words.
        install: the line that installs the backend, where that is what is missing; else what to do.
    """

    backend: str
    model: str
    batch: int | None
    threads: int | None
    reason: str
    install: str


@dataclass(frozen=True, repr=False)
class Bench:
    """Everything that was measured.

    Attributes:
        environment: the machine.
        protocol: settings of the measurement, and their meaning in words.
        models: the first is the reference of the others.
        rows: one per model and setting.
        noise_floor: how far outputs of the same model are apart; differences below it mean
            nothing.
        declined: measurements that were not made, and why.
        notes: whole sentences.
        samples: inputs that outputs were compared and tasks scored on; None if unknown.
        available: inputs that the data hold; None where they are unknown or synthetic.
        argv: the command line as it was run, program first; empty for a call from Python.
    """

    onnxprune: str
    environment: Environment
    protocol: Mapping[str, object]
    models: tuple[ModelRow, ...]
    rows: tuple[Row, ...]
    noise_floor: tuple[NoiseFloor, ...]
    declined: tuple[DeclinedRow, ...]
    notes: tuple[str, ...]
    samples: int | None = None
    available: int | None = None
    argv: tuple[str, ...] = ()

    def __repr__(self) -> str:
        backends = ", ".join(dict.fromkeys(row.backend for row in self.rows))
        return f"<Bench: {plural(len(self.models), 'model')} on {backends or 'no backend'}>"


def to_json(result: Bench) -> dict[str, object]:
    """The result as JSON values, with ``schema`` and ``version``."""
    head: dict[str, object] = {"schema": SCHEMA, "version": VERSION}
    document = head | {name: plain(value) for name, value in asdict(result).items()}
    rows = document["rows"]
    assert isinstance(rows, list)
    for row in rows:  # its name of version 1, which stands beside that of today for one version
        row["fidelity"] = row["outputs"]
    return document
