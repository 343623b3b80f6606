"""What is left of a network, trained as a whole to answer as the dense one does, without labels.

Refitting layer by layer makes every layer right for the average of its inputs, but cannot know
which of their errors matter in the end. Here all weights that are left follow the gradient of the
divergence between the outputs of both models (Hinton et al., arXiv 1503.02531), for a few dozen
steps of Adam (Kingma and Ba, arXiv 1412.6980) that start from the refitted layers. Data are few, so
the inputs are variants of those given (``gradient.variants``), and inputs that nothing is trained
on say which of the weights met on the way are best; if it is the first, nothing is changed.
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
_LOOKS = 6


@dataclass(frozen=True)
class Settings:
    """How a network is trained.

    Attributes:
        steps: most of them; fewer where ``work`` would not do.
        rate: the length of a step, as a share of the root mean square of each tensor.
        batches: samples are run in about so many batches, of at most ``most`` samples.
        most: samples in a batch.
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
    groups = _regrouped(student, batches, how)
    if groups is None:
        return Distilled(student, reason="too few samples to put any aside")
    train, held = groups
    teacher = open_session(dense, provider=how.provider, threads=how.threads)
    answers = [teacher.run(feeds) for feeds in held]
    losses = losses_of(answers[0])
    if not losses:
        return Distilled(student, reason="no output is made of 32-bit floating-point numbers")
    largest = max(train, key=lambda feeds: sum(a.size for a in feeds.values()))
    try:
        pupil = Student(student, list(keep), losses, largest, how.provider, how.threads)
    except OnnxpruneError as error:
        return Distilled(student, reason=error.message)
    steps = min(how.steps, int(how.work / max(pupil.work, 1)))
    if steps < _LOOKS:
        return Distilled(student, reason="it is too large for that")
    judge = _Judge(pupil, held, answers)
    if not judge.start:
        return Distilled(student, reason="its outputs are those of the dense model")
    best, weights, at = 1.0, pupil.weights, 0
    descent = _Descent(pupil, keep, judge.share, how, steps)
    for step, (feeds, wanted) in enumerate(_lessons(train, teacher, how, steps), start=1):
        tell(f"training step {step} of {steps}")
        descent.step(feeds, wanted)
        if step % max(steps // _LOOKS, 1) == 0 or step == steps:
            found = judge(descent.weights)
            if found < best:
                best, at = found, step
                weights = {name: array.copy() for name, array in descent.weights.items()}
    if not at:
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
        self.start = {name: x for name, x in self._losses(pupil.weights).items() if x > 0}
        self.share = {name: 1 / (x * len(self.start)) for name, x in self.start.items()}

    def __call__(self, weights: Mapping[str, Array]) -> float:
        return sum(x * self.share.get(name, 0.0) for name, x in self._losses(weights).items())

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
    """Adam with steps in proportion to the size of each tensor, on the weights that are left."""

    def __init__(
        self,
        pupil: Student,
        keep: Mapping[str, npt.NDArray[np.bool_]],
        share: Mapping[str, float],
        how: Settings,
        steps: int,
    ) -> None:
        self._pupil, self._keep, self._share, self._how = pupil, keep, share, how
        self._steps, self._step = steps, 0
        self.weights = {name: array.copy() for name, array in pupil.weights.items()}
        self._size = {name: self._rms(name) for name in pupil.trained}
        self._first = {name: np.zeros_like(self.weights[name]) for name in pupil.trained}
        self._second = {name: np.zeros_like(self.weights[name]) for name in pupil.trained}

    def step(self, feeds: Feeds, wanted: Mapping[str, Array]) -> None:
        """One step; steps grow at first and shrink as a cosine."""
        self._step += 1
        found = self._pupil.gradients(feeds, wanted, self._share, self.weights)
        rate = self._how.rate * min(self._step / _WARM, 1.0)
        rate *= 0.5 * (1 + np.cos(np.pi * self._step / self._steps))
        first, second = ((1 - fade) for fade in _FADE)
        level, spread = (1 - fade**self._step for fade in _FADE)
        for name, gradient in found.items():
            mask = self._keep.get(name)
            moved = gradient if mask is None else gradient * mask
            self._first[name] += first * (moved - self._first[name])
            self._second[name] += second * (moved * moved - self._second[name])
            size = np.sqrt(self._second[name] / spread) + 1e-12
            self.weights[name] -= (rate * self._size[name] / level) * self._first[name] / size

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


def _regrouped(
    model: models.Model, batches: Sequence[Feeds], how: Settings
) -> tuple[list[Feeds], list[Feeds]] | None:
    """Batches to train on and others to judge by, of samples of one shape each.

    Samples of a model with a fixed batch size stay together.
    """
    fixed = any(
        isinstance(value.shape[0], int)
        for value in model.ir.graph.inputs
        if value.shape is not None and len(value.shape) and not value.is_initializer()
    )
    lengths = {len(a) if a.ndim else 0 for feeds in batches for a in feeds.values()}
    if fixed or any(len({len(a) for a in f.values() if a.ndim}) != 1 for f in batches) or 0 in lengths:  # noqa: E501  # fmt: skip
        aside = [f for k, f in enumerate(batches) if k % how.held == how.held - 1]
        rest = [f for k, f in enumerate(batches) if k % how.held != how.held - 1]
        return (rest, aside) if aside else None
    count = sum(len(next(iter(f.values()))) for f in batches)
    size = int(np.clip(count // how.batches, 1, how.most))
    parts: tuple[dict[Any, list[Feeds]], dict[Any, list[Feeds]]] = ({}, {})
    seen = 0
    for feeds in batches:
        for k in range(len(next(iter(feeds.values())))):
            one = {name: array[k : k + 1] for name, array in feeds.items()}
            part = parts[seen % how.held == how.held - 1]
            part.setdefault(sizes(one), []).append(one)
            seen += 1
    train, held = ([b for group in part.values() for b in _joined(group, size)] for part in parts)
    return (train, held) if held else None


def _joined(samples: Sequence[Feeds], size: int) -> Iterator[Feeds]:
    for first in range(0, len(samples), size):
        some = samples[first : first + size]
        yield {name: np.concatenate([one[name] for one in some]) for name in some[0]}
