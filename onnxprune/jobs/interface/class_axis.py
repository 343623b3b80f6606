"""The axis of an output that counts classes, and the indices of those that are to stay.

Detectors have coordinates beside their classes, and some a class of nothing; their layout is told
as the task metric tells it. Every other output counts classes along its last axis, an image of
classes where pictures have their colours.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxprune.config import Options
from onnxprune.data.batches import Feeds
from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.evaluate.metrics.detection.layouts import (
    Anchors,
    Parts,
    Selected,
    class_scores,
    find_layout,
)
from onnxprune.evaluate.metrics.scores import Array
from onnxprune.evaluate.output_comparison import is_distribution
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.plan.core import ranges
from onnxprune.jobs.interface.class_labels import label_file, read_labels
from onnxprune.quantities import KeptIndices, plural, shape_text
from onnxprune.runtime import open_session

_COLOURS = (1, 3, 4)
_ANCHORS, _FIRST = 3, 5
"""Anchors at each place of a YOLO's grid, and values of each before its classes."""


@dataclass(frozen=True)
class ClassAxis:
    """Where an output counts classes.

    Attributes:
        output: its name.
        axis: of the classes.
        shape: of the output, where it was looked at.
        first: index of class 0.
        count: number of classes, that of nothing included.
        nothing: the class that stands for no object or no symbol; it always stays.
    """

    output: str
    axis: int
    shape: tuple[int, ...]
    first: int
    count: int
    nothing: int | None = None

    @property
    def size(self) -> int:
        """Length of the axis."""
        return self.shape[self.axis]

    def kept(self, classes: Iterable[int]) -> tuple[int, ...]:
        """The indices of the axis that stay with some classes, ascending."""
        stay = {self.first + number for number in classes}
        outside = {*range(self.first), *range(self.first + self.count, self.size)}
        return tuple(sorted(stay | outside))


def find_class_axis(analysis: Analysis, output: str, feeds: Feeds, config: Options) -> ClassAxis:
    """The axis of an output that counts classes.

    Args:
        analysis: of the model.
        output: its name.
        feeds: a batch to tell a detector's layout by.
        config: the detector and the provider.

    Raises:
        OnnxpruneError: the output has no such axis.
    """
    fact = analysis.facts.get(output)
    shape = None if fact is None else fact.sizes
    if not shape or any(size is None for size in shape):
        raise OnnxpruneError(
            f"--keep-outputs {output}: the shape of '{output}' is not known",
            hint="give sizes with --shapes, or export the model with shapes",
        )
    sizes = tuple(int(size) for size in shape)
    axis = _of_detector(analysis, output, sizes, feeds, config)
    if axis is not None:
        return axis
    if len(sizes) < 2:
        raise OnnxpruneError(
            f"--keep-outputs {output}: '{output}' [{shape_text(sizes)}] has no axis of classes",
            hint="name an output with one score per class",
        )
    return _by_rank(output, sizes, [each.shape for each in feeds.values() if each.ndim == 4])


def _by_rank(output: str, shape: tuple[int, ...], pictures: Sequence[tuple[int, ...]]) -> ClassAxis:
    """The class axis of an output whose rank says where it is.

    An image of classes has them where a picture has its colours; the grids of a YOLO have them
    last, behind coordinates and objectness.
    """
    if len(shape) == 5 and pictures and shape[1] == _ANCHORS and shape[4] > _FIRST:
        return ClassAxis(output, 4, shape, _FIRST, shape[4] - _FIRST)
    last = any(each[1] not in _COLOURS and each[3] in _COLOURS for each in pictures)
    at = 1 if len(shape) == 4 and not last else len(shape) - 1
    return ClassAxis(output, at, shape, 0, shape[at])


def _of_detector(
    analysis: Analysis, output: str, shape: tuple[int, ...], feeds: Feeds, config: Options
) -> ClassAxis | None:
    """The same for the output of a detector; None for any other output."""
    pictures = [each.shape for each in feeds.values() if each.ndim == 4]
    if len(shape) != 3 or len(pictures) != 1:
        return None
    samples, height, width = len(next(iter(feeds.values()))), *_frame(pictures[0])
    session = open_session(analysis.model, provider=config.provider, arena=False)
    outputs = {n: np.asarray(v) for n, v in session.run(feeds).items() if isinstance(v, np.ndarray)}
    try:
        layout = find_layout(outputs, samples, (width, height), config.detector or "")
    except OnnxpruneError:
        if config.detector:
            raise
        return _beside_boxes(outputs, output, shape)
    if isinstance(layout, Anchors) and layout.output == output:
        at, first = (1 if layout.columns else 2), 4 + layout.objectness
        count = shape[at] - first - layout.others
        stored = analysis.walk.space.columns(analysis.walk.axes[output][at])
        if not config.detector and (count < 1 or not stored):
            return None  # one row per step of a text, say
        return ClassAxis(output, at, shape, first, count)
    if isinstance(layout, Parts) and layout.scores == output:
        at = 2 if shape[1] == outputs[layout.boxes].shape[1] else 1
        nothing = (shape[at] - 1 if layout.detector == "detr" else 0) if layout.exclusive else None
        return ClassAxis(output, at, shape, 0, shape[at], nothing)
    if isinstance(layout, Selected) and layout.scores == output:
        return ClassAxis(output, 1, shape, 0, shape[1])
    return None


def _beside_boxes(
    outputs: Mapping[str, Array], output: str, shape: tuple[int, ...]
) -> ClassAxis | None:
    """The class axis of scores beside boxes that only a decoder of their own can read."""
    scores = outputs[output]
    for name, boxes in outputs.items():
        if name == output or boxes.ndim != 3 or boxes.shape[-1] != 4:
            continue
        turned = class_scores(scores, boxes.shape[1])
        if turned is not None and is_distribution(turned):
            at = 2 if turned is scores else 1
            return ClassAxis(output, at, shape, 0, shape[at], nothing=0)
    return None


def _frame(shape: tuple[int, ...]) -> tuple[int, int]:
    """Height and width of a picture, its channels first or last."""
    return (shape[2], shape[3]) if shape[1] in _COLOURS else (shape[1], shape[2])


def kept_classes(
    choice: KeptIndices, axis: ClassAxis, metadata: Mapping[str, str], config: Options
) -> tuple[int, ...]:
    """The classes that an option keeps, ascending; the class of nothing among them.

    Args:
        choice: indices and labels.
        axis: of the output.
        metadata: of the model, which may hold labels.
        config: the blank of CTC outputs.

    Raises:
        OnnxpruneError: a label is unknown, an index is out of range, or the blank would leave.
    """
    of = f"--keep-outputs {axis.output}"
    labels: tuple[str, ...] = ()
    if choice.labels or any(isinstance(item, str) for item in choice.items):
        labels = label_file(choice.labels) if choice.labels else read_labels(metadata)
    classes = set()
    for item in choice.items:
        number = item if isinstance(item, int) else _number_of(item, labels, axis, of)
        if not 0 <= number < axis.count:
            raise OnnxpruneError(
                f"{of}: there is no class {number}, of {axis.count}",
                hint=f"classes of '{axis.output}' are counted from 0 to {axis.count - 1}",
            )
        classes.add(number)
    if axis.nothing is not None:
        classes.add(axis.nothing)
    blank = blank_of(config, axis)
    if blank is not None and blank not in classes:
        raise OnnxpruneError(
            f"{of} drops {blank}, the blank of a CTC output",
            hint=f"keep it too, as in {axis.output}={blank},..., or name another with --blank",
        )
    return tuple(sorted(classes))


def blank_of(config: Options, axis: ClassAxis) -> int | None:
    """The class of a CTC output that stands for nothing; None for other outputs."""
    if "blank" not in config.written and config.metric not in ("cer", "wer"):
        return None
    return axis.count - 1 if config.blank == "last" else config.blank


def _number_of(label: str, labels: tuple[str, ...], axis: ClassAxis, of: str) -> int:
    """The class with a label; labels do not count a class of nothing at the start."""
    if not labels:
        raise OnnxpruneError(
            f"{of}: nothing says which class '{label}' is: the metadata hold no labels",
            hint=f"name classes by number, or give labels: {axis.output}=@labels.txt:{label}",
        )
    if len(labels) not in (axis.count, axis.count - (axis.nothing is not None)):
        raise OnnxpruneError(
            f"{of}: there are {plural(len(labels), 'label')} for {axis.count} classes",
            hint="name classes by number: which label is which class cannot be told",
        )
    places = [k for k, each in enumerate(labels) if each == label]
    places = places or [k for k, each in enumerate(labels) if each.lower() == label.lower()]
    if len(places) != 1:
        problem = f"no class is called '{label}'" if not places else f"'{label}' is several classes"
        raise OnnxpruneError(f"{of}: {problem}", hint=suggest(label, labels, "name it by number"))
    return places[0] + (axis.nothing == 0 and len(labels) == axis.count - 1)


def describe(axis: ClassAxis, classes: tuple[int, ...]) -> str:
    """Which classes stay, and where they are, as a sentence of a report."""
    shape = ", ".join(map(str, axis.shape))
    numbers = ranges(classes)
    many = "classes" if len(classes) > 1 else "class"
    text = f"{many} {numbers} of '{axis.output}' [{shape}] stay"
    text = text if len(classes) > 1 else text.replace(" stay", " stays")
    if axis.first or axis.count < axis.size:
        rows = ranges([axis.first + k for k in classes])
        text += f": indices {rows} of axis {axis.axis}; the {axis.size - axis.count} others that "
        text += "are no classes stay too"
    elif axis.axis != len(axis.shape) - 1:
        text += f", along axis {axis.axis}"
    if axis.nothing is not None:
        place = "last" if axis.nothing else "first"
        text += f"; the {place} one stands for nothing and always stays"
    return text
