"""Whenever a job is killed, its outputs are those of one run; see bench/kills.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are copied")


def _kill(count: int, seed: int, folder: Path) -> None:
    root = Path(__file__).parents[2]
    path = folder / "kills.json"
    command = ["-m", "bench.kills", "--count", str(count), "--seed", str(seed)]
    done = subprocess.run(
        [sys.executable, *command, "--results", str(path)],
        cwd=root, env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert path.exists(), done.stderr
    rows = json.loads(path.read_text())["jobs"]
    assert {name: row for name, row in rows.items() if row["damaged"] or row["strays"]} == {}
    assert sum(row["kills"] for row in rows.values()) == count
    assert any(row["midway"] for row in rows.values())


def test_a_killed_job_leaves_nothing_damaged_or_stray(tmp_path: Path) -> None:
    _kill(14, 0, tmp_path)


@pytest.mark.heavy
def test_two_hundred_killed_jobs_leave_nothing_damaged_or_stray(tmp_path: Path) -> None:
    _kill(200, 1, tmp_path)
