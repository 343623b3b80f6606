"""Reconstruction after structured pruning: every layer refitted to what the dense model computed.

Front to back. Each layer sees the inputs it really gets from the pruned layers before it, is fitted
to the outputs of the dense model, and is written back before the next one is looked at, so errors
are not carried on but made up for. Where a layer's output is added to a residual stream the target
is the dense sum minus the pruned other summand, which also makes up for errors that the stream
already carries (He, Zhang and Sun, "Channel pruning for accelerating very deep neural networks",
ICCV 2017). Where only an elementwise function lies between a layer and the one before it, the two
are refitted together (``solve.pairs``).

Every refit is judged on held-out inputs and declined where it does not help.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxprune import model as models
from onnxprune.linear.between import Maker
from onnxprune.linear.segments import Feeds, Segments
from onnxprune.linear.weights import Weights
from onnxprune.recover.measure import Sample, moments_of, pair_rows
from onnxprune.recover.normalisation import Turn, plan_turns
from onnxprune.recover.steps import Kept, Step, plan_steps
from onnxprune.shapes import Fact
from onnxprune.solve.chain import Pair, Rows, hidden_moments
from onnxprune.solve.filters import Filter
from onnxprune.solve.gram import Moments
from onnxprune.solve.pairs import refit_pair
from onnxprune.solve.refit import RIDGES, refit


@dataclass(frozen=True)
class Settings:
    """How layers are refitted.

    Attributes:
        sample: which rows are looked at.
        producers: also refit layers that lost no input but whose inputs have changed.
        pairs: refit layers together with the ones before them; the number of steps, 0 for never.
        ridges: candidates, see ``solve.refit``.
        provider: what runs the models.
        threads: threads within an operator.
    """

    sample: Sample = field(default_factory=Sample)
    producers: bool = True
    pairs: int = 6
    ridges: tuple[float, ...] = RIDGES
    provider: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of one layer.

    Attributes:
        node: the layer.
        method: what won: ``none`` (declined), ``bias``, ``scale``, ``lstsq`` or ``pair``; of a
            normalisation ``bias``, ``scale``, ``affine`` or ``statistics``.
        before: relative squared error on held-out samples as it was cut.
        after: the same as it is now.
        reason: why it was not refitted at all; empty if it was tried.
    """

    node: str
    method: str = "none"
    before: float = 0.0
    after: float = 0.0
    reason: str = ""


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """A pruned model with its layers refitted, and what became of each."""

    model: models.Model
    outcomes: tuple[Outcome, ...]


def reconstruct(
    dense: models.Model,
    pruned: models.Model,
    kept: Kept,
    facts: Mapping[str, Fact],
    batches: Sequence[Feeds],
    settings: Settings | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Reconstruction:
    """Refit the layers of a pruned model.

    Args:
        dense: the model before pruning.
        pruned: the model after; node and value names are those of the dense one.
        kept: which indices of the dense model's axes are left.
        facts: shapes in the dense model.
        batches: feeds; at least one.
        settings: see there.
        tell: told which layer is being worked on.

    Returns:
        A new model; ``pruned`` is left as it is.
    """
    how = settings or Settings()
    work = models.clone(pruned)
    problem = (dense, work, kept, facts)
    steps, declined = plan_steps(*problem, producers=how.producers, pairs=how.pairs > 0)
    teacher = Segments(dense, batches, provider=how.provider, threads=how.threads)
    student = Segments(work, batches, provider=how.provider, threads=how.threads)
    weights = Weights(work)
    turns, left = plan_turns(*problem, steps)
    outcomes = [Outcome(node, reason=why) for node, why in (declined | left).items()]
    for number, step in enumerate(turns, start=1):
        tell(f"recovering layer {number} of {len(turns)}: {step.node}")
        if isinstance(step, Turn):
            found = step.renormalise(teacher, student, work, how.sample)
            outcomes.append(Outcome(step.node, *found))
            continue
        maker = step.maker
        teacher.advance([step.merge.value])
        student.advance(
            [(maker.layer if maker else step.layer).x]
            + ([step.merge.skip] if step.merge.skip else [])
        )
        if maker is not None:
            parts = pair_rows(step, maker, teacher, student, how.sample)
            outcomes.append(_refit_together(step, maker, parts, weights, how))
        else:
            train, held = moments_of(step, teacher, student, how.sample)
            outcomes.append(_refit(step, train, held, weights, how))
    return Reconstruction(work, tuple(outcomes))


def _refit(step: Step, train: Moments, held: Moments, weights: Weights, how: Settings) -> Outcome:
    """Fit one layer and write it back if that helps."""
    layer, merge = step.layer, step.merge
    matrix, bias = weights.read(layer, merge)
    free = layer.bias_slot is not None
    found = refit(train, held, matrix, bias, free_bias=free, ridges=how.ridges)
    if found.accepted:
        weights.write(layer, merge, found.weight, found.bias)
    method = max(set(found.methods), key=found.methods.count)
    return Outcome(layer.node, method, found.before, found.after)


def _refit_together(
    step: Step, maker: Maker, parts: tuple[Rows, Rows], weights: Weights, how: Settings
) -> Outcome:
    """Fit a layer and its maker and write both back if that helps."""
    train, held = parts
    free = step.layer.bias_slot is not None
    made, made_bias = weights.read(maker.layer, maker.merge)
    shift = maker.merge.shift.reshape(made_bias.shape)
    first = np.concatenate([made, (made_bias + shift)[:, None]], axis=1)
    filters = None if maker.filters is None else _filter(maker.filters, weights)
    matrix, bias = weights.read(step.layer, step.merge)
    alone = refit(
        hidden_moments(train, first, maker.activation, filters),
        hidden_moments(held, first, maker.activation, filters),
        matrix,
        bias,
        free_bias=free,
        ridges=how.ridges,
    )
    found = refit_pair(
        train,
        held,
        Pair(first, np.concatenate([alone.weight[0], alone.bias])),
        maker.activation,
        filters=filters,
        steps=how.pairs,
        free_bias=(maker.layer.bias_slot is not None, free),
    )
    if found.after < found.before:
        weights.write(step.layer, step.merge, found.pair.second[None, :-1], found.pair.second[-1:])
        weights.write(
            maker.layer, maker.merge, found.pair.first[:, :-1], found.pair.first[:, -1] - shift
        )
        after = alone.after * found.after / found.before  # in the units of the error before
        return Outcome(step.layer.node, "pair", alone.before, after)
    if alone.accepted:
        weights.write(step.layer, step.merge, alone.weight, alone.bias)
    return Outcome(step.layer.node, alone.methods[0], alone.before, alone.after)


def _filter(maker: Maker, weights: Weights) -> Filter:
    """A depthwise convolution as it is now, its scales and shifts included."""
    matrix, bias = weights.read(maker.layer, maker.merge)
    return Filter(matrix[:, :, 0].T, bias[:, 0] + maker.merge.shift, maker.activation)
