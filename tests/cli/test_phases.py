"""Progress without a terminal: a line per phase that lasts, one now and then, and the time left."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.cli import console, phases
from onnxprune.cli.phases import Phases


def test_short_phases_stay_silent_and_long_ones_have_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phases, "BEGIN", 0.2)
    monkeypatch.setattr(phases, "EVERY", 0.1)
    lines: list[str] = []
    with Phases(lines.append) as progress:
        for stage in ("reading", "writing"):
            progress.begin(stage)
        progress.begin("timing the layers")
        while len(lines) < 3:
            time.sleep(0.01)
        progress.begin("checking")
    assert all(line.startswith("timing the layers (") for line in lines)


def test_counts_tell_how_long_it_takes() -> None:
    progress = Phases(lambda _: None)
    start = progress._start
    rate = progress._rate
    assert not rate.note("fitting layer 1 of 11: a", start)
    assert rate.left(start + 5) is None  # nothing has ended yet
    assert rate.note("fitting layer 2 of 11: b", start + 10)
    assert rate.left(start + 10) == pytest.approx(100)
    assert rate.left(start + 14) == pytest.approx(96)
    assert progress.line("fitting layer 2 of 11: b", start + 14) == (
        "fitting layer 2 of 11: b (14 s so far, about 96 s left)"
    )
    assert not rate.note("checking", start + 20)
    assert rate.left(start + 30) is None
    assert progress.line("checking", start + 300) == "checking (5 min so far)"


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 50), st.floats(0, 100))))
def test_whatever_is_counted_the_time_left_is_no_nonsense(
    counts: list[tuple[int, int, float]],
) -> None:
    rate, now = Phases(lambda _: None)._rate, 0.0
    for done, total, step in counts:
        now += step
        rate.note(f"model {done} of about {total}", now)
        left = rate.left(now)
        assert left is None or 0 <= left < 1e6


def test_a_phase_that_fails_ends_the_lines() -> None:
    progress = Phases(lambda _: None)

    def divide() -> float:
        with progress:
            progress.begin("dividing")
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        divide()
    assert not progress._thread.is_alive()


def test_a_long_run_says_in_a_file_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with console.progress() as short:
        short("reading")
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(phases, "BEGIN", 0.0)
    with console.progress() as long:
        long("timing the layers")
        time.sleep(0.2)
    out, err = capsys.readouterr()
    assert out == ""
    assert set(err.splitlines()) == {"timing the layers (0 s so far)"}
