"""Where real models live, and how random tests behave."""

from __future__ import annotations

import gc
import os

# The problems here are small: threads of BLAS would only wait for each other, and for those of
# other tests. It reads this once, when numpy is first imported.
os.environ["OPENBLAS_NUM_THREADS"] = os.environ.get("OPENBLAS_NUM_THREADS", "1")

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from onnxprune.cli import main, phases

SHARED = Path(
    os.environ.get("ONNXPRUNE_SHARED", Path(__file__).resolve().parents[2] / "shared" / "data")
)
"""A folder with ``models/``, ``wild/`` and ``data/``: real networks, never committed."""

# Graph analysis and first imports take longer than hypothesis' deadline, so none is set. The
# examples are the same on every run: a failure in CI is a failure on the next machine.
_COMMON = {"deadline": None, "derandomize": True, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("ci", max_examples=25, **_COMMON)  # type: ignore[arg-type]
settings.register_profile("thorough", max_examples=1000, **_COMMON)  # type: ignore[arg-type]
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


gc.disable()  # while tests are collected: next to nothing of that goes away again


def pytest_collection_finish() -> None:
    """The collector of cycles leaves alone what lives to the end: libraries and collected tests."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 10, 10)
    gc.enable()


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real models and data; the test skips, saying where it looked, without it."""
    if not (SHARED / "models").is_dir():
        pytest.skip(f"no real models in {SHARED} (set ONNXPRUNE_SHARED)")
    return SHARED


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Damage curves of tests are kept among the temporary files, not among the user's."""
    os.environ["ONNXPRUNE_CACHE"] = str(tmp_path_factory.mktemp("curves"))


@pytest.fixture(scope="session", autouse=True)
def _no_sync() -> None:
    """Files are not waited for until the disk has them: tests kill processes, and cut no power."""
    os.fsync = lambda _: None


@pytest.fixture(scope="session", autouse=True)
def _no_progress() -> None:
    """Commands say nothing about their progress, however slow the machine is."""
    phases.BEGIN = 1e6


@dataclass(frozen=True)
class Ran:
    """What one run of the command line left behind."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run the command line in this process, as in ``cli("inspect", path)``."""

    def run(*arguments: str | Path) -> Ran:
        capsys.readouterr()
        code = main([str(each) for each in arguments])
        return Ran(code, *capsys.readouterr())

    return run
