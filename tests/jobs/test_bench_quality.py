"""The judge of quality: what it is asked, what it counts, and whom it declares better."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from bench import quality_cases as cases
from bench.layer_error import alone
from bench.quality_table import lines
from onnxprune.config import from_flags
from onnxprune.solve.moments import Accumulator

ALL = [case for group in cases.CASES.values() for case in group]
GRAPH = "digits_mlp"


def results(rows: list[tuple[str, str, float, float]], score: str = "top-1 %") -> dict[str, Any]:
    """Stored results: (system, label, score, macs) for a dense network of 90 and 100 MACs."""
    return {
        "systems": {},
        "dense": {GRAPH: {"scores": {score: 90.0}, "macs": 100, "params": 100}},
        "rows": [
            {
                "system": system,
                "graph": GRAPH,
                "label": label,
                "run": {},
                "judged": {"scores": {score: value}, "macs": macs, "params": macs, "zeros": 0.5},
            }
            for system, label, value, macs in rows
        ],
    }


def test_every_case_is_said_once_and_can_be_asked_for() -> None:
    names = [case.name for case in ALL]
    assert len(set(names)) == len(names)
    for case in ALL:
        assert not from_flags({**case.asked, "calib": "inputs.npz"}).asks_for_nothing
    runs = list(cases.rivals(ALL))
    assert len(set(runs)) == len(runs)
    assert {graph for graph, _, _ in runs} == {case.graph for case in ALL}


def test_what_is_asked_names_scores_that_the_network_has() -> None:
    units = {"minilm": {"STS-B Spearman", "SST-2 %"}, "stories": {"nats"}}
    for case in cases.ASKED:
        known = next((v for k, v in units.items() if case.graph.startswith(k)), {"top-1 %"})
        assert set(case.drop) <= known
        assert bool(case.drop) != bool(case.half_of)


@pytest.mark.parametrize("graph", ["digits_mlp", "chars_decoder"])
def test_nothing_that_is_scored_is_fitted_to(graph: str) -> None:
    assert_disjoint(graph)


@pytest.mark.parametrize("graph", ["resnet8_cifar10_mlperftiny_bn", "stories260k_llama_legacy"])
def test_nothing_real_that_is_scored_is_fitted_to(graph: str, shared: Path) -> None:
    assert_disjoint(graph)


def assert_disjoint(graph: str) -> None:
    """No calibration input is among those that are scored."""
    fitted = samples(cases.calibration(graph))
    scored: list[dict[str, npt.NDArray[Any]]] = []

    def run(feeds: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[Any]]:
        scored.append(feeds)
        first = feeds[min(feeds)]
        words = first.dtype.kind == "i"
        return [np.zeros((*first.shape, 600) if words else (len(first), 10), np.float32)]

    cases.scores(graph, run)
    assert len(fitted) >= 40
    assert not fitted & samples(scored)


def samples(batches: list[dict[str, npt.NDArray[Any]]]) -> set[bytes]:
    """Every input on its own."""
    return set(chain.from_iterable((row.tobytes() for row in b[min(b)]) for b in batches))


def test_a_rival_counts_where_it_costs_no_more() -> None:
    case = cases.Case(GRAPH, {"target": "macs=50%"}, {"top-1 %": 1.0})
    stored = results(
        [
            ("onnxprune", "macs=50%", 89.5, 50),
            ("onnxsim", "structured-wanda+sim 25%", 89.9, 80),
            ("onnxsim", "structured-wanda+sim 50%", 70.0, 49),
            ("onnxsim", "structured-l2+sim 50%", 60.0, 50),
            ("onnxsim", "sparsegpt 50%", 89.0, 100),
        ]
    )
    (line,) = lines(stored, [case])
    assert (line.theirs, line.method) == (70.0, "structured-wanda+sim 50%")
    assert line.drop == pytest.approx(0.5)
    assert line.met is True
    stored["rows"][0]["judged"]["scores"]["top-1 %"] = 88.9
    assert lines(stored, [case])[0].met is False
    assert lines(results([]), [case])[0].met is None


def test_half_of_a_rivals_loss_is_measured_from_the_dense_network() -> None:
    case = cases.Case(GRAPH, {"sparsity": "2:4"}, half_of="sparsegpt")
    stored = results(
        [
            ("onnxprune", "2:4", 91.0, 100),
            ("onnxsim", "sparsegpt 2:4", 92.0, 100),
            ("onnxsim", "sparsegpt 50%", 90.0, 100),
            ("onnxsim", "wanda 2:4", 91.5, 100),
        ],
        "nats",
    )
    (line,) = lines(stored, [case])
    assert line.allowed == pytest.approx(1.0)
    assert line.drop == pytest.approx(1.0)
    assert line.met is True
    assert (line.theirs, line.method) == (91.5, "wanda 2:4")


def test_the_error_of_a_layer_is_what_its_output_is_off_by() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 500, 6)) + rng.standard_normal((2, 1, 6))
    before = rng.standard_normal((2, 6, 4)), rng.standard_normal((2, 4))
    after = before[0] * (rng.random((2, 6, 4)) < 0.5), before[1] + 0.1
    gathered = Accumulator(2, 6)
    gathered.add(x[:, :200])
    gathered.add(x[:, 200:])
    off = x @ (after[0] - before[0]) + (after[1] - before[1])[:, None]
    expected = (off**2).sum() / ((x @ before[0]) ** 2).sum()
    assert alone(gathered.moments(), before, after) == pytest.approx(expected, rel=1e-9)
    assert alone(gathered.moments(), before, before) == 0


def test_the_line_of_many_methods_only_rises() -> None:
    pytest.importorskip("matplotlib")
    from bench.quality_plot import hull

    rng = np.random.default_rng(1)
    points = [(float(x), float(y)) for x, y in rng.random((40, 2))]
    best = hull(points, "top-1 %")
    assert [y for _, y in best] == sorted(y for _, y in best)
    for x, y in points:
        assert max((b for a, b in best if a <= x), default=y) >= y
