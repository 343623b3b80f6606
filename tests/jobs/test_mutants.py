"""Damaged models are reported on or refused: no crash, no hang, no internal error."""

from __future__ import annotations

import os
import random

import pytest

from mutants import bombs, faults, mutate
from onnxprune.data import zoo

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be copied"),
    pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning"),
]
SMALL = ("digits_mlp", "digits_lstm")


def _mutants(names: tuple[str, ...], numbers: range) -> list[tuple[str, bytes]]:
    sources = [zoo.get(name).model.read_bytes() for name in names]
    return [
        (
            f"{names[number % len(names)]} {number}",
            mutate(sources[number % len(names)], random.Random(number), sources),
        )
        for number in numbers
    ]


@pytest.mark.parametrize("part", range(5))
def test_damaged_models_are_reported_on_or_refused(part: int) -> None:
    assert faults(_mutants(SMALL, range(100 * part, 100 * part + 100))) == []


@pytest.mark.parametrize("name", bombs())
def test_small_files_that_ask_for_a_lot_are_harmless(name: str) -> None:
    assert faults([(name, bombs()[name].SerializeToString())]) == []


def test_a_fault_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    model = zoo.get("digits_mlp").model.read_bytes()

    def crash(_: object) -> None:
        os.abort()

    def stumble(_: object) -> None:
        raise KeyError("inside")

    for broken, word in ((crash, "ended with status"), (stumble, "KeyError")):
        monkeypatch.setattr("mutants.look", broken)
        assert all(word in fault for fault in faults([("one", model), ("two", model)]))
        assert len(faults([("one", model), ("two", model)])) == 2


@pytest.mark.heavy
@pytest.mark.parametrize("part", range(20))
def test_twenty_thousand_damaged_models(part: int) -> None:
    assert faults(_mutants(zoo.names(), range(1000 * part, 1000 * part + 1000))) == []
