"""Checks that arrays fit inputs: names, element types and shapes.

Casts keep every value, up to rounding between floating types. What passes comes out as batches in
the form that the model takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onnxprune.data.batches import Array, Batch, InputFormat
from onnxprune.errors import OnnxpruneError, kind_of
from onnxprune.model.signature import Dim, TensorSpec, is_floating, is_integer

SUBSTITUTES = ("x", "arr_0")
"""What people, and ``np.savez``, call the only array."""
LABELS = ("y", "label", "labels", "target", "targets")
"""Keys of labels, never mistaken for inputs of other names."""


def match_names(names: Iterable[str], inputs: InputFormat, *, lone: bool) -> dict[str, str]:
    """Which key holds each input.

    For a model with one input, ``x`` and ``arr_0`` stand for it too, and where ``lone``, the only
    key (labels aside) whatever its name. Other keys are left alone.

    Raises:
        OnnxpruneError: an input has no key.
    """
    keys, wanted = list(names), list(inputs.axes)
    if len(wanted) == 1 and wanted[0] not in keys:
        others = [key for key in keys if key not in LABELS]
        for key in keys:
            if key in SUBSTITUTES or (lone and others == [key]):
                return {wanted[0]: key}
    missing = [name for name in wanted if name not in keys]
    if missing:
        raise inputs.error(f"has no {_quoted(missing)}; it has {_quoted(keys) or 'nothing'}")
    return {name: name for name in wanted}


def _quoted(names: Iterable[str]) -> str:
    return ", ".join(f"'{name}'" for name in names)


# Element types --------------------------------------------------------------------------------


def as_array(value: object) -> Array:
    """An array from anything that holds numbers: numpy, torch (any device, with gradients), lists.

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
            f"{kind_of(value)} cannot be turned into an array: {error}",
            hint="pad rows of different lengths, or give one array per sample",
        ) from error
    if array.dtype == object and not all(isinstance(one, str) for one in array.ravel()):
        raise OnnxpruneError(
            f"{kind_of(value)} does not hold numbers or strings",
            hint="give arrays of numbers, one per input",
        )
    return array


def check_array(value: object, spec: TensorSpec, inputs: InputFormat) -> Array:
    """One array, prepared, of the element type of its input; its shape is not checked.

    Raises:
        OnnxpruneError: see `cast`.
    """
    array = as_array(value)
    if inputs.prepare is not None and is_floating(spec.dtype):
        array = inputs.prepare(array, spec)
    return cast(array, spec, inputs)


def cast(array: Array, spec: TensorSpec, inputs: InputFormat) -> Array:
    """``array`` (any shape) with the element type of ``spec``, if no value changes but by rounding.

    Floats become other floats, integers and booleans other integers that can hold them. Integers
    never become floats: whether 0..255 means that, 0..1 or something normalised is not ours to
    guess.

    Raises:
        OnnxpruneError: another cast would be needed, or a value is lost, NaN or infinite.
    """
    have, want, name = array.dtype, spec.dtype, spec.name
    if want.kind == "O" and have.kind in "USO":
        return array.astype(object)
    if want.kind != "O" and have.kind == "V" and not is_floating(have) and not is_integer(have):
        # numpy files cannot name bfloat16 and its like: their elements come back as raw bytes.
        if have.itemsize != want.itemsize or want.kind != "V":
            raise inputs.error(f"holds raw bytes where {spec} is expected")
        array, have = array.view(want), want
    if want.kind != "O" and is_floating(have) and not np.isfinite(array).all():
        advice = "statistics of such data mean nothing: clean the data first"
        raise inputs.error(f"holds NaN or infinite values for the input '{name}'", hint=advice)
    if have == want:
        return array
    if is_floating(have) and is_floating(want):
        with np.errstate(over="ignore"):
            converted = array.astype(want)
        if np.isfinite(converted).all():
            return converted
        raise inputs.error(f"holds values too large for {want.name} for the input '{name}'")
    if _whole(have) and _whole(want):
        converted = array.astype(want)
        if np.array_equal(converted.astype(have), array):
            return converted
        raise inputs.error(
            f"holds values between {array.min()} and {array.max()}, which {want.name} cannot, "
            f"for the input '{name}'"
        )
    hint = f"convert it to {want.name} first. {inputs.hint}"
    if want.kind == "O":
        hint = inputs.hint
    elif have == np.uint8 and is_floating(want):
        hint = (
            "say how pixels become numbers: --preprocess imagenet, or scale=255,mean=...,std=... "
            f"(scale=1 leaves 0..255). {inputs.hint}"
        )
    raise inputs.error(f"holds {have.name} where {spec} is expected", hint=hint)


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
        remainder: rows after the last whole feed.
    """

    form: Literal["batch", "stacked", "single", "shared"]
    count: int = 1
    size: int = 1
    remainder: int = 0


def conform(arrays: Mapping[str, object], inputs: InputFormat) -> list[Batch]:
    """Batches from arrays by input name: one, or every feed where the model has no batch axis.

    Raises:
        OnnxpruneError: a shape or element type is wrong, a value is not finite, or the inputs
            hold different numbers of samples.
    """
    checked = {s.name: check_array(arrays[s.name], s, inputs) for s in inputs.signature}
    forms, count = arrange({name: array.shape for name, array in checked.items()}, inputs)
    placed = {name: _place(array, name, forms[name], inputs) for name, array in checked.items()}
    batches = [placed]
    if inputs.fixed:
        batches = [
            {n: np.asarray(a[k if len(a) == count else 0], order="C") for n, a in placed.items()}
            for k in range(count)
        ]
    _check_symbols(batches[0], inputs)
    return batches


def arrange(
    shapes: Mapping[str, tuple[int, ...]], inputs: InputFormat
) -> tuple[dict[str, Arrangement], int]:
    """The arrangement of samples in arrays of these shapes, and the number of samples or feeds.

    Inputs given once serve every sample: those that cannot be mistaken for a batch, because they
    have no batch axis or, where shapes are fixed, a first axis of another size than the batch.

    Raises:
        OnnxpruneError: a shape fits in no way, there are no samples, or the inputs hold different
            numbers of them.
    """
    forms, counts = {}, {}
    for spec in inputs.signature:
        shape = shapes[spec.name]
        form = _arrangement(shape, spec, inputs)
        if form is None:
            raise inputs.error(f"gives an array of shape {list(shape)} for the input '{spec.name}'")
        forms[spec.name] = form
        once = inputs.fixed and form.form == "batch" and form.count == 1
        if form.form != "shared" and not (once and spec.shape[0] != inputs.group):
            counts[spec.name] = form.count
    if any(counts.values()):  # an empty input is empty for every sample
        for name in [name for name, count in counts.items() if not count]:
            forms[name] = Arrangement("shared")
            del counts[name]
    if len(set(counts.values())) > 1:
        listed = ", ".join(f"{count} of '{name}'" for name, count in counts.items())
        raise inputs.error(f"holds different numbers of samples: {listed}")
    count = next(iter(counts.values()), 1)
    if count == 0:
        raise inputs.error("holds no samples")
    return forms, count


def _arrangement(
    shape: tuple[int, ...], spec: TensorSpec, inputs: InputFormat
) -> Arrangement | None:
    want, axis = spec.shape, inputs.axes[spec.name]
    if axis is not None:
        before, after = want[:axis], want[axis + 1 :]
        if fits(shape, (*before, None, *after)):
            return Arrangement("batch", shape[axis])
        return Arrangement("single") if inputs.loose and fits(shape, before + after) else None
    if fits(shape, want) and not (inputs.fixed and want):
        return Arrangement("shared")
    if inputs.fixed and fits(shape, (None, *want)):
        return Arrangement("stacked", shape[0])
    if inputs.fixed and want and fits(shape, (None, *want[1:])):
        size = want[0] if isinstance(want[0], int) else shape[0]
        if shape[0] == size or shape[0] > size > 0:
            count = shape[0] // size if size else 1
            return Arrangement("batch", count, size, shape[0] - count * size)
    single = inputs.fixed and inputs.loose and want[:1] == (1,) and fits(shape, want[1:])
    return Arrangement("single") if single else None


def _place(array: Array, name: str, form: Arrangement, inputs: InputFormat) -> Array:
    """The array as the model takes it; with feeds along a new first axis where it has no batch."""
    if not inputs.fixed:
        single = form.form == "single"
        return np.expand_dims(array, inputs.axes[name] or 0) if single else array
    if form.form == "batch":
        rows = array[: form.count * form.size]
        return rows.reshape(form.count, form.size, *array.shape[1:])
    new = {"stacked": 0, "shared": 1, "single": 2}[form.form]
    return array[(None,) * new]


def _check_symbols(batch: Batch, inputs: InputFormat) -> None:
    """Refuse a batch in which one symbolic size has two values."""
    seen: dict[str, tuple[int, str]] = {}
    for spec in inputs.signature:
        for size, have in zip(spec.shape, batch[spec.name].shape, strict=True):
            if not isinstance(size, str):
                continue
            known, other = seen.setdefault(size, (have, spec.name))
            if known != have:
                raise inputs.error(
                    f"gives '{size}' the size {known} in '{other}' and {have} in '{spec.name}'"
                )


def fits(shape: tuple[int, ...], want: tuple[Dim, ...]) -> bool:
    """Whether an array of this shape may stand for an input of that, open sizes aside."""
    return len(shape) == len(want) and all(
        not isinstance(size, int) or size == have for have, size in zip(shape, want, strict=True)
    )
