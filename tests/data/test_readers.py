"""The table of readers: a new kind of file is one function and one entry."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from onnxprune.data import open_calibration, readers
from onnxprune.data.arrays import read_columns
from onnxprune.data.batches import InputFormat, Reader
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import TensorSpec

SIGNATURE = (TensorSpec("x", np.dtype(np.float32), ("batch", 3)),)


def read_csv(files: Sequence[Path], inputs: InputFormat) -> Reader:
    rows = np.concatenate([np.loadtxt(file, delimiter=",", ndmin=2) for file in files])
    return read_columns({"x": rows}, inputs, lone=True)


def test_a_new_kind_is_one_entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(30, dtype=np.float32).reshape(10, 3)
    for index, part in enumerate(np.split(rows, 2)):
        np.savetxt(tmp_path / f"{index}.CSV", part, delimiter=",")
    with pytest.raises(OnnxpruneError, match="is not calibration data"):
        open_calibration(tmp_path / "0.CSV", SIGNATURE)
    kind = readers.Kind(".csv files", read_csv, (".csv",))
    monkeypatch.setattr(readers, "KINDS", (*readers.KINDS, kind))
    (first,) = open_calibration(tmp_path / "0.CSV", SIGNATURE)
    np.testing.assert_array_equal(first["x"], rows[:5])
    (both,) = open_calibration(tmp_path, SIGNATURE)
    np.testing.assert_array_equal(both["x"], rows)
    np.save(tmp_path / "x.npy", rows)
    with pytest.raises(OnnxpruneError, match=r"holds \.npy files and \.csv files") as caught:
        open_calibration(tmp_path, SIGNATURE)
    assert ".csv files" in caught.value.hint


def test_kinds_are_told_apart_by_suffix() -> None:
    suffixes = [suffix for kind in readers.KINDS for suffix in kind.suffixes]
    assert len(suffixes) == len(set(suffixes))
    assert all(suffix == suffix.lower() for suffix in suffixes)
    assert {".npz", ".npy", ".json", ".png"} <= set(suffixes)
