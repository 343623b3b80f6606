"""A model with its weights outside, so that they can be changed between runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.runner import Feeds
from onnxprune.data.batches import token_masks, unpadded_rows
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.output_comparison import (
    is_distribution,
    is_independent,
    is_scores,
    log_probabilities,
)
from onnxprune.graph.analysis import identity
from onnxprune.graph.autodiff import Loss, backward, set_free
from onnxprune.graph.emit import Undifferentiable
from onnxprune.graph.layers.linear import LinearLayer, find_layers, refittable, users
from onnxprune.graph.shapes import propagate
from onnxprune.runtime import Session, open_session
from onnxprune.solve.im2col import sample_positions

Array = npt.NDArray[Any]

_ENOUGH = 4096
"""Rows that the mean of a layer's inputs is taken from."""


def losses_of(model: models.Model, values: Mapping[str, Array]) -> tuple[Loss, ...]:
    """The loss of each value: divergence for class scores, squared error for others.

    Args:
        model: whose values they are.
        values: by name; those that are no 32-bit floats are left out. A part of an output is not
            taken for class scores.
    """
    outputs = {value.name for value in model.ir.graph.outputs}

    def scores(name: str, array: Array) -> bool:
        probabilities = is_distribution(array) or is_independent(array)
        return name in outputs and is_scores(array) and not probabilities

    return tuple(
        Loss(name, "kl" if scores(name, array) else "square")
        for name, array in values.items()
        if getattr(array, "dtype", None) == np.float32  # sequences and maps have none
    )


def visible(wanted: Array, feeds: Feeds) -> Array:
    """``[..., 1]``: 1 for the rows of an output that count, 0 for those that are padding."""
    for there in token_masks(feeds).values():
        if wanted.ndim > 2 and there.shape == wanted.shape[:2]:
            shown = there.reshape(there.shape + (1,) * (wanted.ndim - 2))
            return np.broadcast_to(shown, (*wanted.shape[:-1], 1)).astype(np.float32)
    return np.ones((*wanted.shape[:-1], 1), np.float32)


def distance(loss: Loss, wanted: Array, outputs: Array, rows: Array) -> float:
    """The loss added up over the rows that count."""
    if loss.kind == "square":
        return float((np.square(outputs.astype(np.float64) - wanted) * rows).sum())
    reference, other = (log_probabilities(x, distribution=False) for x in (wanted, outputs))
    return float((np.exp(reference) * (reference - other) * rows).sum())


class Student:
    """A model whose linear layers can be trained.

    Args:
        model: it is left as it is.
        names: stored weights to train, with the biases of their layers.
        losses: on its outputs or other values.
        feeds: inputs of the largest size to come.
        provider: execution provider.
        threads: within an operator.

    Attributes:
        losses: as given.
        layers: the trainable ones.
        weights: all weights that are outside, by name.
        trained: names of the trainable weights.
        work: multiply-adds of the layers in one step, the teacher's included.
        stopped: node -> reason why no gradient passes it.

    Raises:
        OnnxpruneError: no gradient of any of the weights can be computed.
    """

    def __init__(
        self,
        model: models.Model,
        names: Sequence[str],
        losses: Sequence[Loss],
        feeds: Feeds,
        provider: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self._model, self.losses = model, tuple(losses)
        self._provider, self._threads = provider, threads
        stored = models.constants(model)
        candidates = [
            layer for layer in refittable(find_layers(model)) if layer.weight in set(names)
        ]
        nodes = {layer.node for layer in candidates}
        layers = [
            layer
            for layer in candidates
            if _read_by(stored[layer.weight], nodes)
            and models.array_of(stored[layer.weight]).dtype == np.float32
        ]
        facts = propagate(model, {name: array.shape for name, array in feeds.items()})
        free = dict.fromkeys(layer.weight for layer in layers)
        biases = [layer.bias for layer in layers if layer.bias and _own(stored[layer.bias])]
        free |= dict.fromkeys(biases)
        try:
            derivative = backward(model, facts, losses, [*free], [*free])
        except Undifferentiable as error:
            raise OnnxpruneError(f"its outputs cannot be compared: {error}") from error
        self.layers = tuple(layer for layer in layers if layer.weight in derivative.gradients)
        self.work = 4 * sum(
            x.count(sizes) * models.array_of(stored[x.weight]).size
            for x in self.layers
            if (sizes := facts[x.x].sizes) is not None
        )
        self.stopped = derivative.stopped
        if not self.layers:
            node, why = next(iter(derivative.stopped.items()), ("", "nothing leads to its outputs"))
            raise OnnxpruneError(f"its layers have no gradient: {node}: {why}".replace(": :", ":"))
        self.biases = {bias for bias in biases if bias in derivative.gradients}
        self.weights = {name: models.array_of(stored[name]) for name in free}
        self.trained = [name for name in free if name in derivative.gradients]
        self._facts, self._made = facts, derivative
        ends = [loss.output for loss in self.losses]
        self._forward = open_session(
            _opened(model, free), provider=provider, threads=threads, outputs=ends
        )

    def run(self, feeds: Feeds, weights: Mapping[str, Array]) -> dict[str, Array]:
        """The values that losses are on, under given weights."""
        return self._forward.run({**feeds, **weights}, [loss.output for loss in self.losses])

    def inputs(
        self,
        feeds: Feeds,
        targets: Mapping[str, Array],
        share: Mapping[str, float],
        weights: Mapping[str, Array],
    ) -> dict[str, Array]:
        """The inputs of the gradients below.

        Args:
            feeds: one batch.
            targets: of its outputs.
            share: weight of each loss, which is averaged over rows.
            weights: all that are outside, by name.
        """
        inputs: dict[str, Array] = {**feeds, **weights}
        for loss in self.losses:
            rows = visible(targets[loss.output], feeds)
            count = max(rows.sum(), 1)
            inputs[loss.wanted] = targets[loss.output]
            inputs[loss.weight] = rows * np.float32(share.get(loss.output, 0.0) / count)
        return inputs

    def gradients(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The gradient of the sum of losses with respect to everything that is trained."""
        outputs = self._to_weights.run(inputs)
        return {name: outputs[gradient] for name, gradient in self._made.gradients.items()}

    def gradients_of_outputs(
        self, inputs: Mapping[str, Array]
    ) -> Iterator[tuple[LinearLayer, Array]]:
        """Each layer with the gradient of its output, ``[g, rows, N]``."""
        session, names = self._to_outputs
        outputs = session.run(inputs)
        for layer in self.layers:
            yield layer, layer.targets(outputs[names[layer.y]])

    @functools.cached_property
    def _to_weights(self) -> Session:
        return open_session(self._made.model, provider=self._provider, threads=self._threads)

    @functools.cached_property
    def _to_outputs(self) -> tuple[Session, Mapping[str, str]]:
        ends = [layer.y for layer in self.layers]
        derivative = backward(self._model, self._facts, self.losses, ends, [*self.weights])
        session = open_session(derivative.model, provider=self._provider, threads=self._threads)
        return session, derivative.gradients

    def means(self, feeds: Feeds) -> dict[str, Array]:
        """The mean of what each layer multiplies, ``[g, K, 1]``, by node."""
        names = dict.fromkeys(layer.x for layer in self.layers if layer.x not in feeds)
        session = open_session(
            self._model, provider=self._provider, threads=self._threads, outputs=[*names]
        )
        values = {**feeds, **session.run(feeds, [*names])}
        means = {}
        for layer in self.layers:
            x = values[layer.x]
            masks = {} if layer.window or layer.stack else token_masks(feeds)
            among = unpadded_rows(masks, x.shape, layer.axis)
            rows = layer.rows(x, sample_positions(layer.count(x.shape), _ENOUGH, 0, among))
            means[layer.node] = rows.mean(axis=1)[:, :, None]
        return means

    def with_weights(self, weights: Mapping[str, Array]) -> models.Model:
        """A copy of the model with other weights."""
        copy = models.clone(self._model)
        stored = models.constants(copy)
        for name in self.trained:
            models.set_constant(stored[name], weights[name])
        return copy


def _read_by(value: ir.Value, layers: set[str]) -> bool:
    """Whether nothing but layers computes with a stored weight."""
    return all(node is not None and identity(node) in layers for node, _ in users(value))


def _own(value: ir.Value) -> bool:
    alone = len(value.uses()) == 1 and not value.is_graph_output()
    return alone and models.array_of(value).dtype == np.float32


def _opened(model: models.Model, free: Mapping[str, None]) -> models.Model:
    """A copy that takes weights as inputs."""
    work = models.clone(model)
    values = {v.name or "": v for v in models.values(work.ir.graph)}
    for name in free:
        set_free(work.ir.graph, values, name)
    return work
