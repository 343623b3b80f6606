"""The samples of a run, opened once and split once: to fit to, to hold out, to evaluate on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, overload

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data import Calibration, open_calibration, split
from onnxprune.data.batches import Index, count_samples
from onnxprune.data.labels import form_of, open_labels, open_slices, together
from onnxprune.data.memory import budget_of
from onnxprune.data.normalisation import normalisation_notes
from onnxprune.data.screening import Screen, notes_on
from onnxprune.data.singly import runnable, singly
from onnxprune.data.synthetic import refuse_strings, synthetic_values
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis
from onnxprune.model import Model
from onnxprune.model.signature import signature_of
from onnxprune.runtime import Signature
from onnxprune.runtime.first_run import RuntimeDiedError, first_run

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
        slices: names of groups, one per sample; None without.
        option: that gives the samples: ``--calib`` or ``--eval``.
        origin: of the samples, for reports.
    """

    feeds: Iterable[Feeds]
    labels: Array | None = None
    available: int | None = None
    slices: npt.NDArray[np.str_] | None = None
    option: str = "--calib"
    origin: str = ""

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
        synthetic: whether the samples of ``eval`` are synthetic: good for checks, not for
            measuring quality.
        source: all samples to fit to; None where there are none.
        notes: sentences on samples that are not used, on how they are fed, and on what makes a
            judgement by them worth little.
        fit_labels: labels of the samples of ``fit``; None without.
    """

    fit: tuple[Feeds, ...]
    holdout: Part
    eval: Part
    probe: Sequence[Feeds]
    description: str
    synthetic: bool = False
    source: Calibration | None = None
    notes: tuple[str, ...] = ()
    fit_labels: Array | None = None

    def labelled(self) -> Iterator[tuple[Feeds, Array]]:
        """All batches that have labels, those that judge first."""
        parts = [self.eval, *([] if self.holdout is self.eval else [self.holdout])]
        known = [(part.feeds, part.labels) for part in parts if part.labels is not None]
        if self.fit_labels is not None and not self.one_batch:
            known.append((self.fit, self.fit_labels))
        for feeds, labels in known:
            start = 0
            for batch in feeds:
                stop = start + count_samples(batch)
                yield batch, labels[start:stop]
                start = stop

    @property
    def labels(self) -> Array | None:
        """Labels of ``eval``; None without."""
        return self.eval.labels

    def whole(self, config: Options) -> Part:
        """All samples, not divided, with their labels."""
        if self.source is None:
            return self.eval
        labels = config.labels
        values = None
        if labels is not None:
            source, metric = self.source, config.metric
            values = open_labels(labels, source.indices, metric=metric, samples=source)
        return Part(self.source, values, self.source.available)

    @property
    def one_batch(self) -> bool:
        """Whether a single batch is all there is, to fit to and to evaluate on."""
        same = self.eval.option == "--calib"
        return self.source is not None and self.source.steps == 1 and same


def open_source(
    model: Model, config: Options
) -> tuple[Calibration | None, Mapping[str, tuple[int, ...]] | None]:
    """The user's samples: those to fit to, or if there are none, those that only judge.

    Returns:
        The samples, or None without; shapes by input name as the user gave them, else as the first
        batch has them, or None.

    Raises:
        OnnxpruneError: the data cannot be read or do not fit the model.
    """
    shapes = dict(config.shapes) or None
    if config.calib is not None:
        source = open_calibration(
            config.calib,
            signature_of(model),
            preprocess=config.preprocess,  # checked where it is parsed
            samples=config.calib_samples,
            batch=config.batch,
            seed=config.seed,
            together=together(config.metric),
        )
    elif config.eval is not None:
        source = _open_eval(signature_of(model), config, config.batch)
    else:
        return None, shapes
    first = next(iter(source), None)
    if first is None:
        raise OnnxpruneError(f"the {source.inputs.noun} hold no samples")
    source, feeds = runnable(model, source, first, config.provider)
    return source, shapes or {name: array.shape for name, array in feeds.items()}


def _open_eval(signature: Signature, config: Options, batch: int | None) -> Calibration:
    """The samples of ``--eval``, all of them.

    Raises:
        OnnxpruneError: they cannot be read, do not fit the model, or are synthetic.
    """
    opened = open_calibration(
        config.eval,
        signature,
        preprocess=config.preprocess,
        batch=batch,
        seed=config.seed,
        option="--eval",
        together=together(config.metric),
    )
    if opened.synthetic:
        raise OnnxpruneError(
            "--eval random: random inputs cannot judge a model",
            hint="give real inputs; without --eval and --calib, random inputs only check the cut",
        )
    return opened


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
    the luckiest. A single batch serves for all. With ``--eval``, nothing is held out: those samples
    evaluate, halved where models are chosen.

    Args:
        source: the samples.
        config: labels, samples of ``--eval`` and seed.
        chooses: whether one of several models is to be chosen.
        most_bytes: of batches to fit to; by default what the memory budget gives.

    Raises:
        OnnxpruneError: samples or labels cannot be read, or there are too few.
    """
    if config.eval is not None:
        return _open_judged(source, config, chooses=chooses, most_bytes=most_bytes)
    probe = tuple(itertools.islice(source, _PROBES))
    one, most = source.steps == 1, budget_of(config).samples
    seen, judges = Screen(source.inputs), Screen(source.inputs)
    fit_labels: Array | None = None

    def part(samples: Calibration) -> Part:
        return judging_part(samples, config, judges, indices=None if one else samples.indices)

    if source.synthetic or (one and not chooses):
        fit: tuple[Feeds, ...] = () if source.synthetic else tuple(seen.watch(source))
        parts = [part(source)]
        notes = source.notes
        if one and not source.synthetic:
            notes += (_fitted_to(fit),)
    else:
        rest, aside = split(source, ASIDE if chooses else HOLDOUT, config.seed)
        two = chooses and (aside.samples or 0) >= 2 * ENOUGH
        parts = [part(each) for each in (split(aside, 0.5, config.seed) if two else [aside])]
        fit = tuple(seen.watch(_within(rest, most if most_bytes is None else most_bytes)))
        known = rest.samples if chooses else source.samples
        notes = source.notes + _left_out(fit, known, 1.0 if chooses else 1 - HOLDOUT)
        notes += notes_on(seen, [judges])
        if config.labels is not None and form_of(config.metric) == "numbers":
            fit_labels = open_labels(config.labels, rest.indices)
    return Dataset(
        fit, parts[0], parts[-1], probe, source.description, source.synthetic, source, notes,
        fit_labels,
    )  # fmt: skip


def _open_judged(
    source: Calibration, config: Options, *, chooses: bool, most_bytes: float | None
) -> Dataset:
    """Samples to fit to, all of them, and others of ``--eval`` that judge.

    Where ``--eval`` is given alone, ``source`` holds its samples; choices are then left to
    synthetic inputs (`synthetic_choices`).
    """
    alone = config.calib is None and not source.synthetic
    opened = source if alone else _same_feeds(source, config)
    seen, judges = Screen(source.inputs), Screen(source.inputs)
    most = budget_of(config).samples
    two = chooses and (opened.steps or 0) * opened.reader.group >= 2 * ENOUGH
    halves = split(opened, 0.5, config.seed) if two else [opened]
    parts = [judging_part(each, config, judges, indices=each.indices) for each in halves]
    fit: tuple[Feeds, ...] = ()
    notes = opened.notes
    if not (alone or source.synthetic):
        fit = tuple(seen.watch(_within(source, most if most_bytes is None else most_bytes)))
        notes = (*source.notes, *notes, *_left_out(fit, source.samples, 1.0))
    notes += notes_on(seen, [judges], "--eval")
    probe = tuple(itertools.islice(source, _PROBES))
    holdout = parts[0] if fit or alone or chooses else Part(source)
    described = source.description if not alone else f"none; judged by {source.description}"
    return Dataset(
        fit, holdout, parts[-1], probe, described, source=None if alone else source, notes=notes
    )


def _same_feeds(source: Calibration, config: Options) -> Calibration:
    """The samples of ``--eval`` in feeds like those of ``source``."""
    opened = _open_eval(source.signature, config, config.batch)
    if source.inputs.fixed and not opened.inputs.fixed:
        return replace(singly(opened), notes=opened.notes)
    if opened.inputs.fixed or source.batch is None:
        return opened
    return replace(opened, batch=min(source.batch, opened.batch or source.batch))


def judging_part(
    samples: Calibration, config: Options, screen: Screen, indices: Index | None
) -> Part:
    """Samples that judge, with their labels and groups, each looked at."""
    option = samples.inputs.option
    spec = config.eval_labels if option == "--eval" else config.labels
    flag = "--eval-labels" if option == "--eval" else "--labels"
    labels = None
    if spec is not None:
        labels = open_labels(spec, indices, flag, metric=config.metric, samples=samples)
    groups = None
    if config.slices is not None and not samples.synthetic:
        groups = open_slices(config.slices, indices, samples.available)
    feeds = _in_memory(samples, budget_of(config).samples, screen)
    return Part(feeds, labels, samples.available, groups, option, samples.reader.description)


def _fitted_to(feeds: Sequence[Feeds]) -> str:
    """A note on a single batch, which is fitted to and judges."""
    count = sum(map(count_samples, feeds))
    what = "there is only one sample" if count == 1 else f"there is only one batch, of {count}"
    return f"{what}, which was fitted to and judges too: others may do worse (--eval gives some)"


def with_checks(data: Dataset, model: Model, config: Options) -> Dataset:
    """The same with notes on samples that are unlike what the model's normalisation expects."""
    if data.synthetic:
        return data
    try:
        notes = normalisation_notes(model, data.probe, config.provider)
    except OnnxpruneError:  # a model that does not run is refused where it has to
        return data
    return replace(data, notes=(*data.notes, *notes))


def synthetic_choices(data: Dataset, analysis: Analysis, config: Options) -> Dataset:
    """The same with synthetic inputs to choose by, where there are none that may be fitted to."""
    if data.source is not None or data.synthetic:
        return data
    return replace(data, holdout=synthetic_dataset(analysis, config).holdout)


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
    of a cache, say); then sizes that exporters' names suggest are tried, and at last the first set
    alone, which a user may have given.

    Raises:
        OnnxpruneError: the model does not run on them.
    """
    signature = signature_of(analysis.model)
    problem: OnnxpruneError | None = None
    for guess in (_analysed, _by_names, _first_sizes):
        try:
            feeds = guess(analysis, signature, seed)
            first_run(analysis.model, feeds, provider=provider)
        except RuntimeDiedError:
            raise
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


def _first_sizes(analysis: Analysis, signature: Signature, seed: int) -> tuple[Feeds, ...]:
    """Inputs of the first set of shapes: sizes of 1 may be there to be broadcast."""
    return _analysed(replace(analysis, inputs=analysis.inputs[:1] * 2), signature, seed)


def _analysed(analysis: Analysis, signature: Signature, seed: int) -> tuple[Feeds, ...]:
    """Inputs of the shapes that the model was analysed at."""
    signature = tuple(spec for spec in signature if spec.kind == "tensor")
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


def _in_memory(source: Iterable[Feeds], most: int, screen: Screen) -> Iterable[Feeds]:
    """All batches in memory if they fit; else the source, to read them again."""
    feeds, size = [], 0
    for each in screen.watch(source):
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
