"""Layouts of the outputs of detectors, told from names, shapes and values.

One output with a row or a column per anchor (YOLOv5 to YOLO11, YOLOX), boxes and scores apart (SSD,
DETR, YOLO-NAS), or lists of detections or of their places where the suppression is part of the
graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics.scores import Array, Outputs
from onnxprune.evaluate.output_comparison import is_distribution
from onnxprune.types import DETECTORS

BoxForm: TypeAlias = Literal["corners", "centres", "yx-corners"]
Frame: TypeAlias = tuple[int, int]
"""Width and height of the input of a model."""

_STRIDES = ((8, 16, 32), (8, 16, 32, 64), (16, 32), (8, 16), (4, 8, 16, 32))
_ANCHORS = 3  # of YOLOv5 at each place
_NORMALISED = 2.0
"""The largest coordinate of boxes that are relative to the picture; a little may lie outside."""
_MOST_QUERIES = 1000
_VALID = 0.95  # share of boxes
_BOX_WORDS = ("box", "loc", "reg", "dets")


@dataclass(frozen=True)
class Anchors:
    """One output with four coordinates, perhaps an objectness, and the classes of each anchor.

    Attributes:
        detector: as in `onnxprune.types.DETECTORS`.
        output: its name; ``[samples, anchors, values]``.
        columns: whether the last two axes are the other way round.
        objectness: whether there is one, which classes are multiplied by.
        strides: of the grids, where coordinates are offsets in them (raw YOLOX); empty for pixels.
        normalised: whether coordinates are relative to the input.
        logits: whether scores have not gone through a sigmoid.
        others: values at the end that are no classes (coefficients of masks).
    """

    detector: str
    output: str
    columns: bool
    objectness: bool
    strides: tuple[int, ...] = ()
    normalised: bool = False
    logits: bool = False
    others: int = 0


@dataclass(frozen=True)
class Parts:
    """Boxes and class scores in outputs of their own.

    Attributes:
        detector: as in `onnxprune.types.DETECTORS`.
        boxes: output ``[samples, anchors, 4]``.
        scores: output ``[samples, anchors, classes]``.
        form: of the boxes.
        normalised: whether coordinates are relative to the input.
        logits: whether scores are logits.
        exclusive: whether the classes of an anchor exclude each other, and one of them is that of
            nothing: the first of an SSD, the last of a DETR.
    """

    detector: str
    boxes: str
    scores: str
    form: BoxForm
    normalised: bool
    logits: bool
    exclusive: bool


@dataclass(frozen=True)
class Lists:
    """Detections that the graph has selected.

    Attributes:
        detector: as in `onnxprune.types.DETECTORS`.
        boxes: output ``[samples, most, 4]`` or, for one sample, ``[detections, 4]``; or the only
            output, whose rows hold everything.
        scores, classes: outputs ``[samples, most]``; empty for the only output, and where all are
            of one class.
        amount: output with the number of detections of each sample; empty without.
        form: of the boxes.
        rows: columns of the only output: of the sample (negative without), the box, the score and
            the class; empty for several outputs.
    """

    detector: str
    boxes: str
    scores: str = ""
    classes: str = ""
    amount: str = ""
    form: BoxForm = "corners"
    rows: tuple[int, int, int, int] | tuple[()] = ()


@dataclass(frozen=True)
class Selected:
    """What a NonMaxSuppression selects of boxes and scores that are outputs too.

    Attributes:
        detector: as in `onnxprune.types.DETECTORS`.
        places: output ``[n, 3]`` of whole numbers: sample, class and anchor of each detection.
        boxes: output ``[samples, anchors, 4]``.
        scores: output ``[samples, classes, anchors]``.
        form: of the boxes: ``centres``, or ``yx-corners`` as the operator has them, which graphs
            feed in either order.
        logits: whether scores are logits.
    """

    detector: str
    places: str
    boxes: str
    scores: str
    form: BoxForm
    logits: bool


Layout: TypeAlias = Anchors | Parts | Lists | Selected


def find_layout(
    outputs: Outputs, samples: int, frame: Frame, detector: str = "", output: str = ""
) -> Layout:
    """Tell the layout of a detector's outputs.

    Names and shapes decide what an output is; values decide between pixels and shares, logits and
    probabilities, corners and centres.

    Args:
        outputs: of one batch.
        samples: in it.
        frame: width and height of the model's input.
        detector: its family, if it is known.
        output: the one that holds the detections, where there are several.

    Raises:
        OnnxpruneError: the layout cannot be told.
    """
    family = DETECTORS.get(detector, "")
    arrays = {
        name: array
        for name, array in outputs.items()
        if array.dtype.kind in "fiu" or array.dtype.name == "bfloat16"
    }
    chosen = {output: arrays[output]} if output in arrays else arrays
    layouts = (
        *_in_places(arrays, samples, family),
        *_in_lists(chosen, samples, family),
        *_in_parts(chosen, samples, family),
        *_in_anchors(chosen, arrays, samples, frame, family),
        *_in_rows(chosen, samples, family),
    )
    if layouts:
        return layouts[0]
    shapes = ", ".join(f"'{name}' {list(array.shape)}" for name, array in outputs.items())
    names = "|".join(dict.fromkeys(DETECTORS.values()))
    problem = "have no layout that is known"
    if detector:
        problem = f"are not those of --detector {detector}"
    raise OnnxpruneError(
        f"the outputs of the detector {problem}: {shapes}",
        hint=f"name it with --detector {names}; other outputs need a function of your own: "
        "--metric 'file.py:function'",
    )


# --- lists -----------------------------------------------------------------------------------


def _in_lists(arrays: Mapping[str, Array], samples: int, family: str) -> Iterator[Layout]:
    """Boxes with one score each."""
    for name, boxes in _boxes(arrays, samples):
        count = boxes.shape[:-1]
        flat = {n: a for n, a in arrays.items() if a.shape == count and n != name}
        scores = _scores_among(flat)
        if not scores:
            continue
        others = [n for n in flat if n != scores]
        classes = next((n for n in others if _is_class(n, flat[n])), "")
        amount = next(
            (n for n, a in arrays.items() if n not in (name, *flat) and a.size == samples), ""
        )
        form: BoxForm = "yx-corners" if name.lower().startswith("detection_boxes") else "corners"
        yield Lists(family or "ssd", name, scores, classes, amount, form)


def _boxes(arrays: Mapping[str, Array], samples: int) -> Iterator[tuple[str, Array]]:
    """Outputs of four coordinates: ``[samples, n, 4]``, or ``[n, 4]`` of one sample."""
    for name, array in arrays.items():
        if array.ndim >= 2 and array.shape[-1] == 4 and array.dtype.kind not in "iu":
            if array.ndim == 4 and array.shape[2] == 1:
                array = array[:, :, 0]  # noqa: PLW2901
            alone = array.ndim == 2 and samples == 1
            if alone or (array.ndim == 3 and len(array) == samples):
                yield name, array


def _scores_among(flat: Mapping[str, Array]) -> str:
    """The output of scores among those with one number per box; empty if there is none."""
    floats = [name for name, array in flat.items() if array.dtype.kind not in "iu"]
    named = [name for name in floats if "score" in name.lower() or "conf" in name.lower()]
    plain = [name for name in floats if not _is_class(name, flat[name])]
    return next(iter([*named, *plain, *floats]), "")


def _is_class(name: str, array: Array) -> bool:
    if any(word in name.lower() for word in ("class", "label")) or array.dtype.kind in "iu":
        return True
    return bool(array.size) and bool((array == np.round(array)).all()) and bool(array.max() > 1)


# --- places ----------------------------------------------------------------------------------


def _in_places(arrays: Mapping[str, Array], samples: int, family: str) -> Iterator[Layout]:
    """Numbers of the boxes that are detections, as NonMaxSuppression gives them."""
    for name, places in arrays.items():
        if places.dtype.kind not in "iu" or places.ndim not in (2, 3) or places.shape[-1] != 3:
            continue
        for other, boxes in _boxes(arrays, samples):
            anchors = boxes.shape[-2]
            scores = [
                (n, a)
                for n, a in arrays.items()
                if a.ndim == 3 and (len(a), a.shape[2]) == (samples, anchors) and n != other
                if a.dtype.kind not in "iu"
            ]
            for third, values in scores:
                limits = (samples, values.shape[1], anchors)
                if (places.reshape(-1, 3) < limits).all():
                    finite = boxes[np.isfinite(boxes).all(-1)].astype(float)
                    ordered = _share(np.all(finite[:, 2:] >= finite[:, :2], axis=-1)) >= _VALID
                    form: BoxForm = "yx-corners" if ordered else "centres"
                    logits = not _are_probabilities(values)
                    yield Selected(family or "ssd", name, other, third, form, logits)


# --- boxes and scores ------------------------------------------------------------------------


def _in_parts(arrays: Mapping[str, Array], samples: int, family: str) -> Iterator[Layout]:
    """Boxes, and the scores of all classes of each."""
    if family.startswith("yolo") and len(arrays) < 2:
        return
    boxes = [(name, array) for name, array in _boxes(arrays, samples) if array.ndim == 3]
    if len(boxes) > 1:  # a detector of four classes, say
        named = [each for each in boxes if any(word in each[0].lower() for word in _BOX_WORDS)]
        boxes = named or [each for each in boxes if not _are_probabilities(each[1])]
    if len(boxes) != 1:
        return
    ((name, array),) = boxes
    scores = {
        other: turned
        for other, each in arrays.items()
        if other != name and (turned := class_scores(each, array.shape[1])) is not None
    }
    if len(scores) > 1:  # landmarks, say
        scores = {other: each for other, each in scores.items() if _are_probabilities(each)}
    if len(scores) == 1:
        ((other, turned),) = scores.items()
        yield _parts(name, array, other, turned, family)


def class_scores(scores: Array, anchors: int) -> Array | None:
    """Scores ``[samples, anchors, classes]`` of an output; None where it has none."""
    if scores.ndim != 3 or scores.dtype.kind in "iu":
        return None
    if scores.shape[1] == anchors:
        return scores
    return scores.swapaxes(1, 2) if scores.shape[2] == anchors else None


def _parts(name: str, boxes: Array, other: str, scores: Array, family: str) -> Layout:
    finite = boxes[np.isfinite(boxes).all(-1)].astype(float)
    normalised = finite.size == 0 or float(np.abs(finite).max()) <= _NORMALISED
    ordered = _share(np.all(finite[:, 2:] >= finite[:, :2], axis=-1)) >= _VALID
    sized = _share(np.all(finite[:, 2:] >= 0, axis=-1)) >= _VALID
    named = any(word in f"{name} {other}".lower() for word in ("pred_boxes", "logit"))
    queries = boxes.shape[1] <= _MOST_QUERIES
    if not family:
        family = "detr" if queries and normalised and (named or not ordered) else "ssd"
    if not (ordered or sized):
        raise OnnxpruneError(
            f"the boxes of the output '{name}' are neither corners nor centres with sizes",
            hint="offsets from priors are decoded by a function of your own: "
            "--metric 'file.py:function'",
        )
    form: BoxForm = "corners" if ordered else "centres"
    if "detection_boxes" in name.lower():
        form = "yx-corners"
    logits = not _are_probabilities(scores)
    exclusive = scores.shape[-1] > 1 and is_distribution(scores)
    if logits:
        finite_rows = scores[np.isfinite(scores).all(-1)]
        nothing = scores.shape[-1] - 1 if family == "detr" else 0
        exclusive = _share(finite_rows.argmax(-1) == nothing) > 0.5 if len(finite_rows) else False
    return Parts(family, name, other, form, normalised, logits, exclusive)


def _share(flags: object) -> float:
    values = np.asarray(flags)
    return float(values.mean()) if values.size else 1.0


def _are_probabilities(scores: Array) -> bool:
    finite = scores[np.isfinite(scores)]
    return bool((finite >= -1e-3).all() and (finite <= 1 + 1e-3).all())


# --- anchors ---------------------------------------------------------------------------------


def _in_anchors(
    chosen: Mapping[str, Array],
    arrays: Mapping[str, Array],
    samples: int,
    frame: Frame,
    family: str,
) -> Iterator[Layout]:
    """One output with a row or a column per anchor."""
    if family in ("ssd", "detr"):
        return
    masks = [a.shape[1] for a in arrays.values() if a.ndim == 4 and len(a) == samples]
    for name, array in chosen.items():
        if array.ndim != 3 or len(array) != samples or array.dtype.kind in "iu":
            continue
        _, rows, columns = array.shape
        strides, several = _grids(rows, frame), _grids(rows // _ANCHORS, frame)
        several = several if rows % _ANCHORS == 0 else ()
        if family == "yolov8" or (not family and not (strides or several) and rows < columns):
            if _grids(columns, frame) or not (columns == 6 and rows <= _MOST_QUERIES):
                yield _anchors(name, array, "yolov8", (), masks)
        elif (family in ("yolov5", "") and several and columns > 5) or (
            family == "yolov5" and columns > 5
        ):
            yield _anchors(name, array, "yolov5", (), masks)
        elif columns > 5 and strides:
            offsets = strides if not _follows_grid(array, strides, frame) else ()
            yield _anchors(name, array, "yolox", offsets, masks)


def _anchors(
    name: str, array: Array, detector: str, strides: tuple[int, ...], masks: Sequence[int]
) -> Layout:
    columns = detector == "yolov8" and array.shape[1] < array.shape[2]
    values = array.swapaxes(1, 2) if columns else array
    objectness = detector != "yolov8"
    start = 4 + objectness
    others = next((n for n in masks if 0 < n < values.shape[-1] - start), 0)
    ends = values[..., :4]
    finite = ends[np.isfinite(ends)]
    normalised = not strides and finite.size > 0 and float(np.abs(finite).max()) <= _NORMALISED
    logits = not _are_probabilities(values[..., 4 : values.shape[-1] - others])
    return Anchors(detector, name, columns, objectness, strides, normalised, logits, others)


def _grids(anchors: int, frame: Frame) -> tuple[int, ...]:
    """The strides of the grids that have so many places; empty if none have."""
    width, height = frame
    for strides in _STRIDES:
        if anchors == sum(math.ceil(width / s) * math.ceil(height / s) for s in strides):
            return strides
    return ()


def grid(strides: Sequence[int], frame: Frame) -> tuple[Array, Array]:
    """Places ``[anchors, 2]`` (x, y, in cells) and strides ``[anchors, 1]``, row by row."""
    places, sizes = [], []
    for stride in strides:
        ys, xs = np.mgrid[: math.ceil(frame[1] / stride), : math.ceil(frame[0] / stride)]
        places.append(np.stack([xs.ravel(), ys.ravel()], 1))
        sizes.append(np.full((xs.size, 1), stride))
    return np.concatenate(places).astype(float), np.concatenate(sizes).astype(float)


def _follows_grid(array: Array, strides: Sequence[int], frame: Frame) -> bool:
    """Whether the centres of boxes lie about the places of their anchors."""
    places, sizes = grid(strides, frame)
    centres = array[0, :, :2].astype(float)
    if not np.isfinite(centres).all():
        return False
    wanted = ((places + 0.5) * sizes).ravel()
    given = centres.ravel()
    spread = given.std() * wanted.std()
    if spread == 0:
        return False
    return float(((given - given.mean()) * (wanted - wanted.mean())).mean() / spread) > 0.5


# --- rows ------------------------------------------------------------------------------------


def _in_rows(arrays: Mapping[str, Array], samples: int, family: str) -> Iterator[Layout]:
    """One output with a row per detection."""
    for name, array in arrays.items():
        whole = len(array) == samples if array.ndim == 3 else array.ndim == 2 and samples == 1
        if whole and array.shape[-1] == 6:
            yield Lists(family or "yolov8", name, rows=(-1, 0, 4, 5))
        elif array.ndim == 2 and array.shape[-1] == 7:
            yield Lists(family or "yolov5", name, rows=(0, 1, 6, 5))
        elif array.ndim == 4 and array.shape[:2] == (1, 1) and array.shape[-1] == 7:
            yield Lists(family or "ssd", name, rows=(0, 3, 2, 1))
