"""One layer after the other thinned and refitted, in a model that is run as far as it is done.

Each layer sees what the thinned layers before it really give it, and is to compute what the dense
model did (``sparse.rows``). Its weights are first aimed at that with none removed, then a mask is
found for them (``sparse.select``), then those that stay are refitted (``solve.support``), which is
kept only if the error on held-out inputs falls. The layer is written back before the next one is
looked at.
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
from onnxprune.solve.support import RIDGES, affordable, refit_columns, refit_support
from onnxprune.sparse.rows import ROWS, Feeds, steadied
from onnxprune.sparse.select import aim, gram_of, select
from onnxprune.types import LayerOutcome

Bool = npt.NDArray[np.bool_]
Refit = Literal["none", "bias", "lstsq", "pcg"]


@dataclass(frozen=True)
class Settings:
    """How weights are thinned.

    Attributes:
        method: how masks are found; None is ``admm`` with data and ``magnitude`` without.
        spread: what competes with what; under N:M it has no meaning.
        refit: what becomes of the weights that stay: ``none``: nothing; ``bias``: nothing, only
            biases move; ``pcg``: conjugate gradients on the support; ``lstsq``: the same solved to
            the end, output by output, in layers that are small enough for it.
        iterations: of the conjugate gradients.
        skip: globs over names of weights that are left.
        leave: names of weights that are left, with the reason.
        tied: under N:M, thin tables that are looked up as well.
        sample: which rows are looked at.
        provider: what runs the models.
        threads: threads within an operator.
    """

    method: Method | None = None
    spread: Spread = "per-tensor"
    refit: Refit = "pcg"
    iterations: int = 20
    skip: tuple[str, ...] = ()
    leave: Mapping[str, str] = field(default_factory=dict)
    tied: bool = False
    sample: Sample = field(default_factory=lambda: Sample(rows=ROWS))
    provider: str = "cpu"
    threads: int | None = None


class Layerwise:
    """The state of one run: the model being thinned, and both models as far as they have run.

    Args:
        dense: the model before.
        work: a copy of it, which is changed.
        layers: those to thin, in the order of the graph.
        batches: feeds; none if masks are by magnitude.
        facts: shapes of the dense model's values.
        how: settings, with a method.
    """

    def __init__(
        self,
        dense: models.Model,
        work: models.Model,
        layers: Sequence[LinearLayer],
        batches: list[Feeds],
        facts: Mapping[str, Fact],
        how: Settings,
    ) -> None:
        self._batches, self._how = batches, how
        self._weights = Weights(work)
        self._values = {v.name or "": v for v in models.values(work.ir.graph)}
        self._waiting = {layer.node for layer in layers}
        self._facts = facts
        run = {"provider": how.provider, "threads": how.threads}
        self._teacher = Segments(dense, batches, **run) if batches else None  # type: ignore[arg-type]
        self._student = Segments(work, batches, **run) if batches else None  # type: ignore[arg-type]

    def thin(self, layer: LinearLayer, asked: Sparsity, count: int) -> tuple[LayerOutcome, Bool]:
        """Thin one layer, write it back, and say what became of it."""
        self._waiting.discard(layer.node)
        method = self._how.method
        assert method is not None
        per_row = self._how.spread == "per-row"
        pattern = Pattern(count / layer.size, asked.n, asked.m, per_output=per_row)
        shape = layer.tensor.shape
        done = LayerOutcome(layer.node, method, weight=layer.weight, shape=shape)
        if self._teacher is None or self._student is None:
            weight, _ = self._weights.read(layer)
            start, keep = select(layer, method, weight, None, pattern)
            self._weights.write(layer, start, keep=keep)
            return replace(done, sparsity=1 - float(keep.mean())), keep
        epilogue = find_epilogue(self._values, self._facts, layer)
        if epilogue.skip is not None and self._waiting & ancestors(self._values[epilogue.skip]):
            epilogue = epilogue.alone  # the other summand is not final yet
        run = self._teacher, self._student
        rows = moments_of(layer, epilogue, *run, self._how.sample)
        refit, before, after, keep = self._fit(layer, epilogue, rows, pattern)
        return replace(
            done, refit=refit, sparsity=1 - float(keep.mean()), before=before, after=after
        ), keep

    def _fit(
        self,
        layer: LinearLayer,
        epilogue: Epilogue,
        rows: tuple[Moments, Moments],
        pattern: Pattern,
    ) -> tuple[str, float, float, Bool]:
        train, held = rows
        method = self._how.method
        assert method is not None
        free = layer.bias_slot is not None
        weight, bias = self._weights.read(layer, epilogue)
        train, held = steadied(train, weight), steadied(held, weight)
        refits = self._how.refit in ("lstsq", "pcg")
        wanted = aim(train, weight, bias, free_bias=free) if refits else weight
        start, keep = select(layer, method, wanted, gram_of(train, free_bias=free), pattern)
        if self._how.refit == "none":
            self._weights.write(layer, self._weights.read(layer)[0], keep=keep)
            error = squared_error(held, np.where(keep, weight, 0.0), bias).sum()
            relative = float(error) / held.variance
            return "none", relative, relative, keep
        if self._how.refit == "lstsq" and affordable(keep):
            found = refit_columns(train, held, weight, keep, bias, free_bias=free)
        else:
            found = refit_support(
                train, held, weight, keep, bias,
                ridges=RIDGES if refits else (), start=start if refits else weight,
                free_bias=free, iterations=self._how.iterations,
            )  # fmt: skip
        self._weights.write(layer, found.weight, found.bias, epilogue, keep)
        kind = max(set(found.methods), key=found.methods.count)
        return kind, found.before, found.after, keep
