"""Whatever is wrong in a command line: an error, a hint, exit code 2, and no file."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrong_lines import ENCODINGS, faults, lines, make_files

SEED = int(os.environ.get("ONNXPRUNE_MATRIX_SEED", "0"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    place = tmp_path_factory.mktemp("wrong")
    make_files(place)
    former = Path.cwd()
    os.chdir(place)
    yield place
    os.chdir(former)


@pytest.fixture(autouse=True)
def _no_bytecode(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.dont_write_bytecode", True)


def test_there_are_many() -> None:
    assert len(set(lines())) == len(lines()) >= 150


@pytest.mark.parametrize("line", random.Random(SEED).sample(lines(), 40))
def test_some_wrong_lines_are_refused(line: str, folder: Path) -> None:
    encoding = ENCODINGS[len(line) % 3]
    assert faults(line, encoding, folder) == []


@pytest.mark.heavy
@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("line", lines())
def test_all_wrong_lines_are_refused(line: str, encoding: str, folder: Path) -> None:
    assert faults(line, encoding, folder) == []
