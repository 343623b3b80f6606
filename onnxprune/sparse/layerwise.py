"""One layer after the other made sparse and refitted, in a model that runs no further than needed.

Each layer reads what the sparse layers before it give it, and is to compute what the dense model
did. Its weights are first refitted to that with none removed, then a mask is found for them
(``sparse.select``), then the remaining weights are refitted (``solve.support``), which is kept only
if the error on held-out inputs falls. The layer is written back before the next one is observed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import Sample, moments_of, part_of
from onnxprune.data.activations.runner import Segments
from onnxprune.graph.layers.applications import (
    biases_of,
    common_epilogues,
    find_applications,
    write_applications,
)
from onnxprune.graph.layers.epilogue import Epilogue, Weights
from onnxprune.graph.layers.linear import LinearLayer, find_layers
from onnxprune.graph.layers.sources import ancestors
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Method, Sparsity, Spread
from onnxprune.solve.joint import JointMoments
from onnxprune.solve.moments import Moments, squared_error
from onnxprune.solve.obs import Pattern
from onnxprune.solve.refit import Refit
from onnxprune.solve.support import RIDGES, affordable, refit_support
from onnxprune.sparse.rows import ROWS, Feeds, steadied
from onnxprune.sparse.select import gram_of, refit_dense, select
from onnxprune.types import LayerOutcome

Bool = npt.NDArray[np.bool_]
Float = npt.NDArray[np.float64]
Recovery = Literal["none", "bias", "lstsq", "pcg"]


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
    refit: Recovery = "pcg"
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
        applications: the layers that apply its weight, each with where its output counts.
        train: moments of the rows that may be fitted to.
        holdout: moments of other rows, that decide.
        weight: ``[g, K, N]``, in units of the epilogues.
        bias: ``[g, N]``; of several applications what a fit starts from.
        free: whether a fit has a bias to change.
        joint: the moments of several applications, whose biases follow from a fit.
    """

    applications: tuple[tuple[LinearLayer, Epilogue], ...]
    train: Moments
    holdout: Moments
    weight: Float
    bias: Float
    free: bool
    joint: JointMoments | None = None

    @property
    def error(self) -> float:
        """The error of several applications as they are, over the variance of the targets."""
        assert self.joint is not None
        return self.joint.error / self.holdout.variance


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
        joint, _ = find_applications(find_layers(work))
        self._joint = {layer.node: joint.get(layer.node, (layer,)) for layer in layers}
        self._place = {
            each.node: k for k, layer in enumerate(layers) for each in self._joint[layer.node]
        }
        self._model = work
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

    def observe(self, layer: LinearLayer, *, free: bool = True) -> Observation | None:
        """Run both models as far as a layer needs, and the others that apply its weight.

        None without inputs to run them on, and for a layer that is too wide for the memory budget.

        Args:
            layer: one of the layers.
            free: whether biases of several applications may change.
        """
        if self._runs is None or not self._sample.memory.fits(*layer.shape[:2]):
            return None
        layers = self._joint[layer.node]
        ends = common_epilogues(self.values, self._facts, layers)
        ends = [
            end if end.skip is None or self._is_final(end.skip, layer) else end.alone
            for end in ends
        ]
        weight, bias = self.weights.read(layer, ends[0])
        applications = tuple(zip(layers, ends, strict=True))
        if len(layers) == 1:
            rows = moments_of(layer, ends[0], *self._runs, self._sample)
            train, holdout = (steadied(part, weight) for part in rows)
            has_bias = layer.bias_slot is not None
            return Observation(applications, train, holdout, weight, bias, has_bias)
        joint = JointMoments(weight, biases_of(self._model, layers) if free else "fixed")
        sample = part_of(self._sample, len(layers))
        for each, end in applications:
            old = self.weights.read(each, end)[1]
            joint.add(*moments_of(each, end, *self._runs, sample), old)
        train, holdout = (steadied(part, weight) for part in (joint.train, joint.holdout))
        return Observation(applications, train, holdout, weight, joint.bias, joint.free, joint)

    def _is_final(self, skip: str, layer: LinearLayer) -> bool:
        """Whether no later layer changes a summand, nor the layer itself."""
        place = self._place[layer.node]
        return not any(self._place.get(node, -1) >= place for node in ancestors(self.values[skip]))

    def applications(self, layer: LinearLayer) -> tuple[LinearLayer, ...]:
        """All layers that apply the weight of one."""
        return self._joint[layer.node]

    def judged(self, layer: LinearLayer, data: Observation, fit: Refit) -> Refit:
        """What became of a fit to inputs that have changed with it; undone where it does not help.

        Args:
            layer: an application of its weight depends on another.
            data: what was fitted to.
            fit: the fit, which is written.
        """
        now = self.observe(layer)
        if now is not None and now.error < data.error:
            return replace(fit, after=now.error)
        assert data.joint is not None
        write_applications(self.weights, data.applications, data.weight, data.joint.old)
        self.rerun(data)
        return replace(fit, after=fit.before, accepted=False)

    def loops(self, layer: LinearLayer) -> bool:
        """Whether an application of the weight of a layer depends on another."""
        layers = self._joint[layer.node]
        nodes = {each.node for each in layers}
        return len(layers) > 1 and any(nodes & ancestors(self.values[each.x]) for each in layers)

    def depends(self, layer: LinearLayer, changed: Collection[str]) -> bool:
        """Whether some nodes or values are among, or in front of, the applications of a layer."""
        return any(
            not (ancestors(self.values[each.x]) | {each.node, each.y}).isdisjoint(changed)
            for each in self._joint[layer.node]
        )

    def rerun(self, data: Observation) -> None:
        """Compute anew what has been computed with another weight."""
        if self._runs is not None:
            self._runs[1].rerun(layer.node for layer, _ in data.applications)

    def write(self, data: Observation, fit: Refit, keep: Bool, *, biases: bool = True) -> None:
        """Write a fit to all applications of a weight.

        Args:
            data: what was fitted to.
            fit: the fit.
            keep: ``[g, K, N]``; everything else becomes zero.
            biases: whether biases are written, too.
        """
        bias, joint = [fit.bias], data.joint
        if joint is not None:
            bias = joint.fitted(np.where(keep, fit.weight, 0.0), fit.bias)
        common = joint is not None and joint.biases == "common"
        write_applications(
            self.weights, data.applications, fit.weight, bias if biases else None, keep,
            common=common,
        )  # fmt: skip
        self.rerun(data)


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
    data = run.observe(layer, free=settings.refit != "none")
    if data is None:
        weight, _ = run.weights.read(layer)
        if method != "magnitude":  # there are data, and the layer is too wide for them
            method, why = "magnitude", settings.sample.memory.why(layer.shape[1])
            outcome = replace(outcome, method=method, reason=why)
        start, keep = select(layer, method, weight, None, pattern)
        run.weights.write(layer, start, keep=keep)
        return replace(outcome, sparsity=1 - float(keep.mean())), keep
    train, holdout, weight, bias = data.train, data.holdout, data.weight, data.bias
    refits = settings.refit in ("lstsq", "pcg")
    goal = refit_dense(train, weight, bias, free_bias=data.free) if refits else weight
    start, keep = select(layer, method, goal, gram_of(train, free_bias=data.free), pattern)
    outcome = replace(outcome, sparsity=1 - float(keep.mean()))
    if settings.refit == "none":
        run.weights.write(layer, run.weights.read(layer)[0], keep=keep)
        run.rerun(data)
        error = float(squared_error(holdout, np.where(keep, weight, 0.0), bias).sum())
        relative = error / holdout.variance
        return replace(outcome, refit="none", before=relative, after=relative), keep

    def solve(data: Observation, weight: Float, start: Float) -> Refit:
        return refit_support(
            data.train, data.holdout, weight, keep, data.bias,
            ridges=RIDGES if refits else (), start=start,
            exact=settings.refit == "lstsq" and affordable(keep),
            free_bias=data.free, iterations=settings.iterations,
        )  # fmt: skip

    fit = solve(data, weight, start if refits else weight)
    run.write(data, fit, keep)
    outcome = replace(outcome, refit=fit.method, before=fit.before, after=fit.after)
    if run.loops(layer) and (data := run.observe(layer)) is not None:
        again = refit_again(run, data, solve(data, weight, data.weight), keep)
        outcome = replace(outcome, after=again)
    return outcome, keep


def refit_again(run: Layerwise, data: Observation, fit: Refit, keep: Bool) -> float:
    """Write a fit to the inputs that a weight now has which are computed with itself, if it helps.

    Args:
        run: the model that is changed; its weight is not what its inputs were fitted with.
        data: its inputs since.
        fit: a fit to these.
        keep: ``[g, K, N]``, the mask.

    Returns:
        The error on held-out rows, over the variance of the targets.
    """
    if fit.after >= data.error:
        return data.error
    run.write(data, fit, keep)
    return fit.after
