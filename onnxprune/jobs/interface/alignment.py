"""A dense model and one that was narrowed, brought to the same inputs and outputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.graph.analysis import analyse
from onnxprune.graph.interface import AxisMap, Interface
from onnxprune.graph.surgery import adapt, interface_of, without_scattering
from onnxprune.jobs.interface.narrowing import Narrowing, narrow_by_map


@dataclass(frozen=True, eq=False)
class Aligned:
    """A dense model and one that was made from it, on the same inputs and outputs.

    Attributes:
        dense: narrowed by the map that the other carries; the same where it carries none.
        reference: what the quality of the other is judged beside; see `Narrowing`.
        small: adapted to the inputs of the dense model.
        interface: the map; empty where nothing changed.
        narrowing: of the dense model; None where nothing changed.
    """

    dense: models.Model
    reference: models.Model
    small: models.Model
    interface: Interface
    narrowing: Narrowing | None = None


def align(
    dense: models.Model,
    small: models.Model,
    config: Options,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> Aligned:
    """Bring a dense model and one that was narrowed to the same inputs and outputs.

    Args:
        dense: the original.
        small: made from it; its metadata hold the map.
        config: provider and seed of the check.
        shapes: of inputs that the dense model leaves open.

    Raises:
        OnnxpruneError: the map is not well-formed, or does not fit the dense model.
    """
    interface = interface_of(small)
    if not interface or interface_of(dense) == interface:
        return Aligned(dense, dense, small, Interface())
    analysis = analyse(dense, inputs=shapes, interface=True)
    narrowing = narrow_by_map(analysis, interface, config, None)
    outside = Interface(*(_outside(way) for way in (interface.inputs, interface.outputs)))
    small = without_scattering(small, interface)
    kept = next((a.kept[0] for a in outside.inputs if a.axis is None), None)
    if kept is not None and all(a.unknown is None for a in outside.inputs if a.axis is None):
        outside = outside.with_unknown(kept)
    small = adapt(small, outside)
    return Aligned(narrowing.model, narrowing.reference, small, interface, narrowing)


def _outside(axes: Iterable[AxisMap]) -> tuple[AxisMap, ...]:
    return tuple(axis for axis in axes if not axis.inside)


def amounts(interface: Interface) -> list[str]:
    """How much is left of each input and output, as in ``131 of 512 ids of 'input_ids' stay``."""
    return [
        f"{len(axis.kept):,} of {axis.size:,} "
        f"{'ids' if axis.axis is None else f'indices of axis {axis.axis}'} of '{axis.value}' stay"
        for axis in (*interface.inputs, *interface.outputs)
    ]


MAPPED = (
    "inputs are those of the dense model, and only what remains of its outputs is compared: the "
    "model carries a map of its interface"
)
"""What reports say of a model that is compared with a dense one of another interface."""
