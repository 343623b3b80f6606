"""Samples of a model whose interface changed: labels of what remains, and inputs with new ids."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data.batches import Feeds
from onnxprune.data.boxes import CATEGORY, CLASS, LAST, NO_OBJECT
from onnxprune.data.dataset import Dataset, Part
from onnxprune.data.labels import form_of
from onnxprune.evaluate.metrics import find_metric
from onnxprune.graph.interface import Interface
from onnxprune.jobs.interface.narrowing import Narrowing


def without_lost_labels(data: Dataset, config: Options, narrowing: Narrowing) -> Dataset:
    """Samples whose labels are numbers of what remains; labels that left count no more."""
    parts = {id(part): relabelled(part, config, narrowing) for part in (data.holdout, data.eval)}
    fit, _ = relabelled(Part((), data.fit_labels), config, narrowing)
    notes = dict.fromkeys(note for _, said in parts.values() for note in said)
    return replace(
        data, holdout=parts[id(data.holdout)][0], eval=parts[id(data.eval)][0],
        fit_labels=fit.labels, notes=(*data.notes, *notes),
    )  # fmt: skip


def relabelled(part: Part, config: Options, narrowing: Narrowing) -> tuple[Part, tuple[str, ...]]:
    """Samples whose labels are numbers of what remains, and a sentence on those that left."""
    labels, form = part.labels, form_of(config.metric)
    places = None if labels is None else _places(config, narrowing)
    if labels is None or places is None or form not in ("numbers", "boxes"):
        return part, ()
    if form == "numbers" and not _are_classes(labels, len(places)):
        return part, ()
    new, lost, count = (_boxes if form == "boxes" else _numbers)(labels, places, narrowing)
    what = "objects" if form == "boxes" else "labels"
    note = f"{lost} of {count} {what} are of classes that left: they do not count"
    return replace(part, labels=new), (note,) if lost else ()


def _places(config: Options, narrowing: Narrowing) -> npt.NDArray[np.int64] | None:
    """New class of every old one, as labels count them; None where labels stay as they are."""
    name = find_metric(config.metric).output if isinstance(config.metric, str) else ""
    some = {k: v for k, v in narrowing.classes.items() if name in ("", k)}
    if len(some) == 1:
        axis, kept = next(iter(some.values()))
        places = np.full(axis.count, -1, np.int64)
        places[list(kept)] = np.arange(len(kept))
        return places
    axes = [
        axis
        for axis in narrowing.interface.outputs
        if axis.axis is not None and name in ("", axis.value) and axis.kind != "class"
    ]
    return axes[0].places if len({axis.kept for axis in axes}) == 1 else None


def _are_classes(labels: npt.NDArray[np.generic], count: int) -> bool:
    """Whether labels are numbers of classes, not rows of zeros and ones or scores."""
    values = labels.astype(np.float64)
    whole = bool((values == np.round(values)).all()) and values.max(initial=0) < count
    return whole and not (labels.ndim > 1 and labels.shape[-1] == count)


def _numbers(
    labels: npt.NDArray[np.generic], places: npt.NDArray[np.int64], _: Narrowing
) -> tuple[npt.NDArray[np.generic], int, int]:
    old = labels.astype(np.int64)
    new = np.where(old < 0, -1, places[np.maximum(old, 0)])
    return new.astype(np.int64), int(((new < 0) & (old >= 0)).sum()), int((old >= 0).sum())


def _boxes(
    table: npt.NDArray[np.generic], places: npt.NDArray[np.int64], narrowing: Narrowing
) -> tuple[npt.NDArray[np.generic], int, int]:
    """Rows of `onnxprune.data.boxes`: those of other classes become empty."""
    rows = np.array(table, np.float64)
    axis = next(iter(narrowing.classes.values()))[0] if narrowing.classes else None
    column = CATEGORY if axis is not None and axis.nothing == 0 else CLASS
    objects = rows[..., CLASS] != NO_OBJECT
    old = np.clip(rows[..., column].astype(np.int64), 0, len(places) - 1)
    new = np.where(objects, places[old], NO_OBJECT)
    lost = objects & (new < 0)
    rows[lost, :LAST] = 0
    rows[..., CLASS] = rows[..., CATEGORY] = new
    rows[..., LAST] = (places >= 0).sum() - 1
    return rows, int(lost.sum()), int(objects.sum())


# --- inputs ----------------------------------------------------------------------------------


class _Mapped(Iterable[Feeds]):
    """Batches with new ids, mapped when they are read."""

    def __init__(self, feeds: Iterable[Feeds], interface: Interface) -> None:
        self._feeds, self._interface = feeds, interface

    def __iter__(self) -> Iterator[Feeds]:
        return (new_ids(each, self._interface) for each in self._feeds)


def new_ids(feeds: Feeds, interface: Interface) -> Feeds:
    """Inputs of the original as the written model takes them; lost ids are the unknown one."""
    if any(a.axis is None and a.unknown is None and not a.inside for a in interface.inputs):
        feeds = interface.project(feeds)
    return interface.cut_inputs(feeds)


def in_new_ids(data: Dataset, narrowing: Narrowing) -> Dataset:
    """Samples in the ids that the written model takes."""
    interface = narrowing.planned

    def mapped(part: Part) -> Part:
        return replace(part, feeds=_Mapped(part.feeds, interface))

    holdout = mapped(data.holdout)
    return replace(
        data,
        fit=tuple(_Mapped(data.fit, interface)),
        holdout=holdout,
        eval=holdout if data.eval is data.holdout else mapped(data.eval),
        probe=tuple(_Mapped(data.probe, interface)),
    )
