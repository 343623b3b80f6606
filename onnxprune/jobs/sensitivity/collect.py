"""Getting every cell measured, whatever becomes of those who measure."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    wait,
)

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.sensitivity import worker
from onnxprune.jobs.sensitivity.executors import Pool
from onnxprune.select.sensitivity import Cell

Wanted = tuple[str, float]
"""A cell that is to be measured: target and ratio."""

TRIES = 3
"""How often a cell may fail before it is given up."""
_LOOK = 5.0
"""Seconds without news after which it is asked whether anybody is left."""
_PATIENCE = 60.0
"""Seconds that a cluster may be without workers: a nanny starts new ones within a few."""


def gather(pool: Pool, key: str, wanted: Iterable[Wanted], keep: Callable[[Cell], None]) -> None:
    """Measure cells until each has a value or a reason.

    A cell whose own code fails is tried again. Where a worker dies, nobody knows which of the cells
    in flight killed it: all of them are measured anew, one at a time, so that one that kills every
    worker cannot take the others along.

    Args:
        pool: who measures; it has the job.
        key: of the job.
        wanted: the cells.
        keep: told each cell as it comes, in any order.

    Raises:
        OnnxpruneError: there is nobody left to measure anything.
    """
    waiting, suspects = deque(wanted), deque[Wanted]()
    failed: Counter[Wanted] = Counter()
    flying: dict[Future[Cell], tuple[Wanted, Executor]] = {}

    def send(cell: Wanted) -> None:
        executor = pool.executor()
        try:
            future = executor.submit(worker.measure, pool.job(), key, *cell)
        except BrokenExecutor as error:  # while nothing was in flight
            pool.died(error, executor)
            executor = pool.executor()
            future = executor.submit(worker.measure, pool.job(), key, *cell)
        flying[future] = cell, executor

    def again(cell: Wanted, error: BaseException, queue: deque[Wanted]) -> None:
        failed[cell] += 1
        if failed[cell] < TRIES:
            queue.append(cell)
        else:
            what = " ".join(str(error).split()) or type(error).__name__
            keep(Cell(*cell, reason=f"it failed {TRIES} times: {what}"))

    while waiting or suspects or flying:
        alone = not waiting
        while waiting and len(flying) < pool.width:
            send(waiting.popleft())
        if alone and not flying:
            send(suspects.popleft())
        for future in _finished(flying, pool):
            cell, executor = flying.pop(future)
            error = _error(future)
            if error is None:
                keep(future.result())
            elif pool.died(error, executor):
                again(cell, error, suspects)
            else:
                again(cell, error, waiting)


def _finished(flying: Iterable[Future[Cell]], pool: Pool) -> set[Future[Cell]]:
    """Those that are done, once there are any."""
    lonely = 0.0
    while True:
        done, _ = wait(flying, _LOOK, FIRST_COMPLETED)
        if done:
            return done
        problem = pool.deserted()
        lonely = (lonely or time.monotonic()) if problem else 0.0
        if problem and time.monotonic() - lonely > _PATIENCE:
            raise OnnxpruneError(
                problem, hint="what was measured is kept: start workers and run the same again"
            )


def _error(future: Future[Cell]) -> BaseException | None:
    return CancelledError() if future.cancelled() else future.exception()
