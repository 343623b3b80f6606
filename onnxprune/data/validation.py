"""Which arrays may stand for which inputs: names, element types and shapes.

Casts keep every value, up to rounding between floating types. What passes comes out as batches in
the form that the model takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxprune.data.batches import Array, Batch, InputFormat
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Dim, TensorSpec, is_floating, is_integer

_SINGLE_INPUT = ("x", "arr_0")  # what people, and np.savez, call the only array
LABELS = ("y", "label", "labels", "target", "targets")
"""Keys that hold labels; they are never taken for inputs of other names."""


def match_names(
    names: Iterable[str], inputs: InputFormat, where: str, *, lone: bool
) -> dict[str, str]:
    """Which key holds each input.

    For a model with one input, ``x`` and ``arr_0`` stand for it too. Other keys are left alone.

    Args:
        names: the keys there are.
        inputs: of the model.
        where: where they come from, for messages.
        lone: whether the only key (labels aside) may have any name.

    Raises:
        OnnxpruneError: an input has no key.
    """
    keys = list(names)
    wanted = [spec.name for spec in inputs.signature]
    if len(wanted) == 1 and wanted[0] not in keys:
        others = [key for key in keys if key not in LABELS]
        for key in keys:
            if key in _SINGLE_INPUT or (lone and others == [key]):
                return {wanted[0]: key}
    missing = [name for name in wanted if name not in keys]
    if missing:
        raise OnnxpruneError(
            f"{where} has no {_quoted(missing)}; it has {_quoted(keys) or 'nothing'}",
            hint=inputs.hint,
        )
    return {name: name for name in wanted}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


# Element types --------------------------------------------------------------------------------


def as_array(value: object) -> Array:
    """An array from whatever holds numbers: numpy, torch (any device, with gradients), lists.

    Raises:
        OnnxpruneError: ``value`` cannot be an array, or its rows have different lengths.
    """
    detach = getattr(value, "detach", None)
    if callable(detach):
        value = detach().cpu()
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OnnxpruneError(
            f"a {type(value).__name__} cannot be turned into an array: {error}",
            hint="pad rows of different lengths, or give one array per sample",
        ) from error
    if array.dtype == object and not all(isinstance(one, str) for one in array.ravel()):
        raise OnnxpruneError(f"a {type(value).__name__} does not hold numbers or strings")
    return array


def check_array(value: object, spec: TensorSpec, inputs: InputFormat, where: str) -> Array:
    """One array, prepared, of the element type of its input; its shape is not looked at.

    Raises:
        OnnxpruneError: see `cast`.
    """
    array = as_array(value)
    if inputs.prepare is not None and is_floating(spec.dtype):
        array = inputs.prepare(array, spec)
    return cast(array, spec, where, inputs.hint)


def cast(array: Array, spec: TensorSpec, where: str, hint: str) -> Array:
    """``array`` with the element type of ``spec``, if that changes no value beyond rounding.

    Floats become other floats, integers and booleans other integers that can hold them. Integers
    never become floats: whether 0..255 means that, 0..1 or something normalised is not ours to
    guess.

    Args:
        array: any shape.
        spec: the input it is for.
        where: where it comes from, for messages.
        hint: added to messages.

    Raises:
        OnnxpruneError: another cast would be needed, or a value is lost, NaN or infinite.
    """
    have, want = array.dtype, spec.dtype
    mismatch = f"{where} holds {have.name} where {spec} is expected"
    if want.kind == "O":
        if have.kind not in "USO":
            raise OnnxpruneError(mismatch, hint=hint)
        return array.astype(object)
    if have.kind == "V" and not is_floating(have) and not is_integer(have):
        # numpy files cannot name bfloat16 and its like: their elements come back as raw bytes.
        if have.itemsize != want.itemsize or want.kind != "V":
            raise OnnxpruneError(f"{where} holds raw bytes where {spec} is expected", hint=hint)
        array, have = array.view(want), want
    if is_floating(have) and not np.isfinite(array).all():
        raise OnnxpruneError(
            f"{where} holds NaN or infinite values for the input '{spec.name}'",
            hint="statistics of such data mean nothing: clean the data first",
        )
    if have == want:
        return array
    with np.errstate(over="ignore"):
        if is_floating(have) and is_floating(want):
            converted = array.astype(want)
            if np.isfinite(converted).all():
                return converted
            problem = f"values too large for {want.name}"
            raise OnnxpruneError(f"{where} holds {problem} for the input '{spec.name}'", hint=hint)
    if _whole(have) and _whole(want):
        converted = array.astype(want)
        if np.array_equal(converted.astype(have), array):
            return converted
        raise OnnxpruneError(
            f"{where} holds values between {array.min()} and {array.max()}, which "
            f"{want.name} cannot, for the input '{spec.name}'",
            hint=hint,
        )
    advice = f"convert it to {want.name} first."
    if have == np.uint8 and is_floating(want):
        advice = (
            "say how pixels become numbers: --preprocess scale=255,mean=...,std=... "
            "(scale=1 leaves 0..255)."
        )
    raise OnnxpruneError(mismatch, hint=f"{advice} {hint}")


def _whole(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "b" or is_integer(dtype)


# Shapes ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Arrangement:
    """How one array holds samples of one input.

    Attributes:
        form: ``batch`` (along the batch axis; whole feeds along the first axis where the model has
            no batch axis), ``stacked`` (feeds along one more axis in front), ``single`` (one sample
            without its batch axis) or ``shared`` (one value for all samples).
        count: how many samples, or feeds where the model has no batch axis.
        size: rows of each along that axis.
        left: rows left over after the last whole feed.
    """

    form: Literal["batch", "stacked", "single", "shared"]
    count: int = 1
    size: int = 1
    left: int = 0


def conform(
    arrays: Mapping[str, object], inputs: InputFormat, where: str, *, loose: bool
) -> list[Batch]:
    """Batches from arrays, checked against the inputs: one, or each feed of a fixed batch.

    Args:
        arrays: by input name, any number of samples.
        inputs: of the model.
        where: where they come from, for messages.
        loose: whether single samples may come without their batch axis.

    Raises:
        OnnxpruneError: a shape or element type is wrong, a value is not finite, or the inputs
            hold different numbers of samples.
    """
    checked = {
        spec.name: check_array(arrays[spec.name], spec, inputs, where) for spec in inputs.signature
    }
    shapes = {name: array.shape for name, array in checked.items()}
    forms, count = arrange(shapes, inputs, where, loose=loose)
    placed = {name: _place(array, name, forms[name], inputs) for name, array in checked.items()}
    batches = [placed]
    if inputs.fixed:
        batches = [
            {n: np.asarray(a[k if len(a) == count else 0], order="C") for n, a in placed.items()}
            for k in range(count)
        ]
    _check_symbols(batches[0], inputs, where)
    return batches


def arrange(
    shapes: Mapping[str, tuple[int, ...]], inputs: InputFormat, where: str, *, loose: bool
) -> tuple[dict[str, Arrangement], int]:
    """How arrays of these shapes hold samples, and the number of samples, or feeds, they all hold.

    Inputs given once serve every sample: those that cannot be mistaken for a batch, because they
    have no batch axis or, where shapes are fixed, a first axis of another size than the batch.

    Raises:
        OnnxpruneError: a shape fits in no way, there are no samples, or the inputs hold different
            numbers of them.
    """
    forms, counts = {}, {}
    for spec in inputs.signature:
        form = _arrangement(shapes[spec.name], spec, inputs, loose=loose)
        if form is None:
            raise OnnxpruneError(
                f"{where} gives an array of shape {list(shapes[spec.name])} for the input "
                f"'{spec.name}'",
                hint=inputs.hint,
            )
        forms[spec.name] = form
        apart = inputs.fixed and form.form == "batch" and form.count == 1
        if form.form != "shared" and not (apart and spec.shape[0] != inputs.group):
            counts[spec.name] = form.count
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise OnnxpruneError(
            f"{where} holds different numbers of samples: {listed}", hint=inputs.hint
        )
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise OnnxpruneError(f"{where} holds no samples", hint=inputs.hint)
    return forms, count


def _arrangement(
    shape: tuple[int, ...], spec: TensorSpec, inputs: InputFormat, *, loose: bool
) -> Arrangement | None:
    want, axis = spec.shape, inputs.axes[spec.name]
    if not inputs.fixed:
        if axis is None:
            return Arrangement("shared") if fits(shape, want) else None
        if fits(shape, (*want[:axis], None, *want[axis + 1 :])):
            return Arrangement("batch", shape[axis])
        sample = want[:axis] + want[axis + 1 :]
        return Arrangement("single") if loose and fits(shape, sample) else None
    if not want and not shape:
        return Arrangement("shared")
    if shape and fits(shape[1:], want):
        return Arrangement("stacked", shape[0])
    if want and shape and fits(shape[1:], want[1:]):
        size = want[0] if isinstance(want[0], int) else shape[0]
        if shape[0] == size:
            return Arrangement("batch", 1, size)
        if shape[0] > size > 0:
            return Arrangement("batch", shape[0] // size, size, shape[0] % size)
    return Arrangement("single") if loose and want[:1] == (1,) and fits(shape, want[1:]) else None


def _place(array: Array, name: str, form: Arrangement, inputs: InputFormat) -> Array:
    """The array as the model takes it; with feeds along a new first axis where it has no batch."""
    axis = inputs.axes[name]
    if not inputs.fixed:
        single = form.form == "single" and axis is not None
        return np.expand_dims(array, axis or 0) if single else array
    if form.form == "stacked":
        return array
    if form.form == "batch":
        rows = array[: form.count * form.size]
        return rows.reshape(form.count, form.size, *array.shape[1:])
    return array[None, None] if form.form == "single" else array[None]


def _check_symbols(batch: Batch, inputs: InputFormat, where: str) -> None:
    """Refuse a batch in which one symbolic size has two values."""
    seen: dict[str, tuple[int, str]] = {}
    for spec in inputs.signature:
        for size, have in zip(spec.shape, batch[spec.name].shape, strict=True):
            if not isinstance(size, str):
                continue
            known, other = seen.setdefault(size, (have, spec.name))
            if known != have:
                raise OnnxpruneError(
                    f"{where} gives '{size}' the size {known} in '{other}' and {have} in "
                    f"'{spec.name}'",
                    hint=inputs.hint,
                )


def fits(shape: tuple[int, ...], want: tuple[Dim, ...]) -> bool:
    """Whether an array of this shape may stand for an input of that, open sizes aside."""
    return len(shape) == len(want) and all(
        not isinstance(size, int) or size == have for have, size in zip(shape, want, strict=True)
    )
