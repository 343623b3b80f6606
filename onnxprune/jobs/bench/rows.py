"""Make rows of the result from measurements."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.ranks import with_ranks, with_ranks_of
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.protocol import Timing
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import cost
from onnxprune.jobs.bench.samples import Samples
from onnxprune.jobs.bench.schema import Latency, ModelRow, Row
from onnxprune.model.decode import densify
from onnxprune.model.writing import file_bytes


def model_rows(
    paths: Sequence[Path],
    shapes: Mapping[str, tuple[int, ...]],
    first: models.Model | None = None,
) -> tuple[ModelRow, ...]:
    """Name and size of each model; names that would be the same get a number.

    Args:
        paths: of the models.
        shapes: of inputs whose sizes the models leave open.
        first: the first model; its inputs have the ranks of those that declare no shape. Without
            it, they get those of the shapes, or one that the runtime accepts.
    """
    rows: list[ModelRow] = []
    for path in paths:
        same = sum(Path(row.path).name == path.name for row in rows)
        name = f"{path.name} #{same + 1}" if same else path.name
        try:
            model = densify(models.load(path))[0]
            if first is None:
                model = with_ranks(model, Options(shapes=dict(shapes)))
            else:
                model = with_ranks_of(model, first)
            size = cost(analyse(model, inputs=dict(shapes) or None))
        except OnnxpruneError:
            models.load(path)  # what cannot even be read is the user's problem
            rows.append(ModelRow(name, str(path), file_bytes(path), None, None))
        else:
            row = ModelRow(name, str(path), file_bytes(path), size.macs, size.params)
            rows.append(row)
    return tuple(rows)


def latency(timing: Timing) -> Latency:
    """Percentiles over all runs."""
    every = timing.every
    p50, p90, p99 = (float(each) for each in np.quantile(every, (0.5, 0.9, 0.99)))
    return Latency(
        p50_s=p50,
        p90_s=p90,
        p99_s=p99,
        mean_s=float(every.mean()),
        runs=len(every),
        quantiles=tuple(float(each) for each in np.quantile(every, np.linspace(0, 1, 101))),
        stable=all(each.stable for each in timing.warm),
    )


def notes(samples: Samples, rows: Sequence[Row], *, processes: int, busy: bool) -> Iterator[str]:
    """What a reader has to know beside the numbers, in whole sentences."""
    if samples.synthetic:
        yield (
            f"inputs were synthetic ({samples.calibration.reader.description}): latency may depend "
            "on data, and outputs say little about quality"
        )
    yield from samples.calibration.notes
    if processes == 1 and any(row.ratio for row in rows):
        yield (
            "one process of each model: intervals leave out that the same model differs from one "
            "process to the next"
        )
    if busy:
        yield "other work ran on this machine: intervals are wider, percentiles higher"
    if any(not row.latency.stable for row in rows):
        unstable = sorted({row.model for row in rows if not row.latency.stable})
        yield f"{', '.join(unstable)} had not become stable when timing began"
