"""Two verdicts on a result: whether its structure is right, and whether it is still good.

A cut can be right while the model is destroyed, and a model can answer as before although a check
failed. So there is never one word for both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TypeAlias

from scipy.special import stdtrit

from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.evaluate.exact_tests import probability_of_loss, surely_changed, surely_lost
from onnxprune.evaluate.output_comparison import OutputComparison
from onnxprune.evaluate.standard_error import SURE
from onnxprune.evaluate.tails import findings as collapses
from onnxprune.quantities import figure, measured, percent, plural, spread, unit_of
from onnxprune.types import (
    NOTHING_REMOVED,
    Check,
    Quality,
    QualityStatus,
    Structure,
    StructureStatus,
    is_of_boxes,
)

Finding: TypeAlias = tuple[QualityStatus, str]

__all__ = [
    "Finding",
    "Quality",
    "QualityStatus",
    "Structure",
    "StructureStatus",
    "judge",
    "judge_structure",
    "limit_of",
]

ENOUGH = 30
"""Samples from which on a result can be called broken by what they show on average."""
POINT = 0.01
"""Largest drop of a share (accuracy, top-k) that is no degradation: one point."""
NATS = 0.02
"""The same of cross-entropy, in nats: 2 % of the perplexity."""
AGREEMENT = 0.99
"""Least share of equal answers, where there are no labels."""
UNEXPLAINED = 0.05
"""Largest relative squared error of an output that is no degradation."""
BROKEN = 0.5
"""Relative squared error from which on an output is broken: the best constant has 1."""
_VOUCHED = 5
"""Limits of degradation within which a loss must surely be for scores that are far off to pass."""
_KEPT = 0.8
"""The same without labels: least sure share of equal answers, of what lies between chance and 1."""
_RESCALED = 1.1
"""Factor from which on scores or embeddings have another scale."""
_VARIED = 0.9
"""Share of equal answers by chance from which on agreement says little."""
_FEWER, _HALF = 0.1, 0.5
"""Ratios of the number of values an output has, from which on it is broken, and degraded."""

TOO_LARGE = "too large for the dense model"
"""What is said of inputs on which it overflows."""

_QUALITY_CHECKS = frozenset({"drop", "finite outputs"})
"""Checks that belong to the quality of a result, not to its structure."""


def judge_structure(checks: Sequence[Check], *, cut: bool, exact: bool = True) -> Structure:
    """The verdict on the structure of a result.

    Args:
        checks: of the result; those of its quality are passed over.
        cut: whether any unit, block or weight was removed.
        exact: whether the removal should equal masking.
    """
    own = [check for check in checks if check.name not in _QUALITY_CHECKS]
    failed = [check for check in own if not check.ok]
    if any(check.name == NOTHING_REMOVED for check in failed):
        return Structure("nothing cut", ("something was to be removed",), len(own))
    if failed:
        return Structure("failed", tuple(map(_missed, failed)), len(own))
    if not cut:
        return Structure("nothing cut", checks=len(own))
    if not exact:
        reason = "the cut changes a normalisation, so it differs from the masked original"
        return Structure("not checked", (reason,), len(own))
    return Structure("verified" if own else "not checked", checks=len(own))


def judge(
    evaluation: Evaluation,
    *,
    data: str = "",
    synthetic: bool = False,
    weights: Iterable[str] = (),
    unmeasured: str = "",
) -> Quality:
    """The verdict on the quality of a result; `docs/concepts/verification.md` explains the limits.

    Args:
        evaluation: comparison with the dense model; empty where nothing was run.
        data: which samples it is on.
        synthetic: whether inputs are made up: only values that are not finite count then.
        weights: sentences on stored weights that are not finite; each breaks the result.
        unmeasured: why nothing was measured, and how to.
    """
    findings: list[Finding] = [("broken", reason) for reason in weights]
    outputs = evaluation.outputs.values()
    findings += [("broken", _not_finite(each)) for each in outputs if each.non_finite]
    quality = Quality("not measured", samples=evaluation.samples, data=data)
    if synthetic or not evaluation.samples:
        return replace(quality, reasons=(unmeasured,) if unmeasured else ()).with_findings(findings)
    findings += _undefined(outputs, evaluation.overscaled)
    findings += _task(evaluation)
    findings += [each for output in outputs for each in _output(output, evaluation)]
    findings += collapses(evaluation.tails) if evaluation.tails is not None else []
    telling = [each for each in outputs if _tells(each)]
    if not (evaluation.metric or telling):
        reason = "no output can be compared: " + (
            "they hardly vary over these samples"
            if all(each.constant for each in outputs)
            else "; ".join(dict.fromkeys(f"'{e.name}': {e.reason}" for e in outputs if e.reason))
        )
        return replace(quality, reasons=(reason,)).with_findings(findings)
    return _measured(quality, evaluation, telling).with_findings(findings)


# -- the task -------------------------------------------------------------------------------


def limit_of(evaluation: Evaluation) -> float:
    """The largest drop of the metric that is no degradation, in its unit."""
    name = evaluation.metric.partition("@")[0]
    before, after = evaluation.before or 0.0, evaluation.after or 0.0
    if name in ("nats", "cross-entropy"):
        return NATS
    if name == "perplexity":
        return NATS * before
    if name == "mse":
        return POINT * (evaluation.chance if evaluation.chance is not None else before)
    return POINT if max(abs(before), abs(after)) <= 1 else POINT * abs(before)


def _task(evaluation: Evaluation) -> Iterator[Finding]:
    before, after, drop = evaluation.before, evaluation.after, evaluation.drop
    if not evaluation.metric or before is None or after is None:
        return
    name, unit = evaluation.metric, unit_of(evaluation.metric)
    change = f"{name} {measured(before, unit)} -> {measured(after, unit)}"
    if math.isnan(before):
        yield "broken", f"{change}: the metric of the dense model is not a number"
        return
    if math.isfinite(before) and not math.isfinite(after):
        yield "broken", f"{change}: it is not finite"
        return
    if _at_chance(evaluation):
        chance = measured(evaluation.chance, unit)
        reason = f"{change}, no better than chance ({chance}) by {SURE:g} standard errors"
        yield _broken(reason, evaluation, certain=_surely_lost(evaluation))
        return
    limit, error = limit_of(evaluation), _drop_error(evaluation)
    if drop > limit and drop <= SURE * error and _pairs_lost(evaluation):
        losses, gains, count = evaluation.pairs or (0, 0, 0)
        chance = percent(probability_of_loss(losses, gains, count))
        pairs = f"{losses:,} of {plural(count, 'answer')} lost and {gains:,} gained"
        likely = f"{pairs}, which has a probability of {chance} at that limit"
        yield "degraded", f"{change}, a loss of more than {spread(limit, unit)}: {likely}"
    if drop > limit and drop > SURE * error:
        sure = f"{SURE:g} standard errors ({spread(SURE * error, unit)})" if error else ""
        limits = " and ".join(filter(None, (spread(limit, unit), sure)))
        yield "degraded", f"{change}, a loss of more than {limits}"


def _pairs_lost(evaluation: Evaluation) -> bool:
    """Whether a loss is sure by the samples that changed; the error of few says too little."""
    return evaluation.pairs is not None and surely_lost(*evaluation.pairs)


def _at_chance(evaluation: Evaluation) -> bool:
    """Whether the model does no better than one that sees no input, and the dense one does.

    On few labels neither can be told from chance; so the loss must be sure, and more than half of
    what the dense model has.
    """
    chance, error = evaluation.chance, evaluation.chance_error
    before, after = evaluation.before, evaluation.after
    if chance is None or error is None or before is None or after is None:
        return False
    sign = 1 if evaluation.higher_is_better else -1
    dense, skill = sign * (before - chance), sign * (after - chance)
    sure = evaluation.drop > SURE * _drop_error(evaluation)
    return skill <= SURE * error < dense and skill < dense * BROKEN and sure


def _surely_lost(evaluation: Evaluation) -> bool:
    """Whether more than half of what the dense model has above chance is lost for certain."""
    chance, before = evaluation.chance, evaluation.before
    if chance is None or before is None:
        return False
    doubt = _doubt(_drop_error(evaluation), evaluation)
    return evaluation.drop - doubt > BROKEN * abs(before - chance)


def _drop_error(evaluation: Evaluation) -> float:
    """Standard error of the drop; of a share, the largest it can be where none is known."""
    if evaluation.drop_error is not None:
        return evaluation.drop_error
    ends = [each for each in (evaluation.before, evaluation.after) if each is not None]
    if not evaluation.metric or not all(0 <= each <= 1 for each in ends):
        return 0.0
    samples = max(evaluation.samples, 1)
    return math.sqrt(sum(each * (1 - each) for each in ends) / samples)


def _broken(reason: str, evaluation: Evaluation, *, certain: bool) -> Finding:
    """That a result is broken; on few samples only where they leave no doubt."""
    if certain or evaluation.samples >= ENOUGH:
        return "broken", reason
    count = plural(evaluation.samples, "sample")
    return "degraded", f"{reason}; {count} cannot tell whether it is broken"


def _doubt(error: float, evaluation: Evaluation) -> float:
    """Half an interval of 95 % by Student's t: of few samples the error itself is uncertain."""
    freedom = evaluation.samples - 1
    return float(stdtrit(freedom, 0.975)) * error if freedom > 0 else math.inf


# -- single outputs ---------------------------------------------------------------------------


def _output(output: OutputComparison, evaluation: Evaluation) -> Iterator[Finding]:
    if output.reason:
        yield from _amount(output, evaluation)
        if output.kind == "text":
            yield from _answers(output, output.equal, evaluation)
        return
    error = output.unexplained
    if error is None or output.non_finite:
        return
    labelled = bool(evaluation.metric)
    if output.kind in ("classes", "tokens"):
        yield from _scores(output, evaluation)
    elif output.kind == "integers":
        differences = list(_answers(output, output.equal, evaluation))
        if error > BROKEN and differences:
            yield _far_off(output, evaluation)
        elif _exceeds(output, UNEXPLAINED):
            yield from differences
    elif distance_of(output)[0] > BROKEN:
        if not (is_of_boxes(evaluation.metric) and _vouched(evaluation)):
            yield _far_off(output, evaluation)
    elif _exceeds(output, UNEXPLAINED) and not (labelled or output.constant):
        yield "degraded", _far(output, UNEXPLAINED)


def _scores(output: OutputComparison, evaluation: Evaluation) -> Iterator[Finding]:
    """What follows from scores of classes: by the answers they give, then by their values."""
    if _vouched(evaluation):
        yield from _answers(output, output.top1, evaluation)
        return
    if distance_of(output)[0] > BROKEN:
        if not _kept(output, evaluation):
            yield _far_off(output, evaluation)
            return
        yield "degraded", _misplaced(output)
    yield from _answers(output, output.top1, evaluation)
    sharper = output.kind == "tokens" and rescaled(output) and _diverges(output)
    if sharper and not evaluation.metric and output.kl is not None:
        words = f"the scores of '{output.name}' are {times_as_large(output)}, so its probabilities"
        yield "degraded", f"{words} diverge by {figure(output.kl)} nats, more than {NATS:g}"


def _kept(output: OutputComparison, evaluation: Evaluation) -> bool:
    """Whether nearly all answers are surely those of the dense model, and one class is far off."""
    if output.top1 is None or output.top1_error is None or output.chance is None:
        return False
    if output.others is None or output.others > BROKEN:
        return False
    least = output.chance + _KEPT * (1 - output.chance)
    surely = output.top1 - _doubt(output.top1_error, evaluation)
    return output.chance < _VARIED and surely > least


def rescaled(output: OutputComparison) -> bool:
    """Whether the values of an output surely have another scale than the dense model's."""
    factor = output.factor or math.inf
    other = not 1 / _RESCALED < factor < _RESCALED
    return other and math.isfinite(factor) and output.unexplained_interval[0] > UNEXPLAINED


def distance_of(output: OutputComparison) -> tuple[float, tuple[float, float]]:
    """The relative squared error that counts, with its interval: up to scale where that is free."""
    if output.scaled is not None:
        return output.scaled, output.scaled_interval
    return output.unexplained or 0.0, output.unexplained_interval


def _far_off(output: OutputComparison, evaluation: Evaluation) -> Finding:
    low, high = distance_of(output)[1]
    if low > BROKEN or (not math.isfinite(high) and evaluation.samples >= ENOUGH):
        return "broken", _far(output, BROKEN)
    count = plural(evaluation.samples, "sample")
    words = f"{_far(output, BROKEN)}; {count} cannot tell whether it is broken"
    if math.isfinite(high):
        words += f": the error is {figure(low)} to {figure(high)} (95 %)"
    return "degraded", words


def _answers(
    output: OutputComparison, share: float | None, evaluation: Evaluation
) -> Iterator[Finding]:
    """What follows from the share of answers that are those of the dense model."""
    labelled = bool(evaluation.metric)
    error, chance = output.top1_error, output.chance
    if share is None or error is None or not _surely_fewer(output, share, error):
        return
    words = f"'{output.name}' gives {percent(share)} of the dense model's answers"
    words += f" (s.e. {spread(error, 'fraction')})"
    if chance is not None and chance < _VARIED:
        half = chance + BROKEN * (1 - chance)
        if share <= chance + SURE * error and share < half:
            reason = f"{words}, within {SURE:g} standard errors of chance {percent(chance)}"
            yield _broken(reason, evaluation, certain=share + _doubt(error, evaluation) < half)
            return
    if labelled or (output.kind == "tokens" and not _diverges(output)):
        return
    yield "degraded", f"{words}, less than {percent(AGREEMENT)}"


def _surely_fewer(output: OutputComparison, share: float, error: float) -> bool:
    """Whether fewer than 99 % of all answers are surely those of the dense model."""
    if share + SURE * error < AGREEMENT:
        return True
    return output.answers is not None and surely_changed(
        (1 - share) * output.answers, output.answers
    )


def _diverges(output: OutputComparison) -> bool:
    """Whether answers differ by more than ties: the next token is often open."""
    if output.kl is None:
        return True
    return output.kl - SURE * (output.kl_error or 0.0) > NATS


def _vouched(evaluation: Evaluation) -> bool:
    """Whether labels show that the answers are as good, whatever the scale of their scores."""
    scores = [each for each in evaluation.outputs.values() if each.kind in ("classes", "tokens")]
    if not evaluation.metric or len(scores) > 1 or evaluation.drop_error is None:
        return False
    worst = evaluation.drop + SURE * evaluation.drop_error
    return worst < _VOUCHED * limit_of(evaluation) and not _at_chance(evaluation)


def _amount(output: OutputComparison, evaluation: Evaluation) -> Iterator[Finding]:
    """What follows from the number of values, where it depends on the input."""
    if output.sizes is None:
        return
    dense, own = output.sizes
    ratio = min(dense, own) / max(dense, own)
    words = f"'{output.name}' has {own:,} values where the dense model gives {dense:,}"
    if ratio < _FEWER:
        yield _broken(words, evaluation, certain=not own)
    elif ratio < _HALF:
        yield "degraded", words


def _exceeds(output: OutputComparison, limit: float) -> bool:
    """Whether the error surely exceeds a limit; of one or two samples nothing is sure."""
    error, (low, high) = distance_of(output)
    return error > limit if not math.isfinite(high) else low > limit


def _undefined(outputs: Iterable[OutputComparison], overscaled: str) -> Iterator[Finding]:
    for output in outputs:
        if output.undefined >= BROKEN:
            share = percent(output.undefined)
            nan = f"gives NaN in {share} of '{output.name}'"
            words = f"{overscaled}, {TOO_LARGE}, which {nan}" if overscaled else ""
            yield "broken", words or f"the dense model itself {nan}"


def _tells(output: OutputComparison) -> bool:
    """Whether an output can show that a model is good."""
    if output.kind == "text":
        return True
    return not (output.reason or output.constant or output.unexplained is None)


# -- in words ---------------------------------------------------------------------------------


def _measured(
    quality: Quality, evaluation: Evaluation, telling: Sequence[OutputComparison]
) -> Quality:
    """The measured quality, good so far, with the figures that say most."""
    quality = replace(quality, status="good")
    if evaluation.metric:
        return replace(
            quality,
            measure=evaluation.metric,
            before=evaluation.before,
            after=evaluation.after,
            drop=evaluation.drop,
            error=evaluation.drop_error,
        )
    answers = [(e, e.top1 if e.top1 is not None else e.equal) for e in telling if e.top1_error]
    shares = [(share, each) for each, share in answers if share is not None]
    if shares:
        share, output = min(shares, key=lambda pair: pair[0])
        return replace(
            quality,
            measure="agreement",
            before=1.0,
            after=share,
            drop=1.0 - share,
            error=output.top1_error,
        )
    output = max(telling, key=lambda each: distance_of(each)[0])
    error = distance_of(output)[0]
    scaled = output.scaled is not None
    return replace(
        quality,
        measure="relative squared error",
        before=0.0,
        after=error,
        drop=error,
        error=output.scaled_error if scaled else output.unexplained_error,
    )


def _missed(check: Check) -> str:
    return f"{check.name} is {figure(check.value)}, and at most {figure(check.limit)} passes"


def _not_finite(output: OutputComparison) -> str:
    count = plural(output.non_finite, "value")
    return f"{count} of '{output.name}' became NaN or infinite"


def _far(output: OutputComparison, limit: float) -> str:
    error, spread_of = output.unexplained or 0.0, output.unexplained_error
    words = f"'{output.name}' has a relative squared error of {figure(error)}"
    words += f" (s.e. {figure(spread_of)})" if spread_of is not None else ""
    if output.scaled is not None and error > _RESCALED * output.scaled:
        words += f", and of {figure(output.scaled)} at the best scale"
    return f"{words}, above {limit:g}{_where(output)}"


def _misplaced(output: OutputComparison) -> str:
    """That scores are far off although they give the same answers."""
    share, error = output.top1 or 0.0, output.unexplained or 0.0
    words = f"'{output.name}' gives {percent(share)} of the dense model's answers, but its scores"
    return f"{words} have a relative squared error of {figure(error)}{_where(output)}"


def _where(output: OutputComparison) -> str:
    """The class that makes up most of an error, if one does."""
    return "" if output.furthest is None else f", most of it in class {output.furthest}"


def times_as_large(output: OutputComparison) -> str:
    """How large values are, as in ``2 times as large as the dense model's``."""
    return f"{figure(output.factor or 0.0)} times as large as the dense model's"
