"""Quantizing a model, start to end: prepare, quantize, lay out, check zeros, compare outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from onnxprune import model as models
from onnxprune.config import INPUTS, Options, QuantizeOptions, StoreOptions, split
from onnxprune.data.dataset import Dataset, open_dataset, open_source, with_checks
from onnxprune.data.memory import budget_of, scarce_note, settle
from onnxprune.data.ranks import with_ranks, without_ranks
from onnxprune.errors import OnnxpruneError, as_model_path, spelled
from onnxprune.evaluate.equivalence import arrays_of, difference
from onnxprune.evaluate.evaluation import Evaluation, check_task, compare_models, metric_of
from onnxprune.evaluate.verdict import Quality, Structure, judge, judge_structure
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.plan import Plan
from onnxprune.graph.shapes import propagate
from onnxprune.jobs.apply_plan import finite, within_drop
from onnxprune.jobs.certificate import Claims, certify, expected_model, verdicts
from onnxprune.jobs.finite_weights import FiniteWeights
from onnxprune.jobs.interface.mapped_data import in_new_ids, without_lost_labels
from onnxprune.jobs.interface.narrowing import Narrowing, released
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.prune import prune
from onnxprune.jobs.quantize import exclusions, quantizer, zeros
from onnxprune.jobs.quantize.comparison import compare_quantized
from onnxprune.jobs.quantize.preparation import prepared
from onnxprune.jobs.quantize.purposes import why_float
from onnxprune.jobs.quantize.rows import by_rows
from onnxprune.jobs.quantize.zeros import Weight
from onnxprune.jobs.result import Result
from onnxprune.jobs.run import reproducible, within_memory
from onnxprune.jobs.store import Stored
from onnxprune.jobs.verdicts import (
    HOW,
    data_of,
    judging_notes,
    over_limit,
    refuse_broken,
)
from onnxprune.model.decode import densify
from onnxprune.quantities import measured, times, unit_of
from onnxprune.runtime import open_session
from onnxprune.types import PROVIDERS, Check, provider_of

Progress = Callable[[str], None]

_ROUNDING = 1e-3
"""Largest relative difference of outputs that is rounding, not saturated sums."""


@dataclass(frozen=True, eq=False, repr=False)
class Quantized:
    """A quantized model, its checks and its evaluation.

    Attributes:
        model: it.
        weights: every weight that a layer contracts, before and after.
        checks: zeros, patterns, and the limits of the options.
        evaluation: how its outputs compare with the float model's, on inputs that no range was
            taken from.
        bytes: of everything stored, before and after.
        notes: whole sentences.
        settings: the options.
        dense: the float model.
        config: the options of the data.
        plan: what was removed before.
        quality: whether it does what the float model does.
        fitted: whether weights were fitted to data before.
        analysis: of the float model, where it was pruned before.
        narrowing: ids and classes that left first.
    """

    model: models.Model
    weights: tuple[Weight, ...]
    checks: tuple[Check, ...]
    evaluation: Evaluation
    bytes: tuple[int, int]
    notes: tuple[str, ...]
    settings: QuantizeOptions
    dense: models.Model
    config: Options
    plan: Plan
    quality: Quality
    fitted: bool = False
    analysis: Analysis | None = None
    narrowing: Narrowing | None = None

    @property
    def ok(self) -> bool:
        """Whether every check passed and the result is not broken."""
        return all(check.ok for check in self.checks) and not self.quality.broken

    @property
    def structure(self) -> Structure:
        """Whether zeros, patterns and what was pruned first are as they should be."""
        return judge_structure(self.checks, cut=True)

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the quantized model, and its certificate beside it.

        Args:
            path: the .onnx file.
            force: write it although it is broken (`quality`).

        Raises:
            OnnxpruneError: the result is broken, or cannot be written there.
        """
        path = as_model_path(path)
        if not force:
            refuse_broken(self.quality, quantized=True)
        claims = Claims(
            command="quantize",
            dense=self.dense,
            model=self.model,
            plan=self.plan,
            config=self.config,
            quantized=[each.name for each in self.weights if each.quantized],
            fitted=self.fitted,
            changed=self._changed,
            verdicts=lambda: verdicts(self, self.evaluation, self.checks),
        )
        options = StoreOptions(certificate=self.config.certificate)
        stored = Stored(self.model, self.model, (), options)
        if self.narrowing is None:
            return stored.save(path, certify=certify(claims) if options.certificate else None)
        self.narrowing.check_tokenizer(path)
        stored.save(path, certify=certify(claims) if options.certificate else None)
        self.narrowing.write_tokenizer(path)
        return path

    def _changed(self) -> frozenset[str] | None:
        """Weights with other values than the float model, cut by the plan, has in int8."""
        if not self.fitted:
            return frozenset()
        if self.analysis is None:
            return None
        masks = {name: (mask.size, mask.kept) for name, mask in self.plan.zeroed.items()}
        expected = expected_model(self.analysis, self.plan)
        if self.narrowing is not None:
            expected = released(expected, self.narrowing)[0]
        comparison = compare_quantized(expected, self.model, masks)
        return None if comparison.problem else comparison.changed

    def __repr__(self) -> str:
        return f"<Quantized: {self}>"

    def __str__(self) -> str:
        count = sum(bool(each.quantized) for each in self.weights)
        return (
            f"{count} of {len(self.weights)} weights in int8, "
            f"{times(self.bytes[1] / self.bytes[0])} bytes, "
            f"structure {self.structure.status}, quality {self.quality.status}"
        )


@keywords("quantize")
@reproducible
@np.errstate(over="ignore", invalid="ignore")  # such values end in a verdict or refusal
def quantize(
    model: models.ModelLike,
    settings: QuantizeOptions | None = None,
    options: Options | None = None,
    *,
    first: Options | None = None,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Quantized:
    """Quantize a model to INT8 so that its zeros, and N:M among them, stay zeros.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        settings: the options of the quantization.
        options: the inputs (``calib`` and what belongs to it), ``labels``, ``metric``,
            ``max_drop`` and ``seed``; the rest has no meaning here.
        first: a pruning run that comes before; it takes inputs from ``options`` where it names
            none. Outputs are then compared with those of the model before both.
        progress: called with a line of text at each stage.
        fields: both kinds of options by name, instead of ``settings`` and ``options``.

    Raises:
        OnnxpruneError: activations need inputs to be measured on and there are none, the model
            has nothing to quantize, or onnxruntime refuses it.

    Example:
        >>> from onnxprune.data import zoo
        >>> result = quantize(zoo.get("digits_mlp").model, dynamic=True)
        >>> result.ok, result.bytes[1] < result.bytes[0] / 2
        (True, True)
    """
    settings, config = split("quantize", fields, settings, options)
    if settings.format == "cpu" and provider_of(settings.backend) in PROVIDERS:
        config = replace(config, backend=settings.backend)
    _check_inputs(settings, config)
    config = settle(config)
    progress("reading the model")
    dense, unpacked = _loaded(model, config)
    quantized = quantizer.is_quantized(dense)
    if quantized and not quantizer.float_weights(dense):
        raise _already_quantized()
    budget, data = budget_of(config), _open_data(dense, config)
    pruned = None
    if first is not None:
        inputs = {name: getattr(config, name) for name in INPUTS} if first.calib is None else {}
        pruned = prune(dense, replace(first, **inputs), progress=progress)
    progress("preparing")
    reference, data, config = _after(pruned, dense, data, config)
    ready, notes = prepared(dense if pruned is None else pruned.model)
    feeds = list(data.fit or data.holdout)
    reasons = exclusions.known_reasons(ready, feeds, settings)
    progress("quantizing")
    result = exclusions.quantize_most(ready, settings, feeds, reasons, budget)
    sentences = [f"{len(unpacked)} packed weights were made dense first"] if unpacked else []
    sentences += (*(pruned.notes if pruned is not None else data.notes), *notes)
    why = _explain(ready, settings, reasons)
    weights = zeros.compare(ready, result, why)
    if not any(each.quantized for each in weights):
        if quantized:
            raise _already_quantized()
        raise OnnxpruneError(
            "onnxruntime's quantizer found no weight that it quantizes in this model",
            hint=_unquantized(weights, settings),
        )
    if settings.format == "openvino-sparse":
        result, names = by_rows(result)
        sentences.append(f"{len(names)} weights were laid out as [N,K]")
    checks = [*(pruned.checks if pruned is not None else ()), *zeros.checks(weights)]
    progress("comparing with the float model")
    outcome = compare_models(reference, result, data.eval, config)
    checks += finite(outcome)
    sentences += judging_notes(reference, data, config, outcome)
    shipped = _shipped(reference, result, data, config, outcome)
    if shipped is not None:
        sentences.append(_saturation_note(outcome, shipped, settings))
    limits, unsure_notes = within_drop(outcome, config)
    checks += limits
    sentences += [*unsure_notes, *scarce_note(config)]
    if data.synthetic:
        sentences.append(f"inputs were synthetic ({data.description}): accuracy was not measured")
    quality = judge(
        outcome,
        data=data_of(data, outcome),
        synthetic=data.synthetic,
        weights=FiniteWeights(result, dense).reasons(),
        unmeasured=spelled(f"there are no inputs; {HOW}"),
    ).with_findings(over_limit(checks, outcome.measure))
    sizes = models.size_bytes(dense), models.size_bytes(result)
    outcomes = tuple(checks), outcome, sizes, tuple(sentences)
    return Quantized(
        without_ranks(result, dense), weights, *outcomes, settings, dense, config,
        plan=Plan() if pruned is None else pruned.plan,
        quality=quality,
        fitted=pruned is not None and pruned.config.fits,
        analysis=None if pruned is None else pruned.analysis,
        narrowing=None if pruned is None else pruned.narrowing,
    )  # fmt: skip


def _after(
    pruned: Result | None, dense: models.Model, data: Dataset, config: Options
) -> tuple[models.Model, Dataset, Options]:
    """The reference, samples and options after a pruning run; its ids and classes may be new."""
    narrowing = None if pruned is None else pruned.narrowing
    if narrowing is None:
        return dense, data, config
    config = narrowing.absolute(config)
    data = without_lost_labels(data, config, narrowing)
    return released(narrowing.model, narrowing)[0], in_new_ids(data, narrowing), config


def _loaded(source: models.ModelLike, config: Options) -> tuple[models.Model, tuple[str, ...]]:
    """The float model with dense weights and inputs of known rank, and weights that were packed."""
    dense, unpacked = densify(models.load(source))
    return with_ranks(dense, config), unpacked


def _open_data(dense: models.Model, config: Options) -> Dataset:
    """The samples that ranges are measured on and that judge; synthetic ones without data."""
    source = config if config.calib is not None else _synthetic(config)
    samples, shapes = open_source(dense, source)
    assert samples is not None
    assert shapes is not None
    samples = within_memory(samples, config, dense, propagate(dense, shapes))
    data = open_dataset(samples, config, most_bytes=budget_of(config).total // 2)
    check_task(dense, data.eval, config)
    return with_checks(data, dense, config)


def _shipped(
    dense: models.Model, result: models.Model, data: Dataset, config: Options, outcome: Evaluation
) -> Evaluation | None:
    """The evaluation of a model as onnxruntime runs it on this processor, where that is worse.

    Without VNNI, x86 adds products of uint8 and int8 in 16 bits, which saturate. Verdicts are on
    what the standard defines, so that they are the same on every machine.
    """
    if data.synthetic or config.provider != "cpu":
        return None
    feeds = data.probe[0]
    exact, narrow = (
        arrays_of(open_session(result, saturate=each, arena=False).run(feeds))
        for each in (False, True)
    )
    if all(difference(narrow[name], exact[name]) <= _ROUNDING for name in exact):
        return None
    shipped = compare_models(dense, result, data.eval, config, saturate=True)
    return shipped if shipped.drop > outcome.drop else None


def _saturation_note(exact: Evaluation, shipped: Evaluation, settings: QuantizeOptions) -> str:
    here, defined = (measured(each.value, unit_of(shipped.measure)) for each in (shipped, exact))
    note = (
        f"{shipped.measure} is {here} as onnxruntime runs the model on this processor, whose "
        f"integer products saturate, and {defined} where they do not (VNNI, AMX, Arm)"
    )
    return note if settings.reduce_range else spelled(f"{note}: --reduce-range avoids that")


def _check_inputs(settings: QuantizeOptions, config: Options) -> None:
    """Refuse options that lack inputs, or do not go together, and a metric that is none."""
    metric_of(config)
    if settings.format == "openvino-sparse" and settings.dynamic:
        raise OnnxpruneError(
            "OpenVINO's sparse kernel takes weights behind DequantizeLinear, which --dynamic "
            "does not make",
            hint="leave out --dynamic and give inputs with --calib",
        )
    if config.calib is None and not settings.dynamic:
        raise OnnxpruneError(
            "the ranges of activations are measured on inputs",
            hint="give some with --calib; or --dynamic measures them while the model runs",
        )


def _explain(
    ready: models.Model, settings: QuantizeOptions, reasons: Mapping[str, str]
) -> Callable[[LinearLayer], str]:
    """A function that says why the weight of a layer stayed floating point."""
    skipped = set(quantizer.excluded(ready, settings.skip))

    def why(layer: LinearLayer) -> str:
        name = identity(layer.operator)
        if name in skipped:
            return spelled("left out by --skip")
        if layer.inside and not settings.dynamic:
            return "onnxruntime's static quantizer enters no body of If, Loop or Scan"
        return reasons.get(name) or spelled(why_float(layer.operator.op_type, settings))

    return why


def _unquantized(weights: Sequence[Weight], settings: QuantizeOptions) -> str:
    """What to do where no weight of a model is quantized."""
    if settings.dynamic:
        return "--dynamic takes products of matrices only; convolutions need --calib"
    reasons = dict.fromkeys(each.reason for each in weights)
    if len(reasons) == 1 and spelled("--dynamic") in next(iter(reasons)):
        return next(iter(reasons))
    return "see `onnxprune eligible`; weights that are computed must be stored first"


def _already_quantized() -> OnnxpruneError:
    return OnnxpruneError(
        "the weights of the model are already quantized",
        hint="give the float model that it was made from; with --prune RECIPE it is pruned first",
    )


def _synthetic(config: Options) -> Options:
    return replace(config, calib="random", calib_samples=8, batch=4)
