"""Samples of a run: opened once, split once, and said which are fitted to and which judge."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data import Calibration, open_calibration, split
from onnxprune.data.batches import count_samples
from onnxprune.data.labels import open_labels
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.model import Model
from onnxprune.model.signature import signature_of
from onnxprune.runtime import Signature, open_session

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]

HELD_OUT = 0.1
"""Share of the samples that nothing is fitted to."""
ASIDE = 0.3
"""The same where models are chosen: one half chooses, the other judges the one that is chosen."""
ENOUGH = 100
"""Samples that such a half must have; else all of them choose and judge."""
MOST_BYTES = 384 << 20
"""Bytes of inputs that are fitted to: what they cause inside a network is several times larger."""
_PROBES = 2
"""Batches equivalence is checked on: rounding differs little between them, masked runs are slow."""


@dataclass(frozen=True, eq=False)
class Part:
    """Samples that are gone through again and again.

    Attributes:
        feeds: batches, in memory where they fit in there, else read anew each time.
        labels: one per sample; None without labels.
    """

    feeds: Iterable[Feeds]
    labels: Array | None = None

    def __iter__(self) -> Iterator[Feeds]:
        return iter(self.feeds)


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a run feeds the model, divided.

    Attributes:
        fit: batches that may be fitted to, at most ``MOST_BYTES``; none of synthetic inputs, which
            are not worth it.
        holdout: samples that nothing is fitted to, to choose models by.
        eval: samples that judge the result; those of ``holdout`` where there are no others.
        probe: the few batches that equivalence is checked on.
        description: where the samples come from, for reports.
        synthetic: whether they are made up: good for checks, not for judging quality.
        source: all samples; None where the inputs follow from the graph alone.
        notes: whole sentences on samples that are left out.
    """

    fit: tuple[Feeds, ...]
    holdout: Part
    eval: Part
    probe: tuple[Feeds, ...]
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
        found = None if labels is None else open_labels(labels, self.source.indices)
        return Part(self.source, found)

    @property
    def one_batch(self) -> bool:
        """Whether a single batch is all there is, which is fitted to and judged by."""
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
    most_bytes: float = MOST_BYTES,
) -> Dataset:
    """Divide the user's samples; equal arguments give equal parts, which share no sample.

    One tenth judges what is fitted to the others. Where models are chosen, three tenths do: one
    half chooses, the other judges, because the smallest model that passes a test is partly the
    luckiest. A single batch is fitted to and judged by.

    Args:
        source: the samples.
        config: labels and seed.
        chooses: whether one of several models is to be chosen.
        most_bytes: of batches that are fitted to.

    Raises:
        OnnxpruneError: samples or labels cannot be read, or there are too few.
    """
    probe = tuple(itertools.islice(source, _PROBES))
    one = source.steps == 1

    def part(samples: Calibration) -> Part:
        indices = None if one else samples.indices
        labels = None if config.labels is None else open_labels(config.labels, indices)
        return Part(_in_memory(samples), labels)

    if source.synthetic or (one and not chooses):
        fit: tuple[Feeds, ...] = () if source.synthetic else tuple(source)
        judges = [part(source)]
        notes: tuple[str, ...] = ()
    else:
        rest, aside = split(source, ASIDE if chooses else HELD_OUT, config.seed)
        two = chooses and (aside.samples or 0) >= 2 * ENOUGH
        judges = [part(each) for each in (split(aside, 0.5, config.seed) if two else [aside])]
        fit = tuple(_within(rest, most_bytes))
        known = rest.samples if chooses else source.samples
        notes = _left_out(fit, known, 1.0 if chooses else 1 - HELD_OUT)
    return Dataset(
        fit, judges[0], judges[-1], probe, source.description, source.synthetic, source, notes
    )


def synthetic_dataset(analysis: Analysis, config: Options) -> Dataset:
    """Inputs that follow from the graph alone.

    Raises:
        OnnxpruneError: the model runs on none.
    """
    probe = synthetic_inputs(analysis, config.backend, config.seed)
    part = Part(probe)
    return Dataset((), part, part, probe, f"random inputs, seed {config.seed}", synthetic=True)


def synthetic_inputs(analysis: Analysis, provider: str = "cpu", seed: int = 0) -> tuple[Feeds, ...]:
    """Inputs that a model runs on, in both sets of shapes that it was analysed at.

    Sizes that fit the graph on paper may still not fit each other (the length of a mask and that
    of a cache, say); then sizes that exporters' names suggest are tried.

    Raises:
        OnnxpruneError: none run.
    """
    signature = signature_of(analysis.model)
    session = open_session(analysis.model, provider=provider, prepack=False)
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
        f"made-up inputs do not fit this model: {problem.message}",
        hint="give real inputs with --calib, or sizes that fit with --shapes",
    )


def _by_names(_: Analysis, signature: Signature, seed: int) -> tuple[Feeds, ...]:
    """Inputs of the sizes that exporters' names suggest."""
    random = open_calibration("random", signature, samples=2, seed=seed)
    return tuple(itertools.islice(random, _PROBES))


def _analysed(analysis: Analysis, signature: Signature, seed: int) -> tuple[Feeds, ...]:
    """Standard normal floats; integers 0 or 1, which most vocabularies have; masks of ones."""
    found = []
    for which, shapes in enumerate(analysis.inputs):
        rng = np.random.default_rng([seed, which])
        feeds = {}
        for spec in signature:
            shape = shapes[spec.name]
            if spec.dtype.kind == "O":
                raise OnnxpruneError(
                    f"the input '{spec.name}' takes strings, which cannot be made up",
                    hint="give real inputs with --calib",
                )
            if np.issubdtype(spec.dtype, np.integer) or spec.dtype == np.bool_:
                whole = "mask" in spec.name.lower()
                array = np.ones(shape) if whole else rng.integers(0, 2, shape)
            else:
                array = rng.standard_normal(shape)
            feeds[spec.name] = array.astype(spec.dtype)
        found.append(feeds)
    return tuple(found)


def _left_out(fit: Sequence[Feeds], known: int | None, share: float) -> tuple[str, ...]:
    """Say so where only a part of the samples could be held to fit to."""
    used = sum(map(count_samples, fit))
    if known is None or used >= int(known * share) - 1:
        return ()
    return (f"{used} of {known} calibration samples were fitted to: more do not fit in memory",)


def _in_memory(source: Iterable[Feeds]) -> Iterable[Feeds]:
    """All batches where they fit in memory, else what reads them again."""
    feeds, size = [], 0
    for each in source:
        size += _bytes(each)
        if size > MOST_BYTES:
            return source
        feeds.append(each)
    return tuple(feeds)


def _within(source: Iterable[Feeds], most: float) -> Iterator[Feeds]:
    """Batches until they hold so many bytes; at least one."""
    size = 0
    for each in source:
        if size and size + _bytes(each) > most:
            return
        size += _bytes(each)
        yield each


def _bytes(feeds: Feeds) -> int:
    return sum(array.nbytes for array in feeds.values())
