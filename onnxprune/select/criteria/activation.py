"""Criteria that need one number per input feature of every consumer: one cheap forward pass.

Only tensors that read the unit count: a unit matters by what its consumers get from it. A
group none of whose consumers was calibrated is not scored, and says so.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from onnxprune.data.activations.groups import InputStatistics
from onnxprune.select.criteria.registry import Inapplicable, criterion
from onnxprune.select.criteria.slices import F64, UnitSlice
from onnxprune.select.criteria.weight import averaged, feature_squares

_RIA_POWER = 0.5
"""The exponent of the activation norm: one half in the source's experiments."""


def consumers(slices: Sequence[UnitSlice]) -> list[tuple[UnitSlice, InputStatistics]]:
    """The calibrated tensors that read the units, each with what it reads.

    Raises:
        Inapplicable: there is none.
    """
    calibrated = [(s, s.inputs) for s in slices if s.role == "reads" and s.inputs is not None]
    if not calibrated:
        readers = ", ".join(s.tensor for s in slices if s.role == "reads")
        raise Inapplicable(
            f"the inputs of {readers} were not calibrated"
            if readers
            else "no stored weight reads its units"
        )
    return calibrated


def share_of(error: F64, whole: float) -> F64:
    """An error as a share of the whole; zero where the whole is zero."""
    return error / whole if whole > 0 else np.zeros_like(error)


@criterion("wanda", needs=("weights", "inputs"), claims=("comparable", "monotone"))
def wanda(slices: Sequence[UnitSlice]) -> F64:
    """|W| times the root mean square of what it multiplies, summed over a unit's weights.

    Relative per consumer, averaged over consumers. Source: Sun et al., "A simple and effective
    pruning approach for large language models" (2024), equation 1.
    """
    return averaged(
        s.total(np.abs(s.matrix).sum(axis=1, dtype=np.float64) * x.rms)
        for s, x in consumers(slices)
    )


@criterion("ria", needs=("weights", "inputs"), claims=("comparable", "monotone"))
def ria(slices: Sequence[UnitSlice]) -> F64:
    """Relative importance and activations: |W| as a share of its row and of its column.

    Shares are of the whole stored tensor, what stays included. Relative per consumer, averaged over
    consumers. Source: Zhang et al., "Plug-and-play: an efficient post-training pruning method for
    large language models" (2024), equation 4.
    """

    def value(one: UnitSlice, inputs: InputStatistics) -> F64:
        size = np.abs(one.matrix)
        per_output = size.sum(axis=0, dtype=np.float64)
        per_input = size.sum(axis=1, dtype=np.float64)
        inverse = np.divide(1, per_output, out=np.zeros_like(per_output), where=per_output > 0)
        # Summed over outputs, the share of its own input's weights is 1 unless they are all zero.
        return one.total((size @ inverse + (per_input > 0)) * inputs.rms**_RIA_POWER)

    return averaged(value(s, x) for s, x in consumers(slices))


@criterion("mean-activation", needs=("inputs",), claims=("comparable", "monotone"))
def mean_activation(slices: Sequence[UnitSlice]) -> F64:
    """Mean |activation| at the consumers' inputs: units that are mostly off go first.

    The graded form of the average percentage of zeros. Source: Hu et al., "Network trimming"
    (2016).
    """
    readers = [(s, x.mean_abs) for s, x in consumers(slices) if x.mean_abs is not None]
    if not readers:
        raise Inapplicable("mean |activation| was not collected at its consumers' inputs")
    return averaged(s.total(mean_abs) for s, mean_abs in readers)


@criterion(
    "fluctuation", needs=("weights", "inputs"), claims=("comparable", "pruning error", "monotone")
)
def fluctuation(slices: Sequence[UnitSlice]) -> F64:
    """FLAP: variance of the input times the squared norm of its weights.

    What is constant can be moved into a bias, so only what fluctuates is lost. Each consumer's
    values are shares of the total over its whole axis, and consumers add up: the score is the share
    of the outputs' variance that goes, inputs taken as independent. Source: An et al.,
    "Fluctuation-based adaptive structured pruning for large language models" (2024), equation 5;
    shares take the place of its standardisation per layer.
    """
    total = np.zeros(len(slices[0].features) if slices else 0)
    for one, inputs in consumers(slices):
        error = inputs.var * feature_squares(one)
        total += share_of(one.total(error), float(error.sum()))
    return total
