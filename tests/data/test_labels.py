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
