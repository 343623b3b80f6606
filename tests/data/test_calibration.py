"""Calibration data: every source gives the samples that are in it, and nothing unfit passes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper
from PIL import Image

from onnxprune.data import Calibration, open_calibration, split
from onnxprune.errors import OnnxpruneError
from onnxprune.model import load
from onnxprune.model.signature import signature_of
from onnxprune.runtime import TensorSpec, open_session

Array = npt.NDArray[Any]


def spec(name: str, dtype: Any, *shape: int | str | None) -> TensorSpec:
    return TensorSpec(name, np.dtype(dtype), shape)


PICTURE = (spec("input", np.float32, "batch", 3, 4, 5),)
TOKENS = (spec("ids", np.int64, "batch", "seq"), spec("mask", np.int64, "batch", "seq"))
FIXED = (spec("x", np.float32, 2, 3), spec("state", np.float32, 5, 2), spec("rate", np.int64))


def pictures(count: int = 10) -> Array:
    return np.random.default_rng(0).standard_normal((count, 3, 4, 5)).astype(np.float32)


def gather(calibration: Calibration, name: str) -> Array:
    return np.concatenate([feeds[name] for feeds in calibration])


def refused(match: str, *args: Any, **kwargs: Any) -> OnnxpruneError:
    """Opening or reading must be refused; the hint must say what the model expects."""
    with pytest.raises(OnnxpruneError, match=match) as caught:
        list(open_calibration(*args, **kwargs))
    return caught.value


# Every source of the same samples -------------------------------------------------------------


def as_npz(folder: Path, data: Array) -> Any:
    np.savez(folder / "d.npz", input=data)
    return folder / "d.npz"


def as_compressed_x(folder: Path, data: Array) -> Any:
    np.savez_compressed(folder / "d.npz", x=data, y=np.arange(len(data)), wnid=np.array(["a"]))
    return str(folder / "d.npz")


def as_positional_npz(folder: Path, data: Array) -> Any:
    np.savez(folder / "d.npz", data)
    return folder / "d.npz"


def as_column_major_npz(folder: Path, data: Array) -> Any:
    np.savez(folder / "d.npz", images=np.asfortranarray(data))
    return folder / "d.npz"


def as_npy(folder: Path, data: Array) -> Any:
    np.save(folder / "d.npy", data)
    return folder / "d.npy"


def as_folder_of_npz(folder: Path, data: Array) -> Any:
    for index in (0, 1, 2):
        np.savez(folder / f"part{index * 5}.npz", input=data[index * 4 : index * 4 + 4])
    return folder


def as_folder_of_samples(folder: Path, data: Array) -> Any:
    for index, sample in enumerate(data):
        np.save(folder / f"sample{index}.npy", sample)
    return folder


def as_folder_by_input(folder: Path, data: Array) -> Any:
    np.save(folder / "input.npy", data)
    return folder


def as_test_data_sets(folder: Path, data: Array) -> Any:
    for index in range(5):
        inner = folder / f"test_data_set_{index * 3}"
        inner.mkdir()
        tensor = numpy_helper.from_array(data[2 * index : 2 * index + 2], "")
        (inner / "input_0.pb").write_bytes(tensor.SerializeToString())
        (inner / "output_0.pb").write_bytes(b"never read")
    return folder


def as_function(folder: Path, data: Array) -> Any:
    np.save(folder / "d.npy", data)
    (folder / "neighbour.py").write_text("import numpy as np\n")
    (folder / "feeds.py").write_text(
        "from pathlib import Path\n"
        "from neighbour import np\n"
        "def load_data():\n"
        "    for x in np.load(Path(__file__).with_name('d.npy')):\n"
        "        yield {'input': x[None]}\n"
    )
    return f"{folder / 'feeds.py'}:load_data"


def as_reader(_: Path, data: Array) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.rest = iter(data)

        def get_next(self) -> dict[str, Array] | None:
            sample = next(self.rest, None)
            return None if sample is None else {"input": sample[None]}

    return Reader


def as_reader_object(folder: Path, data: Array) -> Any:
    return as_reader(folder, data)()


def as_rewindable_reader(folder: Path, data: Array) -> Any:
    class Rewindable(as_reader(folder, data)):  # type: ignore[misc]
        def rewind(self) -> None:
            self.rest = iter(data)

    return Rewindable()


def as_dict(_: Path, data: Array) -> Any:
    return {"input": data, "extra": np.zeros(3)}


def as_array(_: Path, data: Array) -> Any:
    return data.astype(np.float64)


def as_tensor(_: Path, data: Array) -> Any:
    torch = pytest.importorskip("torch")
    return torch.from_numpy(data).requires_grad_()


def as_loader(_: Path, data: Array) -> Any:
    return [(data[:4], np.arange(4)), (data[4:], np.arange(6))]


def as_samples(_: Path, data: Array) -> Any:
    return list(data)


def as_generator(_: Path, data: Array) -> Any:
    return ({"input": sample} for sample in data)


def as_iterable(_: Path, data: Array) -> Any:
    class Loader:
        def __iter__(self) -> Iterator[Array]:
            return iter(np.split(data, 2))

    return Loader()


def as_generator_function(_: Path, data: Array) -> Any:
    return lambda: iter(data)


def as_reopened(_: Path, data: Array) -> Any:
    return open_calibration(data, PICTURE)


MAKERS = [value for name, value in list(globals().items()) if name.startswith("as_")]


@pytest.mark.parametrize("make", MAKERS, ids=lambda make: make.__name__.removeprefix("as_"))
def test_every_source_gives_its_samples_in_order_and_again(
    make: Callable[[Path, Array], Any], tmp_path: Path
) -> None:
    data = pictures()
    calibration = open_calibration(make(tmp_path, data), PICTURE)
    for _ in range(2):
        found = gather(calibration, "input")
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, data)
    assert not calibration.synthetic
    assert "samples" in calibration.description

    again = open_calibration(make_anew(make, tmp_path, data), PICTURE, batch=4)
    assert [len(feeds["input"]) for feeds in again] == [4, 4, 2]
    np.testing.assert_array_equal(gather(again, "input"), data)

    kept, held = split(again, 0.3, seed=7)
    both = {gather(part, "input").tobytes() for part in (kept, held)}
    parts = [gather(part, "input") for part in (kept, held)]
    assert [len(part) for part in parts] == [7, 3]
    found = np.concatenate(parts)
    order = np.lexsort(found.reshape(10, -1).T)
    want = np.lexsort(data.reshape(10, -1).T)
    np.testing.assert_array_equal(found[order], data[want])
    assert both == {gather(part, "input").tobytes() for part in split(again, 0.3, seed=7)}


def make_anew(make: Callable[[Path, Array], Any], folder: Path, data: Array) -> Any:
    inner = folder / "anew"
    inner.mkdir()
    return make(inner, data)


def test_two_inputs_from_each_kind_of_file(tmp_path: Path) -> None:
    ids = np.arange(24, dtype=np.int64).reshape(4, 6)
    arrays = {"mask": np.ones((4, 6), bool), "ids": ids.astype(np.int16)}
    np.savez(tmp_path / "d.npz", ids=arrays["ids"], mask=arrays["mask"])
    folder = tmp_path / "by_input"
    folder.mkdir()
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)
    sets = tmp_path / "test_data_set_0"
    sets.mkdir()
    for index, name in enumerate(("ids", "mask")):
        tensor = numpy_helper.from_array(arrays[name], "")
        (sets / f"input_{index}.pb").write_bytes(tensor.SerializeToString())
    for source in (tmp_path / "d.npz", folder, sets, arrays, [arrays], [(ids, arrays["mask"])]):
        (feeds,) = open_calibration(source, TOKENS, batch=8)
        np.testing.assert_array_equal(feeds["ids"], ids)
        assert {array.dtype for array in feeds.values()} == {np.dtype(np.int64)}
        assert list(feeds) == ["ids", "mask"]


POLYGRAPHY = """[{"x": {"array": "k05VTVBZAQB2AHsnZGVzY3InOiAnPGY0JywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDIsIDMpLCB9ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAAAAAACAPwAAAEAAAEBAAACAQAAAoEA=", "polygraphy_class": "ndarray"}}]"""  # noqa: E501 -- written by polygraphy 0.53.6
RESULTS = """{"lst": [["r", [{"outputs": {"x": {"values": {"array": "k05VTVBZAQB2AHsnZGVzY3InOiAnPGY0JywgJ2ZvcnRyYW5fb3JkZXInOiBGYWxzZSwgJ3NoYXBlJzogKDEsIDIpLCB9ICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgIAoAAIA/AACAPw==", "polygraphy_class": "ndarray"}, "polygraphy_class": "LazyArray"}}, "runtime": null, "runner_name": "r", "polygraphy_class": "IterationResult"}]]], "polygraphy_class": "RunResults"}"""  # noqa: E501 -- written by polygraphy 0.53.6


def test_polygraphy_files(tmp_path: Path) -> None:
    for index, text in enumerate((POLYGRAPHY, RESULTS)):
        (tmp_path / f"{index}.json").write_text(text)
    want = np.arange(6, dtype=np.float32).reshape(2, 3)
    x3, x2 = (spec("x", np.float32, "N", 3),), (spec("x", np.float32, "N", 2),)
    found = gather(open_calibration(tmp_path / "0.json", x3), "x")
    np.testing.assert_array_equal(found, want)
    found = gather(open_calibration(tmp_path / "1.json", x2), "x")
    np.testing.assert_array_equal(found, np.ones((1, 2)))
    old = POLYGRAPHY.replace('"polygraphy_class": "ndarray"', '"__polygraphy_encoded_ndarray": ""')
    (tmp_path / "1.json").write_text(old)
    folder = gather(open_calibration(tmp_path, x3), "x")
    np.testing.assert_array_equal(folder, np.concatenate([want, want]))
    (tmp_path / "1.json").write_text(json.dumps([{"x": {"polygraphy_class": "Tensor"}}]))
    refused("is not an array", tmp_path, x3)
    (tmp_path / "1.json").write_text(json.dumps([{"x": [1, 2]}]))
    refused("no inputs saved by Polygraphy", tmp_path, x3)


# Images ---------------------------------------------------------------------------------------


def save_images(folder: Path, count: int = 3, size: tuple[int, int] = (12, 8)) -> list[Array]:
    rng = np.random.default_rng(0)
    made = []
    for index in range(count):
        pixels = rng.integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
        target = folder / f"class{index % 2}"
        target.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(target / f"{index}.png")
        made.append((index % 2, index, pixels))
    return [pixels for _, _, pixels in sorted(made, key=lambda one: one[:2])]


def test_images_become_normalised_pixels(tmp_path: Path) -> None:
    raw = np.stack(save_images(tmp_path))
    nchw = (spec("x", np.float32, "N", 3, 8, 12),)
    how = "scale=255,mean=0.1:0.2:0.3,std=0.5:0.25:2"
    found = gather(open_calibration(tmp_path, nchw, preprocess=how), "x")
    want = (raw / 255 - [0.1, 0.2, 0.3]) / [0.5, 0.25, 2]
    np.testing.assert_allclose(found, np.moveaxis(want, -1, 1), atol=1e-6)

    nhwc = (spec("x", np.float32, "N", 8, 12, 3),)
    found = gather(open_calibration(tmp_path, nhwc, preprocess=how), "x")
    np.testing.assert_allclose(found, want, atol=1e-6)

    anywhere = (spec("x", np.float32, "N", 3, "h", "w"),)
    bgr = open_calibration(tmp_path, anywhere, preprocess="size=8x12,scale=1,color=bgr")
    np.testing.assert_array_equal(gather(bgr, "x"), np.moveaxis(raw[..., ::-1], -1, 1))

    integers = (spec("x", np.uint8, 1, 8, 12, 3),)
    found = gather(open_calibration(tmp_path, integers), "x")
    np.testing.assert_array_equal(found, raw)

    alone = (spec("x", np.float32, 3, 8, 12),)
    calibration = open_calibration(tmp_path, alone, preprocess=how, samples=2)
    assert calibration.samples == 2
    assert [feeds["x"].shape for feeds in calibration] == [(3, 8, 12)] * 2

    function = open_calibration(tmp_path, nchw, preprocess=lambda rgb: rgb.transpose(2, 0, 1) / 255)
    np.testing.assert_allclose(gather(function, "x"), np.moveaxis(raw, -1, 1) / 255, atol=1e-6)

    gray = (spec("x", np.float32, "N", 1, 8, 12),)
    found = gather(open_calibration(tmp_path, gray, preprocess="scale=1"), "x")
    want = np.stack([np.asarray(Image.fromarray(one).convert("L")) for one in raw])
    np.testing.assert_array_equal(found[:, 0], want)


def test_resizing_and_cropping_keep_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((40, 80, 3), np.uint8)
    pixels[:, 38:42] = 255  # a vertical bar in the middle
    Image.fromarray(pixels).save(tmp_path / "bar.png")
    want = (spec("x", np.float32, "N", 3, 20, 20),)
    column = np.zeros(20)
    for crop in ("crop=1.0", "crop=20"):
        (feeds,) = open_calibration(tmp_path / "bar.png", want, preprocess=f"{crop},scale=255")
        column = feeds["x"][0, 0].mean(0)
        assert column.argmax() in (9, 10)  # halved, so 40 wide, then the middle 20 cut out
        np.testing.assert_allclose(column, column[::-1], atol=0.02)
        assert column[0] == 0
    (feeds,) = open_calibration(tmp_path / "bar.png", want, preprocess="scale=255")
    squeezed = feeds["x"][0, 0].mean(0)
    assert squeezed.sum() < column.sum()  # 80 columns squeezed into 20
    (feeds,) = open_calibration(tmp_path / "bar.png", want, preprocess="crop=0.5,scale=255")
    assert feeds["x"][0, 0].mean(0).sum() > 1.9 * column.sum()  # twice as large, the same cut


def test_images_are_refused_with_what_is_missing(tmp_path: Path) -> None:
    save_images(tmp_path)
    nchw = (spec("x", np.float32, "N", 3, 8, 12),)
    assert "preprocess=" in refused("how pixels become numbers", tmp_path, nchw).hint
    refused("holds uint8", tmp_path, nchw, preprocess="mean=0.5")
    anywhere = (spec("x", np.float32, "N", 3, None, None),)
    refused("any size", tmp_path, anywhere, preprocess="scale=255")
    refused("does not take", tmp_path, TOKENS, preprocess="scale=255")
    refused("becomes an array of shape", tmp_path, nchw, preprocess="scale=255,size=16")
    big = (spec("x", np.float32, 4, 3, 8, 12),)
    refused("fewer than the model's batch", tmp_path, big, preprocess="scale=255")
    (tmp_path / "class0" / "9.jpg").write_bytes(b"no image")
    refused("cannot be decoded", tmp_path, nchw, preprocess="scale=255")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("scael=255", "'scael=255' is not part of a preprocessing specification"),
        ("scale=x", "cannot be read"),
        ("layout=nwhc", "one of nchw, nhwc"),
        ("size=0", "positive"),
        ("scale=0", "must not be 0"),
        ("std=0:1:1", "must not be 0"),
        ("crop=0", "must be positive"),
        ("mean=1:2", "2 values for the channels"),
    ],
)
def test_bad_preprocessing_is_refused(text: str, match: str) -> None:
    refused(match, pictures(), PICTURE, preprocess=text)


def test_preprocessing_applies_to_arrays_of_bytes(tmp_path: Path) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (10, 3, 4, 5), dtype=np.uint8)
    np.savez(tmp_path / "d.npz", x=raw)
    error = refused("uint8", tmp_path / "d.npz", PICTURE)
    assert "scale=255" in error.hint
    assert "input: float32 [batch, 3, 4, 5]" in error.hint
    how = "scale=255,mean=0.1:0.2:0.3,std=2"
    found = gather(open_calibration(tmp_path / "d.npz", PICTURE, preprocess=how), "input")
    want = (raw / 255 - np.reshape([0.1, 0.2, 0.3], (3, 1, 1))) / 2
    np.testing.assert_allclose(found, want, atol=1e-6)

    swapped = raw.transpose(0, 2, 3, 1)
    refused("shape", swapped, PICTURE, preprocess="scale=255")
    prepare = open_calibration(
        swapped, PICTURE, preprocess=lambda x: x.transpose(0, 3, 1, 2).astype(np.float32)
    )
    np.testing.assert_array_equal(gather(prepare, "input"), raw)


# What does not fit ----------------------------------------------------------------------------


def with_value(value: float) -> Array:
    data = pictures()
    data[7, 1, 2, 3] = value
    return data


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"image": pictures()}, "has no 'input'; it has 'image'"),
        ({"input": pictures()[:, :2]}, r"shape \[10, 2, 4, 5\]"),
        ({"input": pictures()[0]}, r"shape \[3, 4, 5\]"),
        ({"input": np.ones((10, 3, 4, 5), np.int64)}, "int64 where input: float32"),
        ({"input": np.ones((10, 3, 4, 5), np.uint8)}, "uint8 where"),
        ({"input": np.ones((10, 3, 4, 5), bool)}, "bool where"),
        ({"input": np.full((10, 3, 4, 5), "a")}, "where input: float32"),
        ({"input": np.full((10, 3, 4, 5), 1e60)}, "too large for float32"),
        (with_value(np.nan), "NaN"),
        (with_value(np.inf), "NaN or infinite"),
        (pictures(0), "no samples"),
        ([], "no samples"),
        (iter([]), "no samples"),
        (lambda: iter([]), "no samples"),
        (lambda: None, "returned None"),
        ([{"image": pictures()}], "feed 0 has no 'input'"),
        ([pictures(), pictures()[:, :1]], "feed 1"),
        ([(pictures(), 1, 2)], "3 arrays for 1 inputs"),
        ([{"input": [[1.0], [2.0, 3.0]]}], "cannot be turned into an array"),
        (7, "an int cannot give calibration data"),
        ("nowhere.npz", "no calibration data 'nowhere.npz'"),
        ("nowhere.py:load", "no file nowhere.py"),
        ("no_such_module:load", "cannot be imported"),
        ("json:load_data", "defines no 'load_data'"),
    ],
)
def test_unfit_data_are_refused(given: Any, match: str) -> None:
    refused(match, given, PICTURE)


def test_mixed_lengths_and_sizes_are_refused() -> None:
    ids = np.zeros((4, 6), np.int64)
    error = refused("4 of 'ids', 3 of 'mask'", {"ids": ids, "mask": ids[:3]}, TOKENS)
    assert "ids: int64 [batch, seq]; mask: int64 [batch, seq]" in error.hint
    refused("'seq' the size 6 in 'ids' and 5", {"ids": ids, "mask": ids[:, :5]}, TOKENS)
    refused("has no 'mask'; it has 'ids'", {"ids": ids}, TOKENS)


def test_integers_must_fit_their_input() -> None:
    small = (spec("x", np.int8, "N"),)
    refused("between 0 and 200", np.array([0, 200]), small)
    np.testing.assert_array_equal(
        gather(open_calibration(np.array([0, 100]), small), "x"), [0, 100]
    )
    flags = (spec("x", np.bool_, "N"),)
    refused("between 0 and 2", np.array([0, 2]), flags)
    refused("float64 where x: int8", np.array([0.0]), small)


def test_functions_that_fail_are_reported_with_their_own_words(tmp_path: Path) -> None:
    def late() -> Iterator[Array]:
        yield pictures()
        raise KeyError("disk on fire")

    refused("failed after 1 feeds: KeyError: 'disk on fire'", late, PICTURE)

    def early() -> None:
        raise KeyError("no disk")

    refused("failed: KeyError: 'no disk'", early, PICTURE)
    (tmp_path / "broken.py").write_text("1 / 0\n")
    refused("ZeroDivisionError", f"{tmp_path / 'broken.py'}:load", PICTURE)


def test_broken_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(b"no archive")
    refused(r"not an \.npz archive", tmp_path / "a.npz", PICTURE)
    (tmp_path / "a.npy").write_bytes(b"no array")
    refused(r"not an \.npy file", tmp_path / "a.npy", PICTURE)
    refused(r"npz files and \.npy files", tmp_path, PICTURE)
    np.savez(tmp_path / "a.npz", x=np.array([{}]))
    refused("Python objects", tmp_path / "a.npz", PICTURE)
    (tmp_path / "a.txt").write_text("?")
    refused("is not calibration data", tmp_path / "a.txt", PICTURE)
    empty = tmp_path / "empty"
    empty.mkdir()
    refused("holds no calibration data", empty, PICTURE)
    sets = tmp_path / "test_data_set_0"
    sets.mkdir()
    (sets / "input_0.pb").write_bytes(b"\xff\xff\xff")
    refused("not a serialised tensor", sets, PICTURE)
    onnx.save_tensor(numpy_helper.from_array(pictures()), sets / "input_0.pb")
    refused("1 inputs for a model with 2", sets, TOKENS)


# Batches and shapes ---------------------------------------------------------------------------


@given(
    parts=st.lists(st.integers(1, 7), min_size=1, max_size=8),
    batch=st.integers(1, 9),
    samples=st.integers(1, 40),
)
def test_rebatching_loses_and_invents_nothing(parts: list[int], batch: int, samples: int) -> None:
    total = sum(parts)
    data = np.arange(total, dtype=np.float32)[:, None]
    pieces = np.split(data, np.cumsum(parts)[:-1])
    signature = (spec("x", np.float32, "N", 1),)
    for source in (data, pieces, lambda: iter(pieces)):
        feeds = [one["x"] for one in open_calibration(source, signature, batch=batch)]
        assert all(len(one) == batch for one in feeds[:-1])
        np.testing.assert_array_equal(np.concatenate(feeds), data)
        some = open_calibration(source, signature, batch=batch, samples=samples)
        found = np.concatenate([one["x"] for one in some])
        assert len(found) == min(samples, total)
        assert (np.diff(found[:, 0]) > 0).all()
        if some.indices is not None:
            np.testing.assert_array_equal(found[:, 0], some.indices[: len(found)])
    exact = open_calibration(data, signature, batch=batch)
    assert len(exact) == len(list(exact)) == -(-total // batch)


def test_a_subset_is_spread_over_sorted_data() -> None:
    data = np.arange(1000, dtype=np.float32)[:, None]
    signature = (spec("x", np.float32, "N", 1),)
    some = open_calibration(data, signature, samples=100)
    assert gather(some, "x").max() > 900
    other = open_calibration(data, signature, samples=100, seed=1)
    assert not np.array_equal(gather(some, "x"), gather(other, "x"))
    assert "100 samples, of 1000, seed 0" in some.description


def test_feeds_of_different_lengths_are_not_mixed() -> None:
    feeds = [
        {"ids": np.zeros((1, n), np.int64), "mask": np.ones((1, n), np.int64)} for n in (4, 4, 7)
    ]
    shapes = [one["ids"].shape for one in open_calibration(feeds, TOKENS, batch=8)]
    assert shapes == [(2, 4), (1, 7)]
    calibration = open_calibration(feeds, TOKENS, batch=8)
    with pytest.raises(TypeError, match="not known"):
        len(calibration)
    assert calibration.samples == 3


def test_the_batch_axis_need_not_come_first() -> None:
    signature = (spec("x", np.float32, "time", "batch", 2), spec("h", np.float32, 1, "batch", 3))
    x = np.arange(5 * 4 * 2, dtype=np.float32).reshape(5, 4, 2)
    h = np.arange(12, dtype=np.float32).reshape(1, 4, 3)
    feeds = list(open_calibration({"x": x, "h": h}, signature, batch=3))
    assert [one["x"].shape for one in feeds] == [(5, 3, 2), (5, 1, 2)]
    np.testing.assert_array_equal(np.concatenate([one["x"] for one in feeds], 1), x)
    np.testing.assert_array_equal(np.concatenate([one["h"] for one in feeds], 1), h)


def test_inputs_without_a_batch_axis_are_shared() -> None:
    signature = (spec("x", np.float32, "N", 2), spec("scale", np.float32, 4))
    x, scale = np.ones((5, 2), np.float32), np.arange(4, dtype=np.float32)
    feeds = list(open_calibration({"x": x, "scale": scale}, signature, batch=3))
    assert [one["x"].shape[0] for one in feeds] == [3, 2]
    assert all(np.array_equal(one["scale"], scale) for one in feeds)
    differing = [{"x": x, "scale": scale}, {"x": x, "scale": scale + 1}]
    feeds = list(open_calibration(differing, signature, batch=10))
    assert [len(one["x"]) for one in feeds] == [5, 5]


def test_exporters_may_name_every_size_differently() -> None:
    signature = (spec("a", np.float32, "unk__1", 2), spec("b", np.float32, "unk__2", 3))
    arrays = {"a": np.ones((5, 2), np.float32), "b": np.ones((5, 3), np.float32)}
    feeds = list(open_calibration(arrays, signature, batch=2))
    assert [len(one["b"]) for one in feeds] == [2, 2, 1]


def test_a_negative_size_is_one_the_model_leaves_open() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3] x) => (float[n, 3] y) { y = Relu(x) }""")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1  # PaddlePaddle writes it
    (found,) = signature_of(load(proto))
    assert found.shape == (None, 3)
    feeds = list(open_calibration(np.ones((5, 3), np.float32), (found,), batch=2))
    assert [len(one["x"]) for one in feeds] == [2, 2, 1]


def test_fixed_shapes_are_fed_their_own_batch() -> None:
    x = np.arange(30, dtype=np.float32).reshape(10, 3)
    state = np.ones((5, 2), np.float32)
    given: dict[str, Any] = {"x": x, "state": state, "rate": np.int64(16000)}
    calibration = open_calibration(given, FIXED, batch=7)
    feeds = list(calibration)
    assert len(calibration) == len(feeds) == 5
    assert calibration.samples == 10
    np.testing.assert_array_equal(np.concatenate([one["x"] for one in feeds]), x)
    assert all(np.array_equal(one["state"], state) for one in feeds)
    assert all(one["rate"].shape == () and one["rate"] == 16000 for one in feeds)

    stacked = {"x": x.reshape(5, 2, 3), "state": np.stack([state] * 5), "rate": np.full(5, 16000)}
    again = list(open_calibration(stacked, FIXED))
    for one, other in zip(feeds, again, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in one)

    assert "1 left over" in open_calibration(given | {"x": x[:9]}, FIXED).description
    refused("shape", given | {"x": x[:1]}, FIXED)
    refused("different numbers", given | {"state": np.stack([state] * 4)}, FIXED)
    some = open_calibration(given, FIXED, samples=4)
    assert some.indices is not None
    np.testing.assert_array_equal(gather(some, "x"), x[some.indices])


def test_a_batch_of_one_takes_single_samples() -> None:
    signature = (spec("x", np.float32, 1, 3, 4, 5),)
    data = pictures()
    for source in (data, data[:, None], list(data), list(data[:, None])):
        np.testing.assert_array_equal(gather(open_calibration(source, signature), "x"), data)


def test_a_fixed_batch_may_have_other_sizes_open() -> None:
    signature = (spec("x", np.float32, 1, 3, "width"), spec("mask", np.float32, 1, "width"))
    x, mask = np.arange(60, dtype=np.float32).reshape(4, 3, 5), np.ones((4, 5), np.float32)
    calibration = open_calibration({"x": x, "mask": mask}, signature, samples=3)
    assert calibration.samples == 3
    assert all(one["x"].shape == (1, 3, 5) for one in calibration)
    np.testing.assert_array_equal(gather(calibration, "x"), x[calibration.indices])

    several = [{"x": x[i : i + 1, :, :n], "mask": mask[i : i + 1, :n]} for i, n in ((0, 5), (1, 2))]
    assert [one["x"].shape for one in open_calibration(several, signature)] == [
        (1, 3, 5),
        (1, 3, 2),
    ]
    refused("'width' the size 5 in 'x' and 4", {"x": x, "mask": mask[:, :4]}, signature)
    refused("shape", {"x": x[:, :2], "mask": mask}, signature)
    (made_up,) = open_calibration("random:width=7", signature, samples=1)
    assert made_up["x"].shape == (1, 3, 7)


def test_bfloat16_survives_numpy_files(tmp_path: Path) -> None:
    data = np.arange(8).reshape(4, 2).astype(ml_dtypes.bfloat16)
    np.savez(tmp_path / "d.npz", x=data)
    signature = (spec("x", ml_dtypes.bfloat16, "N", 2),)
    for source in (tmp_path / "d.npz", data, data.astype(np.float32)):
        found = gather(open_calibration(source, signature), "x")
        assert found.dtype == data.dtype
        np.testing.assert_array_equal(found, data)


def test_large_archives_are_streamed(tmp_path: Path) -> None:
    import tracemalloc

    data = np.random.default_rng(0).standard_normal((4096, 3, 32, 32)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=data)
    np.save(tmp_path / "d.npy", data)
    signature = (spec("x", np.float32, "N", 3, 32, 32),)
    total = data.sum(dtype=np.float64)
    for path in (tmp_path / "d.npz", tmp_path / "d.npy"):
        tracemalloc.start()
        found = sum(one["x"].sum(dtype=np.float64) for one in open_calibration(path, signature))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert abs(found - total) < 1e-6
        assert peak < data.nbytes / 2


def test_a_stream_is_left_where_enough_was_read() -> None:
    read = []

    def feeds() -> Iterator[Array]:
        for index in range(1000):
            read.append(index)
            yield pictures(1)

    calibration = open_calibration(feeds, PICTURE, samples=5)
    assert len(gather(calibration, "input")) == 5
    assert max(read) < 7
    assert calibration.samples is None


# Splitting ------------------------------------------------------------------------------------


@given(
    count=st.integers(2, 60),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 99),
    samples=st.integers(2, 60),
)
def test_parts_are_disjoint_complete_and_reproducible(
    count: int, fraction: float, seed: int, samples: int
) -> None:
    data = np.arange(count, dtype=np.float32)[:, None]
    signature = (spec("x", np.float32, "N", 1),)
    for source in (data, lambda: iter(data)):
        whole = open_calibration(source, signature, batch=4, samples=samples)
        used = gather(whole, "x")[:, 0]
        kept, held = split(whole, fraction, seed)
        one, other = gather(kept, "x")[:, 0], gather(held, "x")[:, 0]
        assert len(one) >= 1
        assert len(other) >= 1
        assert abs(len(other) - fraction * len(used)) <= 1
        np.testing.assert_array_equal(np.sort(np.concatenate([one, other])), used)
        again = split(whole, fraction, seed)[1]
        np.testing.assert_array_equal(gather(again, "x")[:, 0], other)


def test_subsets_of_parts_stay_inside_them() -> None:
    kept, held = split(open_calibration(pictures(), PICTURE), 0.5, seed=1)
    some = open_calibration(held, PICTURE, samples=2)
    assert kept.indices is not None
    assert held.indices is not None
    assert some.indices is not None
    assert set(some.indices) < set(held.indices)
    assert set(held.indices).isdisjoint(kept.indices)
    np.testing.assert_array_equal(gather(some, "input"), pictures()[some.indices])
    refused("the calibration data are for input", held, TOKENS)


def test_too_little_cannot_be_split() -> None:
    with pytest.raises(OnnxpruneError, match="too small"):
        split(open_calibration(pictures(1), PICTURE), 0.5)
    with pytest.raises(OnnxpruneError, match="cannot be set aside"):
        split(open_calibration(pictures(), PICTURE), 1.0)
    refused("0 samples", pictures(), PICTURE, samples=0)
    refused("batch of 0", pictures(), PICTURE, batch=0)


# Random ---------------------------------------------------------------------------------------


def test_random_data_say_so_and_repeat() -> None:
    calibration = open_calibration("random", TOKENS, samples=6, batch=4, seed=3)
    feeds = list(calibration)
    assert calibration.synthetic
    assert calibration.description == "random inputs, 6 samples"
    assert [one["ids"].shape for one in feeds] == [(4, 16), (2, 16)]
    assert set(np.unique(feeds[0]["ids"])) == {0, 1}
    assert (feeds[0]["mask"] == 1).all()
    np.testing.assert_array_equal(feeds[0]["ids"], next(iter(calibration))["ids"])
    other = open_calibration("random", TOKENS, samples=6, batch=4, seed=4)
    assert not np.array_equal(next(iter(other))["ids"], feeds[0]["ids"])
    longer = open_calibration("random:seq=40", TOKENS, samples=1)
    assert next(iter(longer))["ids"].shape == (1, 40)
    refused("no input has a size named 'sequence'", "random:sequence=40", TOKENS)
    refused("sets no size", "random:seq", TOKENS)


def test_random_caches_are_empty_and_masks_cover_them() -> None:
    signature = (
        spec("ids", np.int64, "batch", "seq"),
        spec("attention_mask", np.int64, "batch", "past_seq + seq"),
        spec("past.0.key", np.float16, "batch", 2, "past_seq", 8),
        spec("pixels", np.float32, "batch", 3, None, None),
        spec("flag", np.bool_),
    )
    (feeds,) = open_calibration("random", signature, samples=2)
    assert feeds["past.0.key"].shape == (2, 2, 0, 8)
    assert feeds["attention_mask"].shape == (2, 16)
    assert feeds["pixels"].shape == (2, 3, 64, 64)
    assert feeds["flag"].shape == ()
    assert all(feeds[one.name].dtype == one.dtype for one in signature)
    (sized,) = open_calibration("random:past_seq=3,pixels[2]=8", signature, samples=1)
    assert sized["attention_mask"].shape == (1, 19)
    assert sized["pixels"].shape == (1, 3, 8, 64)
    refused("takes strings", "random", (spec("s", object, "N"),))


def test_random_data_run_real_models(shared: Path) -> None:
    ran = 0
    for path in sorted((shared / "models").glob("*.onnx")):
        session = open_session(path, threads=1)
        calibration = open_calibration("random", session.inputs, samples=2)
        outputs = session.run(next(iter(calibration)))
        assert all(array.shape[0] == 2 for array in outputs.values())
        ran += 1
    assert ran > 0


def test_models_without_tensor_inputs_are_refused() -> None:
    refused("no inputs", pictures(), ())
    refused("is a sequence", pictures(), (TensorSpec("x", np.dtype(object), (), "sequence"),))


def test_real_images_reach_a_real_model(shared: Path) -> None:
    session = open_session(shared / "models" / "resnet20_cifar10_proj_fused.onnx", threads=1)
    how = "scale=255,mean=0.4914:0.4822:0.4465,std=0.2023:0.1994:0.2010"
    path = shared / "data" / "cifar10_test.npz"
    calibration = open_calibration(path, session.inputs, preprocess=how, samples=200)
    labels = np.load(path)["y"][calibration.indices]
    scores = [next(iter(session.run(feeds).values())) for feeds in calibration]
    accuracy = (np.concatenate(scores).argmax(1) == labels).mean()
    assert accuracy > 0.85  # published: 0.926


def test_onnx_test_data_in_its_own_layout(tmp_path: Path) -> None:
    """As the ONNX backend tests store it: several sets, names in the tensors, order by number."""
    for index in range(2):
        folder = tmp_path / f"test_data_set_{index}"
        folder.mkdir()
        for number, name in enumerate(("mask", "ids")):  # names win over numbers
            data = np.full((1, 3), 10 * index + number, np.int64)
            onnx.save_tensor(numpy_helper.from_array(data, name), folder / f"input_{number}.pb")
    feeds = list(open_calibration(tmp_path, TOKENS))
    assert [int(one["ids"][0, 0]) for one in feeds] == [1, 11]
