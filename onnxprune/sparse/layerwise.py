"""One layer after the other made sparse and refitted, in a model that runs no further than needed.

Each layer reads what the sparse layers before it give it, and is to compute what the dense model
did. Its weights are first refitted to that with none removed, then a mask is found for them
(``sparse.select``), then the remaining weights are refitted (``solve.support``), which is kept only
if the error on held-out inputs falls. The layer is written back before the next one is observed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample, moments_of
from onnxprune.data.activations.runner import Segments
from onnxprune.graph.layers.epilogue import Epilogue, Weights, find_epilogue
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.layers.sources import ancestors
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Method, Sparsity, Spread
from onnxprune.solve.moments import Moments, squared_error
from onnxprune.solve.obs import Pattern
from onnxprune.solve.support import RIDGES, affordable, refit_support
from onnxprune.sparse.rows import ROWS, Feeds, steadied
from onnxprune.sparse.select import gram_of, refit_dense, select
from onnxprune.types import LayerOutcome

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Refit = Literal["none", "bias", "lstsq", "pcg"]


@dataclass(frozen=True)
class Settings:
    """How weights are set to zero.

    Attributes:
        method: how masks are found; None is ``admm`` with data and ``magnitude`` without.
        allocation: which weights compete with each other; without meaning under N:M.
        refit: what becomes of the remaining weights: ``none``: nothing; ``bias``: nothing, only
            biases change; ``pcg``: conjugate gradients on the support; ``lstsq``: the exact
            solution, output by output, in layers that are small enough for it.
        iterations: steps of the conjugate gradients.
        skip: globs over names of weights that stay dense.
        exclude: names of weights that stay dense, with the reason.
        tied: under N:M, also change tables that are looked up.
        sample: which rows are drawn.
        provider: what runs the models.
        threads: threads within an operator.
    """

    method: Method | None = None
    allocation: Spread = "per-tensor"
    refit: Refit = "pcg"
    iterations: int = 20
    skip: tuple[str, ...] = ()
    exclude: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    sample: Sample = field(default_factory=lambda: Sample(rows=ROWS))
    provider: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class Observation:
    """What one layer reads and should compute, once all layers before it are final.

    Attributes:
        epilogue: where its output counts.
        train: moments of the rows that may be fitted to.
        holdout: moments of other rows, that decide.
        weight: ``[g, K, N]``, in units of ``epilogue``.
        bias: ``[g, N]``.
    """

    epilogue: Epilogue
    train: Moments
    holdout: Moments
    weight: Float
    bias: Float


class Layerwise:
    """A dense model and a copy that is being changed, both as far as they have run.

    Args:
        dense: the dense model.
        work: the copy.
        layers: layers that may change, in graph order.
        batches: feeds; without any, nothing can be observed.
        facts: shapes of the dense model's values.
        sample: which rows are looked at.
        provider: what runs the models.
        threads: threads within an operator.

    Attributes:
        weights: weights of the copy.
        values: values of the copy, by name.
    """

    def __init__(
        self,
        dense: models.Model,
        work: models.Model,
        layers: Sequence[LinearLayer],
        batches: Sequence[Feeds],
        facts: Mapping[str, Fact],
        sample: Sample,
        *,
        provider: str = "cpu",
        threads: int | None = None,
    ) -> None:
        self.weights = Weights(work)
        self.values = {v.name or "": v for v in models.values(work.ir.graph)}
        self._place = {layer.node: k for k, layer in enumerate(layers)}
        self._facts, self._sample = facts, sample
        self._runs: tuple[Segments, Segments] | None = None
        if batches:
            teacher, student = (
                Segments(
                    each, batches, provider=provider, threads=threads, most=sample.memory.values
                )
                for each in (dense, work)
            )
            self._runs = teacher, student

    def observe(self, layer: LinearLayer) -> Observation | None:
        """Run both models as far as a layer needs.

        None without inputs to run them on, and for a layer that is too wide for the memory budget.
        """
        if self._runs is None or not self._sample.memory.fits(*layer.shape[:2]):
            return None
        epilogue = find_epilogue(self.values, self._facts, layer)
        later = {node for node, k in self._place.items() if k > self._place[layer.node]}
        if epilogue.skip is not None and later & ancestors(self.values[epilogue.skip]):
            epilogue = epilogue.alone  # the other summand is not final yet
        rows = moments_of(layer, epilogue, *self._runs, self._sample)
        weight, bias = self.weights.read(layer, epilogue)
        train, holdout = (steadied(part, weight) for part in rows)
        return Observation(epilogue, train, holdout, weight, bias)


def sparsify_layer(
    run: Layerwise, layer: LinearLayer, sparsity: Sparsity, count: int, settings: Settings
) -> tuple[LayerOutcome, Bool]:
    """Set weights of one layer to zero, refit the others, and write the layer back.

    Args:
        run: the model that is being sparsified.
        layer: layer of that model.
        sparsity: the pattern asked for.
        count: how many of its weights become zero.
        settings: settings with a method.

    Returns:
        What became of the layer, and its mask ``[g, K, N]``.
    """
    method = settings.method
    assert method is not None
    per_row = settings.allocation == "per-row"
    pattern = Pattern(count / layer.size, sparsity.n, sparsity.m, per_output=per_row)
    outcome = LayerOutcome(layer.node, method, weight=layer.weight, shape=layer.tensor.shape)
    layer_data = run.observe(layer)
    if layer_data is None:
        weight, _ = run.weights.read(layer)
        if method != "magnitude":  # there are data, and the layer is too wide for them
            method, why = "magnitude", settings.sample.memory.why(layer.shape[1])
            outcome = replace(outcome, method=method, reason=why)
        start, keep = select(layer, method, weight, None, pattern)
        run.weights.write(layer, start, keep=keep)
        return replace(outcome, sparsity=1 - float(keep.mean())), keep
    train, holdout, weight, bias = (
        layer_data.train,
        layer_data.holdout,
        layer_data.weight,
        layer_data.bias,
    )
    free = layer.bias_slot is not None
    refits = settings.refit in ("lstsq", "pcg")
    goal = refit_dense(train, weight, bias, free_bias=free) if refits else weight
    start, keep = select(layer, method, goal, gram_of(train, free_bias=free), pattern)
    outcome = replace(outcome, sparsity=1 - float(keep.mean()))
    if settings.refit == "none":
        run.weights.write(layer, run.weights.read(layer)[0], keep=keep)
        error = float(squared_error(holdout, np.where(keep, weight, 0.0), bias).sum())
        relative = error / holdout.variance
        return replace(outcome, refit="none", before=relative, after=relative), keep
    fit = refit_support(
        train, holdout, weight, keep, bias,
        ridges=RIDGES if refits else (), start=start if refits else weight,
        exact=settings.refit == "lstsq" and affordable(keep),
        free_bias=free, iterations=settings.iterations,
    )  # fmt: skip
    run.weights.write(layer, fit.weight, fit.bias, layer_data.epilogue, keep)
    return replace(outcome, refit=fit.method, before=fit.before, after=fit.after), keep
