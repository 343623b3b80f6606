"""Timing models beside each other: own processes, warm, interleaved in balanced random order."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.worker import PROCESS, Clock, Feeds, Opened, Warm
from onnxprune.runtime.process import Worker, WorkerError

F64 = npt.NDArray[np.float64]
Progress = Callable[[str], None]
Alive = Mapping[int, Worker]

_LONG_S = 0.1
_UNMEASURED = 2


@dataclass(frozen=True)
class Settings:
    """Settings of the protocol.

    Attributes:
        processes: fresh processes per model, one after the other.
        rounds: per process; every model runs for a while in every round.
        slice_s: seconds of that while; at least one run.
        warm_s: most seconds for a model to become stable.
        level: confidence level of intervals.
        seed: random seed of orders and resampling.
        clock: ``wall``, or ``cpu`` for the time of the processor in all threads.
    """

    processes: int = 6
    rounds: int = 10
    slice_s: float = 0.03
    warm_s: float = 3.0
    level: float = 0.95
    seed: int = 0
    clock: Clock = "wall"


@dataclass(frozen=True, eq=False)
class Timing:
    """One model, timed.

    Attributes:
        rounds: the seconds of all runs of each round, by process, then round.
        opened: the opening in each process.
        first_s: seconds of the first run in each.
        warm: the warm-up in each.
        peak_rss: peak resident bytes of a process; None if unknown.
        precision: it computes in.
    """

    rounds: tuple[tuple[F64, ...], ...]
    opened: tuple[Opened, ...]
    first_s: tuple[float, ...]
    warm: tuple[Warm, ...]
    peak_rss: int | None
    precision: str

    @property
    def medians(self) -> F64:
        """The median of each round, ``[processes, rounds]``."""
        return np.array([[np.median(each) for each in rounds] for rounds in self.rounds])

    @property
    def every(self) -> F64:
        """All runs, in order."""
        return np.concatenate([each for rounds in self.rounds for each in rounds])


@dataclass(frozen=True)
class Declined:
    """Why a model was not timed."""

    reason: str
    hint: str = ""


@dataclass(frozen=True)
class Case:
    """The models to time, and how they are run.

    Attributes:
        backend: its name.
        paths: the models, the reference first.
        feeds: of one run.
        threads: of the runtime; None leaves the choice to it.
        others: feeds of models that take other inputs, by their place in ``paths``.
    """

    backend: str
    paths: tuple[Path, ...]
    feeds: Feeds
    threads: int | None = None
    others: Mapping[int, Feeds] = field(default_factory=dict)

    def feeds_of(self, index: int) -> Feeds:
        """The feeds of a model."""
        return self.others.get(index, self.feeds)


@dataclass(eq=False)
class _Record:
    rounds: list[list[F64]] = field(default_factory=list)
    opened: list[Opened] = field(default_factory=list)
    first_s: list[float] = field(default_factory=list)
    warm: list[Warm] = field(default_factory=list)
    peaks: list[int | None] = field(default_factory=list)
    precision: str = ""


def measure(
    case: Case,
    settings: Settings,
    *,
    progress: Progress = lambda _: None,
    afterwards: Callable[[Alive], None] = lambda _: None,
) -> tuple[Timing | Declined, ...]:
    """Time models beside each other.

    Args:
        case: the models.
        settings: of the protocol.
        progress: hears the progress.
        afterwards: called with the last processes, by the model's place in ``case.paths``, once
            all is timed: for what needs the models but no clock.

    Returns:
        For each model its timing, or the reason why it has none. A process that dies affects its
        own model only.
    """
    rng = np.random.default_rng(settings.seed)
    records = [_Record() for _ in case.paths]
    declined: dict[int, Declined] = {}
    for turn in range(settings.processes):
        with ExitStack() as stack:
            progress(f"{case.backend}: processes {turn + 1} of {settings.processes}")
            alive = _start(case, settings, records, declined, rng, stack)
            _rounds(settings, alive, records, declined, rng)
            for index, worker in alive.items():
                records[index].peaks.append(worker.ask("peak"))
                records[index].precision = worker.ask("precision")
            if turn + 1 == settings.processes:
                afterwards(alive)
    return tuple(declined.get(k) or _timing(record) for k, record in enumerate(records))


def _start(
    case: Case,
    settings: Settings,
    records: Sequence[_Record],
    declined: dict[int, Declined],
    rng: np.random.Generator,
    stack: ExitStack,
) -> dict[int, Worker]:
    """Fresh processes, one after the other, each with its model open and warm."""
    alive = {}
    for index in (int(k) for k in rng.permutation(len(case.paths))):
        if index in declined:
            continue
        worker = stack.enter_context(Worker(PROCESS))
        record, feeds = records[index], case.feeds_of(index)
        shapes = [{name: array.shape for name, array in feeds.items()}]
        try:
            record.opened.append(
                worker.ask(
                    "open",
                    name=case.backend,
                    path=str(case.paths[index]),
                    threads=case.threads,
                    optimise=True,
                    shapes=shapes,
                )
            )
            record.first_s.append(worker.ask("first", feeds=feeds))
            record.warm.append(worker.ask("warm", most_s=settings.warm_s))
        except (OnnxpruneError, WorkerError) as error:
            declined[index] = _declined(error)
        else:
            alive[index] = worker
    return dict(sorted(alive.items()))


def _rounds(
    settings: Settings,
    alive: dict[int, Worker],
    records: Sequence[_Record],
    declined: dict[int, Declined],
    rng: np.random.Generator,
) -> None:
    """Every second round takes the models in reverse, so that each has each place equally often."""
    counts: dict[int, dict[str, Any]] = {}
    for index in alive:
        typical = records[index].warm[-1].typical_s
        runs = max(1, min(2000, round(settings.slice_s / typical)))
        counts[index] = {"runs": runs, "unmeasured": 0 if typical > _LONG_S else _UNMEASURED}
        records[index].rounds.append([])
    order: list[int] = []
    for turn in range(settings.rounds):
        order = order[::-1] if turn % 2 else [int(k) for k in rng.permutation(list(alive))]
        for index in [k for k in order if k in alive]:
            try:
                seconds = alive[index].ask("time", **counts[index], clock=settings.clock)
            except (OnnxpruneError, WorkerError) as error:
                declined[index] = _declined(error)
                del alive[index]
            else:
                records[index].rounds[-1].append(np.array(seconds))


def _declined(error: OnnxpruneError | WorkerError) -> Declined:
    if isinstance(error, OnnxpruneError):
        return Declined(error.message, error.hint)
    return Declined(str(error))


def _timing(record: _Record) -> Timing:
    peaks = [each for each in record.peaks if each is not None]
    return Timing(
        rounds=tuple(tuple(rounds) for rounds in record.rounds),
        opened=tuple(record.opened),
        first_s=tuple(record.first_s),
        warm=tuple(record.warm),
        peak_rss=max(peaks) if peaks else None,
        precision=record.precision,
    )
