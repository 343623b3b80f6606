"""Who measures cells: this process, several processes, or a Dask cluster; all of them executors."""

from __future__ import annotations

import contextlib
import multiprocessing
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError, Executor, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.sensitivity import worker
from onnxprune.jobs.sensitivity.job import Job

_ADDRESS = re.compile(r"(\w+://)?[\w.\-\[\]:%]+:\d+")
_CONNECT = "10s"
"""How long a scheduler may take to answer."""


class Pool(Protocol):
    """Measures cells.

    Attributes:
        width: how many cells are handed out at a time.
    """

    width: int

    def share(self, job: Job) -> None:
        """Bring a job to wherever cells are measured, once."""

    def executor(self) -> Executor:
        """What cells are submitted to; a new one where the last one is broken."""

    def job(self) -> Any:  # noqa: ANN401 a path, bytes or a Dask future
        """The first argument of `worker.measure`."""

    def died(self, error: BaseException, executor: Executor) -> bool:
        """Whether an error that ``executor`` gave says that a worker went, not that a cell is bad.

        The executor is replaced where it is of no use any more.
        """

    def deserted(self) -> str:
        """Why nobody is left to do anything; empty if somebody is."""


class Inline(Executor):
    """An executor that does everything at once, here."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:  # noqa: ANN401
        """Call the function and return its result, or what it raised, as a future."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001 futures carry whatever is raised
            future.set_exception(error)
        return future


class Here:
    """This process."""

    width = 1

    def share(self, job: Job) -> None:
        """Nothing has to be brought anywhere."""
        worker.hold(job)

    def executor(self) -> Executor:
        """One that works at once."""
        return Inline()

    def job(self) -> str:
        """It is held already."""
        return ""

    def died(self, _error: BaseException, _executor: Executor) -> bool:
        """Then nobody is left to ask."""
        return False

    def deserted(self) -> str:
        """Somebody is here."""
        return ""


class Processes:
    """Processes on this machine; they read the job from a file, each once.

    They are never forked from this process (threads of a runtime do not survive that), but start
    from one that has read the libraries once and runs nothing, or anew where a system has no such
    thing; at once, while the sweep is still being prepared.
    """

    def __init__(self, count: int, folder: Path) -> None:
        self.width = 2 * count
        self._count = count
        self._path = folder / "job.pickle"
        self._pool: ProcessPoolExecutor | None = self._new()
        self._starting = [self._pool.submit(worker.ready) for _ in range(count)]

    def _new(self) -> ProcessPoolExecutor:
        kept = "forkserver" in multiprocessing.get_all_start_methods()
        context = multiprocessing.get_context("forkserver" if kept else "spawn")
        if kept:
            context.set_forkserver_preload([worker.__name__])
        return ProcessPoolExecutor(self._count, context, initializer=worker.prepare)

    def share(self, job: Job) -> None:
        """Write the job to a file.

        Raises:
            OnnxpruneError: processes do not even start.
        """
        try:
            for started in self._starting:
                started.result()
        except BrokenProcessPool as error:
            raise OnnxpruneError(
                "processes that should measure die as soon as they start",
                hint="a script that starts some must do so under `if __name__ == '__main__':`; "
                "one process needs none of that (--workers 1)",
            ) from error
        self._path.write_bytes(job.packed())

    def executor(self) -> Executor:
        """The pool, or a new one in place of a broken one."""
        if self._pool is None:
            self._pool = self._new()
        return self._pool

    def job(self) -> str:
        """The file."""
        return str(self._path)

    def died(self, error: BaseException, executor: Executor) -> bool:
        """A process that dies breaks the whole pool."""
        if isinstance(error, BrokenProcessPool) and self._pool is executor:
            self.close()
        return isinstance(error, BrokenProcessPool)

    def deserted(self) -> str:
        """Processes that die are replaced."""
        return ""

    def close(self) -> None:
        """Stop the processes."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None


class Dask:
    """The workers of a Dask cluster, which keep the job in memory."""

    def __init__(self, address: str) -> None:
        distributed = _distributed()
        if not _ADDRESS.fullmatch(address):
            raise OnnxpruneError(
                f"--dask {address} is no address", hint="write it as in tcp://127.0.0.1:8786"
            )
        try:
            self._client = distributed.Client(address, timeout=_CONNECT, set_as_default=False)
        except (OSError, ValueError, TypeError) as error:
            raise OnnxpruneError(
                f"no Dask scheduler answers at {address}: {error}",
                hint="start one with `dask scheduler`; it prints its address",
            ) from error
        self._address = address
        self._pool = self._client.get_executor(pure=False)
        self._shared: Any = None
        self._packed = b""
        threads = sum(self._client.nthreads().values())
        self.width = 2 * max(threads, 1)
        if not threads:
            self.close()
            raise OnnxpruneError(
                f"the Dask cluster at {address} has no workers",
                hint=f"start one with `dask worker {address}`",
            )
        self._check()

    def _check(self) -> None:
        """Refuse a cluster that would fail on every cell."""
        try:
            self._client.submit(worker.ready, pure=False).result(timeout=60)
        except Exception as error:
            self.close()
            raise OnnxpruneError(
                f"the workers of the Dask cluster at {self._address} cannot do this: {error}",
                hint="install the same onnxprune where the scheduler and its workers run",
            ) from error

    def share(self, job: Job) -> None:
        """Copy the job to every worker."""
        self._packed = job.packed()
        self._shared = self._client.scatter(self._packed, broadcast=True, hash=False)

    def executor(self) -> Executor:
        """What submits to the cluster."""
        executor: Executor = self._pool
        return executor

    def job(self) -> Any:  # noqa: ANN401 distributed ships no types
        """What stands for the copies; new ones where all holders have died."""
        if self._shared.status != "finished" and self._client.nthreads():
            self._shared = self._client.scatter(self._packed, broadcast=True, hash=False)
        return self._shared

    def died(self, error: BaseException, _executor: Executor) -> bool:
        """Dask moves cells to other workers by itself, and says so after several times."""
        return isinstance(error, CancelledError) or "KilledWorker" in type(error).__name__

    def deserted(self) -> str:
        """Whether the cluster has no workers now."""
        try:
            alive = bool(self._client.nthreads())
        except OSError:
            return f"the Dask scheduler at {self._address} has gone"
        return "" if alive else f"the Dask cluster at {self._address} has no workers left"

    def close(self) -> None:
        """Leave the cluster."""
        with contextlib.suppress(OSError):
            self._client.close()


@contextmanager
def open_pool(workers: int, dask: str) -> Iterator[Pool]:
    """A pool as asked for, closed afterwards.

    Args:
        workers: processes.
        dask: address of a scheduler, instead.

    Raises:
        OnnxpruneError: the cluster does not answer, or Dask is not installed.
    """
    if dask:
        cluster = Dask(dask)
        try:
            yield cluster
        finally:
            cluster.close()
    elif workers == 1:
        yield Here()
        worker.forget()
    else:
        with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
            processes = Processes(workers, Path(folder))
            try:
                yield processes
            finally:
                processes.close()


def _distributed() -> Any:  # noqa: ANN401 it ships no types
    try:
        import distributed
    except ImportError as error:
        raise OnnxpruneError(
            "--dask needs Dask, which is not installed", hint="pip install 'onnxprune[dask]'"
        ) from error
    return distributed
