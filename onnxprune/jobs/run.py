"""A run of a job: what it is asked, the analysed model and its data, opened once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.dataset import Dataset, open_dataset, open_source, synthetic_dataset
from onnxprune.evaluate.metrics import find_metric
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.model.decode import densify
from onnxprune.runtime.registry import backend

Progress = Callable[[str], None]
"""Hears what is being done, one short sentence at a time."""

BLAS = 1
"""Threads of a matrix product: the many small ones of elimination only get slower on more."""


@dataclass(frozen=True, eq=False)
class Run:
    """What every step of a job knows.

    Attributes:
        config: what is asked.
        analysis: of the dense model, which what is made of it is compared with.
        data: its samples.
        progress: hears what is being done.
    """

    config: Options
    analysis: Analysis
    data: Dataset
    progress: Progress = lambda _: None


def open_run(
    source: models.ModelLike,
    config: Options,
    progress: Progress = lambda _: None,
    *,
    chooses: bool = False,
) -> Run:
    """Read a model, find what can be removed, and open the samples that it is looked at with.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        config: what is asked.
        progress: hears what is being done.
        chooses: whether samples are to be put aside to choose one of several models by.

    Raises:
        OnnxpruneError: the model or the data cannot be used.
    """
    check_names(config)
    progress("reading the model")
    model, _ = densify(models.load(source))
    samples, shapes = open_source(model, config)
    progress("finding what can be removed")
    analysis = analyse(model, inputs=shapes)
    if samples is None:
        data = synthetic_dataset(analysis, config)
    else:
        data = open_dataset(samples, config, chooses=chooses)
    return Run(config, analysis, data, progress)


def check_names(config: Options) -> None:
    """Refuse a metric or a backend that no registry knows, before any work starts."""
    if isinstance(config.metric, str) and ":" not in config.metric:
        find_metric(config.metric)
    if config.target is not None and config.target.backend:
        backend(config.target.backend)
