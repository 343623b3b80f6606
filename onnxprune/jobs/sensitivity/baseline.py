"""The dense model of a sweep: its outputs and score, and the job for the workers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import get_args

import numpy as np

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.dataset import Feeds, Part
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import (
    Evaluation,
    compare_answers,
    count_for,
    meanings_of,
    task_of,
    within,
)
from onnxprune.evaluate.metrics import Reading, score
from onnxprune.evaluate.output_comparison import Outputs
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.surgery import cut
from onnxprune.jobs.sensitivity.job import THREADS, Job, Weighing
from onnxprune.jobs.sensitivity.targets import Rows
from onnxprune.runtime import open_session
from onnxprune.select.importance.curve_cache import key

_SENDABLE = 1 << 30
"""Bytes of weights from which a model travels as a path."""
_ANSWERS = 256 << 20
"""Bytes of the dense model's answers that are kept; beyond, it is run again for every cell."""


class Dense:
    """The dense model, run once over the inputs of the sweep.

    Args:
        analysis: of it.
        samples: the inputs, with labels if there are any.
        config: provider and metric.

    Raises:
        OnnxpruneError: it does not run, or the labels do not fit.
    """

    def __init__(self, analysis: Analysis, samples: Part, config: Options) -> None:
        self.feeds = feeds = tuple(samples)
        self._analysis, self._config = analysis, config
        self._task = task = task_of(samples, config)
        self._parts = models.parts(analysis.model)
        self._session = open_session(
            analysis.model, provider=config.provider, threads=THREADS, outputs=within(self._parts)
        )
        self._meaning = meanings_of(analysis.model, task)
        self._answers = _within(self._session.run, feeds, _ANSWERS)
        self.before = None
        if task is not None:
            outputs = ({name: each[name] for name in self._parts} for each in self.answers())
            counts = [count_for(task.metric, each) for each in feeds]
            self.before = score(task.metric, outputs, task.labels, counts)
        first = compare_answers(
            self._session.run, feeds[:1], self.answers(1), parts=self._parts, meaning=self._meaning
        )
        self.metric = first.measure
        self.higher_is_better = True
        if task is not None:
            self.metric = task.metric.name
            self.higher_is_better = task.metric.higher_is_better

    def answers(self, most: int | None = None) -> Iterable[Outputs]:
        """What it answers to the first feeds: as kept, or run again where that is too much."""
        if self._answers is not None:
            return self._answers[:most]
        return (self._session.run(each) for each in self.feeds[:most])

    @property
    def nameless(self) -> bool:
        """Whether what is measured follows from a user's function, which no key can name."""
        return self._task is not None and self._task.metric.kind == "function"

    def job(self, rows: Rows) -> Job:
        """The job for workers that measure the cells of these rows."""
        model = self._analysis.model
        large = models.size_bytes(model) > _SENDABLE and model.path is not None
        labels = None if self._task is None else self._task.labels
        orders = {t.name: np.array(t.order, np.int64) for t in rows.targets if t.order}
        weighing = weighing_of(self._config)
        settings = {
            "provider": self._config.provider,
            "metric": self.metric,
            "labels": None if labels is None else (labels.shape, labels.tobytes()),
            "orders": [(name, order.tolist()) for name, order in orders.items()],
            "norms": [(name, norm.tobytes()) for name, norm in rows.norms.items()],
            "weighing": weighing,
        }
        name = key(self._analysis, self._analysis.groups, self.feeds, settings)
        return Job(
            key=uuid.uuid4().hex if self.nameless else name,
            model=model.path.absolute() if large and model.path else _bytes(model),
            shapes=dict(self._analysis.inputs[0]),
            orders=orders,
            blocks=tuple(t.name for t in rows.targets if t.kind == "block"),
            norms=rows.norms,
            weighing=weighing,
            feeds=self.feeds,
            answers=self._answers,
            labels=labels,
            metric=self._config.metric,
            reading=Reading() if self._task is None else self._task.metric.reading,
            before=self.before,
            provider=self._config.provider,
        )

    def without(self, removed: Mapping[str, Sequence[int]]) -> Evaluation:
        """The model without some units compared with the dense one, nothing refitted.

        Raises:
            OnnxpruneError: they cannot go together.
        """
        small = cut(self._analysis, removed)
        parts = models.shared_parts(self._analysis.model, small)
        session = open_session(
            small, provider=self._config.provider, threads=THREADS, outputs=within(parts)
        )
        answers = self.answers()
        return compare_answers(
            session.run, self.feeds, answers, self._task, self.before, parts, self._meaning
        )


def weighing_of(config: Options) -> Weighing:
    """How single weights are chosen.

    Raises:
        OnnxpruneError: a sweep does not know the method.
    """
    methods: tuple[Weighing, ...] = get_args(Weighing)
    for each in methods:
        if each == (config.sparse_method or "wanda"):
            return each
    raise OnnxpruneError(
        f"a sweep does not choose weights by {config.sparse_method}, which refits them",
        hint=f"take --sparse-method {', '.join(methods[:-1])} or {methods[-1]}",
    )


def _within(
    run: Callable[[Feeds], Outputs], feeds: Sequence[Feeds], most: int
) -> tuple[Outputs, ...] | None:
    """All answers, or None where they are more than so many bytes."""
    answers: list[Outputs] = []
    size = 0
    for each in feeds:
        answers.append(run(each))
        size += sum(getattr(array, "nbytes", 0) for array in answers[-1].values())
        if size > most:
            return None
    return tuple(answers)


def _bytes(model: models.Model) -> bytes:
    data: bytes = models.to_proto(model).SerializeToString()
    return data
