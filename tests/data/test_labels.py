"""Groups of samples are read from every kind of file, or refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data.labels import open_labels, open_slices
from onnxprune.errors import OnnxpruneError, typed_flags

NAMES = ["day", "night", "day", "fog", "night"]


def test_groups_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(NAMES))
    np.savez(tmp_path / "b.npz", x=np.ones((5, 2)), slice=np.array(NAMES))
    np.savez(tmp_path / "c.npz", any=np.array(NAMES, "S"))
    (tmp_path / "d.txt").write_text("\n".join(NAMES) + "\n")
    (tmp_path / "e.csv").write_text("file,Group\n" + "".join(f"a,{name}\n" for name in NAMES))
    (tmp_path / "f.csv").write_text("\n".join(NAMES))
    for path in sorted(tmp_path.iterdir()):
        assert open_slices(path, count=5).tolist() == NAMES, path.name
        assert open_slices(str(path), np.array([1, 3])).tolist() == ["night", "fog"]
    assert open_slices(np.array([3, 3, 7])).tolist() == ["3", "3", "7"]
    (tmp_path / "g.txt").write_text("New York\nBonn\n")
    assert open_slices(tmp_path / "g.txt").tolist() == ["New York", "Bonn"]


@given(names=st.lists(st.text("abcß ", min_size=1).map(str.strip).filter(bool), min_size=1))
def test_arrays_keep_their_names(names: list[str]) -> None:
    assert open_slices(np.array(names, object)).tolist() == names
    assert open_slices(names).tolist() == names


def test_unfit_groups_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("file,camera\nx,1\ny,2\n")
    (tmp_path / "b.txt").write_text("\n")
    np.savez(tmp_path / "c.npz", u=np.ones(2), v=np.ones(2))
    np.save(tmp_path / "d.npy", np.ones(3) / 3)
    np.save(tmp_path / "e.npy", np.ones((3, 2), int))
    cases = {
        "a.csv": "no groups among its columns file, camera",
        "b.txt": "holds no groups",
        "c.npz": "no groups among u, v",
        "d.npy": "no names",
        "e.npy": r"shape \[3, 2\]",
        "none.txt": "no file",
    }
    for name, match in cases.items():
        with typed_flags(), pytest.raises(OnnxpruneError, match=f"--slices: .*{match}"):
            open_slices(tmp_path / name)
    with pytest.raises(OnnxpruneError, match="2 groups for 3 samples"):
        open_slices(["a", "b"], count=3)
    with pytest.raises(OnnxpruneError, match="holds 2 groups, but sample 4 is used"):
        open_slices(["a", "b"], np.array([4]))


def test_errors_name_the_option_that_gave_the_labels() -> None:
    with typed_flags(), pytest.raises(OnnxpruneError, match="--eval-labels: "):
        open_labels(["a"], option="--eval-labels")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("content", ["file;y\na;0\nb;3\n", "a;0\nb;3\n", "y\n0\n3\n"])
def test_semicolons_and_marks_of_spreadsheets_are_read(
    tmp_path: Path, content: str, encoding: str
) -> None:
    path = tmp_path / "y.csv"
    path.write_text(content, encoding=encoding)
    assert open_labels(path).tolist() == [0, 3]


@pytest.mark.parametrize("name", ["y.csv", "y.txt"])
@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_other_encodings_are_named(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / name
    path.write_bytes("0\n1\n".encode(encoding))
    with pytest.raises(OnnxpruneError, match="is text in UTF-16") as refusal:
        open_labels(path)
    assert "UTF-8" in refusal.value.hint
    path.write_bytes("0\nsiebzig\xe4\n".encode("latin-1"))
    with pytest.raises(OnnxpruneError, match="no text in UTF-8: byte 9 is 0xe4"):
        open_labels(path)


def test_decimal_commas_get_a_hint(tmp_path: Path) -> None:
    path = tmp_path / "y.csv"
    path.write_text("file;y\na;0,5\n")
    with pytest.raises(OnnxpruneError, match="cannot be read as labels") as refusal:
        open_labels(path)
    assert "points in decimals" in refusal.value.hint
