"""Checking what a source hands over, and bringing it into the form that chunks have."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.data.casting import as_array, cast
from onnxprune.data.layout import Chunk, Layout, Place, arrange, check_symbols, place
from onnxprune.data.preprocess import Preprocess, normalise
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec, is_floating

Preparation: TypeAlias = Preprocess | Callable[[npt.NDArray[Any]], npt.NDArray[Any]]
"""What is done to raw data before it is checked: a parsed specification, or a function."""

_SINGLE_INPUT = ("x", "arr_0")  # what people, and np.savez, call the only array
LABELS = ("y", "label", "labels", "target", "targets")
"""Keys that hold labels; they are never taken for inputs of other names."""


@dataclass(frozen=True)
class Intake:
    """What incoming data must become.

    Attributes:
        layout: of the model.
        prepare: applied to the raw arrays of floating inputs, or None.
    """

    layout: Layout
    prepare: Preparation | None = None


def match_names(given: Iterable[str], layout: Layout, where: str, *, lone: bool) -> dict[str, str]:
    """Which key holds each input.

    For a model with one input, ``x`` and ``arr_0`` stand for it too. Other keys are left alone.

    Args:
        given: the keys there are.
        layout: of the model.
        where: where they come from, for messages.
        lone: whether the only key (labels aside) may have any name.

    Raises:
        OnnxpruneError: an input has no key.
    """
    keys = list(given)
    names = [spec.name for spec in layout.signature]
    if len(names) == 1 and names[0] not in keys:
        others = [key for key in keys if key not in LABELS]
        for key in keys:
            if key in _SINGLE_INPUT or (lone and others == [key]):
                return {names[0]: key}
    missing = [name for name in names if name not in keys]
    if missing:
        raise OnnxpruneError(
            f"{where} has no {_quoted(missing)}; it has {_quoted(keys) or 'nothing'}",
            hint=layout.hint,
        )
    return {name: name for name in names}


def admit(given: Mapping[str, object], intake: Intake, where: str, *, loose: bool) -> Chunk:
    """Check arrays against the inputs and bring them into the form of a chunk.

    Args:
        given: by input name, any number of steps.
        intake: what they must become.
        where: where they come from, for messages.
        loose: whether single samples may come without their batch axis.

    Raises:
        OnnxpruneError: a shape or element type is wrong, a value is not finite, or the inputs
            hold different numbers of samples.
    """
    layout = intake.layout
    arrays = {
        spec.name: admit_array(given[spec.name], spec, intake, where) for spec in layout.signature
    }
    places = find_places(
        {name: array.shape for name, array in arrays.items()}, layout, where, loose=loose
    )
    chunk = {}
    steps = common_steps(places, layout, where)
    for spec in layout.signature:
        at = places[spec.name]
        made = arrange(arrays[spec.name], at, layout)
        if layout.fixed and made.shape[0] != steps:
            made = np.broadcast_to(made, (steps, *made.shape[1:]))
        chunk[spec.name] = made
    check_symbols(chunk, layout, where)
    return chunk


def admit_array(given: object, spec: TensorSpec, intake: Intake, where: str) -> npt.NDArray[Any]:
    """One array, prepared, of the element type of its input; its shape is not looked at."""
    array = as_array(given)
    if intake.prepare is not None and is_floating(spec.dtype):
        if isinstance(intake.prepare, Preprocess):
            array = normalise(array, spec, intake.prepare)
        else:
            array = as_array(intake.prepare(array))
    return cast(array, spec, where, intake.layout.hint)


def find_places(
    shapes: Mapping[str, tuple[int, ...]], layout: Layout, where: str, *, loose: bool
) -> dict[str, Place]:
    """How arrays of these shapes hold steps of their inputs.

    Raises:
        OnnxpruneError: a shape fits in no way.
    """
    places = {}
    for spec in layout.signature:
        shape = shapes[spec.name]
        found = place(shape, spec, layout, loose=loose)
        if found is None:
            raise OnnxpruneError(
                f"{where} gives an array of shape {list(shape)} for the input '{spec.name}'",
                hint=layout.hint,
            )
        places[spec.name] = found
    return places


def common_steps(places: Mapping[str, Place], layout: Layout, where: str) -> int:
    """The number of steps all inputs hold; inputs given once serve every step.

    Only an input that cannot be mistaken for a batch may be given once: one without a batch axis,
    or, where shapes are fixed, one whose first axis has another size than the batch.

    Raises:
        OnnxpruneError: there are none, or the inputs hold different numbers of them.
    """
    counts = {}
    for spec in layout.signature:
        at = places[spec.name]
        once = at.form == "shared" or (
            layout.fixed and at.form == "rows" and at.steps == 1 and spec.shape[0] != layout.batch
        )
        if not once:
            counts[spec.name] = at.steps
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise OnnxpruneError(
            f"{where} holds different numbers of samples: {listed}", hint=layout.hint
        )
    steps = next(iter(counts.values()), 1)
    if steps == 0:
        raise OnnxpruneError(f"{where} holds no samples", hint=layout.hint)
    return steps


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)
