"""What is left of a network, trained as a whole to answer as the dense one does, without labels.

Refitting layer by layer makes every layer right for the average of its inputs, but cannot know
which of their errors matter in the end. Here all weights that are left follow the gradient of the
divergence between the outputs of both models (Hinton et al., arXiv 1503.02531), for a few dozen
steps of Adam (Kingma and Ba, arXiv 1412.6980) that start from the refitted layers. Data are few, so
the inputs are variants of those given (``gradient.variants``), and inputs that nothing is trained
on say which of the weights met on the way are best, and whether they are worth it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.backends import Session, open_session
from onnxprune.errors import OnnxpruneError
from onnxprune.gradient.student import Student, distance, losses_of, visible
from onnxprune.gradient.variants import Variants, sizes
from onnxprune.recover.segments import Feeds

Array = npt.NDArray[Any]
Tell = Callable[[str], None]

_FADE = (0.9, 0.98)
"""How much of the first and second moments of gradients is kept at every step."""
_WARM = 5
"""Steps that are shorter than the rate says."""
_ROUNDING = 1e-9
"""Losses up to this share of what they are of are rounding."""
_LOOKS = 10
"""How often held-out inputs are asked."""
_JUDGES = 256
"""How many of them, at most."""
_PATIENCE = 0.4
"""The part of the steps after which they must have been closer once."""
_WORTH = 0.9
"""What they must fall to: on a few dozen samples, a few percent less mean nothing."""
_ASTRAY = 1.5
"""If they are so much further off than at best, training begins there again, more carefully."""
_CAREFUL = 0.25
"""How much shorter steps are then."""


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    Attributes:
        steps: most of them; fewer where ``work`` would not do.
        rate: the length of a step, as a share of the root mean square of each tensor.
        batches: at least so many, if there are as many samples.
        most: samples in a batch; fewer where ``work`` would not do.
        held: every ``held``-th sample is put aside to judge by.
        work: multiply-adds of linear layers in all.
        seed: of the variants and of the order.
        provider: what runs the models.
        threads: within an operator.
    """

    steps: int = 150
    rate: float = 0.02
    batches: int = 8
    most: int = 32
    held: int = 6
    work: float = 2e12
    seed: int = 0
    provider: str = "cpu"
    threads: int | None = None


@dataclass(frozen=True, eq=False)
class Distilled:
    """What came of it.

    Attributes:
        model: the trained one, or the one given where nothing was gained.
        steps: taken to the best weights met; 0 if those are the ones given.
        before: loss on held-out inputs, over the one before: 1 if there was any.
        after: the same of ``model``.
        reason: why nothing was tried; empty if it was.
    """

    model: models.Model
    steps: int = 0
    before: float = 1.0
    after: float = 1.0
    reason: str = ""


def distil(
    dense: models.Model,
    student: models.Model,
    keep: Mapping[str, npt.NDArray[np.bool_]],
    batches: Sequence[Feeds],
    settings: Settings | None = None,
    tell: Tell = lambda _: None,
) -> Distilled:
    """Train what is left of a network.

    Args:
        dense: what it is to agree with.
        student: it is left as it is; its inputs and outputs are those of ``dense``.
        keep: stored weights that may change -> where.
        batches: unlabelled feeds.
        settings: see there.
        tell: hears the progress.
    """
    how = settings or Settings()
    samples, held = _apart(student, batches, how.held)
    if not samples or not held:
        return Distilled(student, reason="too few samples to put any aside")
    teacher = open_session(dense, provider=how.provider, threads=how.threads)
    judged = _joined(held[:_JUDGES], how.most)
    answers = [teacher.run(feeds) for feeds in judged]
    losses = losses_of(answers[0])
    if not losses:
        return Distilled(student, reason="no output is made of 32-bit floating-point numbers")
    largest = max(samples, key=lambda feeds: sum(a.size for a in feeds.values()))
    try:
        pair = largest if len(_first(largest)) > 1 else _joined([largest] * 2, 2)[0]
        pupil = Student(student, list(keep), losses, pair, how.provider, how.threads)
    except OnnxpruneError as error:
        return Distilled(student, reason=error.message)
    each = pupil.work / len(_first(pair)) * len(_first(largest))
    size = int(min(how.most, len(samples) // how.batches, how.work / (each * how.steps)))
    train = _joined(samples, max(size, 1))
    steps = min(how.steps, int(how.work / (each * max(size, 1))))
    if steps < _LOOKS:
        return Distilled(student, reason="it is too large for that")
    judge = _Judge(pupil, judged, answers)
    if not judge.start:
        return Distilled(student, reason="its outputs are those of the dense model")
    best, weights, at = 1.0, pupil.weights, 0
    descent = _Descent(pupil, keep, judge.share, how, steps)
    every = steps // _LOOKS
    for step, (feeds, wanted) in enumerate(_lessons(train, teacher, how, steps), start=1):
        tell(f"training step {step} of {steps}")
        descent.step(feeds, wanted)
        if step % every and step != steps:
            continue
        found = judge(descent.weights)
        if found < best:
            best, weights, at = found, dict(descent.weights), step
        elif not at and step > _PATIENCE * steps:
            break
        elif found > _ASTRAY * best:
            descent.restart(weights)
    if best > _WORTH:
        return Distilled(student)
    return Distilled(pupil.with_weights(weights), at, 1.0, best)


class _Judge:
    """The loss on held-out inputs, over what it is before training.

    Outputs count alike, however far off each is.
    """

    def __init__(
        self, pupil: Student, held: Sequence[Feeds], answers: Sequence[Mapping[str, Array]]
    ) -> None:
        self._pupil, self._held, self._answers = pupil, held, answers
        self.start = {
            name: x
            for name, x in self._losses(pupil.weights).items()
            if x > _ROUNDING * self._size(name)
        }
        self.share = {name: 1 / (x * len(self.start)) for name, x in self.start.items()}

    def __call__(self, weights: Mapping[str, Array]) -> float:
        return sum(x * self.share.get(name, 0.0) for name, x in self._losses(weights).items())

    def _size(self, name: str) -> float:
        """What a loss is small beside: the square of what is wanted, or one nat."""
        kind = next(loss.kind for loss in self._pupil.losses if loss.output == name)
        if kind == "kl":
            return 1.0
        rows = [np.square(each[name], dtype=np.float64).sum(axis=-1) for each in self._answers]
        return float(np.mean([row.mean() for row in rows]))

    def _losses(self, weights: Mapping[str, Array]) -> dict[str, float]:
        sums = {loss.output: 0.0 for loss in self._pupil.losses}
        counts = dict.fromkeys(sums, 0.0)
        for feeds, wanted in zip(self._held, self._answers, strict=True):
            given = self._pupil.run(feeds, weights)
            for loss in self._pupil.losses:
                name = loss.output
                rows = visible(wanted[name], feeds)
                sums[name] += distance(loss, wanted[name], given[name], rows)
                counts[name] += float(rows.sum())
        return {name: x / max(counts[name], 1) for name, x in sums.items()}


class _Descent:
    """Adam with steps in proportion to the size of each tensor, on the weights that are left.

    Inputs are centred where a bias can make up for it: rows of positive inputs share a gradient
    along their mean, which steps of equal size would follow far too quickly.
    """

    def __init__(
        self,
        pupil: Student,
        keep: Mapping[str, npt.NDArray[np.bool_]],
        share: Mapping[str, float],
        how: Settings,
        steps: int,
    ) -> None:
        self._pupil, self._keep, self._share, self._how = pupil, keep, share, how
        self._steps, self._step, self._care = steps, 0, 1.0
        self.weights: dict[str, Array] = dict(pupil.weights)
        self._size = {name: self._rms(name) for name in pupil.trained}
        self._centre: dict[str, Array] = {}
        self._forget()

    def _forget(self) -> None:
        self._first = {name: np.zeros_like(self.weights[name]) for name in self._pupil.trained}
        self._second = {name: np.zeros_like(self.weights[name]) for name in self._pupil.trained}
        self._since = 0

    def restart(self, weights: Mapping[str, Array]) -> None:
        """Go on from other weights, with shorter steps."""
        self.weights = dict(weights)
        self._care *= _CAREFUL
        self._forget()

    def step(self, feeds: Feeds, wanted: Mapping[str, Array]) -> None:
        """One step; steps grow at first and shrink as a cosine."""
        self._step, self._since = self._step + 1, self._since + 1
        found: dict[str, Array] = {}
        for layer, x, back in self._pupil.gradients(feeds, wanted, self._share, self.weights):
            gradient = x.transpose(0, 2, 1) @ back
            if layer.bias is not None and layer.bias in self._pupil.biases:
                centre = self._centre.setdefault(layer.node, x.mean(axis=1)[:, :, None])
                along = back.sum(axis=1)
                gradient -= centre * along[:, None, :]
                found[layer.bias] = along.reshape(-1)
            gradient = layer.stored(gradient)
            found[layer.weight] = found.get(layer.weight, 0) + gradient
        rate = self._how.rate * self._care * min(self._since / _WARM, 1.0)
        rate *= 0.5 * (1 + np.cos(np.pi * self._step / self._steps))
        moves = {name: np.float32(rate) * self._move(name, g) for name, g in found.items()}
        for layer in self._pupil.layers:
            if layer.node in self._centre and layer.bias is not None:
                moved = layer.matrix(moves[layer.weight])
                shift = (self._centre[layer.node] * moved).sum(axis=1).reshape(-1)
                moves[layer.bias] = moves[layer.bias] - shift
        for name, move in moves.items():
            self.weights[name] = self.weights[name] - move

    def _move(self, name: str, gradient: Array) -> Array:
        """Adam's direction, as long as the tensor's entries are large."""
        mask = self._keep.get(name)
        moved = gradient if mask is None else gradient * mask
        first, second = self._first[name], self._second[name]
        first += (1 - _FADE[0]) * (moved - first)
        second += (1 - _FADE[1]) * (moved * moved - second)
        level, spread = (1 - fade**self._since for fade in _FADE)
        size = np.sqrt(second / spread) + 1e-12
        direction: Array = (self._size[name] / level) * first / size
        return direction

    def _rms(self, name: str) -> float:
        array, mask = self.weights[name], self._keep.get(name)
        kept = array if mask is None else array[mask]
        return float(np.sqrt(np.square(kept, dtype=np.float64).mean())) if kept.size else 0.0


def _lessons(
    train: Sequence[Feeds], teacher: Session, how: Settings, count: int
) -> Iterator[tuple[Feeds, Mapping[str, Array]]]:
    """Variants of batches, and what the dense model says to them."""
    rng = np.random.default_rng(how.seed)
    variants = Variants(train)
    order: list[int] = []
    for _ in range(count):
        if not order:
            order = [int(k) for k in rng.permutation(len(train))]
        feeds = variants(train[order.pop()], rng)
        yield feeds, teacher.run(feeds)


def _apart(
    model: models.Model, batches: Sequence[Feeds], every: int
) -> tuple[list[Feeds], list[Feeds]]:
    """Samples to train on and others to judge by; whole batches where their size is fixed."""
    fixed = any(
        isinstance(value.shape[0], int)
        for value in model.ir.graph.inputs
        if value.shape is not None and len(value.shape) and not value.is_initializer()
    )
    alike = all(len({len(a) if a.ndim else 0 for a in f.values()}) == 1 for f in batches)
    samples = list(batches)
    if alike and not fixed:
        samples = [
            {name: array[k : k + 1] for name, array in feeds.items()}
            for feeds in batches
            for k in range(len(_first(feeds)))
        ]
    held = samples[every - 1 :: every]
    return [f for k, f in enumerate(samples) if k % every != every - 1], held


def _joined(samples: Sequence[Feeds], size: int) -> list[Feeds]:
    """Batches of so many samples of one shape each; what holds several samples stays as it is."""
    groups: dict[object, list[Feeds]] = {}
    for number, one in enumerate(samples):
        several = len(_first(one)) != 1
        groups.setdefault(number if several else sizes(one), []).append(one)
    return [
        {name: np.concatenate([one[name] for one in some]) for name in some[0]}
        for group in groups.values()
        for some in (group[k : k + size] for k in range(0, len(group), size))
    ]


def _first(feeds: Feeds) -> Array:
    return next(iter(feeds.values()))
