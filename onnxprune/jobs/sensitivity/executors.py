"""Who measures cells (this process, several processes, a Dask cluster), whatever becomes of them.

All of them are executors as in `concurrent.futures`; `gather` hands cells to them until each has a
value or a reason.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    CancelledError,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

from onnxprune.errors import OnnxpruneError, stated
from onnxprune.jobs.sensitivity.job import Bench, Job, unpacked
from onnxprune.model.files import ScratchFolder
from onnxprune.select.sensitivity import Cell

Key: TypeAlias = tuple[str, float]
"""A cell that is to be measured: target and ratio."""

TRIES = 3
"""Most attempts at a cell."""
_LOOK = 5.0
"""Seconds without a result after which the workers are checked."""
_PATIENCE = 60.0
"""Seconds that a cluster may be without workers: a nanny starts new ones within a few."""
_ADDRESS = re.compile(r"(\w+://)?[\w.\-\[\]:%]+:\d+")
_CONNECT = "10s"
"""How long a scheduler may take to answer."""

_BENCHES: dict[str, Bench] = {}
"""The job at hand where cells are measured, by its key: it is read once."""
_READING = threading.Lock()


def measure(job: str | bytes, key: str, target: str, ratio: float) -> Cell:
    """Measure one cell; this runs where the work is done.

    Args:
        job: the packed job, or the path of a file that holds it.
        key: of the job.
        target: the row.
        ratio: the column.
    """
    with _READING:
        bench = _BENCHES.get(key)
        if bench is None:
            _BENCHES.clear()
            data = Path(job).read_bytes() if isinstance(job, str) else job
            bench = _BENCHES[key] = Bench(unpacked(data))
    return bench.measure(target, ratio)


def ready() -> None:
    """Does nothing, after importing what measuring takes."""
    from onnxprune.runtime.providers import runtime

    runtime()


class Inline(Executor):
    """An executor that does everything at once, in this process."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Call the function and return its result, or what it raised, as a future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 futures carry whatever is raised
            future.set_exception(error)
        return future


class Process(Executor):
    """One process, and a new one once it died: so it takes no cell along but its own.

    It is never forked from this process (threads of a runtime do not survive that), but starts
    from one that has read the libraries once and runs nothing, or anew where a system has no such
    thing.
    """

    def __init__(self) -> None:
        self._pool = self._start()

    def _start(self) -> ProcessPoolExecutor:
        kept = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if kept else "spawn")
        if kept:
            context.set_forkserver_preload([__name__])
        # An interrupt is the business of whoever started the process.
        ignore = (signal.SIGINT, signal.SIG_IGN)
        return ProcessPoolExecutor(1, context, initializer=signal.signal, initargs=ignore)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Call the function in the process."""
        try:
            return self._pool.submit(fn, *args, **kwargs)
        except BrokenExecutor:  # by the call before, or while nothing was to be done
            self._pool.shutdown()
            self._pool = self._start()
            return self._pool.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002
        """Stop the process."""
        self._pool.shutdown(wait, cancel_futures=cancel_futures)


class Pool:
    """This process; other pools are made from it.

    Attributes:
        executors: that measure cells, one at a time each.
    """

    executors: Sequence[Executor] = (Inline(),)

    def share(self, job: Job) -> None:
        """Bring a job to wherever cells are measured, once."""
        _BENCHES.clear()
        _BENCHES[job.key] = Bench(job)

    def job(self) -> Any:  # noqa: ANN401 a path, bytes or a Dask future
        """The first argument of `measure`."""
        return ""

    def deserted(self) -> str:
        """Why no worker is available; empty if one is."""
        return ""

    def close(self) -> None:
        """Let go of the job and of all workers."""
        _BENCHES.clear()


class Processes(Pool):
    """Processes on this machine; they start at once, and read the job from a file, each once."""

    def __init__(self, count: int) -> None:
        self._folder = ScratchFolder()
        self._path = Path(self._folder.name) / "job.pickle"
        self.executors = [Process() for _ in range(count)]
        self._starting = [executor.submit(ready) for executor in self.executors]

    def share(self, job: Job) -> None:
        """Write the job to a file.

        Raises:
            OnnxpruneError: processes do not even start.
        """
        try:
            for started in self._starting:
                started.result()
        except BrokenExecutor as error:
            raise OnnxpruneError(
                "worker processes die as soon as they start",
                hint="a script must start them under `if __name__ == '__main__':`; --workers 1 "
                "starts none",
            ) from error
        self._path.write_bytes(job.packed())

    def job(self) -> str:
        """The file."""
        return str(self._path)

    def close(self) -> None:
        """Stop the processes."""
        for executor in self.executors:
            executor.shutdown(cancel_futures=True)
        self._folder.cleanup()


class Dask(Pool):
    """The workers of a Dask cluster, which keep the job in memory."""

    def __init__(self, address: str) -> None:
        distributed = _distributed()
        if not _ADDRESS.fullmatch(address):
            raise OnnxpruneError(
                f"{stated('--dask', address)} is no address",
                hint="write it as in tcp://127.0.0.1:8786",
            )
        try:
            self._client = distributed.Client(address, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise OnnxpruneError(
                f"no Dask scheduler answers at {address}: {error}",
                hint="start one with `dask scheduler`; it prints its address",
            ) from error
        self._address = address
        self._shared: Any = None
        self._packed = b""
        threads = sum(self._client.nthreads().values())
        self.executors = [self._client.get_executor(pure=False)] * (2 * threads)
        try:
            self._check(threads)
        except OnnxpruneError:
            self.close()
            raise

    def _check(self, threads: int) -> None:
        """Refuse a cluster that would fail on every cell."""
        if not threads:
            raise OnnxpruneError(
                f"the Dask cluster at {self._address} has no workers",
                hint=f"start one with `dask worker {self._address}`",
            )
        try:
            self._client.submit(ready, pure=False).result(timeout=60)
        except Exception as error:
            raise OnnxpruneError(
                f"the workers of the Dask cluster at {self._address} cannot do this: {error}",
                hint="install the same onnxprune where the scheduler and its workers run",
            ) from error

    def share(self, job: Job) -> None:
        """Copy the job to every worker."""
        self._packed = job.packed()
        self._shared = self._client.scatter(self._packed, broadcast=True, hash=False)

    def job(self) -> Any:  # noqa: ANN401 distributed ships no types
        """What stands for the copies; new ones where all holders have died."""
        if self._shared.status != "finished" and self._client.nthreads():
            self._shared = self._client.scatter(self._packed, broadcast=True, hash=False)
        return self._shared

    def deserted(self) -> str:
        """Whether the cluster has no workers now."""
        try:
            alive = bool(self._client.nthreads())
        except OSError:
            return f"the Dask scheduler at {self._address} does not answer"
        return "" if alive else f"the Dask cluster at {self._address} has no workers left"

    def close(self) -> None:
        """Leave the cluster."""
        with contextlib.suppress(OSError):
            self._client.close()


@contextmanager
def open_pool(workers: int, dask: str) -> Iterator[Pool]:
    """A pool, closed afterwards.

    Args:
        workers: processes.
        dask: address of a scheduler, instead.

    Raises:
        OnnxpruneError: the cluster does not answer, or Dask is not installed.
    """
    pool = Dask(dask) if dask else Pool() if workers == 1 else Processes(workers)
    try:
        yield pool
    finally:
        pool.close()


def gather(pool: Pool, key: str, cells: Iterable[Key], keep: Callable[[Cell], None]) -> None:
    """Measure cells until each has a value or a reason.

    A cell whose own code fails is tried again. One whose worker dies is tried again after all
    others and alone: on a cluster nobody knows which of the cells of a worker killed it, and one
    that kills every worker must not take others along.

    Args:
        pool: who measures; it has the job.
        key: of the job.
        cells: to be measured.
        keep: called with each cell as it is measured, in any order.

    Raises:
        OnnxpruneError: there is nobody left to measure anything.
    """
    waiting, suspects = deque(cells), deque[Key]()
    failures: Counter[Key] = Counter()
    idle = deque(pool.executors)
    running: dict[Future[Cell], tuple[Key, Executor]] = {}

    def send(cell: Key) -> None:
        executor = idle.popleft()
        running[executor.submit(measure, pool.job(), key, *cell)] = cell, executor

    while waiting or suspects or running:
        while waiting and idle:
            send(waiting.popleft())
        if suspects and not waiting and not running:
            send(suspects.popleft())
        for future in _finished(running, pool):
            cell, executor = running.pop(future)
            idle.append(executor)
            error = CancelledError() if future.cancelled() else future.exception()
            if error is None:
                keep(future.result())
                continue
            failures[cell] += 1
            if failures[cell] < TRIES:
                (suspects if _is_death(error) else waiting).append(cell)
            else:
                reason = " ".join(str(error).split()) or type(error).__name__
                keep(Cell(*cell, reason=f"it failed {TRIES} times: {reason}"))


def _finished(running: Iterable[Future[Cell]], pool: Pool) -> set[Future[Cell]]:
    """Those that are done, once there are any."""
    lonely = 0.0
    while True:
        done, _ = wait(running, _LOOK, FIRST_COMPLETED)
        if done:
            return done
        problem = pool.deserted()
        lonely = (lonely or time.monotonic()) if problem else 0.0
        if problem and time.monotonic() - lonely > _PATIENCE:
            raise OnnxpruneError(
                problem, hint="what was measured is kept: start workers and run the same again"
            )


def _is_death(error: BaseException) -> bool:
    """Whether a worker died; Dask first moves its cells to others, several times."""
    broken = isinstance(error, BrokenExecutor | CancelledError)
    return broken or "KilledWorker" in type(error).__name__


def _distributed() -> Any:  # noqa: ANN401 it ships no types
    try:
        import distributed
    except ImportError as error:
        raise OnnxpruneError(
            "--dask needs Dask, which is not installed", hint="pip install 'onnxprune[dask]'"
        ) from error
    return distributed
