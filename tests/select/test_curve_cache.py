"""Damage curves on disk: found again by what they follow from, never trusted when damaged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from onnxprune import model as models
from onnxprune import prune
from onnxprune.data import cache as kept
from onnxprune.data import zoo
from onnxprune.data.cache import Cache
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.model import files
from onnxprune.select.importance import curve_cache as cache
from onnxprune.select.importance.error_curves import Curves, Measurement
from onnxprune.solve.group_obs import Elimination

Feeds = dict[str, npt.NDArray[Any]]
MEASURING = "measuring what every layer reads"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(folder))
    return folder


@pytest.fixture(scope="module")
def analysis() -> Analysis:
    return analyse(models.load(zoo.get("digits_mlp").model))


@pytest.fixture(scope="module")
def batches() -> list[Feeds]:
    pictures = zoo.calibration(zoo.get("digits_mlp"))
    return [{k: v[at : at + 32] for k, v in pictures.items()} for at in (0, 32)]


def run(analysis: Analysis, batches: list[Feeds], **how: Any) -> tuple[Curves, list[str]]:
    """The curves, and what was said on the way."""
    said: list[str] = []
    keep = how.pop("cache", True)
    work = Measurement(analysis, analysis.groups, batches, **how)
    return cache.cached_curves(work, said.append, cache=keep), said


def same(one: Curves, two: Curves) -> bool:
    """Whether curves are equal to the last bit."""
    return (
        one[1] == two[1]
        and list(one[0]) == list(two[0])
        and all(
            np.array_equal(e.order, two[0][g].order) and np.array_equal(e.error, two[0][g].error)
            for g, e in one[0].items()
        )
    )


def test_the_second_run_measures_nothing_and_finds_the_same(
    place: Path, analysis: Analysis, batches: list[Feeds]
) -> None:
    plain, _ = run(analysis, batches, cache=False)
    assert not place.exists()
    first, said = run(analysis, batches)
    assert MEASURING in said
    assert len(list(place.iterdir())) == 1
    second, said = run(analysis, batches)
    assert said == ["taking error curves from the cache"]
    assert same(plain, first)
    assert same(plain, second)
    assert sum(len(e.order) for e in second[0].values()) > 0


def test_another_budget_costs_no_calibration(place: Path) -> None:
    entry = zoo.get("digits_mlp")
    calib = {k: v[:80] for k, v in zoo.calibration(entry).items()}

    def small(budget: str, **how: Any) -> tuple[Any, list[str]]:
        said: list[str] = []
        return prune(entry.model, target=budget, calib=calib, progress=said.append, **how), said

    _, said = small("macs=70%")
    assert MEASURING in said
    kept, said = small("macs=50%")
    assert MEASURING not in said
    anew, said = small("macs=50%", cache=False)
    assert MEASURING in said
    assert kept.plan.removed == anew.plan.removed
    assert kept.plan.removed
    assert len(list(place.iterdir())) == 1


def test_the_flag_leaves_the_cache_alone(place: Path, cli: Callable[..., Any]) -> None:
    entry = zoo.get("digits_mlp")
    asked = ["prune", entry.model, "--target", "macs=60%", "--calib", entry.calibration]
    asked += ["--calib-samples", "64"]
    assert cli(*asked, "--no-cache").code == 0
    assert not place.exists()
    assert cli(*asked).code == 0
    assert len(list(place.iterdir())) == 1


def test_whatever_curves_follow_from_is_in_the_key(
    analysis: Analysis, batches: list[Feeds]
) -> None:
    def key(of: Analysis = analysis, feeds: list[Feeds] = batches, seed: int = 0) -> str:
        return cache.key(of, of.groups, feeds, {"provider": "cpu", "seed": seed})

    other = models.clone(analysis.model)
    name, weight = next(
        (n, w.numpy())
        for n, w in ((n, models.constant(v)) for n, v in models.constants(other).items())
        if w is not None and w.numpy().ndim == 2
    )
    changed = weight.copy()
    changed[-1, -1] += 1e-3
    models.set_constant(models.constants(other)[name], changed)
    joined = [{k: np.concatenate([b[k] for b in batches]) for k in batches[0]}]
    wide = [{k: v.astype(np.float64) for k, v in b.items()} for b in batches]
    nudged = [batches[0], {k: v + np.float32(1e-3) for k, v in batches[1].items()}]
    keys = [
        key(),
        key(analyse(other)),
        key(analyse(models.load(zoo.get("digits_rescnn").model))),
        key(feeds=joined),
        key(feeds=batches[::-1]),
        key(feeds=batches[:1]),
        key(feeds=wide),
        key(feeds=nudged),
        key(seed=1),
        cache.key(analysis, analysis.groups[:1], batches, {"provider": "cpu", "seed": 0}),
        cache.key(analysis, analysis.groups, batches, {"provider": "cuda", "seed": 0}),
    ]
    assert len(set(keys)) == len(keys)
    again = analyse(models.load(zoo.get("digits_mlp").model))
    assert key(again, [dict(b) for b in batches]) == keys[0]


def test_damaged_files_are_reported_and_replaced(
    place: Path, analysis: Analysis, batches: list[Feeds]
) -> None:
    good, _ = run(analysis, batches)
    (path,) = place.iterdir()
    whole = path.read_bytes()
    for content in (b"", b"not a file", whole[:-40], whole[: len(whole) // 2]):
        path.write_bytes(content)
        found, said = run(analysis, batches)
        assert said[0].startswith(f"ignoring {path.name} in the cache")
        assert MEASURING in said
        assert same(found, good)
        assert run(analysis, batches)[1] == ["taking error curves from the cache"]
    stranger = place / f"{'0' * 40}.curves.jsonl"
    stranger.write_bytes(whole)
    assert cache.read(Cache("curves", print), "0" * 40) is None


def test_no_flipped_bit_is_believed(
    place: Path, analysis: Analysis, batches: list[Feeds], tmp_path: Path
) -> None:
    good, _ = run(analysis, batches)
    (path,) = place.iterdir()
    name, whole = path.name.split(".")[0], path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for at in rng.choice(len(whole), 300, replace=False):
        broken = bytearray(whole)
        broken[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(broken)
        found = cache.read(Cache("curves", lambda _: None), name)
        refused += found is None
        assert found is None or same(found, good)
    assert refused > 200


def test_writers_and_readers_do_not_disturb_each_other(
    place: Path, analysis: Analysis, batches: list[Feeds]
) -> None:
    good, _ = run(analysis, batches)
    name = next(place.iterdir()).name.split(".")[0]
    said: list[str] = []

    def work(number: int) -> bool:
        if number % 2:
            cache.write(Cache("curves", said.append), name, good)
        found = cache.read(Cache("curves", said.append), name)
        return found is not None and same(found, good)

    with ThreadPoolExecutor(8) as pool:
        right = list(pool.map(work, range(200)))
    assert not said
    assert all(right)
    assert len(list(place.iterdir())) == 1


def test_the_folder_stays_bounded(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kept, "LARGEST", 40_000)
    curves = Curves({"g": Elimination(np.arange(1000), np.zeros(1001))}, {"h": "why"})  # 10 kB
    for number in range(8):
        cache.write(Cache("curves", print), f"{number:040}", curves)
        os.utime(place / f"{number:040}.curves.jsonl", (number, number))
    left = sorted(path.name[39] for path in place.iterdir())
    assert left == ["4", "5", "6", "7"]
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"],
        capture_output=True, text=True, check=True,
    ).stdout.strip()  # fmt: skip
    abandoned = place / f".onnxprune-{files._HOST}-{dead}-00000000.tmp"
    abandoned.write_bytes(b"")
    os.utime(abandoned, (0, 0))
    cache.write(Cache("curves", print), f"{8:040}", curves)
    assert not abandoned.exists()


def test_a_folder_that_cannot_be_written_only_costs_time(
    analysis: Analysis, batches: list[Feeds], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "file" / "cache"))
    found, said = run(analysis, batches)
    assert found[0]
    assert any("not kept" in line for line in said)


def test_the_folder_is_the_users_unless_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ONNXPRUNE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert kept.folder() == tmp_path / "onnxprune"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.delenv("LOCALAPPDATA", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert kept.folder() == tmp_path / ".cache" / "onnxprune"
