"""Sweeps on several processes and on a real Dask cluster: the same numbers, whoever dies."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import pytest

import onnxprune
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.sensitivity import executors
from onnxprune.jobs.sensitivity.executors import Pool, gather
from onnxprune.select.sensitivity import Cell, Sensitivity

ENTRY = zoo.get("digits_mlp")
ASKED: dict[str, Any] = {
    "calib": str(ENTRY.evaluation),
    "labels": str(ENTRY.evaluation),
    "calib_samples": 160,
    "kinds": "groups,weights",
    "ratios": (0.25, 0.9),
    "cache": False,
}
DEADLINE = 30.0


@pytest.fixture(scope="module")
def serial() -> Sensitivity:
    return onnxprune.sensitivity(ENTRY.model, **ASKED)


class Killer:
    """Hears the progress, and kills a worker when the first cell is done."""

    def __init__(self, victims: Callable[[], list[int]]) -> None:
        self._victims = victims
        self.killed = 0

    def __call__(self, told: str) -> None:
        if " cells: " in told and not self.killed:
            self.killed = self._victims()[0]
            os.kill(self.killed, signal.SIGKILL)


def test_a_process_that_dies_in_the_middle_loses_nothing(serial: Sensitivity) -> None:
    def children() -> list[int]:
        return [each.pid for each in multiprocessing.active_children() if each.pid]

    kill = Killer(children)
    found = onnxprune.sensitivity(ENTRY.model, **ASKED, workers=2, progress=kill)
    assert kill.killed
    assert found.cells == serial.cells
    assert children() == []


def test_an_interrupt_leaves_nothing_running() -> None:
    def interrupt(told: str) -> None:
        if " cells: " in told:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        onnxprune.sensitivity(ENTRY.model, **ASKED, workers=2, progress=interrupt)
    assert multiprocessing.active_children() == []


def test_a_cell_that_kills_every_process_takes_no_other_along(
    serial: Sensitivity, tmp_path: Path
) -> None:
    worst = min(serial.cells, key=lambda cell: cell.value or 0)
    assert worst.value is not None
    others = sorted(cell.value for cell in serial.cells if cell.value is not None)
    limit = (others[0] + others[1]) / 2
    (tmp_path / "deadly.py").write_text(
        "import os\n"
        "def accuracy(outputs, labels):\n"
        "    value = float((outputs['logits'].argmax(1) == labels).mean())\n"
        f"    return os._exit(1) if value < {limit} else value\n"
    )
    deadly = ASKED | {"metric": f"{tmp_path / 'deadly.py'}:accuracy"}
    found = onnxprune.sensitivity(ENTRY.model, **deadly, workers=2)
    assert {c.target: c.value for c in found.cells if c.ratio == 0.25} == {
        c.target: c.value for c in serial.cells if c.ratio == 0.25
    }
    failed = [cell for cell in found.cells if cell.reason]
    assert [(cell.target, cell.ratio) for cell in failed] == [(worst.target, worst.ratio)]
    assert failed[0].value is None
    assert "failed 3 times" in failed[0].reason


def test_a_cell_that_fails_by_itself_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, float]] = []
    kept: list[Cell] = []

    def measure(_job: str, _key: str, target: str, ratio: float) -> Cell:
        asked.append((target, ratio))
        if target == "bad" or asked.count((target, ratio)) == 1:
            raise MemoryError("no room")
        return Cell(target, ratio, value=1.0)

    monkeypatch.setattr(executors, "measure", measure)
    gather(Pool(), "", [("good", 0.1), ("bad", 0.1)], kept.append)
    assert asked.count(("good", 0.1)) == 2
    assert asked.count(("bad", 0.1)) == executors.TRIES
    assert {cell.target: cell.reason for cell in kept} == {
        "good": "",
        "bad": "it failed 3 times: no room",
    }


def test_processes_that_cannot_start_are_said(tmp_path: Path) -> None:
    """As in a script without ``if __name__ == "__main__"``, which every new process runs again."""
    (tmp_path / "script.py").write_text(
        "import onnxprune\n"
        f"onnxprune.sensitivity({str(ENTRY.model)!r}, calib={str(ENTRY.calibration)!r},\n"
        "    calib_samples=16, criterion='l2', kinds='groups', workers=2, cache=False)\n"
    )
    root = str(Path(onnxprune.__file__).parents[1])
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=tmp_path, env=os.environ | {"PYTHONPATH": root},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert ran.returncode == 1
    # Python's own tracker of shared resources may have the last line.
    raised = [s for s in ran.stderr.splitlines() if s.startswith("onnxprune.errors.OnnxpruneError")]
    assert "die as soon as they start" in raised[-1]


def test_nobody_left_is_said_and_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Executor):
        def submit(self, *_: Any, **__: Any) -> Future[Any]:
            return Future()

    class Deserted(Pool):
        executors = (Silent(),)

        def deserted(self) -> str:
            return "there are no workers left"

    monkeypatch.setattr(executors, "_LOOK", 0.01)
    monkeypatch.setattr(executors, "_PATIENCE", 0.05)
    with pytest.raises(OnnxpruneError, match="no workers left"):
        gather(Deserted(), "", [("a", 0.1)], pytest.fail)


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Dask cluster on this machine with two workers under a nanny each."""
    if importlib.util.find_spec("distributed") is None:
        pytest.skip("Dask is not installed (pip install 'onnxprune[dask]')")
    folder = tmp_path_factory.mktemp("dask")
    file, log = folder / "scheduler.json", (folder / "log").open("w")
    started: list[subprocess.Popen[bytes]] = []

    def start(command: str, *flags: str) -> None:
        line = [sys.executable, "-m", "dask", command, *flags, "--no-dashboard"]
        environment = os.environ | {"PYTHONPATH": str(Path(onnxprune.__file__).parents[1])}
        started.append(
            subprocess.Popen(
                line, cwd=folder, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        )

    workers = ("--nworkers", "2", "--nthreads", "1", "--memory-limit", "0")
    try:
        start("scheduler", "--host", "127.0.0.1", "--port", "0", "--scheduler-file", str(file))
        start("worker", "--scheduler-file", str(file), "--host", "127.0.0.1", *workers)
        yield _address(file, workers=2)
    finally:
        for process in reversed(started):
            os.killpg(process.pid, signal.SIGTERM)
        for process in started:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        log.close()


def _address(file: Path, workers: int) -> str:
    """Wait for the cluster to be complete."""
    from distributed import Client

    end = time.monotonic() + DEADLINE
    while not file.is_file() and time.monotonic() < end:
        time.sleep(0.05)
    with Client(scheduler_file=str(file), timeout=DEADLINE, set_as_default=False) as client:
        client.wait_for_workers(workers, timeout=DEADLINE)
        return str(client.scheduler.address)


def test_a_cluster_gives_the_same_numbers_though_a_worker_dies(
    serial: Sensitivity, scheduler: str
) -> None:
    from distributed import Client

    def workers() -> list[int]:
        with Client(scheduler, set_as_default=False) as client:
            return list(client.run(os.getpid).values())

    before = workers()
    kill = Killer(workers)
    found = onnxprune.sensitivity(ENTRY.model, **ASKED, dask=scheduler, progress=kill)
    assert kill.killed in before
    assert found.cells == serial.cells


def test_no_scheduler_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed")
    monkeypatch.setattr("onnxprune.jobs.sensitivity.executors._CONNECT", "0.2s")
    with pytest.raises(OnnxpruneError, match="no Dask scheduler answers"):
        onnxprune.sensitivity(ENTRY.model, **ASKED, dask="tcp://127.0.0.1:9")
    with pytest.raises(OnnxpruneError, match="is no address"):
        onnxprune.sensitivity(ENTRY.model, **ASKED, dask="scheduler")
