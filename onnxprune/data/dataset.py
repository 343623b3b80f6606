"""The samples of a run, opened once and split once: to fit to, to hold out, to evaluate on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data import Calibration, open_calibration, split
from onnxprune.data.batches import count_samples
from onnxprune.data.labels import open_labels
from onnxprune.data.memory import budget_of
from onnxprune.data.synthetic import refuse_strings, synthetic_values
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.model import Model
from onnxprune.model.signature import signature_of
from onnxprune.runtime import Signature, open_session

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

HOLDOUT = 0.1
"""Share of the samples that are held out."""
ASIDE = 0.3
"""The same where models are chosen: one half to choose by, one to evaluate the choice on."""
ENOUGH = 100
"""Samples that such a half must have; with fewer, one part does both."""
_PROBES = 2
"""Batches of the equivalence check: rounding differs little between them, masked runs are slow."""


@dataclass(frozen=True, eq=False)
class Part:
    """Samples that can be read any number of times.

    Attributes:
        feeds: batches, in memory where they fit, else read anew each time.
        labels: one per sample; None without labels.
        available: samples of the data that these are a part of; None where that is unknown.
    """

    feeds: Iterable[Feeds]
    labels: Array | None = None
    available: int | None = None

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self.feeds)


@dataclass(frozen=True, eq=False)
class Dataset:
    """The samples of a run, divided.

    Attributes:
        fit: batches to fit to, within the memory budget; none where inputs are synthetic.
        holdout: samples to choose models by; nothing is fitted to them.
        eval: samples to evaluate the result on; those of ``holdout`` where there are no others.
        probe: the few batches of the equivalence check.
        description: origin of the samples, for reports.
        synthetic: whether inputs are synthetic: good for checks, not for measuring quality.
        source: all samples; None where inputs follow from the graph alone.
        notes: sentences on samples that are not used.
    """

    fit: tuple[Feeds, ...]
    holdout: Part
    eval: Part
    probe: Sequence[Feeds]
    description: str
    synthetic: bool = False
    source: Calibration | None = None
    notes: tuple[str, ...] = ()

    @property
    def labels(self) -> Array | None:
        """Labels of ``eval``; None without."""
        return self.eval.labels

    def whole(self, config: Options) -> Part:
        """All samples, not divided, with their labels."""
        if self.source is None:
            return self.eval
        labels = config.labels
        values = None if labels is None else open_labels(labels, self.source.indices)
        return Part(self.source, values, self.source.available)

    @property
    def one_batch(self) -> bool:
        """Whether a single batch is all there is, to fit to and to evaluate on."""
        return self.source is not None and self.source.steps == 1


def open_source(
    model: Model, config: Options
) -> tuple[Calibration | None, Mapping[str, tuple[int, ...]] | None]:
    """The user's samples, and the input shapes to analyse a model at.

    Returns:
        The samples, or None without; shapes by input name as the user gave them, else as the first
        batch has them, or None.

    Raises:
        OnnxpruneError: the data cannot be read or do not fit the model.
    """
    shapes = dict(config.shapes) or None
    if config.calib is None:
        return None, shapes
    source = open_calibration(
        config.calib,
        signature_of(model),
        preprocess=config.preprocess,  # checked where it is parsed
        samples=config.calib_samples,
        batch=config.batch,
        seed=config.seed,
    )
    first = next(iter(source), None)
    if first is None:
        raise OnnxpruneError("the calibration data hold no samples")
    return source, shapes or {k: v.shape for k, v in first.items()}


def open_dataset(
    source: Calibration,
    config: Options,
    *,
    chooses: bool = False,
    most_bytes: float | None = None,
) -> Dataset:
    """Divide the user's samples; equal arguments give equal parts, which share no sample.

    One tenth is held out from the fit. Where models are chosen, three tenths are: one half to
    choose by, the other to evaluate on, because the smallest model that passes a test is partly
    the luckiest. A single batch serves for all.

    Args:
        source: the samples.
        config: labels and seed.
        chooses: whether one of several models is to be chosen.
        most_bytes: of batches to fit to; by default what the memory budget gives.

    Raises:
        OnnxpruneError: samples or labels cannot be read, or there are too few.
    """
    probe = tuple(itertools.islice(source, _PROBES))
    one, budget = source.steps == 1, budget_of(config)

    def part(samples: Calibration) -> Part:
        indices = None if one else samples.indices
        labels = None if config.labels is None else open_labels(config.labels, indices)
        return Part(_in_memory(samples, budget.samples), labels, samples.available)

    if source.synthetic or (one and not chooses):
        fit: tuple[Feeds, ...] = () if source.synthetic else tuple(source)
        parts = [part(source)]
        notes: tuple[str, ...] = ()
    else:
        rest, aside = split(source, ASIDE if chooses else HOLDOUT, config.seed)
        two = chooses and (aside.samples or 0) >= 2 * ENOUGH
        parts = [part(each) for each in (split(aside, 0.5, config.seed) if two else [aside])]
        fit = tuple(_within(rest, budget.samples if most_bytes is None else most_bytes))
        known = rest.samples if chooses else source.samples
        notes = _left_out(fit, known, 1.0 if chooses else 1 - HOLDOUT)
    return Dataset(
        fit, parts[0], parts[-1], probe, source.description, source.synthetic, source, notes
    )


def synthetic_dataset(analysis: Analysis, config: Options) -> Dataset:
    """Random inputs, of shapes that follow from the graph alone; made when they are first read.

    Reading them raises an OnnxpruneError where the model does not run on them.
    """
    probe = _Synthetic(lambda: synthetic_inputs(analysis, config.provider, config.seed))
    part = Part(probe)
    return Dataset((), part, part, probe, f"random inputs, seed {config.seed}", synthetic=True)


class _Synthetic(Sequence[Feeds]):
    """Random inputs that are looked for, by trial runs of the model, once they are needed."""

    def __init__(self, make: Callable[[], tuple[Feeds, ...]]) -> None:
        self._make = make

    @cached_property
    def _feeds(self) -> tuple[Feeds, ...]:
        return self._make()

    @overload
    def __getitem__(self, index: int) -> Feeds: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Feeds, ...]: ...
    def __getitem__(self, index: int | slice) -> Feeds | tuple[Feeds, ...]:
        return self._feeds[index]

    def __len__(self) -> int:
        return len(self._feeds)


def synthetic_inputs(analysis: Analysis, provider: str = "cpu", seed: int = 0) -> tuple[Feeds, ...]:
    """Random inputs for a model, in both sets of shapes that it was analysed at.

    Sizes that fit the graph on paper may still not fit each other (the length of a mask and that
    of a cache, say); then sizes that exporters' names suggest are tried.

    Raises:
        OnnxpruneError: the model does not run on them.
    """
    signature = signature_of(analysis.model)
    session = open_session(analysis.model, provider=provider, prepack=False, arena=False)
    problem: OnnxpruneError | None = None
    for guess in (_analysed, _by_names):
        feeds = guess(analysis, signature, seed)
        try:
            for each in feeds:
                session.run(each)
        except OnnxpruneError as error:
            problem = problem or error
        else:
            return feeds
    assert problem is not None
    raise OnnxpruneError(
        f"the model does not run on synthetic inputs: {problem.message}",
        hint="give real inputs with --calib, or sizes that fit with --shapes",
    )


def _by_names(_: Analysis, signature: Signature, seed: int) -> tuple[Feeds, ...]:
    """Inputs of the sizes that exporters' names suggest."""
    random = open_calibration("random", signature, samples=2, seed=seed)
    return tuple(itertools.islice(random, _PROBES))


def _analysed(analysis: Analysis, signature: Signature, seed: int) -> tuple[Feeds, ...]:
    """Inputs of the shapes that the model was analysed at."""
    for spec in signature:
        refuse_strings(spec)
    return tuple(
        {spec.name: synthetic_values(spec, shapes[spec.name], rng) for spec in signature}
        for which, shapes in enumerate(analysis.inputs)
        for rng in [np.random.default_rng([seed, which])]
    )


def _left_out(fit: Sequence[Feeds], known: int | None, share: float) -> tuple[str, ...]:
    """A note where only a part of the samples fits in memory."""
    used = sum(map(count_samples, fit))
    if known is None or used >= int(known * share) - 1:
        return ()
    return (f"{used} of {known} calibration samples were fitted to: more do not fit in memory",)


def _in_memory(source: Iterable[Feeds], most: int) -> Iterable[Feeds]:
    """All batches in memory if they fit; else the source, to read them again."""
    feeds, size = [], 0
    for each in source:
        size += _bytes(each)
        if size > most:
            return source
        feeds.append(each)
    return tuple(feeds)


def _within(source: Iterable[Feeds], most: float) -> Iterator[Feeds]:
    """Batches up to a total of ``most`` bytes; at least one."""
    size = 0
    for each in source:
        if size and size + _bytes(each) > most:
            return
        size += _bytes(each)
        yield each


def _bytes(feeds: Feeds) -> int:
    return sum(array.nbytes for array in feeds.values())
