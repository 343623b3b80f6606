"""Measure any model on data: alone by its task, or against a dense model by both verdicts."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune import model as models
from onnxprune.config import EvalOptions, Options, split
from onnxprune.data import Calibration, open_calibration
from onnxprune.data.batches import Feeds, count_samples, in_types_of, is_single, mark_single
from onnxprune.data.dataset import Part, judging_part
from onnxprune.data.labels import together
from onnxprune.data.ranks import with_ranks, with_ranks_of
from onnxprune.data.screening import Screen, notes_on
from onnxprune.data.singly import runnable, singly
from onnxprune.errors import OnnxpruneError, as_path, blame, named_as, spelled
from onnxprune.evaluate.caveats import caveats
from onnxprune.evaluate.evaluation import (
    Evaluation,
    Task,
    chance_of,
    compare_models,
    score_model,
    task_of,
)
from onnxprune.evaluate.output_comparison import Outputs
from onnxprune.evaluate.standard_error import SURE, score_error
from onnxprune.evaluate.tails import score_tails
from onnxprune.evaluate.verdict import Quality, Structure, judge
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.interface import Interface
from onnxprune.graph.plan import Plan
from onnxprune.jobs import certificate as certificates
from onnxprune.jobs.certificate import Certificate
from onnxprune.jobs.derivation import compare_with_cut, derive
from onnxprune.jobs.finite_weights import FiniteWeights
from onnxprune.jobs.interface.alignment import MAPPED, align, amounts
from onnxprune.jobs.interface.mapped_data import relabelled
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.quantize.dequantize import is_quantized
from onnxprune.jobs.run import Progress, place, stand_in_note
from onnxprune.model.decode import densify
from onnxprune.model.retyping import retyped, weight_type
from onnxprune.model.seal import read_seal
from onnxprune.model.signature import Signature, is_floating, signature_of
from onnxprune.quantities import measured, percent, plural, unit_of
from onnxprune.runtime import open_session
from onnxprune.types import Check

_UNCHANGED = 0.999
"""Correlation from which on weights are those of the dense model but for rounding."""
_TELLING = 0.1
"""Largest such distance, as a share of what lies between chance and perfection, that tells."""


@dataclass(frozen=True, eq=False, repr=False)
class Assessment:
    """A model measured on data.

    Attributes:
        metric: name of the task metric; empty without labels.
        value: of the metric; None without labels.
        error: its standard error; None where it is not known.
        evaluation: comparison with the dense model; without one, only the samples.
        quality: good, degraded or broken beside the dense model; without one, broken or not
            measured.
        structure: whether the model is the dense one with parts removed.
        checks: the limit of the drop, where there is one.
        notes: whole sentences.
        model, against: paths of the model and of the dense one, or what stands for models in
            memory; None for a model alone.
        shapes: of inputs whose sizes the models leave open.
    """

    metric: str
    value: float | None
    error: float | None
    evaluation: Evaluation
    quality: Quality
    structure: Structure
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    model: str = ""
    against: str | None = None
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether nothing is broken, no check failed and the structure is not another one."""
        failed = self.structure.status == "failed" or self.quality.broken
        return not failed and all(check.ok for check in self.checks)

    def report(self, path: str | Path) -> Path:
        """Write the HTML page of the measurement: one file that needs no network.

        Raises:
            OnnxpruneError: the file does not end in ``.html`` or cannot be written.
        """
        page: Path = _drawn().assessment_page(self, as_path(path, "path"))
        return page

    def _repr_html_(self) -> str:
        return str(_drawn().assessment_html(self))

    def __repr__(self) -> str:
        return f"<Assessment: {self}>"

    def __str__(self) -> str:
        parts = []
        if self.value is not None:
            parts.append(f"{self.metric} {measured(self.value, unit_of(self.metric))}")
        parts += [f"structure {self.structure.status}", f"quality {self.quality.status}"]
        return ", ".join(parts)


@keywords("eval")
@named_as({"--calib": "--data", "--calib-samples": "--samples"})
@np.errstate(over="ignore", invalid="ignore")  # such values end in a verdict or refusal
def eval(  # noqa: A001  the name of the command
    model: models.ModelLike,
    against: models.ModelLike | None = None,
    options: EvalOptions | None = None,
    *,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Assessment:
    """Measure a model on data, alone or against the dense model it was made from.

    With labels, the task metric is measured, with its standard error. Against a dense model, the
    outputs are compared too, quality and structure are judged, and the error of the change is that
    of pairs.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        against: the dense model, likewise; its inputs and outputs have the same names.
        options: data, labels and metric; or give the same as keywords
            (``eval(path, data="test.npz", labels="test.npz")``).
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: a model or the data cannot be used, or there are no data, or neither labels
            nor a dense model.

    Example:
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> entry = zoo.get("digits_mlp")
        >>> small = prune(entry.model, ratio=0.25).model
        >>> data = entry.evaluation
        >>> eval(small, entry.model, data=data, labels=data).structure.status
        'verified'
    """
    settings = split("eval", fields, options)[0]
    if settings.data is None:
        raise OnnxpruneError(
            "there is nothing to measure the model on",
            hint="give inputs with --data, as in --data 'test.npz'",
        )
    if settings.labels is None and against is None:
        raise OnnxpruneError(
            "there is nothing to compare the outputs with",
            hint="give --labels, or the dense model with --against",
        )
    config = place(_as_options(settings))
    progress("reading the model")
    small = densify(models.load(model))[0]
    dense = None if against is None else densify(models.load(against))[0]
    described: dict[str, Any] = {
        "model": _name(model, "the model passed in"),
        "against": None if against is None else _name(against, "the dense model passed in"),
        "shapes": settings.shapes,
    }
    if dense is None:
        small = _analysable(with_ranks(small, config), config)
        part, notes = _samples(small, None, settings, config)
        progress("measuring the task")
        notes = (*stand_in_note(config), *notes)
        return replace(_alone(small, part, config, settings, notes), **described)
    dense = with_ranks(with_ranks_of(dense, small), config)
    both = align(dense, with_ranks_of(small, dense), config, settings.shapes or None)
    dense, small = both.reference, _analysable(with_ranks(both.small, config), config)
    part, notes = _samples(small, dense, settings, config)
    if both.narrowing is not None:
        config = both.narrowing.absolute(config)
        part, more = relabelled(part, config, both.narrowing)
        notes = (MAPPED, *more, *notes)
    notes = (*stand_in_note(config), *notes)
    progress("comparing with the dense model")
    evaluation = compare_models(dense, small, part, config)
    data = _described(part, settings, evaluation)
    weights = FiniteWeights(small, dense).reasons()
    quality = judge(evaluation, data=data, weights=weights)
    progress("deriving the structure")
    first = next(iter(part))
    structure = derive_structure(both.dense, small, (first,), config, _certificate(model))
    structure = with_interface_amounts(structure, both.interface)
    checks: tuple[Check, ...] = ()
    if settings.max_drop is not None:
        within = evaluation.within(settings.max_drop)
        checks = (Check("drop", within, evaluation.drop, settings.max_drop),)
    return Assessment(
        evaluation.metric,
        evaluation.after,
        evaluation.after_error,
        evaluation,
        quality,
        structure,
        checks,
        (*notes, *evaluation.notes, *caveats(evaluation, limited=settings.max_drop is not None)),
        **described,
    )


def with_interface_amounts(structure: Structure, interface: Interface) -> Structure:
    """The same with what left the interface, which the narrowed dense model does not show."""
    if not interface or structure.status not in ("verified", "nothing cut"):
        return structure
    return replace(structure, status="verified", reasons=(*amounts(interface), *structure.reasons))


def _analysable(model: models.Model, config: Options) -> models.Model:
    """The model, whose graph fits the sizes that options give."""
    if config.shapes:
        with blame("--shapes"):
            analyse(model, inputs=config.shapes)
    return model


def _name(model: models.ModelLike, stand_in: str) -> str:
    """The path of a model, or what stands for one in memory."""
    path = model.path if isinstance(model, models.Model) else model
    return str(path) if isinstance(path, str | os.PathLike) else stand_in


def _drawn() -> Any:  # noqa: ANN401  a module
    """The module that draws results: of the room above, so it is imported by name on demand."""
    return importlib.import_module("onnxprune.report.python")


def _as_options(settings: EvalOptions) -> Options:
    """The options that other jobs read."""
    return Options(
        calib=settings.data,
        labels=settings.labels,
        metric=settings.metric,
        detector=settings.detector,
        vocabulary=settings.vocabulary,
        blank=settings.blank,
        threshold=settings.threshold,
        preprocess=settings.preprocess,
        slices=settings.slices,
        batch=settings.batch,
        backend=settings.backend,
        seed=settings.seed,
        shapes=settings.shapes,
    )


def _samples(
    small: models.Model, dense: models.Model | None, settings: EvalOptions, config: Options
) -> tuple[Part, tuple[str, ...]]:
    """The samples with their labels, in feeds that both models take, and notes on them."""
    wide = _widest(small, small if dense is None else dense)
    source = _opened(wide, settings)
    if source.synthetic:
        raise OnnxpruneError(
            "--data random: random inputs cannot judge a model", hint="give real inputs"
        )
    single = False
    for model in (small, dense):
        if model is None:
            continue
        signature = signature_of(model)
        own = source if signature == wide else _opened(signature, settings)
        single |= _feeds(model, own, config) is not own
    if single:
        source = singly(source)
    if dense is not None and is_single(small):
        mark_single(dense)
    screen = Screen(source.inputs)
    part = judging_part(source, config, screen, source.indices)
    notes = (*source.notes, *notes_on(Screen(source.inputs), [screen], "--data"))
    return part, notes


def _opened(signature: Signature, settings: EvalOptions) -> Calibration:
    return open_calibration(
        settings.data,
        signature,
        preprocess=settings.preprocess,
        samples=settings.samples,
        batch=settings.batch,
        seed=settings.seed,
        option="--data",
        together=together(settings.metric),
    )


def _widest(small: models.Model, dense: models.Model) -> Signature:
    """The inputs of a model, in the wider of the floating types that it and another take."""
    other = {spec.name: spec.dtype for spec in signature_of(dense)}
    return tuple(
        replace(spec, dtype=wide)
        if (wide := other.get(spec.name, spec.dtype)) != spec.dtype
        and is_floating(wide)
        and is_floating(spec.dtype)
        and wide.itemsize > spec.dtype.itemsize
        else spec
        for spec in signature_of(small)
    )


def _feeds(model: models.Model, source: Calibration, config: Options) -> Calibration:
    first = next(iter(source), None)
    if first is None:
        raise OnnxpruneError(f"--data: the {source.inputs.noun} hold no samples")
    return runnable(model, source, first, config.provider)[0]


def _described(part: Part, settings: EvalOptions, evaluation: Evaluation) -> str:
    """Which samples judge, as in ``200 labelled of 1,000 samples of test.npz``."""
    labelled = "labelled " if part.labels is not None else ""
    count, total = evaluation.samples, part.available
    of = f"of {total:,} " if total is not None and total > count else ""
    name = settings.data if isinstance(settings.data, str) else "the data passed in"
    return f"{count:,} {labelled}{of}samples of {name}"


# --- a model alone ---------------------------------------------------------------------------


def _alone(
    model: models.Model,
    part: Part,
    config: Options,
    settings: EvalOptions,
    notes: tuple[str, ...],
) -> Assessment:
    """The task metric of a model that is compared with no other."""
    task = task_of(part, config)
    assert task is not None  # there are labels
    session = open_session(model, provider=config.provider, arena=False)
    counts = {"samples": 0, "values": 0}

    def run(feeds: Feeds) -> Outputs:
        outputs = session.run(feeds)
        counts["samples"] += count_samples(feeds)
        counts["values"] += sum(map(_undefined, outputs.values()))
        return outputs

    result = score_model(run, part, task)
    error = score_error(task.metric, result)
    evaluation = Evaluation(
        metric=task.metric.name,
        after=result.value,
        higher_is_better=task.metric.higher_is_better,
        samples=counts["samples"],
        available=part.available,
        tails=score_tails(task.metric, result, task.labels),
    )
    reason = spelled("no dense model was given to compare with (--against)")
    quality = Quality(
        "not measured", (reason,), counts["samples"], _described(part, settings, evaluation)
    )
    findings = []
    if counts["values"]:
        findings.append(f"{plural(counts['values'], 'value')} of the outputs are NaN")
    chance, spread = chance_of(task, result)
    spread = error if spread is None else spread
    if chance is not None and spread is not None and _at_chance(task, result.value, chance, spread):
        unit = unit_of(task.metric.name)
        findings.append(
            f"{task.metric.name} {measured(result.value, unit)}, within {SURE:g} standard errors "
            f"of chance ({measured(chance, unit)})"
        )
    quality = quality.with_findings(("broken", each) for each in findings)
    structure = Structure("not checked", ("no dense model was given to compare with",))
    return Assessment(
        task.metric.name, result.value, error, evaluation, quality, structure, notes=notes
    )


def _undefined(output: Any) -> int:  # noqa: ANN401  outputs may be sequences and maps
    if not isinstance(output, np.ndarray) or output.dtype.kind != "f":
        return 0
    return int(np.isnan(output).sum())


def _at_chance(task: Task, value: float, chance: float, error: float) -> bool:
    """Whether a model does no better than one that sees no input, on enough samples to tell."""
    sign = 1 if task.metric.higher_is_better else -1
    room = 1 - chance if task.metric.higher_is_better else chance
    gain, doubt = sign * (value - chance), SURE * error
    return gain < -doubt or gain <= doubt <= _TELLING * room


# --- the structure ---------------------------------------------------------------------------


def derive_structure(
    dense: models.Model,
    small: models.Model,
    feeds: tuple[Feeds, ...],
    config: Options,
    claim: Certificate | None = None,
) -> Structure:
    """Whether a model is the graph of a dense one with units, blocks or weights removed.

    A certificate says what was removed, if the model is what it says; else that is found by
    comparing graphs and weights. The dense graph, cut accordingly and with the weights of the
    model, has to compute the same. Weights of another floating type are compared in that of the
    dense model, those in int8 as the floats that they stand for.

    Args:
        dense: the model that the other was made from.
        small: the other.
        feeds: inputs of the check.
        config: provider and seed of the check.
        claim: the certificate of the model.

    Returns:
        ``verified``, ``nothing cut``, ``failed`` where both compute different outputs, or ``not
        checked`` with the reason where nothing corresponds.
    """
    shapes: Mapping[str, tuple[int, ...]] = {name: a.shape for name, a in feeds[0].items()}
    try:
        analysis = analyse(dense, inputs=shapes)
    except OnnxpruneError as error:
        return Structure("not checked", (error.message,))
    integers = is_quantized(small, beside=dense)
    if integers or (claim is not None and claim.plan is not None):
        structure = _derived(analysis, small, claim, config)
        if structure.status != "failed" or integers:
            return structure
    one, other = weight_type(dense), weight_type(small)
    twins = one is not None and other is not None and one is not other
    if one is not None and other is not None and twins:
        small = retyped(small, other, one)
        feeds = tuple(in_types_of(each, signature_of(dense)) for each in feeds)
    try:
        match, twin, check = compare_with_cut(analysis, small, feeds, config.provider)
    except OnnxpruneError as error:
        return Structure("not checked", (error.message,))
    if not check.ok:
        reason = (
            "the dense graph, cut to these sizes and with these weights, computes something else "
            f"(difference {check.value:.2g})"
        )
        return Structure("failed", (reason,), 1)
    parts = list(_amounts(analysis, match.removed, match.bypassed, twin.masks))
    if twins and other is not None:
        parts.append(f"its weights are {other.numpy().name}")
    finite = not any(FiniteWeights(small, dense).reasons())  # NaN resembles nothing, not itself
    if finite and match.likeness < _UNCHANGED:
        parts.append(f"weights have changed (correlation {match.likeness:.3f})")
    if not (match.removed or match.bypassed or twin.masks):
        return Structure("nothing cut", tuple(parts), 1)
    return Structure("verified", tuple(parts), 1)


def _derived(
    analysis: Analysis, small: models.Model, claim: Certificate | None, config: Options
) -> Structure:
    """The structure as `verify` derives it."""
    result = derive(analysis, small, claim, None, config)
    failed = [each for each in result.checks if not each.ok]
    if failed:
        return Structure("failed", tuple(result.notes) or (failed[0].name,), 1)
    plan = result.plan or Plan()
    zeroed = plan.zeroed or (claim.zeroed if claim is not None else {})
    parts = list(_amounts(analysis, plan.removed, plan.bypassed, zeroed))
    parts += ["its weights are int8"] * result.quantized
    if result.changed:
        parts.append(f"{plural(len(result.changed), 'weight')} changed")
    return Structure("verified" if parts else "nothing cut", tuple(parts), 1)


def _certificate(model: models.ModelLike) -> Certificate | None:
    """The certificate of a file, if it is of this very graph."""
    if not isinstance(model, str | Path):
        return None
    try:
        seal = read_seal(Path(model))
        claim = certificates.read(Path(model), seal)
    except OnnxpruneError:
        return None
    return claim if claim is not None and claim.digests.graph == seal.digests.graph else None


def _amounts(
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]],
    bypassed: Sized,
    masks: Sized,
) -> Iterator[str]:
    gone = sum(map(len, removed.values()))
    if gone:
        units = sum(len(group) for group in analysis.groups)
        yield f"{gone:,} of {units:,} units are removed ({percent(gone / units)})"
    if bypassed:
        yield f"{plural(len(bypassed), 'block')} bypassed"
    if masks:
        yield f"zeros in {plural(len(masks), 'weight')}"
