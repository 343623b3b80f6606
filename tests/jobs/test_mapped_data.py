"""Labels and inputs of models that lost ids or classes."""

from dataclasses import dataclass, field

import numpy as np
import pytest

from onnxprune.config import Options
from onnxprune.data.boxes import CATEGORY, CLASS, COLUMNS, LAST, NO_OBJECT
from onnxprune.data.dataset import Part
from onnxprune.graph.interface import AxisMap, Interface
from onnxprune.jobs.interface.class_axis import ClassAxis
from onnxprune.jobs.interface.mapped_data import new_ids, relabelled


@dataclass(frozen=True)
class Lost:
    """What labels need to know of a narrowing."""

    classes: dict[str, tuple[ClassAxis, tuple[int, ...]]]
    interface: Interface = field(default_factory=Interface)


def kept(classes: tuple[int, ...], *, nothing: int | None = None, first: int = 4) -> Lost:
    axis = ClassAxis("y", 1, (1, first + 6, 9), first, 6, nothing)
    return Lost({"y": (axis, classes)})


def boxes(classes: list[int], categories: list[int]) -> np.ndarray:
    rows = np.zeros((1, len(classes), COLUMNS))
    rows[..., :4] = 1, 2, 3, 4
    rows[..., CLASS], rows[..., CATEGORY], rows[..., LAST] = classes, categories, 5
    return rows


def test_numbers_of_classes_are_renumbered_and_others_do_not_count() -> None:
    part = Part((), np.array([0, 5, 3, -1, 2]))
    new, notes = relabelled(part, Options(ratio=0.1), kept((2, 5)))  # type: ignore[arg-type]
    assert new.labels is not None
    assert new.labels.tolist() == [-1, 1, -1, -1, 0]
    assert notes == ("2 of 4 labels are of classes that left: they do not count",)


@pytest.mark.parametrize("labels", [np.eye(6)[:3], np.array([0.5, 1.25]), np.array([7, 0])])
def test_labels_that_are_no_classes_stay(labels: np.ndarray) -> None:
    part = Part((), labels)
    assert relabelled(part, Options(ratio=0.1), kept((2, 5)))[0] is part  # type: ignore[arg-type]


@pytest.mark.parametrize(("nothing", "expected"), [(None, [0, -1, 1]), (0, [1, 2, -1])])
def test_boxes_of_classes_that_left_are_no_boxes(nothing: int | None, expected: list[int]) -> None:
    classes = (1, 4) if nothing is None else (0, 2, 3)
    part = Part((), boxes([1, 2, 4], [2, 3, 5]))
    config = Options(ratio=0.1, metric="map")
    new, notes = relabelled(part, config, kept(classes, nothing=nothing))  # type: ignore[arg-type]
    assert new.labels is not None
    rows = new.labels[0]
    assert rows[:, CLASS].tolist() == expected
    assert rows[:, CATEGORY].tolist() == expected
    gone = rows[:, CLASS] == NO_OBJECT
    assert not rows[gone, :4].any()
    assert rows[~gone, :4].all()
    assert notes[0].startswith("1 of 3 objects")


def test_new_ids_are_those_of_what_remains() -> None:
    axis = AxisMap("ids", None, 6, (1, 3, 4), "vocabulary", unknown=3)
    feeds = {"ids": np.array([[1, 5, 4]]), "mask": np.ones((1, 3))}
    assert new_ids(feeds, Interface((axis,)))["ids"].tolist() == [[0, 1, 2]]
    without = Interface((AxisMap("ids", None, 6, (1, 3, 4), "vocabulary"),))
    assert set(new_ids(feeds, without)["ids"].ravel()) <= {0, 1, 2}
