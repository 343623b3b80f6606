"""One layer refitted after structured pruning, alone or together with the one before it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from onnxprune.data.activations.between import Maker
from onnxprune.data.activations.rows import Sample, moments_of, part_of
from onnxprune.data.activations.runner import Segments
from onnxprune.data.memory import set_aside
from onnxprune.graph.layers.applications import write_applications
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.recovery.order import Step
from onnxprune.recovery.pairs import pair_rows
from onnxprune.solve.joint import JointMoments, joined
from onnxprune.solve.least_squares import correct_bias
from onnxprune.solve.moments import Moments
from onnxprune.solve.pairs import PairRefit, refit_pair
from onnxprune.solve.refit import RIDGES, Refit, choose, refit
from onnxprune.solve.two_layer import Filter, Pair, Rows, Side, hidden_moments
from onnxprune.types import LayerOutcome

Float = npt.NDArray[np.float64]
Bool = npt.NDArray[np.bool_]

_SUPPORTED = 1.0
"""Ridge of a layer up to which there are rows enough to fit the one before it as well."""
_ROUNDS = 3
"""Fits of a weight whose inputs depend on itself."""
_SURELY = 1 - 1e-9
"""Errors of several applications that are less than this part of others differ by more than the
rounding of their sums."""


@dataclass(frozen=True)
class Settings:
    """How layers are refitted.

    Attributes:
        sample: which rows are looked at.
        producers: also refit layers that lost no input but whose inputs have changed.
        pairs: refit layers together with the ones before them; the number of steps, 0 for never.
        ridges: candidates, see ``solve.refit``.
        few: samples, mixtures included, up to which the dense model's inputs are looked at as well.
        only_biases: no weight that multiplies inputs changes; a BatchNormalization takes the place
            of the layer before it, and gets no gain.
        statistics: every BatchNormalization gets the statistics of what it reads, unjudged.
        provider: what runs the models.
        threads: threads within an operator.
    """

    sample: Sample = field(default_factory=Sample)
    producers: bool = True
    pairs: int = 6
    ridges: tuple[float, ...] = RIDGES
    few: int = 512
    only_biases: bool = False
    statistics: bool = False
    provider: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class Refitting:
    """The two models on their way from front to back.

    Attributes:
        teacher: the dense one.
        student: the pruned one; what the makers before filters read is kept.
        weights: of the pruned one, which are changed.
        settings: how layers are refitted.
    """

    teacher: Segments
    student: Segments
    weights: Weights
    settings: Settings

    def correct_bias(self, step: Step) -> LayerOutcome:
        """Move the bias of one layer if that helps."""
        if step.layer.bias_slot is None:
            return LayerOutcome(step.node, "none", reason="it has no bias and takes none")
        memory = self.settings.sample.memory
        if not memory.fits(*step.layer.shape[:2]):
            return replace(self._bias_alone(step, ""), reason="")
        rows = self._moments(step, self.student)
        matrix, bias = self.weights.read(step.layer, step.epilogue)

        def solve(rows: Moments, method: str, _ridge: float) -> tuple[Float, Float]:
            return matrix, bias if method == "none" else correct_bias(rows, matrix)

        fit = choose(*rows, [("none", 0.0), ("bias", 0.0)], solve)
        if fit.accepted:
            self.weights.write_bias(step.layer, fit.bias, step.epilogue)
        return LayerOutcome(step.node, "bias" if fit.accepted else "none", fit.before, fit.after)

    def refit(self, step: Step) -> LayerOutcome:
        """Fit a layer, with its maker if it has one, and write back what helps."""
        memory = self.settings.sample.memory
        if not memory.fits(*step.layer.shape[:2]):
            outcomes = [self._bias_alone(s, memory.why(s.inputs)) for s in step.applications]
            return outcomes[0]
        if step.others:
            return self._jointly(step)
        if step.maker is not None and not memory.fits(*step.maker.layer.shape[:2]):
            step = replace(step, maker=None)
        # A pair is judged by whole samples: of a few, none can be spared.
        if step.maker is None or sum(self.student.samples) < self.settings.sample.holdout_every:
            return self._alone(step)[0]
        if step.maker.filters is None:
            return self._together(step, step.maker)
        return self._through_filters(step, step.maker)

    def _bias_alone(self, step: Step, why: str) -> LayerOutcome:
        """Move the bias of a layer that is too wide for more."""
        if step.layer.bias_slot is None:
            return LayerOutcome(step.node, "none", reason=why)
        matrix, bias = self.weights.read(step.layer, step.epilogue)
        rows = self._moments(step, self.student, around=(matrix, bias))

        def solve(rows: Moments, method: str, _ridge: float) -> tuple[Float, Float]:
            return matrix[:, :0], np.zeros_like(bias) if method == "none" else rows.mean_y

        fit = choose(*rows, [("none", 0.0), ("bias", 0.0)], solve)
        if fit.accepted:
            self.weights.write_bias(step.layer, bias + fit.bias, step.epilogue)
        return LayerOutcome(step.node, "bias" if fit.accepted else "none", reason=why)

    def _alone(self, step: Step) -> tuple[LayerOutcome, Refit]:
        """Fit one layer and write it back if that helps; also as it is without the judges' rows."""
        dense = self._dense(step)  # first: it needs what the dense model reads there
        rows = self._moments(step, self.student)
        fit, fitted = self._refit(step, rows, dense)
        if fit.accepted:
            self.weights.write(step.layer, fit.weight, fit.bias, step.epilogue)
        return _outcome(step, fit), fitted

    def _jointly(self, step: Step) -> LayerOutcome:
        """Fit one weight to all its applications at once, and write it back if that helps.

        Where an application depends on another, its inputs change with the weight: the fit is then
        judged by what it really gives, and repeated as long as that helps.
        """
        weights, steps = self.weights, step.applications
        ends = [(each.layer, each.epilogue) for each in steps]
        common, dense = step.biases == "common", self._joined_dense(step)
        rows = self._joined(step)
        before, variance, method = rows.error, rows.holdout.variance, "none"
        error = before
        for _ in range(_ROUNDS if step.loops else 1):
            matrix, old = rows.matrix, [weights.read(*each)[1] for each in ends]
            fit = refit(
                rows.train, rows.holdout, matrix, rows.bias, free_bias=rows.free,
                ridges=self.settings.ridges, dense=dense,
            )[0]  # fmt: skip
            after = fit.after * variance
            if after >= error * _SURELY:
                break
            biases = rows.fitted(fit.weight, fit.bias)
            write_applications(weights, ends, fit.weight, biases, common=common)
            self.student.rerun(each.node for each in steps)
            if step.loops:
                rows = self._joined(step)
                after = rows.error
                if after >= error * _SURELY:
                    write_applications(weights, ends, matrix, old, common=common)
                    self.student.rerun(each.node for each in steps)
                    break
            error, method = after, "bias" if fit.method == "none" else fit.method
        return LayerOutcome(step.node, method, before / variance, error / variance)

    def _joined(self, step: Step) -> JointMoments:
        """Moments of all applications of a weight in the changing model."""
        matrix, _ = self.weights.read(step.layer, step.epilogue)
        rows = JointMoments(matrix, step.biases)
        sample = part_of(self.settings.sample, len(step.applications))
        for each in step.applications:
            _, bias = self.weights.read(each.layer, each.epilogue)
            rows.add(*self._moments(each, self.student, sample=sample), bias)
        return rows

    def _joined_dense(self, step: Step) -> tuple[Moments, Moments] | None:
        """The same in the dense model, where samples are few."""
        parts = [self._dense(each) for each in step.applications]
        matrix, bias = self.weights.read(step.layer, step.epilogue)
        known = [part for part in parts if part is not None]
        if len(known) < len(parts):
            return None
        rows = joined(known, [bias] * len(known), matrix, step.biases)
        return rows.train, rows.holdout

    def _dense(self, step: Step) -> tuple[Moments, Moments] | None:
        """Moments of what the dense model reads and wants there, where samples are few."""
        needed = [
            step.layer.x,
            step.epilogue.value,
            *([step.epilogue.skip] if step.epilogue.skip else []),
        ]
        few = sum(self.student.samples) <= self.settings.few and step.reads is not None
        if few and all(map(self.teacher.has, needed)):
            train, holdout = self._moments(step, self.teacher, step.reads)
            return self._aside(train), self._aside(holdout)
        return None

    def _aside(self, rows: Moments) -> Moments:
        """Large moments in a file, for as long as those of the changing model are collected."""
        large = rows.xx.nbytes > self.settings.sample.memory.moments // 32
        return replace(rows, xx=set_aside(rows.xx)) if large else rows

    def _moments(
        self,
        step: Step,
        run: Segments,
        reads: Bool | None = None,
        around: tuple[Float, Float] | None = None,
        sample: Sample | None = None,
    ) -> tuple[Moments, Moments]:
        return moments_of(
            step.layer,
            step.epilogue,
            self.teacher,
            run,
            sample or self.settings.sample,
            step.kept,
            reads,
            matrices=step.matrices,
            around=around,
        )

    def _refit(
        self,
        step: Step,
        moments: tuple[Moments, Moments],
        dense: tuple[Moments, Moments] | None = None,
    ) -> tuple[Refit, Refit]:
        """Fit a layer as it is now to moments of rows, see ``refit``; nothing is written."""
        matrix, bias = self.weights.read(step.layer, step.epilogue)
        free = step.layer.bias_slot is not None
        ridges = self.settings.ridges
        return refit(*moments, matrix, bias, free_bias=free, ridges=ridges, dense=dense)

    def _together(self, step: Step, maker: Maker) -> LayerOutcome:
        """Fit a layer and its maker, and write both back if that helps."""
        dense = self._dense(step)
        rows = pair_rows(step, maker, self.teacher, self.student, self.settings.sample)
        train, holdout = self._sides(maker, rows)
        first = self._first(maker)
        moments = hidden_moments(train, first), hidden_moments(holdout, first)
        alone, fitted = self._refit(step, moments, dense)
        outcome = _outcome(step, alone)
        pair = self._pair(step, maker, (train, holdout), fitted)
        if pair.after < pair.before:
            self._write(step, maker, pair.pair)
            after = alone.after * pair.after / pair.before  # in the units of the error before
            return replace(outcome, method="pair", after=after)
        if alone.accepted:
            self.weights.write(step.layer, alone.weight, alone.bias, step.epilogue)
        return outcome

    def _through_filters(self, step: Step, maker: Maker) -> LayerOutcome:
        """The same where a depthwise convolution lies between the two.

        What is between them is large then, and few rows can be held at a time. So the layer is
        fitted alone first and last, to as many rows as any other, and these decide.
        """
        start, end = maker.layer.x, step.layer.x
        alone, fitted = self._alone(step)
        if fitted.ridge <= _SUPPORTED:
            rows = pair_rows(step, maker, self.teacher, self.student, self.settings.sample)
            pair = self._pair(step, maker, self._sides(maker, rows), fitted)
            if pair.steps and self.student.rewind(start, end):
                self._write(step, maker, pair.pair)
                last, _ = self._alone(step)
                alone = replace(alone, method="pair", after=last.after)
        self.student.release(start)
        return alone

    def _sides(self, maker: Maker, rows: tuple[Rows, Rows]) -> tuple[Side, Side]:
        """Rows to fit to and to judge by, with what is between a layer and its maker."""
        filters = _filter(maker, self.weights)
        return Side(rows[0], maker.activation, filters), Side(rows[1], maker.activation, filters)

    def _pair(self, step: Step, maker: Maker, sides: tuple[Side, Side], fitted: Refit) -> PairRefit:
        """Improve a layer, as it was fitted without the rows that judge, with its maker."""
        return refit_pair(
            *sides,
            Pair(self._first(maker), _second(fitted.weight, fitted.bias)),
            steps=self.settings.pairs,
            free_bias=(maker.layer.bias_slot is not None, step.layer.bias_slot is not None),
        )

    def _first(self, maker: Maker) -> Float:
        """``[g, K + 1, n]``, what a maker multiplies with, its bias and shift as the last row."""
        matrix, bias = self.weights.read(maker.layer, maker.epilogue)
        return np.concatenate([matrix, (bias + _shift(maker, bias))[:, None]], axis=1)

    def _write(self, step: Step, maker: Maker, pair: Pair) -> None:
        """Put the weights of both layers back."""
        weights, bias = self.weights, pair.first[:, -1]
        weights.write(step.layer, pair.second[None, :-1], pair.second[-1:], step.epilogue)
        matrix = pair.first[:, :-1]
        weights.write(maker.layer, matrix, bias - _shift(maker, bias), maker.epilogue)


def _shift(maker: Maker, bias: Float) -> Float:
    return maker.epilogue.shift.reshape(bias.shape)


def _filter(maker: Maker, weights: Weights) -> Filter | None:
    """The depthwise convolution behind a maker as it is now, its scales and shifts included."""
    last = maker.filters
    if last is None:
        return None
    matrix, bias = weights.read(last.layer, last.epilogue)
    return Filter(matrix[:, :, 0].T, bias[:, 0] + last.epilogue.shift, last.activation)


def _second(matrix: Float, bias: Float) -> Float:
    """``[K + 1, N]``, the bias as the last row."""
    return np.concatenate([matrix[0], bias])


def _outcome(step: Step, fit: Refit) -> LayerOutcome:
    reason, same = "", fit.methods.count("none")
    if step.layer.stack is not None and fit.accepted and same:
        reason = f"{same} of its {len(fit.methods)} matrices stay: no fit to their rows helps"
    return LayerOutcome(step.node, fit.method, fit.before, fit.after, reason)
