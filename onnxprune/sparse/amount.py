"""How much of the weights goes, as users write it: ``0.5``, ``50%`` or ``2:4``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from onnxprune.amounts import fraction
from onnxprune.errors import OnnxpruneError

Method = Literal["magnitude", "wanda", "ria", "sparsegpt", "admm"]
"""How a layer's mask is found; all but ``magnitude`` need calibration inputs."""
Spread = Literal["per-tensor", "per-row", "global", "curves", "sensitivity"]
"""What competes: the weights of a tensor, those of one output, all, layers by their
damage, or by how far that damage moves the outputs of the model."""

_LARGEST = 64
_GROUPS = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")


@dataclass(frozen=True)
class Sparsity:
    """What is removed: a share of the weights, or all but ``n`` of every ``m`` along the inputs.

    Attributes:
        share: of the weights that become zero.
        n, m: of the pattern; 0 for none.
    """

    share: float
    n: int = 0
    m: int = 0

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.m else f"{self.share * 100:.10g}%"


def sparsity(text: object, *, of: str = "--sparsity") -> Sparsity:
    """A sparsity, written ``0.5``, ``50%`` or ``2:4`` (2 of every 4 are kept).

    Raises:
        OnnxpruneError: it cannot be read, or nothing or everything would be removed.
    """
    if isinstance(text, Sparsity):
        return text
    groups = _GROUPS.fullmatch(text) if isinstance(text, str) else None
    if groups is None:
        share = fraction(text, of=of)
        if not 0 < share < 1:
            raise OnnxpruneError(
                f"{of} {text} would {'remove nothing' if share == 0 else 'leave no weight'}",
                hint="write the part that becomes zero, as in 50%, or a pattern, as in 2:4",
            )
        return Sparsity(share)
    n, m = int(groups[1]), int(groups[2])
    if not 0 < n < m <= _LARGEST:
        raise OnnxpruneError(
            f"{of} {text} is no pattern: it keeps {n} of every {m}",
            hint=f"write N:M with 0 < N < M <= {_LARGEST}, as in 2:4",
        )
    return Sparsity(1 - n / m, n, m)
