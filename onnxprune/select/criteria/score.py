"""Scoring a whole analysis: one array per group, and a reason for every group left out."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from onnxprune.data.activations.groups import InputStatistics
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.units import Group
from onnxprune.select.criteria.registry import Inapplicable, get
from onnxprune.select.criteria.slices import F64, Use, Weights, unit_slices


@dataclass(frozen=True, eq=False)
class Scores:
    """Scores of the units of every group.

    Attributes:
        criterion: name of the criterion.
        values: by group, float64 ``[units]``, higher = keep.
        declined: by group, why the criterion could not score it.
        comparable: whether values of different groups share a currency.
        additive: whether they add up to what is lost, so that they may be weighed against costs.
    """

    criterion: str
    values: Mapping[str, F64]
    declined: Mapping[str, str]
    comparable: bool
    additive: bool = False


def score(
    groups: Iterable[Group],
    name: str,
    weights: Weights,
    *,
    statistics: Mapping[tuple[str, str], InputStatistics] | None = None,
    use: Use = lambda _: "",
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> Scores:
    """Score every group by the criterion called ``name``; one group's weights are held at a time.

    Args:
        groups: groups of one analysis.
        name: a built-in criterion or a plug-in.
        weights: reads a stored tensor by name.
        statistics: by (tensor, node), what the node contracts with the tensor.
        use: what a slice's tensor is to its node, e.g. ``BatchNormalization.scale``.
        seed: for criteria that draw.
        progress: told each group's name when it is done.

    Raises:
        OnnxpruneError: there is no such criterion; it needs calibration data and there is none; a
            weight is not finite; or a plug-in breaks its contract.
    """
    chosen = get(name)
    if chosen.calibrated and not statistics:
        raise OnnxpruneError(
            f"the criterion {name!r} needs calibration data",
            hint="give some (--calib), or choose one that needs none, such as l2",
        )
    options = {"seed": seed} if "seed" in chosen.needs else {}
    values: dict[str, F64] = {}
    declined: dict[str, str] = {}
    for group in groups:
        slices = unit_slices(group, weights, statistics, use)
        try:
            scores = chosen.function(slices, **options)
        except Inapplicable as reason:
            declined[group.name] = f"not scored by {name}: {reason}"
        else:
            values[group.name] = _checked(scores, len(group), f"{name!r} on {group.name!r}")
        progress(group.name)
    claims = chosen.claims
    return Scores(name, values, declined, "comparable" in claims, "pruning error" in claims)


def _checked(scores: object, units: int, what: str) -> F64:
    """Hold a criterion to its contract: float64 ``[units]``, finite."""
    if not isinstance(scores, np.ndarray) or scores.dtype != np.float64:
        kind = scores.dtype if isinstance(scores, np.ndarray) else type(scores).__name__
        raise OnnxpruneError(f"the criterion {what} gave {kind}, not a float64 array")
    if scores.shape != (units,):
        raise OnnxpruneError(f"the criterion {what} gave shape {scores.shape}, not ({units},)")
    if not np.isfinite(scores).all():
        raise OnnxpruneError(f"the criterion {what} gave scores that are not finite")
    return scores
