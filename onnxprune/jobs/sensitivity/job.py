"""Everything that measuring a cell takes, as one value that can be sent, and the measuring."""

from __future__ import annotations

import pickle
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx

from onnxprune import model as models
from onnxprune.data.batches import count_samples
from onnxprune.data.dataset import Feeds
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import Task, compare_answers, meanings_of, within
from onnxprune.evaluate.metrics import Reading, Score, find_metric
from onnxprune.evaluate.output_comparison import Outputs
from onnxprune.graph.analysis import analyse
from onnxprune.graph.layers.linear import find_layers, refittable
from onnxprune.graph.plan import pack
from onnxprune.graph.surgery import cut
from onnxprune.model.decode import densify
from onnxprune.runtime import open_session
from onnxprune.select.sensitivity import Cell
from onnxprune.solve import masks
from onnxprune.sparse.zeros import zero

I64 = npt.NDArray[np.int64]
Array = npt.NDArray[Any]
Weighing = Literal["magnitude", "wanda", "ria"]
"""Importance of single weights, from one look at the layer."""

THREADS = 1
"""Threads of every run: sums come out the same wherever they are made, and cells fill the cores."""


@dataclass(frozen=True, eq=False)
class Job:
    """The part of a sweep that workers need to measure cells.

    Attributes:
        key: names everything that the cells follow from.
        model: serialised, or the path of one that is too large to send.
        shapes: the input shapes it is analysed at.
        orders: by group, its units, the first to leave first.
        blocks: names of the blocks that are bypassed.
        norms: by stored weight, root mean squares ``[g, K]`` of its inputs.
        weighing: how the importance of single weights is computed.
        feeds: inputs of every model.
        answers: outputs of the dense model; None where they are too large to keep.
        labels: of the samples, or None.
        metric: as the user wrote it.
        reading: of the outputs, for the metric.
        before: the dense model's score; None without labels.
        provider: execution provider of the models.
    """

    key: str
    model: bytes | Path
    shapes: Mapping[str, tuple[int, ...]]
    orders: Mapping[str, I64]
    blocks: tuple[str, ...]
    norms: Mapping[str, Array]
    weighing: Weighing
    feeds: tuple[Feeds, ...]
    answers: tuple[Outputs, ...] | None
    labels: Array | None
    metric: str | Callable[..., float]
    reading: Reading
    before: Score | None
    provider: str

    def packed(self) -> bytes:
        """The job as bytes that :func:`unpacked` reads.

        Raises:
            OnnxpruneError: the metric is a function that cannot be sent anywhere.
        """
        try:
            return pickle.dumps(self, protocol=5)
        except (pickle.PicklingError, AttributeError, TypeError) as error:
            raise OnnxpruneError(
                f"the sweep cannot be sent to other processes: {error}",
                hint="give the metric as module.py:function, or use one process (--workers 1)",
            ) from error


def unpacked(data: bytes) -> Job:
    """The job that :meth:`Job.packed` packed."""
    job: Job = pickle.loads(data)  # noqa: S301 made by this program for itself
    return job


class Bench:
    """A job with its model analysed, where cells can be measured."""

    def __init__(self, job: Job) -> None:
        self._job = job
        if isinstance(job.model, bytes):
            model = models.load(onnx.load_model_from_string(job.model))
        else:
            model, _ = densify(models.load(job.model))
        self._analysis = analyse(model, inputs=job.shapes)
        layers = refittable(find_layers(model)) if job.norms else []
        self._layers = {layer.weight: layer for layer in layers}
        labels, metric = job.labels, find_metric(job.metric, job.reading)
        self._task = None if labels is None else Task(metric, labels)
        self._dense = None
        if job.answers is None:
            inner = within(models.parts(model))
            self._dense = open_session(model, provider=job.provider, threads=THREADS, outputs=inner)
        self._making = threading.Lock()

    def measure(self, target: str, ratio: float) -> Cell:
        """Prune one target and evaluate the result; a cell has a reason if that fails."""
        try:
            with self._making:  # reading tensors is Python's work, running models is not
                model, removed = self.variant(target, ratio)
            parts = models.shared_parts(self._analysis.model, model)
            session = open_session(
                model, provider=self._job.provider, threads=THREADS, outputs=within(parts)
            )
            evaluation = compare_answers(
                session.run,
                self._job.feeds,
                self._reference(),
                self._task,
                self._job.before,
                parts,
                meanings_of(self._analysis.model, self._task),
            )
        except OnnxpruneError as error:
            return Cell(target, ratio, reason=error.message)
        main = evaluation.main
        return Cell(
            target=target,
            ratio=ratio,
            removed=removed,
            value=evaluation.value,
            drop=evaluation.drop,
            drop_error=evaluation.drop_error,
            kl=main.kl,
            cosine=main.cosine,
            relative_error=main.relative_error,
        )

    def variant(self, target: str, ratio: float) -> tuple[models.Model, int]:
        """The dense model with one target pruned, and how many units or entries went.

        Groups and blocks are cut, not masked: that is what pruning does, it runs faster than a
        masked model, and it is right for groups whose removal changes a normalisation too.

        Raises:
            OnnxpruneError: the graph cannot follow the cut.
        """
        job = self._job
        if target in job.orders:
            order = job.orders[target]
            removed = masks.removed_count(len(order), ratio)
            return cut(self._analysis, {target: order[:removed].tolist()}), removed
        if target in job.blocks:
            return cut(self._analysis, {}, (target,)), 1
        layer, norms = self._layers[target], job.norms[target][:, :, None]
        stored = self._analysis.constants[target]
        tensor = models.constant(stored)
        assert tensor is not None
        matrix = layer.matrix(tensor.numpy().astype(np.float64))
        keep = layer.stored(weigh(matrix, norms, job.weighing, ratio))
        masked = zero(self._analysis.model, {target: pack(keep)})
        return masked, int(keep.size - np.count_nonzero(keep))

    def _reference(self) -> Iterable[Outputs]:
        if self._job.answers is not None:
            return self._job.answers
        assert self._dense is not None
        return (self._dense.run(feeds) for feeds in self._job.feeds)


def weigh(matrix: Array, norms: Array, weighing: Weighing, ratio: float) -> npt.NDArray[np.bool_]:
    """Which entries ``[g, K, N]`` of a layer stay.

    By magnitude they compete within the tensor; ``wanda`` and ``ria`` compare the inputs of one
    output, as their papers do.
    """
    if weighing == "magnitude":
        return masks.keep_top(masks.magnitude(matrix), ratio)
    if weighing == "wanda":
        scores = masks.wanda(matrix, norms)
    else:
        scores = np.stack(
            [masks.ria(w, n, inputs=(0,)) for w, n in zip(matrix, norms, strict=True)]
        )
    return masks.keep_top(scores, ratio, within=(1,))


def samples_of(feeds: Sequence[Feeds]) -> int:
    """How many inputs some feeds hold."""
    return sum(map(count_samples, feeds))
