"""Layers that may be worth more dense: small ones, the first and the last.

Sparse kernels win where there are many channels ("if C and K are large enough (>256)", NVIDIA in
github.com/NVIDIA/TensorRT issue 3849; a 3x3 kernel counts as nine times its channels), and the
first and the last layer are the ones that papers leave dense because they cost most accuracy.
"""

from __future__ import annotations

from onnxprune import model as models
from onnxprune.graph.layers.contractions import Reading, find_readings

PAYS = 256
"""Inputs times kernel positions, and outputs, from which NVIDIA expects a gain."""


def left_dense(
    model: models.Model, *, small: int | None = None, first: int = 0, last: int = 0
) -> dict[str, str]:
    """The weights that are to stay dense, with the reason.

    Args:
        model: it is only read.
        small: layers with fewer inputs (times kernel positions) or outputs stay dense.
        first: how many layers at the front of the graph stay dense.
        last: how many at its end.
    """
    if small is None and not first and not last:
        return {}
    readings, _ = find_readings(model)
    left: dict[str, str] = {}
    for number, reading in enumerate(readings):
        name = reading.stored.name
        if number < first:
            left[name] = f"it is one of the first {first} (--skip-first)"
        elif number >= len(readings) - last:
            left[name] = f"it is one of the last {last} (--skip-last)"
        elif small is not None and is_small(reading, small):
            left[name] = (
                f"its {reading.inputs * reading.taps} inputs or {reading.outputs} outputs are "
                f"fewer than {small} (--skip-small)"
            )
    return left


def is_small(reading: Reading, least: int = PAYS) -> bool:
    """Whether a layer has fewer inputs, times kernel positions, or outputs than that."""
    return reading.inputs * reading.taps < least or reading.outputs < least
