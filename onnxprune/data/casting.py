"""Which arrays may stand for which inputs: casts that keep every value, and no others."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import TensorSpec, is_floating, is_integer


def as_array(given: object) -> npt.NDArray[Any]:
    """An array from whatever holds numbers: numpy, torch (any device, with gradients), lists.

    Raises:
        OnnxpruneError: ``given`` cannot be an array, or its rows have different lengths.
    """
    detach = getattr(given, "detach", None)
    if callable(detach):
        given = detach().cpu()
    try:
        array = np.asarray(given)
    except (TypeError, ValueError, RuntimeError) as error:
        raise OnnxpruneError(
            f"a {type(given).__name__} cannot be turned into an array: {error}",
            hint="pad rows of different lengths, or give one array per sample",
        ) from error
    if array.dtype == object and not all(isinstance(one, str) for one in array.ravel()):
        raise OnnxpruneError(f"a {type(given).__name__} does not hold numbers or strings")
    return array


def cast(array: npt.NDArray[Any], spec: TensorSpec, where: str, hint: str) -> npt.NDArray[Any]:
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
    if want.kind == "O":
        return _strings(array, spec, where, hint)
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
    return array if have == want else _convert(array, spec, where, hint)


def _strings(array: npt.NDArray[Any], spec: TensorSpec, where: str, hint: str) -> npt.NDArray[Any]:
    if array.dtype.kind not in "USO":
        raise OnnxpruneError(
            f"{where} holds {array.dtype.name} where {spec} is expected", hint=hint
        )
    return array.astype(object)


def _convert(array: npt.NDArray[Any], spec: TensorSpec, where: str, hint: str) -> npt.NDArray[Any]:
    have, want = array.dtype, spec.dtype
    whole = have.kind == "b" or is_integer(have)
    if is_floating(have) and is_floating(want):
        with np.errstate(over="ignore"):
            rounded = array.astype(want)
        if not np.isfinite(rounded).all():
            raise OnnxpruneError(
                f"{where} holds values too large for {want.name} for the input '{spec.name}'",
                hint=hint,
            )
        return rounded
    if whole and (want.kind == "b" or is_integer(want)):
        made = array.astype(want)
        if not np.array_equal(made.astype(have), array):
            raise OnnxpruneError(
                f"{where} holds values between {array.min()} and {array.max()}, which "
                f"{want.name} cannot, for the input '{spec.name}'",
                hint=hint,
            )
        return made
    if have == np.uint8 and is_floating(want):
        raise OnnxpruneError(
            f"{where} holds uint8 where {spec} is expected",
            hint="say how pixels become numbers: --preprocess scale=255,mean=...,std=... "
            f"(scale=1 leaves 0..255). {hint}",
        )
    raise OnnxpruneError(
        f"{where} holds {have.name} where {spec} is expected",
        hint=f"convert it to {want.name} first. {hint}",
    )
