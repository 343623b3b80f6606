"""Where outputs count classes."""

from typing import Any

import numpy as np
import pytest

from interface_cases import FLOAT, finish
from models.skeletons.net import Net
from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import analyse
from onnxprune.jobs.interface.class_axis import ClassAxis, describe, find_class_axis, kept_classes
from onnxprune.quantities import kept_indices

CONFIG = Options(ratio=0.1)


def segmenter() -> Any:
    net = Net(1)
    x = net.conv(net.input("x", ("batch", 3, 16, 16), width=3), 6, 3)
    return finish(net, {"y": (x, ("batch", 6, 16, 16), FLOAT)})


def grids() -> Any:
    net = Net(2)
    x = net.conv(net.input("x", ("batch", 3, 16, 16), width=3), 3 * 9, 3)
    x = net.node("Reshape", x, net.constant([0, 3, 9, 16, 16]))
    y = net.node("Transpose", x, perm=[0, 1, 3, 4, 2])
    return finish(net, {"y": (y, ("batch", 3, 16, 16, 9), FLOAT)})


@pytest.mark.parametrize(
    ("model", "axis", "first", "count"), [(segmenter, 1, 0, 6), (grids, 4, 5, 4)]
)
def test_classes_of_pictures_are_found_by_rank(
    model: Any, axis: int, first: int, count: int
) -> None:
    feeds = {"x": np.zeros((2, 3, 16, 16), np.float32)}
    own = find_class_axis(analyse(model()), "y", feeds, CONFIG)
    assert (own.axis, own.first, own.count) == (axis, first, count)


def test_a_class_of_nothing_stays_and_labels_do_not_count_it() -> None:
    axis = ClassAxis("y", 2, (1, 9, 4), 0, 4, nothing=0)
    labels = {"labels": '["cat", "dog", "owl"]'}
    (choice,) = kept_indices("y=dog")
    assert kept_classes(choice, axis, labels, CONFIG) == (0, 2)
    (choice,) = kept_indices("y=3")
    assert kept_classes(choice, axis, {}, CONFIG) == (0, 3)
    assert "stands for nothing" in describe(axis, (0, 3))


def test_coordinates_stay() -> None:
    axis = ClassAxis("y", 1, (1, 10, 7), 4, 5)  # and one value behind the classes
    assert axis.kept((1, 3)) == (0, 1, 2, 3, 5, 7, 9)
    assert "indices 5, 7 of axis 1" in describe(axis, (1, 3))


@pytest.mark.parametrize(
    ("text", "message"), [("y=cow", "no class is called"), ("y=Cat,4", "no class 4")]
)
def test_unknown_classes_are_refused(text: str, message: str) -> None:
    axis = ClassAxis("y", 1, (1, 4), 0, 4)
    (choice,) = kept_indices(text)
    with pytest.raises(OnnxpruneError, match=message) as error:
        kept_classes(choice, axis, {"names": "{0: 'cat', 1: 'dog', 2: 'owl', 3: 'ox'}"}, CONFIG)
    assert error.value.hint


def test_a_scalar_counts_nothing() -> None:
    net = Net(3)
    x = net.node("ReduceSum", net.input("x", ("batch", 4), width=4), keepdims=0)
    model = finish(net, {"y": (x, (), FLOAT)})
    with pytest.raises(OnnxpruneError, match="'y'"):
        find_class_axis(analyse(model), "y", {"x": np.zeros((2, 4), np.float32)}, CONFIG)
