"""Samples to fit models to, to choose one by and to judge it by."""

from __future__ import annotations

from dataclasses import dataclass, replace

from onnxprune.data import split
from onnxprune.data.dataset import Inputs
from onnxprune.errors import OnnxpruneError

ASIDE = 0.3
"""The part of the data that nothing is fitted to: one half of it chooses, the other judges."""
ENOUGH = 100
"""Samples that such a half must have; else the whole of it does both."""


@dataclass(frozen=True)
class Parts:
    """Where the feeds of a search come from.

    Attributes:
        choosing: models are fitted to its first part and chosen by its second.
        last: the same first part, and samples that nothing was chosen by; None with few.
    """

    choosing: Inputs
    last: Inputs | None


def divide(inputs: Inputs, seed: int) -> Parts:
    """Samples to fit to, to choose by and to judge by.

    Raises:
        OnnxpruneError: there are no real samples, or only one.
    """
    calibration = inputs.calibration
    if calibration is None or inputs.synthetic:
        raise OnnxpruneError(
            f"how much may go cannot be judged on made-up inputs ({inputs.description})",
            hint="give real ones with --calib, or say how much goes, as in --target macs=50%",
        )
    fit, aside = split(calibration, ASIDE, seed)
    if (aside.samples or 0) < 2 * ENOUGH:
        return Parts(replace(inputs, divided=(fit, aside)), None)
    chosen, last = split(aside, 0.5, seed)
    return Parts(replace(inputs, divided=(fit, chosen)), replace(inputs, divided=(fit, last)))
