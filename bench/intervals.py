"""How often the interval of a relative squared error holds the error of many samples.

    python -m bench.intervals [--results bench/results/intervals.json]

Networks are damaged by noise on their weights, and by zeros in place of the smallest, from hardly
to fully. Their outputs for all samples are computed once; then 10, 20 or 50 samples are drawn many
times, each time with the interval of 95 % that a verdict rests on.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.folders import REPOSITORY, SHARED
from bench.tasks import task_of
from bench.verdicts import changed, weights_of
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.evaluate.jackknife import Estimate
from onnxprune.evaluate.relative_error import Variation
from onnxprune.runtime import open_session

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]

SIZES = (10, 20, 50)
DRAWS = 600
_BATCH = 100
_ZOO = ("digits_mlp", "digits_rescnn", "digits_lstm")
_TRAINED = {"resnet8_cifar10_mlperftiny_fused": (21, 100), "minilm_l6_sts_sst2": (30, 8)}
"""Batches, and samples of each."""
_NOISE, _ZEROS = (0.1, 0.3, 0.6, 1.0), (0.5, 0.7, 0.85)


def subjects() -> Iterator[tuple[str, models.Model, Sequence[Feeds]]]:
    """Networks with samples of their task."""
    for name in _ZOO:
        entry = zoo.get(name)
        data = zoo.evaluation(entry)[0]
        count = len(next(iter(data.values())))
        feeds = [
            {key: array[at : at + _BATCH] for key, array in data.items()}
            for at in range(0, count, _BATCH)
        ]
        yield name, models.load(entry.model), feeds
    for stem, (batches, size) in _TRAINED.items():
        path, task = SHARED / "models" / f"{stem}.onnx", task_of(stem)
        if path.is_file() and task is not None:
            calibration = task.calibration(SHARED / "data", batches, size)
            yield stem, models.load(path), [*calibration]


def damages() -> Iterator[tuple[str, Any]]:
    """Changes of a weight by name: relative noise, and a share of zeros."""
    for share in _NOISE:
        yield f"noise {share:g}", partial(_noisy, share)
    for share in _ZEROS:
        yield f"zeros {share:g}", partial(_sparse, share)


def _noisy(share: float, array: Array, rng: np.random.Generator) -> Array:
    return np.asarray(array + share * array.std() * rng.standard_normal(array.shape))


def _sparse(share: float, array: Array, _: np.random.Generator) -> Array:
    return np.where(np.abs(array) < np.quantile(np.abs(array), share), 0, array)


def outputs(model: models.Model, feeds: Sequence[Feeds]) -> dict[str, Array]:
    """All floating outputs ``[samples, elements]``; scores less their mean, as they are judged."""
    session = open_session(model, arena=False)
    results = [session.run(each) for each in feeds]
    arrays = {name: np.concatenate([each[name] for each in results]) for name in results[0]}
    rows = {
        name: array.reshape(len(array), -1).astype(np.float64)
        for name, array in arrays.items()
        if array.dtype.kind == "f"
    }
    centred = {name for name, array in rows.items() if 2 < array.shape[1] <= 10}
    return {n: a - a.mean(1, keepdims=True) if n in centred else a for n, a in rows.items()}


def estimate(x: Array, y: Array) -> Estimate:
    """The relative squared error of some samples, with its interval."""
    variation = Variation()
    variation.add(x, y, x.shape[1], x.shape[1])
    variation.close()
    return variation.error(bounded=False).own


def measure() -> Iterator[dict[str, Any]]:
    """A row per output, damage and number of samples."""
    for network, dense, feeds in subjects():
        reference, stored = outputs(dense, feeds), models.constants(dense)
        rng = np.random.default_rng(1)
        for damage, change in damages():
            weights = {k: change(models.array_of(stored[k]), rng) for k in weights_of(dense)}
            answers = outputs(changed(dense, weights), feeds)
            for name, x in reference.items():
                truth = estimate(x, answers[name]).value
                for size in SIZES:
                    each = [estimate(x[some], answers[name][some]) for some in _drawn(len(x), size)]
                    yield {
                        "network": network,
                        "output": name,
                        "damage": damage,
                        "error": truth,
                        "population": len(x),
                        "samples": size,
                        "covered": round(
                            float(np.mean([e.low <= truth <= e.high for e in each])), 3
                        ),
                        "above": round(float(np.mean([e.low > truth for e in each])), 3),
                    }


def _drawn(count: int, size: int) -> Iterator[Array]:
    rng = np.random.default_rng(size)
    return (rng.choice(count, size, replace=False) for _ in range(DRAWS))


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """Mean and least share of intervals that hold the error, by number of samples."""
    result = {}
    for size in SIZES:
        covered = [row["covered"] for row in rows if row["samples"] == size]
        above = [row["above"] for row in rows if row["samples"] == size]
        result[str(size)] = {
            "mean": round(float(np.mean(covered)), 3),
            "least": min(covered),
            "most above": max(above),
        }
    return result


def main() -> None:
    """Measure, print the summary and save all rows."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=REPOSITORY / "bench/results/intervals.json")
    options = parser.parse_args()
    rows = [*measure()]
    document = {"schema": 1, "draws": DRAWS, "summary": summary(rows), "rows": rows}
    options.results.write_text(f"{json.dumps(document, indent=1)}\n")
    print(document["summary"])


if __name__ == "__main__":
    main()
