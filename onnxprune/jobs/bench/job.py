"""Measuring models on backends, start to end."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np

from onnxprune import model as models
from onnxprune.config import BenchOptions, FilePath, Options, split
from onnxprune.data.ranks import with_ranks
from onnxprune.errors import OnnxpruneError, as_path, spelled, stated, wrong_type
from onnxprune.evaluate import metrics
from onnxprune.evaluate.class_scores import meaning_test
from onnxprune.evaluate.environment import environment, is_busy, load
from onnxprune.evaluate.evaluation import metric_of
from onnxprune.evaluate.output_comparison import Comparison
from onnxprune.evaluate.protocol import Alive, Case, Declined, Progress, Settings, Timing, measure
from onnxprune.graph.interface import Interface
from onnxprune.graph.surgery import interface_of
from onnxprune.jobs.bench.outputs import (
    Agreement,
    NewComparison,
    Task,
    compare_outputs,
    compare_scores,
    labels_of,
    noise_floor,
    score,
)
from onnxprune.jobs.bench.rows import latency, model_rows, notes
from onnxprune.jobs.bench.samples import COMPARED, Samples, open_samples
from onnxprune.jobs.bench.schema import Bench, DeclinedRow, NoiseFloor, Ratio, Row, Score
from onnxprune.jobs.interface.alignment import MAPPED
from onnxprune.jobs.interface.mapped_data import new_ids
from onnxprune.jobs.keywords import keywords
from onnxprune.runtime.process import WorkerError
from onnxprune.runtime.registry import Backend, parse
from onnxprune.solve.bootstrap import ratio, verdict


@keywords("bench")
def bench(
    files: Sequence[FilePath],
    options: BenchOptions | None = None,
    *,
    protocol: Settings | None = None,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Bench:
    """Measure models on backends.

    Args:
        files: models; the first is the reference of the others.
        options: of the measurement; or give the same as keywords
            (``bench(["dense.onnx", "pruned.onnx"], backend="cpu,openvino", batch=(1, 8))``).
        protocol: of the timing; processes, rounds and seed of the options by default.
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: a model or the inputs cannot be read, or a backend is unknown. What goes
            wrong on one backend, or with one model, is a declined row instead.
    """
    config = split("bench", fields, options)[0]
    hint = "give the paths of the models in a list; a model in memory is saved first"
    if isinstance(files, str) or not isinstance(files, Sequence):
        raise wrong_type("files", files, "a list of paths", hint)
    if not files:
        raise OnnxpruneError("files names no model", hint=hint)
    paths = tuple(as_path(each, "a model in files", hint) for each in files)
    if not (protocol is None or isinstance(protocol, Settings)):
        raise wrong_type("protocol", protocol, "Settings", "give processes= and rounds= instead")
    protocol = protocol or Settings(config.processes, config.rounds, seed=config.seed)
    metric = metric_of(config)
    backends = parse(",".join(config.backend))
    if not config.skip_missing:
        _require(backends)
    progress("reading the models")
    own = Options(calib=config.calib, preprocess=config.preprocess, shapes=config.shapes)
    first = with_ranks(models.load(paths[0]), own)
    rows = model_rows(paths, config.shapes, first)
    samples, batch = open_samples(
        first,
        calib=config.calib,
        preprocess=config.preprocess,
        most=config.calib_samples or (None if config.labels is not None else COMPARED),
        shapes=config.shapes,
        seed=protocol.seed,
    )
    batches = config.batch or (samples.batch or batch or 1,)
    task = None if config.labels is None else (metric, config.labels)
    if task is not None:
        labels_of(samples, task)  # refused now, not in the end
    scored = () if task is None else (metric.kind, metric.output)
    machine, busy = environment(), is_busy()
    maps = _maps(paths)
    run = _Run(
        paths,
        config,
        protocol,
        tuple(row.name for row in rows),
        samples,
        task,
        partial(Comparison, models.parts(first), meaning_test(first, *scored)),
        progress,
        maps,
    )
    for each in backends:
        run.on(each, batches)
    machine = replace(machine, load_average=(*machine.load_average, round(load(), 2)))
    return Bench(
        onnxprune=importlib.metadata.version("onnxprune"),
        environment=machine,
        protocol=described(protocol, config.threads or (None,), samples, batches),
        models=rows,
        rows=tuple(run.rows),
        noise_floor=tuple(run.floors),
        declined=tuple(run.declined),
        notes=(
            *notes(samples, run.rows, processes=protocol.processes, busy=busy),
            *(f"{rows[k].name}: {MAPPED}" for k in maps),
        ),
        samples=samples.calibration.samples,
        available=samples.calibration.available,
    )


def _maps(paths: Sequence[Path]) -> dict[int, Interface]:
    """What models changed of the inputs and outputs of the first, by place."""
    maps = [interface_of(models.load(path)) for path in paths]
    return {k: each for k, each in enumerate(maps) if each and each != maps[0]}


def _require(backends: Sequence[Backend]) -> None:
    """Refuse backends that cannot be used here, before anything is measured.

    Raises:
        OnnxpruneError: there are some.
    """
    for each in backends:
        state = each.available()
        if not state.ok:
            others = spelled("--skip-missing measures on the others")
            raise OnnxpruneError(
                f"{stated('--backend', each.name)} cannot be used here: {state.reason}",
                hint=f"{each.install}; {others}" if each.install else others,
            )


def described(
    protocol: Settings, threads: Sequence[int | None], samples: Samples, batches: Sequence[int]
) -> dict[str, object]:
    """The protocol in settings and words."""
    return {
        **asdict(protocol),
        "batches": list(batches),
        "threads": list(threads),
        "inputs": samples.calibration.description,
        "synthetic": samples.synthetic,
        "io": "numpy arrays in and out of every run, no IO binding",
        "warm": "windows of 50 ms until the medians of two in a row are within 5 %",
        "order": "random in a round, reversed in the next",
        "ratio": "geometric mean over processes of the median over rounds",
        "interval": "bootstrap over processes and blocks of rounds",
    }


_Outputs: TypeAlias = tuple[Agreement, Score | None]
"""How close a model's outputs are to the first model's, and how well it does its task."""


@dataclass(eq=False)
class _Run:
    """What was found so far."""

    paths: tuple[Path, ...]
    config: BenchOptions
    protocol: Settings
    names: tuple[str, ...]
    samples: Samples
    task: Task | None
    new: NewComparison
    progress: Progress
    maps: Mapping[int, Interface] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    floors: list[NoiseFloor] = field(default_factory=list)
    declined: list[DeclinedRow] = field(default_factory=list)

    def on(self, backend: Backend, batches: Sequence[int]) -> None:
        """Measure on one backend; outputs are compared once, in the first of its cases."""
        state = backend.available()
        if not state.ok:
            row = DeclinedRow(backend.name, "", None, None, state.reason, backend.install)
            self.declined.append(row)
            return
        outputs: dict[int, _Outputs] = {}
        for batch in batches:
            for threads in self.config.threads or (None,):
                try:
                    feeds = self.samples.timed(batch)
                except OnnxpruneError as error:
                    why = (error.message, error.hint)
                    row = DeclinedRow(backend.name, self.names[0], batch, threads, *why)
                    self.declined.append(row)
                    continue
                others = {k: new_ids(feeds, each) for k, each in self.maps.items()}
                case = Case(backend.name, self.paths, feeds, threads, others)

                def judge(alive: Alive, case: Case = case) -> None:
                    if not outputs:
                        outputs.update(self._compare(backend, alive, case))

                timings = measure(case, self.protocol, progress=self.progress, afterwards=judge)
                self._take(backend, state.version, batch, threads, timings, outputs)

    def _take(
        self,
        backend: Backend,
        version: str,
        batch: int,
        threads: int | None,
        timings: Sequence[Timing | Declined],
        outputs: Mapping[int, _Outputs],
    ) -> None:
        settings, reference = self.protocol, timings[0]
        for index, each in enumerate(timings):
            if isinstance(each, Declined):
                why = (each.reason, each.hint)
                row = DeclinedRow(backend.name, self.names[index], batch, threads, *why)
                self.declined.append(row)
                continue
            speed = None
            if index and isinstance(reference, Timing):
                interval = ratio(
                    reference.medians, each.medians, level=settings.level, seed=settings.seed
                )
                words = verdict(interval)
                speed = Ratio(self.names[0], interval.value, interval.low, interval.high, words)
            agreement, task_score = outputs.get(index, (Agreement(), None))
            self.rows.append(
                Row(
                    model=self.names[index],
                    backend=backend.name,
                    precision=each.precision,
                    version=version,
                    batch=batch,
                    threads=threads,
                    load_s=float(np.median([one.load_s for one in each.opened])),
                    first_run_s=float(np.median(each.first_s)),
                    peak_rss_bytes=each.peak_rss,
                    idle_rss_bytes=each.opened[-1].idle_rss,
                    latency=latency(each),
                    ratio=speed,
                    outputs=agreement.outputs,
                    score=task_score,
                    agreement=agreement.share,
                    agreement_error=agreement.error,
                )
            )

    def _compare(self, backend: Backend, alive: Alive, case: Case) -> dict[int, _Outputs]:
        """Outputs of every model against the first one's, the noise floor, and scores."""
        if 0 not in alive:
            return {}
        self.progress(f"{backend.name}: comparing outputs")
        with self._declining(backend, 0, case, "without optimisation"):
            self.floors.append(noise_floor(backend, alive[0], case, self.samples, self.new))
        scores: dict[int, metrics.Score] = {}
        for index, worker in alive.items() if self.task is not None else ():
            assert self.task is not None
            with self._declining(backend, index, case, "its task"):
                scores[index] = score(worker, self.samples, self.task, self.maps.get(index))
        results: dict[int, _Outputs] = {}
        for index, worker in alive.items():
            agreement = Agreement()
            if index:
                agreement = compare_outputs(
                    alive[0], worker, self.samples, self.new, self.maps.get(index)
                )
            task_score = None
            if self.task is not None:
                task_score = compare_scores(self.task[0], scores.get(0), scores.get(index))
            results[index] = (agreement, task_score)
        return results

    @contextmanager
    def _declining(self, backend: Backend, index: int, case: Case, what: str) -> Iterator[None]:
        """Make a declined row of what goes wrong beside the timing."""
        try:
            yield
        except (OnnxpruneError, WorkerError) as error:
            why = (f"{what}: {error}", getattr(error, "hint", ""))
            row = DeclinedRow(backend.name, self.names[index], None, case.threads, *why)
            self.declined.append(row)
