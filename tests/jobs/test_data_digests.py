"""Everything that a run reads is named by its role and digest."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from onnxprune import Options
from onnxprune.jobs.data_digests import files_of, same_files


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def test_files_have_the_digest_of_their_bytes(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.zeros(3))
    (tmp_path / "labels.txt").write_text("1\n2\n")
    (tmp_path / "mine.py").write_text("def samples(): ...\n")
    config = Options(
        calib=f"{tmp_path / 'mine.py'}:samples",
        eval_labels=str(tmp_path / "labels.txt"),
        eval=tmp_path / "x.npz",
        slices=[0, 1],
    )
    entries = {str(each["role"]): each for each in files_of(config)}
    assert list(entries) == ["--calib", "--eval", "--eval-labels", "--slices"]
    assert entries["--eval-labels"]["sha256"] == _digest(b"1\n2\n")
    assert entries["--calib"]["sha256"] == _digest(b"def samples(): ...\n")
    assert entries["--eval"]["sha256"] == _digest((tmp_path / "x.npz").read_bytes())
    assert entries["--eval"]["name"] == "x.npz"


def test_a_folder_has_the_digest_of_its_list(tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for name in ("b.png", "a.png", "below/c.png"):
        (folder / name).write_bytes(name.encode())
    lines = [f"{_digest(n.encode())}  {n}\n" for n in ("a.png", "b.png", "below/c.png")]
    (entry,) = files_of(Options(calib=folder))
    assert entry["sha256"] == _digest("".join(lines).encode())
    (folder / "b.png").write_bytes(b"other")
    (other,) = files_of(Options(calib=folder))
    assert other["sha256"] != entry["sha256"]


def test_arrays_have_the_digest_of_their_content() -> None:
    array = np.arange(6, dtype=np.float32)

    def digest(value: object) -> object:
        (entry,) = files_of(Options(calib=value))
        return entry["sha256"]

    assert digest({"x": array}) == digest({"x": array.copy()})
    others = [{"y": array}, {"x": array + 1}, {"x": array.astype(np.float64)}, [{"x": array}]]
    digests = [digest(each) for each in ({"x": array}, *others, {"x": array.reshape(2, 3)})]
    assert len(set(digests)) == len(digests)
    assert digest(each for each in [array]) is None


@pytest.mark.parametrize("value", [None, "random"])
def test_no_data_are_none(value: object) -> None:
    assert files_of(Options(calib=value)) == []
    assert files_of(None) == []


def test_the_same_data_are_found_under_any_name_and_role(tmp_path: Path) -> None:
    for name in ("one.npy", "two.npy"):
        np.save(tmp_path / name, np.arange(4))
    np.save(tmp_path / "other.npy", np.arange(5))
    stated = files_of(Options(calib=tmp_path / "one.npy"))
    assert same_files(stated, Options(eval=tmp_path / "two.npy")) == (("--calib",), ())
    assert same_files(stated, Options(calib=tmp_path / "other.npy")) == ((), ("--calib",))


def test_a_file_of_several_roles_is_named_once_for_each(tmp_path: Path) -> None:
    file = tmp_path / "test.npz"
    np.savez(file, x=np.arange(4), label=np.arange(4))
    stated = files_of(Options(eval=file, eval_labels=file))
    assert same_files(stated, Options(calib=file, labels=file)) == (
        ("--eval", "--eval-labels"),
        (),
    )
