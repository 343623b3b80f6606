"""What a verdict of "good" leaves open: losses too small for the samples, and changes of scale.

A model that loses three points of accuracy looks good on twenty pictures, because so few cannot
show it. So the smallest loss that would have been called one is part of the verdict.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.evaluate.exact_tests import least_changed, surely_lost
from onnxprune.evaluate.output_comparison import OutputComparison
from onnxprune.evaluate.sample_statistics import agreement_error
from onnxprune.evaluate.standard_error import SURE
from onnxprune.evaluate.verdict import (
    AGREEMENT,
    BROKEN,
    POINT,
    UNEXPLAINED,
    distance_of,
    judge,
    limit_of,
    rescaled,
    times_as_large,
)
from onnxprune.quantities import figure, plural, spread, unit_of
from onnxprune.types import Quality

_COARSE = 2
"""Limits of a loss from which on the smallest one that samples can show is said."""
_CHANGED = 0.01
"""Relative error from which on an output that is not judged is named."""
_HALF = 0.5
"""Share of an error that the best scale must take off for the scale to be its reason."""


def caveats(evaluation: Evaluation, *, limited: bool = False) -> list[str]:
    """Sentences on what a verdict leaves open.

    Args:
        evaluation: comparison with the dense model, on real samples.
        limited: whether the user set a limit of the drop, about which there are other sentences.
    """
    if not evaluation.samples:
        return []
    quality = judge(evaluation)
    notes = [] if quality.broken else [*_scales(evaluation), *_flat(evaluation)]
    if quality.status == "good" and not limited:
        notes += _resolution(evaluation, quality)
    return notes


def _scales(evaluation: Evaluation) -> Iterator[str]:
    """A sentence for each output that is right but for a factor."""
    for output in evaluation.outputs.values():
        if output.scaled is None or not rescaled(output):
            continue
        if output.scaled > _HALF * (output.unexplained or 0.0):
            continue
        if output.kind == "embedding":
            words = f"vectors of '{output.name}' are {times_as_large(output)}"
            yield f"{words}: cosines stay, lengths and distances do not"
        else:
            words = f"scores of '{output.name}' are {times_as_large(output)}"
            yield f"{words}: the order of classes stays, probabilities and thresholds do not"


def _flat(evaluation: Evaluation) -> Iterator[str]:
    """A sentence for each output that changed, and that varies too little to be judged."""
    for output in evaluation.outputs.values():
        error = output.relative_error or 0.0
        if output.constant and not output.reason and error > _CHANGED:
            words = f"'{output.name}' is nearly constant or zero on these samples"
            yield f"{words}, so its relative error of {figure(error)} was not judged"


def _resolution(evaluation: Evaluation, quality: Quality) -> Iterator[str]:
    """A sentence where the samples could not have shown a loss that matters."""
    count, unit = plural(evaluation.samples, "sample"), unit_of(quality.measure)
    if quality.measure == "relative squared error":
        high = max(_upper(each) for each in evaluation.outputs.values())
        if high > BROKEN:
            yield f"{count} cannot show how large the error of the outputs is"
        elif high > _COARSE * UNEXPLAINED:
            yield f"{count} cannot show a relative squared error below {figure(high)}"
        return
    if quality.measure == "agreement":
        limit = POINT
        loss: float | None = _smallest_disagreement(evaluation, quality)
    else:
        limit, loss = limit_of(evaluation), smallest_drop(evaluation)
    if loss is not None and loss > _COARSE * limit:
        yield f"{count} cannot show a drop below {spread(min(loss, 1.0), unit)}"


def smallest_drop(evaluation: Evaluation) -> float | None:
    """The smallest drop of the metric that the samples would show; None where that is unknown.

    A drop must exceed two standard errors. That of a share grows with the samples that are lost;
    fewer suffice where so many would rarely be lost by chance.

    Example:
        >>> same = Evaluation(metric="accuracy", before=1, after=1, samples=50, metric_error=0.02)
        >>> round(smallest_drop(same), 3)  # five of fifty
        0.097
        >>> from dataclasses import replace
        >>> smallest_drop(replace(same, pairs=(0, 0, 50)))  # four of fifty
        0.08
    """
    usual = _smallest_by_error(evaluation)
    if usual is None or evaluation.pairs is None:
        return usual
    _, gains, count = evaluation.pairs
    start = gains + max(1, math.ceil(POINT * count))
    losses = range(start, min(gains + math.ceil(usual * count), count - gains) + 1)
    drops = ((each - gains) / count for each in losses if surely_lost(each, gains, count))
    return min(usual, next(drops, usual))


def _smallest_by_error(evaluation: Evaluation) -> float | None:
    """The smallest drop beyond two standard errors."""
    error, samples = evaluation.drop_error, evaluation.samples
    if error is None or not samples:
        return None
    if unit_of(evaluation.metric) != "fraction":
        return SURE * error or None
    # m lost samples count where m > SURE sqrt((error samples)^2 + m)
    half = SURE**2 / 2
    return (half + math.sqrt(half**2 + (SURE * error * samples) ** 2)) / samples


def _smallest_disagreement(evaluation: Evaluation, quality: Quality) -> float:
    """The smallest share of other answers that degrades."""
    samples = evaluation.samples
    known = [each.answers for each in evaluation.outputs.values() if each.answers is not None]
    least = least_changed(min(known)) if known else None
    if least is not None:
        return least / min(known)
    share = 1.0 if quality.after is None else quality.after
    usual = agreement_error(share, samples)
    if quality.error is not None and quality.error < usual:  # rows of samples
        return 1 - AGREEMENT + SURE * quality.error
    for lost in range(samples + 1):
        share = 1 - lost / samples
        if share + SURE * agreement_error(share, samples) < AGREEMENT:
            return lost / samples
    return 1.0


def _upper(output: OutputComparison) -> float:
    error, (_, high) = distance_of(output)
    return high if error and not output.constant and not output.reason else 0.0
