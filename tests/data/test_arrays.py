"""Arrays in files: what they announce is compared with what they hold before it is allocated."""

from __future__ import annotations

import base64
import io
import json
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.lib import format as npy

from onnxprune.data import arrays, open_calibration
from onnxprune.data.arrays import load, open_npy, open_npz, parse_array
from onnxprune.data.labels import open_labels
from onnxprune.data.readers import read_polygraphy
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime import TensorSpec

SIGNATURE = (TensorSpec("x", np.dtype(np.float32), ("batch", 3)),)


def header(shape: tuple[int, ...], descr: Any = "<f4", *, order: bool = False) -> bytes:
    file = io.BytesIO()
    npy.write_array_header_1_0(file, {"descr": descr, "fortran_order": order, "shape": shape})
    return file.getvalue()


def archive(path: Path, content: bytes, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as file:
        file.writestr("x.npy", content)
    return path


LIES = {
    "10^12 entries": header((10**12,)),
    "10^12 rows": header((10**12, 3)),
    "more than an address": header((1 << 62, 3)),
    "negative": header((-1, 3)),
    "65 axes": header((1,) * 65) + bytes(4),
    "one entry of 4 GB": header((1,), ("<f4", (10**9,))),
    "one text of 2 GB": header((1,), "<U500000000"),
    "columns first": header((10**9, 3), order=True),
    "a header of 4 GB": npy.MAGIC_PREFIX + b"\2\0" + struct.pack("<I", (1 << 32) - 1) + bytes(80),
    "no header": npy.MAGIC_PREFIX + b"\1\0",
    "another version": npy.MAGIC_PREFIX + b"\x09\0" + bytes(80),
    "nested": npy.MAGIC_PREFIX + b"\1\0" + struct.pack("<H", 9000) + b"(" * 9000,
    "no dictionary": npy.MAGIC_PREFIX + b"\1\0" + struct.pack("<H", 5) + b"{[]:1",
    "odd type": npy.MAGIC_PREFIX
    + b"\1\0"
    + struct.pack("<H", 61)
    + b"{'descr': [[]], 'fortran_order': False, 'shape': (True, ()), }",
    "objects": header((3,), "|O") + b"\x80\x04N." * 3,
    "an archive": b"PK\3\4",
    "nothing": b"",
}


@pytest.mark.parametrize("name", LIES)
def test_a_file_that_announces_more_than_it_holds_is_refused(name: str, tmp_path: Path) -> None:
    lone, packed = tmp_path / "x.npy", archive(tmp_path / "x.npz", LIES[name])
    lone.write_bytes(LIES[name])
    saved = tmp_path / "x.json"
    text = base64.b64encode(LIES[name]).decode()
    saved.write_text(json.dumps([{"x": {"polygraphy_class": "ndarray", "array": text}}]))
    for call in (
        lambda: open_npy(lone),
        lambda: open_npz(packed),
        lambda: open_labels(lone),
        lambda: open_labels(packed),
        lambda: open_calibration(lone, SIGNATURE),
        lambda: open_calibration(packed, SIGNATURE),
        lambda: read_polygraphy(saved),
    ):
        with pytest.raises(OnnxpruneError, match=r"x\.(npy|npz|json)") as caught:
            call()
        assert caught.value.hint
        assert "\n" not in caught.value.message


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_an_archive_that_unpacks_to_a_thousand_times_its_size_is_refused(
    compression: int, tmp_path: Path
) -> None:
    rows = np.zeros((3_000_000, 3), np.float32)
    content = header(rows.shape) + rows.tobytes()
    path = archive(tmp_path / "bomb.npz", content, compression)
    assert path.stat().st_size < len(content) / 1500
    with pytest.raises(OnnxpruneError, match="claims to unpack to"):
        open_npz(path)
    honest = archive(tmp_path / "honest.npz", content)  # zeros, by numpy.savez_compressed
    assert load(open_npz(honest)["x"]).shape == rows.shape


def test_many_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.npz"
    with zipfile.ZipFile(path, "w") as file:
        for number in range(5000):
            file.writestr(f"{number}.npy", header((0,)))
    with pytest.raises(OnnxpruneError, match="5000 members"):
        open_npz(path)


@pytest.mark.parametrize("order", ["C", "F"])
def test_an_array_that_does_not_fit_in_memory_is_refused(
    order: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.npz"
    rows = np.asarray(np.random.default_rng(0).normal(size=(50, 3)), np.float32, order=order)
    np.savez(path, x=rows)
    monkeypatch.setattr(arrays, "free_bytes", lambda: 500)
    with pytest.raises(OnnxpruneError, match="takes 600 bytes, more than the 500 bytes of free"):
        open_labels(path)
    if order == "F":
        with pytest.raises(OnnxpruneError, match="free memory"):
            list(open_calibration(path, SIGNATURE))
    else:  # read row by row
        batches = [batch["x"] for batch in open_calibration(path, SIGNATURE)]
        np.testing.assert_array_equal(np.concatenate(batches), rows)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    shape=st.lists(st.integers(0, 4), max_size=4).map(tuple),
    dtype=st.sampled_from(["<f4", ">i8", "?", "<U3", "|u1"]),
    order=st.booleans(),
)
def test_honest_files_are_read_as_numpy_reads_them(
    shape: tuple[int, ...], dtype: str, order: bool, tmp_path: Path
) -> None:
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    array = np.asfortranarray(array) if order else array
    np.save(tmp_path / "x.npy", array)
    np.savez_compressed(tmp_path / "x.npz", x=array)
    data = (tmp_path / "x.npy").read_bytes()
    for result in (
        open_npy(tmp_path / "x.npy"),
        load(open_npy(tmp_path / "x.npy")),
        load(open_npz(tmp_path / "x.npz")["x"]),
        parse_array(data, "the bytes"),
        parse_array((tmp_path / "x.npz").read_bytes(), "the bytes"),
    ):
        assert result.dtype == array.dtype
        np.testing.assert_array_equal(result, array)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("seed", range(10))
def test_damaged_files_are_read_or_refused(suffix: str, seed: int, tmp_path: Path) -> None:
    rng = np.random.default_rng(seed)
    whole = tmp_path / f"whole{suffix}"
    rows = np.arange(60, dtype=np.float32).reshape(20, 3)
    np.save(whole, rows) if suffix == ".npy" else np.savez_compressed(whole, x=rows)
    content = bytearray(whole.read_bytes())
    damaged = tmp_path / f"damaged{suffix}"
    for _ in range(30):
        changed = content.copy()
        for place in rng.integers(0, len(content), rng.choice((1, 3, 20))):
            changed[place] = rng.integers(256)
        damaged.write_bytes(changed if rng.random() < 0.8 else changed[: int(place)])
        for use in (
            lambda: list(open_calibration(damaged, SIGNATURE)),
            lambda: open_labels(damaged),
        ):
            try:
                use()
            except OnnxpruneError as error:
                assert "\n" not in error.message  # noqa: PT017  most are refused, not all
