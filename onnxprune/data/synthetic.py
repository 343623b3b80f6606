"""Made-up samples: enough to run a model, not enough to judge it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.calibration import DEFAULT_BATCH
from onnxprune.data.layout import Chunk, Layout, join
from onnxprune.data.stream import Source, Steps
from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Dim, TensorSpec, is_floating

_LENGTH = 16  # of a symbolic axis nothing is known about
_PIXELS = 64  # of the last two of four symbolic axes: an image, probably


def from_noise(spec: str, layout: Layout, samples: int | None, seed: int) -> Source:
    """A source of random samples.

    Floats are standard normal. Integers are 0 or 1, which most vocabularies, position tables and
    masks have; those with ``mask`` in their name are 1. The sample of an index depends on ``seed``
    and the index only.

    Args:
        spec: ``random``, or ``random:seq=64,height=320`` to set symbolic sizes. An axis without a
            name is set as ``input[axis]``. Otherwise an axis of something past (``past`` or
            ``cache`` in its name) is empty, the last two of four are 64 and others 16.
        layout: of the model.
        samples: how many; 32 by default.
        seed: of the generator.

    Raises:
        OnnxpruneError: a size is set that no input has, or an input takes strings.
    """
    given = _read_sizes(spec)
    sizes = _Sizes(given)
    shapes = {one.name: sizes.shape(one, layout) for one in layout.signature}
    unknown = set(given) - sizes.used
    if unknown:
        raise OnnxpruneError(f"no input has a size named '{unknown.pop()}'", hint=layout.hint)
    for one in layout.signature:
        if one.dtype.kind == "O":
            raise OnnxpruneError(f"the input '{one.name}' takes strings, which cannot be made up")
    steps = -(-(samples or DEFAULT_BATCH) // layout.batch)

    def read(wanted: Steps | None) -> Iterator[Chunk]:
        for index in range(steps) if wanted is None else wanted:
            rng = np.random.default_rng([seed, int(index)])
            made = {}
            for one in layout.signature:
                array = _values(one, shapes[one.name], rng)
                made[one.name] = array[None] if layout.fixed else array
            yield join([made], layout)

    return Source("random inputs", read, steps, layout.batch, synthetic=True, uniform=True)


class _Sizes:
    """Sizes of symbolic axes; one name has one size everywhere."""

    def __init__(self, given: Mapping[str, int]) -> None:
        self.known = dict(given)
        self.used: set[str] = set()

    def shape(self, spec: TensorSpec, layout: Layout) -> tuple[int, ...]:
        """The shape of one sample."""
        made = []
        for axis, size in enumerate(spec.shape):
            batch = not layout.fixed and layout.axes[spec.name] == axis
            image = len(spec.shape) == 4 and axis >= 2 and is_floating(spec.dtype)
            default = _PIXELS if image else _LENGTH
            made.append(1 if batch else self._size(size, f"{spec.name}[{axis}]", default))
        return tuple(made)

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


def _read_sizes(spec: str) -> dict[str, int]:
    made = {}
    for part in filter(None, spec.partition(":")[2].split(",")):
        name, _, size = part.rpartition("=")
        if not name or not size.isdigit():
            raise OnnxpruneError(f"'{part}' sets no size", hint="write random:NAME=SIZE,NAME=SIZE")
        made[name.strip()] = int(size)
    return made


def _values(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> npt.NDArray[Any]:
    if is_floating(spec.dtype):
        return rng.standard_normal(shape).astype(spec.dtype)
    if "mask" in spec.name.lower():
        return np.ones(shape).astype(spec.dtype)
    return rng.integers(0, 2, shape).astype(spec.dtype)
