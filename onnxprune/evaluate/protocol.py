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
from onnxprune.evaluate.process import Worker, WorkerError
from onnxprune.evaluate.worker import Feeds, Opened, Warm

F64 = npt.NDArray[np.float64]
Progress = Callable[[str], None]
Alive = Mapping[int, Worker]

_LONG_S = 0.1
_UNMEASURED = 2


@dataclass(frozen=True)
class Settings:
    """The protocol.

    Attributes:
        processes: that each model gets, one after the other; each is a fresh one.
        rounds: in each of them; every model runs for a while in every round.
        slice_s: how long that is, in seconds; at least one run.
        warm_s: the longest that a model may take to become stable.
        level: of confidence of intervals.
        seed: of orders and resampling.
    """

    processes: int = 6
    rounds: int = 10
    slice_s: float = 0.03
    warm_s: float = 3.0
    level: float = 0.95
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Timing:
    """One model, timed.

    Attributes:
        rounds: the seconds of all runs of each round, by process, then round.
        opened: how opening it went in each process.
        first_s: seconds of the first run in each.
        warm: how it became warm in each.
        peak_rss: the most bytes that a process held; None where nothing tells.
        precision: what it computes in.
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
    """What is timed.

    Attributes:
        backend: its name.
        paths: the models, the reference first.
        feeds: of one run.
        threads: of the runtime; None leaves it the choice.
    """

    backend: str
    paths: tuple[Path, ...]
    feeds: Feeds
    threads: int | None = None


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
    how: Settings,
    *,
    progress: Progress = lambda _: None,
    afterwards: Callable[[Alive], None] = lambda _: None,
) -> tuple[Timing | Declined, ...]:
    """Time models beside each other.

    Args:
        case: what.
        how: the protocol.
        progress: told what is being done.
        afterwards: gets the last processes, by the model's place in ``case.paths``, once all is
            timed: for what needs the models but no clock.

    Returns:
        for each model its timing, or why it has none. A process that dies takes nothing with it but
        its model.
    """
    rng = np.random.default_rng(how.seed)
    records = [_Record() for _ in case.paths]
    gone: dict[int, Declined] = {}
    for turn in range(how.processes):
        with ExitStack() as stack:
            progress(f"{case.backend}: processes {turn + 1} of {how.processes}")
            alive = _start(case, how, records, gone, rng, stack)
            _rounds(how, alive, records, gone, rng)
            for index, worker in alive.items():
                records[index].peaks.append(worker.ask("peak"))
                records[index].precision = worker.ask("precision")
            if turn + 1 == how.processes:
                afterwards(alive)
    return tuple(gone.get(k) or _timing(record) for k, record in enumerate(records))


def _start(
    case: Case,
    how: Settings,
    records: Sequence[_Record],
    gone: dict[int, Declined],
    rng: np.random.Generator,
    stack: ExitStack,
) -> dict[int, Worker]:
    """Fresh processes, one after the other, each with its model open and warm."""
    shapes = [{name: array.shape for name, array in case.feeds.items()}]
    alive = {}
    for index in (int(k) for k in rng.permutation(len(case.paths))):
        if index in gone:
            continue
        worker = stack.enter_context(Worker())
        record = records[index]
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
            record.first_s.append(worker.ask("first", feeds=case.feeds))
            record.warm.append(worker.ask("warm", most_s=how.warm_s))
        except (OnnxpruneError, WorkerError) as error:
            gone[index] = _declined(error)
        else:
            alive[index] = worker
    return dict(sorted(alive.items()))


def _rounds(
    how: Settings,
    alive: dict[int, Worker],
    records: Sequence[_Record],
    gone: dict[int, Declined],
    rng: np.random.Generator,
) -> None:
    """Every second round goes through the models in reverse, so that each place is as frequent."""
    counts: dict[int, dict[str, Any]] = {}
    for index in alive:
        typical = records[index].warm[-1].typical_s
        runs = max(1, min(2000, round(how.slice_s / typical)))
        counts[index] = {"runs": runs, "unmeasured": 0 if typical > _LONG_S else _UNMEASURED}
        records[index].rounds.append([])
    order: list[int] = []
    for turn in range(how.rounds):
        order = order[::-1] if turn % 2 else [int(k) for k in rng.permutation(list(alive))]
        for index in [k for k in order if k in alive]:
            try:
                found = alive[index].ask("time", **counts[index])
            except (OnnxpruneError, WorkerError) as error:
                gone[index] = _declined(error)
                del alive[index]
            else:
                records[index].rounds[-1].append(np.array(found))


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
