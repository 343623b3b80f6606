"""The cache folder: what is put is there, what is damaged is not believed, nothing ever raises."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxprune.data.cache import Cache

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(values=st.lists(JSON, min_size=1, max_size=4), data=st.data())
def test_whatever_was_kept_is_there_until_it_is_damaged(
    place: Path, values: list[object], data: st.DataObject
) -> None:
    cache = Cache("cells", pytest.fail)
    cache.put("a", values[0])
    for value in values[1:]:
        cache.append("a", value)
    assert cache.records("a") == values
    assert cache.get("a") == values[-1]
    assert cache.records("b") is None
    assert Cache("curves", pytest.fail).records("a") is None
    path = place / "a.cells.jsonl"
    broken = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(broken) - 1))
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    path.write_bytes(broken)
    believed = Cache("cells", lambda _: None).records("a")
    assert believed is not None
    assert len(believed) >= len(values) - 2  # a line break may be what was hit
    assert all(each in values for each in believed)
    cache.put("a", values[0])
    assert cache.records("a") == values[:1]


def test_a_file_under_another_name_is_not_believed(place: Path) -> None:
    cache = Cache("curves", pytest.fail)
    cache.put("a", 1)
    (place / "a.curves.jsonl").rename(place / "b.curves.jsonl")
    told: list[str] = []
    assert Cache("curves", told.append).get("b") is None
    assert told == ["ignoring b.curves.jsonl in the cache, which cannot be used: it is damaged"]


def test_a_folder_that_cannot_be_used_is_told_once_per_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "file" / "cache"))
    told: list[str] = []
    cache = Cache("curves", told.append)
    assert cache.get("a") is None
    for _ in range(3):
        cache.put("a", 1)
        cache.append("a", 1)
    assert len(told) == 2
    assert "not kept for the next time" in told[1]


def test_what_is_no_file_of_the_cache_is_not_read(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    messages: list[str] = []
    cache = Cache("curves", messages.append)
    cache.put("a", "x" * 1000)
    monkeypatch.setattr("onnxprune.data.cache.LARGEST", 500)
    assert cache.get("a") is None
    assert "a.curves.jsonl" in messages[0]
    os.mkfifo(place / "b.curves.jsonl")  # reading it would wait for ever
    assert cache.get("b") is None
    (place / "c.curves.jsonl").mkdir()
    assert cache.get("c") is None


def test_reading_counts_as_use(place: Path) -> None:
    cache = Cache("curves", pytest.fail)
    cache.put("a", 1)
    path = place / "a.curves.jsonl"
    os.utime(path, (0, 0))
    assert cache.get("a") == 1
    assert path.stat().st_mtime > 0


def test_a_disabled_cache_touches_nothing(place: Path) -> None:
    cache = Cache("curves", pytest.fail, enabled=False)
    cache.put("a", 1)
    assert cache.get("a") is None
    assert not place.exists()
