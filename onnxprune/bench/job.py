"""Measuring models on backends, start to end."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np

from onnxprune import model as models
from onnxprune.backends.registry import Backend, backend
from onnxprune.bench.environment import environment, load
from onnxprune.bench.interval import ratio, verdict
from onnxprune.bench.process import Worker, WorkerError
from onnxprune.bench.protocol import Alive, Case, Declined, Settings, Tell, Timing, measure
from onnxprune.bench.samples import Samples, open_samples
from onnxprune.bench.schema import (
    Bench,
    DeclinedRow,
    Latency,
    ModelRow,
    NoiseFloor,
    Ratio,
    Row,
    Score,
)
from onnxprune.errors import OnnxpruneError
from onnxprune.fidelity import Comparison
from onnxprune.labels import open_labels
from onnxprune.report.gather import output_row
from onnxprune.report.schema import OutputRow
from onnxprune.task import Metric, evaluate, find_metric

_BUSY = 0.25
"""Load average per core from which it is said that the machine was busy."""


@dataclass(frozen=True)
class Asked:
    """What is measured, and on what.

    Attributes:
        models: files, the one that the others are compared with first.
        backends: names.
        batches: samples in a run.
        threads: of the runtime; None leaves it the choice.
        calib, preprocess, shapes, samples, seed: inputs; see `onnxprune.bench.samples`.
        labels: of the inputs, to score the task.
        metric: that the task is scored by.
        protocol: how it is timed.
    """

    models: tuple[Path, ...]
    backends: tuple[str, ...] = ("cpu",)
    batches: tuple[int, ...] = ()
    threads: tuple[int | None, ...] = (None,)
    calib: object | None = None
    preprocess: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    samples: int = 256
    labels: object | None = None
    metric: str | Callable[..., float] = "accuracy"
    protocol: Settings = field(default_factory=Settings)


def bench(asked: Asked, *, tell: Tell = lambda _: None) -> Bench:
    """Measure models on backends.

    Raises:
        OnnxpruneError: a model or the inputs cannot be read, or a backend is unknown. What goes
            wrong on one backend, or with one model, is a declined row instead.
    """
    if asked.labels is not None and asked.calib is None:
        raise OnnxpruneError(
            "--labels needs the inputs they belong to", hint="give those with --calib"
        )
    metric = find_metric(asked.metric)
    backends = [backend(name) for name in asked.backends]
    tell("reading the models")
    rows = model_rows(asked.models, asked.shapes)
    samples, named = open_samples(
        models.load(asked.models[0]),
        calib=asked.calib,
        preprocess=asked.preprocess,
        most=asked.samples,
        shapes=asked.shapes,
        seed=asked.protocol.seed,
    )
    batches = asked.batches or (samples.batch or named or 1,)
    labels = asked.labels
    task = None if labels is None else (metric, labels)
    machine = environment()
    run = _Run(asked, tuple(row.name for row in rows), samples, task, tell)
    for each in backends:
        run.on(each, batches)
    machine = replace(machine, load_average=(*machine.load_average, round(load(), 2)))
    return Bench(
        onnxprune=importlib.metadata.version("onnxprune"),
        environment=machine,
        protocol=described(asked, samples, batches),
        models=rows,
        rows=tuple(run.rows),
        noise_floor=tuple(run.floors),
        declined=tuple(run.declined),
        notes=tuple(_notes(samples, max(machine.load_average) / machine.cores, run.rows)),
    )


def described(asked: Asked, samples: Samples, batches: Sequence[int]) -> dict[str, object]:
    """The protocol in settings and words."""
    return {
        **asdict(asked.protocol),
        "batches": list(batches),
        "threads": list(asked.threads),
        "inputs": samples.calibration.description,
        "synthetic": samples.synthetic,
        "io": "numpy arrays in and out of every run, no IO binding",
        "warm": "windows of 50 ms until the medians of two in a row are within 5 %",
        "order": "random in a round, reversed in the next",
        "ratio": "geometric mean over processes of the median over rounds",
        "interval": "bootstrap over processes and blocks of rounds",
    }


def model_rows(
    paths: Sequence[Path], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[ModelRow, ...]:
    """Name and size of each model; names that would be the same get a number."""
    from onnxprune.analysis import analyse
    from onnxprune.cost import cost
    from onnxprune.storage.densify import densify
    from onnxprune.storage.files import file_bytes

    found: list[ModelRow] = []
    for path in paths:
        same = sum(Path(row.path).name == path.name for row in found)
        name = f"{path.name} #{same + 1}" if same else path.name
        try:
            size = cost(analyse(densify(models.load(path))[0], inputs=dict(shapes) or None))
        except OnnxpruneError:
            models.load(path)  # what cannot even be read is the user's problem
            found.append(ModelRow(name, str(path), file_bytes(path), None, None))
        else:
            row = ModelRow(name, str(path), file_bytes(path), size.macs, size.params)
            found.append(row)
    return tuple(found)


@dataclass(eq=False)
class _Run:
    """What was found so far."""

    asked: Asked
    names: tuple[str, ...]
    samples: Samples
    task: tuple[Metric, object] | None
    tell: Tell
    rows: list[Row] = field(default_factory=list)
    floors: list[NoiseFloor] = field(default_factory=list)
    declined: list[DeclinedRow] = field(default_factory=list)

    def on(self, chosen: Backend, batches: Sequence[int]) -> None:
        """Measure on one backend; outputs are compared once, in the first of its cases."""
        state = chosen.available()
        if not state.ok:
            row = DeclinedRow(chosen.name, "", None, None, state.reason, chosen.install)
            self.declined.append(row)
            return
        outputs: dict[int, tuple[tuple[OutputRow, ...], Score | None]] = {}
        for batch in batches:
            for threads in self.asked.threads:
                try:
                    feeds = self.samples.timed(batch)
                except OnnxpruneError as error:
                    why = (error.message, error.hint)
                    row = DeclinedRow(chosen.name, self.names[0], batch, threads, *why)
                    self.declined.append(row)
                    continue
                case = Case(chosen.name, self.asked.models, feeds, threads)

                def compare(alive: Alive, case: Case = case) -> None:
                    if not outputs:
                        outputs.update(self._compare(chosen, alive, case))

                timed = measure(case, self.asked.protocol, tell=self.tell, afterwards=compare)
                self._take(chosen, state.version, batch, threads, timed, outputs)

    def _take(
        self,
        chosen: Backend,
        version: str,
        batch: int,
        threads: int | None,
        timed: Sequence[Timing | Declined],
        outputs: Mapping[int, tuple[tuple[OutputRow, ...], Score | None]],
    ) -> None:
        how, reference = self.asked.protocol, timed[0]
        for index, each in enumerate(timed):
            if isinstance(each, Declined):
                why = (each.reason, each.hint)
                row = DeclinedRow(chosen.name, self.names[index], batch, threads, *why)
                self.declined.append(row)
                continue
            compared = None
            if index and isinstance(reference, Timing):
                found = ratio(reference.medians, each.medians, level=how.level, seed=how.seed)
                said = verdict(found)
                compared = Ratio(self.names[0], found.value, found.low, found.high, said)
            fidelity, score = outputs.get(index, ((), None))
            self.rows.append(
                Row(
                    model=self.names[index],
                    backend=chosen.name,
                    precision=each.precision,
                    version=version,
                    batch=batch,
                    threads=threads,
                    load_s=float(np.median([one.load_s for one in each.opened])),
                    first_run_s=float(np.median(each.first_s)),
                    peak_rss_bytes=each.peak_rss,
                    idle_rss_bytes=each.opened[-1].idle_rss,
                    latency=latency(each),
                    ratio=compared,
                    fidelity=fidelity,
                    score=score,
                )
            )

    def _compare(
        self, chosen: Backend, alive: Alive, case: Case
    ) -> Iterator[tuple[int, tuple[tuple[OutputRow, ...], Score | None]]]:
        """Outputs of every model against the first one's, the noise floor, and scores."""
        if 0 not in alive:
            return
        self.tell(f"{chosen.name}: comparing outputs")
        others = [index for index in alive if index]
        compared = {index: Comparison() for index in others}
        for feeds in self.samples.judged() if others else ():
            want = alive[0].ask("outputs", feeds=feeds)
            for index in others:
                compared[index].add(want, alive[index].ask("outputs", feeds=feeds))
        self._floor(chosen, alive[0], case)
        scores = {index: self._score(worker) for index, worker in alive.items()}
        for index in alive:
            found = compared[index].result() if index in compared else {}
            score = None
            if self.task is not None:
                score = Score(self.task[0].name, scores[0], scores[index])
            yield index, (tuple(output_row(each) for each in found.values()), score)

    def _floor(self, chosen: Backend, optimised: Worker, case: Case) -> None:
        against = chosen.name if chosen.switch else "cpu"
        compared = Comparison()
        try:
            with Worker() as plain:
                plain.ask(
                    "open",
                    name=against,
                    path=str(case.paths[0]),
                    threads=case.threads,
                    optimise=False,
                    shapes=[],
                )
                for feeds in self.samples.judged():
                    found = [w.ask("outputs", feeds=feeds) for w in (plain, optimised)]
                    compared.add(*found)
            rows = tuple(output_row(each) for each in compared.result().values())
        except (OnnxpruneError, WorkerError) as error:
            reason = f"without optimisation: {error}"
            row = DeclinedRow(against, self.names[0], None, case.threads, reason, "")
            self.declined.append(row)
        else:
            self.floors.append(NoiseFloor(chosen.name, f"{against}, optimisation off", rows))

    def _score(self, worker: Worker) -> float | None:
        if self.task is None:
            return None
        metric, spec = self.task
        labels = open_labels(spec, self.samples.calibration.indices)
        answers = (worker.ask("outputs", feeds=feeds) for feeds in self.samples.judged())
        return evaluate(metric, answers, labels)


def latency(timing: Timing) -> Latency:
    """Percentiles over all runs."""
    every = timing.every
    p50, p90, p99 = (float(each) for each in np.quantile(every, (0.5, 0.9, 0.99)))
    return Latency(
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        mean_s=float(every.mean()),
        runs=len(every),
        quantiles=tuple(float(each) for each in np.quantile(every, np.linspace(0, 1, 101))),
        stable=all(each.stable for each in timing.warm),
    )


def _notes(samples: Samples, load_per_core: float, rows: Sequence[Row]) -> Iterator[str]:
    if samples.synthetic:
        yield (
            f"inputs were made up ({samples.calibration.description}): latency may depend on "
            "data, and outputs say little about quality"
        )
    if load_per_core > _BUSY:
        yield "other work ran on this machine: intervals are wider, percentiles higher"
    if any(not row.latency.stable for row in rows):
        unstable = sorted({row.model for row in rows if not row.latency.stable})
        yield f"{', '.join(unstable)} had not become stable when timing began"
