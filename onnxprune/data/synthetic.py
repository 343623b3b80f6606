"""Synthetic samples: enough to run a model, not enough to evaluate it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from onnxprune.data.batches import DEFAULT_BATCH, Array, Batch, Index, InputFormat, Reader
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Dim, TensorSpec, is_floating

_LENGTH = 16  # of a symbolic axis nothing is known about
_PIXELS = 64  # of the last two of four symbolic axes: an image, probably


def read_random(spec: str, inputs: InputFormat, samples: int | None, seed: int) -> Reader:
    """A reader of random samples.

    Floats are standard normal. Integers are 0 or 1, which most vocabularies, position tables and
    masks have; those with ``mask`` in their name are 1. The sample of an index depends on ``seed``
    and the index only.

    Args:
        spec: ``random``, or ``random:seq=64,height=320`` to set symbolic sizes. An axis without a
            name is set as ``input[axis]``. Otherwise an axis of something past (``past`` or
            ``cache`` in its name) is empty, the last two of four are 64 and others 16.
        inputs: of the model.
        samples: how many; 32 by default.
        seed: random seed.

    Raises:
        OnnxpruneError: a size is set that no input has, or an input takes strings.
    """
    settings = _parse_sizes(spec)
    sizes = _Sizes(settings)
    shapes = {one.name: sizes.shape(one, inputs.axes[one.name]) for one in inputs.signature}
    unknown = set(settings) - sizes.used
    if unknown:
        raise OnnxpruneError(f"no input has a size named '{unknown.pop()}'", hint=inputs.hint)
    for one in inputs.signature:
        refuse_strings(one)
    group = inputs.group
    feeds = -(-(samples or DEFAULT_BATCH) // group)

    def read(wanted: Index | None) -> Iterator[Batch]:
        for index in range(feeds) if wanted is None else wanted[::group] // group:
            rng = np.random.default_rng([seed, int(index)])
            yield {
                one.name: synthetic_values(one, shapes[one.name], rng) for one in inputs.signature
            }

    return Reader("random inputs", inputs, read, feeds * group, group, synthetic=True, uniform=True)


class _Sizes:
    """Sizes of symbolic axes; one name has one size everywhere."""

    def __init__(self, settings: Mapping[str, int]) -> None:
        self.known = dict(settings)
        self.used: set[str] = set()

    def shape(self, spec: TensorSpec, batch: int | None) -> tuple[int, ...]:
        """The shape of one sample."""
        image = len(spec.shape) == 4 and is_floating(spec.dtype)
        defaults = (_PIXELS if image and axis >= 2 else _LENGTH for axis in range(len(spec.shape)))
        return tuple(
            1 if axis == batch else self._size(size, f"{spec.name}[{axis}]", default)
            for axis, (size, default) in enumerate(zip(spec.shape, defaults, strict=True))
        )

    def _size(self, size: Dim, unnamed: str, default: int) -> int:
        if isinstance(size, int):
            return size
        name = size or unnamed
        if name not in self.known and "+" in name:  # exporters write sums: past_length + length
            return sum(self._part(part.strip(), default) for part in name.split("+"))
        return self._part(name, default)

    def _part(self, name: str, default: int) -> int:
        if name.isdigit():
            return int(name)
        past = "past" in name.lower() or "cache" in name.lower()
        self.used.add(name)
        return self.known.setdefault(name, 0 if past else default)


def _parse_sizes(spec: str) -> dict[str, int]:
    sizes = {}
    for part in filter(None, spec.partition(":")[2].split(",")):
        name, _, size = part.rpartition("=")
        if not name or not size.isdigit():
            raise OnnxpruneError(f"'{part}' sets no size", hint="write random:NAME=SIZE,NAME=SIZE")
        sizes[name.strip()] = int(size)
    return sizes


def refuse_strings(spec: TensorSpec) -> None:
    """Refuse an input that has no synthetic values.

    Raises:
        OnnxpruneError: it takes strings.
    """
    if spec.dtype.kind == "O":
        raise OnnxpruneError(
            f"the input '{spec.name}' takes strings, for which there are no synthetic values",
            hint="give real inputs with --calib",
        )


_MOST = 1 << 28
"""Elements of an input that is made up; sizes that nothing limits are tried, too."""


def synthetic_values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    """Standard normal floats; integers 0 or 1, which most vocabularies have; masks of ones.

    Raises:
        OnnxpruneError: there would be too many.
    """
    if math.prod(shape) > _MOST:
        raise OnnxpruneError(
            f"'{spec.name}' of shape [{', '.join(map(str, shape))}] is too large to be made up",
            hint="give real inputs with --calib, or sizes with --shapes",
        )
    if is_floating(spec.dtype):
        return rng.standard_normal(shape).astype(spec.dtype)
    if "mask" in spec.name.lower():
        return np.ones(shape).astype(spec.dtype)
    return rng.integers(0, 2, shape).astype(spec.dtype)
