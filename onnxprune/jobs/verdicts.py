"""The words of a verdict that only a job knows: which samples judged, what not measuring costs."""

from __future__ import annotations

from collections.abc import Iterable

from onnxprune.config import Options
from onnxprune.data.dataset import Dataset
from onnxprune.errors import OnnxpruneError, spelled
from onnxprune.evaluate.caveats import caveats
from onnxprune.evaluate.dense_check import NEARLY_ALL, samples_needed, training_notes
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.evaluate.metrics import find_metric
from onnxprune.evaluate.verdict import TOO_LARGE, Quality
from onnxprune.graph.plan import Plan
from onnxprune.model import Model
from onnxprune.quantities import Unit, half_interval, plural, spread, unit_of
from onnxprune.types import Check, QualityStatus

_CUT = (
    "without data, cutting 25 % of the units cost trained classifiers 1 to 33 points of accuracy "
    "in the benchmarks, and 50 % 2 to 79"
)
"""bench/results/structured_onnxprune.json, method l2: which units are removed is chosen by weights
alone, and nothing is refitted."""
_ZEROS = "without data, 2:4 cost a narrow trained network 86 points of accuracy in the benchmarks"
"""bench/results/quality.json: digits_rescnn, magnitude 2:4."""
_NARROWED = "the check says that what remains computes what it did"
HOW = "give --calib to measure it, and --labels for the accuracy"
"""How to measure the quality."""


def data_of(data: Dataset, evaluation: Evaluation) -> str:
    """Which samples a result is judged on, as in ``51 held-out of 512 samples of calib.npz``."""
    if data.synthetic or not (data.eval.origin and evaluation.samples):
        return ""
    name, samples = data.eval.origin, evaluation.samples
    name = f"--eval {name}" if data.eval.option == "--eval" else name
    labelled = "labelled " if evaluation.metric else ""
    if data.one_batch:
        count = plural(samples, f"{labelled}sample")
        return f"the {count} of {name}, which layers were fitted to"
    total = evaluation.available
    if total is None or total <= samples:
        return f"{plural(samples, f'{labelled}sample')} of {name}"
    return f"{samples:,} {labelled}held-out of {total:,} samples of {name}"


def judging_notes(
    dense: Model, data: Dataset, config: Options, evaluation: Evaluation
) -> list[str]:
    """Sentences on what makes an evaluation worth little.

    Args:
        dense: the model that was compared with.
        data: the samples.
        config: provider and metric.
        evaluation: on ``data.eval``.
    """
    notes = list(evaluation.notes)
    right = evaluation.before
    if right is not None and right >= NEARLY_ALL and find_metric(config.metric).kind == "accuracy":
        notes += training_notes(dense, data.labelled(), config)
    if not data.synthetic:
        notes += caveats(evaluation, limited=config.max_drop is not None)
    return [*notes, *too_few(evaluation, config.max_drop)]


def unsure(evaluation: Evaluation, max_drop: float) -> list[str]:
    """A sentence where an accepted drop is less certain than its limit is small."""
    half = half_interval(evaluation.drop_error)
    if half is None or evaluation.drop > max_drop or half <= max_drop:
        return []
    inputs = plural(evaluation.samples, "unseen input")
    wide = spread(half, "fraction" if evaluation.higher_is_better else "number")
    words = f"the drop is uncertain by ± {wide} (95 %) on {inputs}"
    more = f"--calib-samples takes more inputs, --eval others{_needed(evaluation, max_drop)}"
    return [spelled(f"{words}, more than --max-drop allows: {more}")]


def too_few(evaluation: Evaluation, max_drop: float | None) -> list[str]:
    """A sentence where samples are too few to tell that a drop is above the accepted one."""
    half = half_interval(evaluation.drop_error)
    if max_drop is None or half is None or not 0 < evaluation.drop - max_drop < half:
        return []
    unit: Unit = "fraction" if evaluation.higher_is_better else "number"
    drop, wide = (spread(each, unit) for each in (evaluation.drop, half))
    inputs = plural(evaluation.samples, "input")
    words = f"the drop of {drop} is above --max-drop, but uncertain by ± {wide} (95 %)"
    needed = _needed(evaluation, max_drop)
    return [spelled(f"{words}: {inputs} are too few to tell{needed}")]


def _needed(evaluation: Evaluation, limit: float) -> str:
    """How many samples would tell a drop of that size."""
    share = unit_of(evaluation.measure) == "fraction"
    error = evaluation.drop_error or 0.0
    number = samples_needed(error, evaluation.samples, limit, share=share)
    return f"; about {number:,} are needed" if number else ""


def unmeasured(config: Options, plan: Plan, *, changed: bool) -> str:
    """Why quality was not measured, what that usually costs, and how to measure it.

    Args:
        config: the options.
        plan: what was removed.
        changed: whether it was anything at all.
    """
    if not changed:
        return "the model is unchanged"
    why = "there are no inputs" if config.calib is None else "the inputs are synthetic"
    units = any(plan.removed.values()) or plan.bypassed
    if plan.interface and not units and not plan.zeroed:
        return spelled(f"{why}; {_NARROWED}; {HOW}")
    return spelled(f"{why}; {_CUT if units else _ZEROS}; {HOW}")


def over_limit(checks: Iterable[Check], measure: str) -> list[tuple[QualityStatus, str]]:
    """What follows from a drop of a measure that exceeds its limit."""
    unit = unit_of(measure)
    failed = [check for check in checks if check.name == "drop" and not check.ok]
    ends = [(spread(each.value, unit), spread(each.limit, unit)) for each in failed]
    return [
        ("degraded", spelled(f"the drop of {drop} exceeds --max-drop ({limit})"))
        for drop, limit in ends
    ]


def refuse_broken(quality: Quality, *, quantized: bool = False) -> None:
    """Raise where a result is broken.

    Args:
        quality: of the result.
        quantized: whether it is an int8 model.

    Raises:
        OnnxpruneError: with the reason.
    """
    if quality.broken:
        hint = remedy(quality, quantized=quantized)
        raise OnnxpruneError(
            f"the result is broken: {quality.reasons[0]}",
            hint=f"{hint}, or write it all the same with force=True",
            exit_code=1,
        )


def remedy(quality: Quality, *, quantized: bool = False) -> str:
    """What helps against a result that is broken, or failed a check."""
    if any(TOO_LARGE in reason for reason in quality.reasons):
        return spelled(
            "check the units of the data; --preprocess scales them to what the model was trained on"
        )
    if any("dense model" in reason and "itself" in reason for reason in quality.reasons):
        return "export or download the dense model again"
    if quantized:
        return spelled("keep more weights in float with --skip, or give other samples with --calib")
    if quality.measure:
        return "remove less, or fit to more samples"
    return "remove less, or give samples to fit to with --calib"
