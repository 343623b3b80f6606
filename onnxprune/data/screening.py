"""Samples that judge little: repeats, constants, and those that were fitted to.

Samples are looked at while they are read anyway. Of each, only a hash stays.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from onnxprune.data.batches import Array, Feeds, InputFormat
from onnxprune.quantities import plural

MOST = 500_000
"""Samples that are looked at; their hashes take some 50 MB."""
REPEATED = 0.01
"""Share of the samples that may be copies of others without a note: real data have a few."""
BLANK = 0.1
"""The same for samples without any variation: silence, black frames."""

_STATES = re.compile(r"state|hidden|cache|past|prev|mem|mask|(^|_)[hc]_?\d*$", re.IGNORECASE)
"""Names of inputs that start the same for every sample."""


class Screen:
    """Looks at samples that pass by.

    Args:
        inputs: how the model takes samples.

    Attributes:
        hashes: of the samples, in order.
        blank: number of samples in which every input has one value only.
        fixed: for each input, whether it was the same in all samples so far.
        sizes: elements of each input in the first sample.
    """

    def __init__(self, inputs: InputFormat) -> None:
        self.hashes: list[int] = []
        self.blank = 0
        self.fixed: dict[str, bool] = {}
        self.sizes: dict[str, int] = {}
        self._inputs = inputs
        self._first: dict[str, Array] = {}

    def first(self, name: str) -> Array:
        """The elements of an input in the first sample."""
        return self._first[name]

    def watch(self, batches: Iterable[Feeds]) -> Iterator[Feeds]:
        """The same batches, each looked at as it passes."""
        for batch in batches:
            if len(self.hashes) < MOST:
                self.add(batch)
            yield batch

    def add(self, batch: Feeds) -> None:
        """Look at a batch."""
        rows = samples_of(batch, self._inputs)
        for name, values in rows.items():
            first = self._first.setdefault(name, values[0])
            self.sizes.setdefault(name, first.size)
            if self.fixed.setdefault(name, True):
                same = values.shape[1:] == first.shape and bool((values == first).all())
                self.fixed[name] = same
        if not rows:
            return
        wide = [values for values in rows.values() if values.shape[1] > 1]
        if wide:
            level = [(v == v[:, :1]).all(1) for v in rows.values() if v.shape[1]]
            self.blank += int(np.logical_and.reduce(level).sum())
        content = [_bytes(values) for values in rows.values()]
        for sample in zip(*content, strict=True):
            digest = hashlib.blake2b(digest_size=8)
            for part in sample:
                digest.update(part)
            self.hashes.append(int.from_bytes(digest.digest(), "little"))


def samples_of(batch: Feeds, inputs: InputFormat) -> dict[str, Array]:
    """Every input as rows ``[samples, elements]``; those that all samples share are left out."""
    count = inputs.count(batch)
    rows = {}
    for name, array in batch.items():
        axis = inputs.axes[name]
        if axis is not None:
            rows[name] = np.moveaxis(array, axis, 0)
        elif inputs.fixed:
            several = count > 1 and array.ndim and len(array) == count
            rows[name] = array if several else np.broadcast_to(array, (count, *array.shape))
    return {
        name: np.ascontiguousarray(values).reshape(count, values.size // count)
        for name, values in rows.items()
    }


def _bytes(rows: Array) -> list[bytes | memoryview]:
    """The content of each row."""
    if rows.dtype == object:
        return ["\0".join(map(str, row)).encode() for row in rows]
    raw = rows.view(np.uint8) if rows.size else np.zeros((len(rows), 0), np.uint8)
    return [row.data for row in raw]


def notes_on(fit: Screen, judges: Sequence[Screen], option: str = "") -> tuple[str, ...]:
    """Sentences on samples that judge little.

    Args:
        fit: samples that are fitted to.
        judges: samples that nothing is fitted to.
        option: that gives ``judges``; empty where they were held out from the others.

    Example:
        >>> from onnxprune.data.batches import input_format
        >>> from onnxprune.model.signature import TensorSpec
        >>> screen = Screen(input_format([TensorSpec("x", np.dtype("float32"), ("n", 2))]))
        >>> screen.add({"x": np.zeros((3, 2), np.float32)})
        >>> notes_on(screen, [])[0]
        'all 3 samples are identical: they say nothing about other inputs'
    """
    held = [each for screen in judges for each in screen.hashes]
    known = set(fit.hashes)
    shared = sum(each in known for each in held)
    parts = [("--calib", [fit]), (option, list(judges))] if option else [("", [fit, *judges])]
    notes = [note for name, screens in parts for note in _own(name, screens)]
    if option and shared:
        notes.append(
            f"{shared} of {plural(len(held), 'sample')} of {option} are in --calib too, and were "
            "fitted to: they flatter the result"
        )
    elif shared > REPEATED * len(held) and notes and held:
        notes.append(f"{shared} of {plural(len(held), 'held-out sample')} were also fitted to")
    return tuple(notes)


def _own(name: str, screens: Sequence[Screen]) -> list[str]:
    """Notes on the samples of one origin."""
    hashes = [each for screen in screens for each in screen.hashes]
    count, distinct = len(hashes), len(set(hashes))
    what = f"samples of {name}" if name else "samples"
    if count < 2:
        return []
    notes = []
    copies = count - distinct
    if distinct == 1:
        notes.append(f"all {count} {what} are identical: they say nothing about other inputs")
    elif copies > REPEATED * count:
        notes.append(f"{copies} of {count} {what} are duplicates: only {distinct} are distinct")
    blank = sum(screen.blank for screen in screens)
    if blank > BLANK * count:
        notes.append(f"{blank} of {count} {what} are constant: all their elements are equal")
    if distinct > 1 and (same := _same_input(screens)):
        notes.append(f"the input '{same}' is constant: it is the same in all {count} {what}")
    return notes


def _same_input(screens: Sequence[Screen]) -> str:
    """The largest input, if it is the same in all samples; empty otherwise.

    Masks, positions, scales and initial states often are, and say nothing about the data.
    """
    screens = [screen for screen in screens if screen.sizes]
    sizes = screens[0].sizes
    largest = max(sizes, key=lambda name: sizes[name])
    alone = sum(size == sizes[largest] for size in sizes.values()) == 1
    firsts = [screen.first(largest) for screen in screens]
    same = all(np.array_equal(firsts[0], each) for each in firsts)
    same = same and all(screen.fixed[largest] for screen in screens)
    return largest if same and alone and not _STATES.search(largest) else ""
