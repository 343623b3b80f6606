"""Inputs on a wrong scale are noticed where the model says what it expects, and only then."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper as h
from onnx import numpy_helper as nh

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.normalisation import find_normalisations, normalisation_notes
from onnxprune.model import Model

Array = npt.NDArray[Any]
CHANNELS = 3


def network(nodes: Sequence[onnx.NodeProto], **stored: Array) -> Model:
    """A model of a picture ``x``, whose last node gives ``y``."""
    graph = h.make_graph(
        nodes,
        "g",
        [h.make_tensor_value_info("x", 1, ["n", CHANNELS, 6, 6])],
        [h.make_tensor_value_info("y", 1, None)],
        [nh.from_array(np.asarray(each, np.float32), name) for name, each in stored.items()],
    )
    opset = [h.make_opsetid("", 17)]
    return models.load(h.make_model(graph, opset_imports=opset, ir_version=8))


def normalised(kind: str, mean: float, deviation: float, seed: int = 0) -> Model:
    """A model that was trained on inputs of this mean and deviation."""
    rng = np.random.default_rng(seed)
    if kind == "constants":
        shape = (1, CHANNELS, 1, 1)
        return network(
            [
                h.make_node("Sub", ["x", "m"], ["a"]),
                h.make_node("Div", ["a", "s"], ["b"]),
                h.make_node("Relu", ["b"], ["y"]),
            ],
            m=np.full(shape, mean),
            s=np.full(shape, deviation),
        )
    weight = rng.standard_normal((8, CHANNELS, 3, 3)) if kind == "behind a layer" else None
    inner = "c" if weight is not None else "x"
    inputs = mean + deviation * rng.standard_normal((64, CHANNELS, 6, 6))
    stored: dict[str, Array] = {}
    nodes = []
    if weight is not None:
        nodes.append(h.make_node("Conv", ["x", "w"], ["c"]))
        stored["w"] = weight
        windows = np.lib.stride_tricks.sliding_window_view(inputs, (3, 3), (2, 3))
        inputs = np.einsum("nchwij,ocij->nohw", windows, weight)
    nodes.append(h.make_node("BatchNormalization", [inner, "g", "b", "mu", "var"], ["y"]))
    size = inputs.shape[1]
    stored |= {"g": np.ones(size), "b": np.zeros(size)}
    stored |= {"mu": inputs.mean((0, 2, 3)), "var": inputs.var((0, 2, 3))}
    return network(nodes, **stored)


@settings(deadline=None, max_examples=25)
@given(
    kind=st.sampled_from(["constants", "first", "behind a layer"]),
    mean=st.sampled_from([0.0, 0.45, 120.0]),
    factor=st.sampled_from([1.0, 1.5, 0.6, 255.0, 1 / 255]),
    seed=st.integers(0, 9),
)
def test_a_wrong_scale_is_noticed_and_another_sample_is_not(
    kind: str, mean: float, factor: float, seed: int
) -> None:
    deviation = max(mean, 1.0) / 2
    model = normalised(kind, mean, deviation, seed)
    rng = np.random.default_rng(seed + 100)
    inputs = (mean + deviation * rng.standard_normal((16, CHANNELS, 6, 6))) * factor
    feeds = [{"x": part.astype(np.float32)} for part in np.split(inputs, 2)]
    notes = normalisation_notes(model, feeds)
    assert bool(notes) == (factor in (255.0, 1 / 255)), notes
    assert all("'x'" in note and "scale" in note for note in notes)


def test_what_is_not_stored_is_not_expected() -> None:
    layer = network(
        [h.make_node("Conv", ["x", "w"], ["a"]), h.make_node("Relu", ["a"], ["y"])],
        w=np.ones((4, CHANNELS, 3, 3)),
    )
    assert not find_normalisations(layer)
    two = network(
        [h.make_node("Sub", ["x", "m"], ["a"]), h.make_node("Add", ["a", "x"], ["y"])],
        m=np.zeros((1, CHANNELS, 1, 1)),
    )
    assert not find_normalisations(two)
    (only,) = find_normalisations(
        network([h.make_node("Div", ["x", "c"], ["a"]), h.make_node("Relu", ["a"], ["y"])], c=255.0)
    )
    assert (only.kind, only.input, only.value) == ("scale", "x", "a")


@pytest.mark.parametrize("name", zoo.names())
def test_honest_inputs_raise_no_alarm(name: str) -> None:
    entry = zoo.get(name)
    model = models.load(entry.model)
    for data in (zoo.calibration(entry), zoo.evaluation(entry)[0]):
        assert not normalisation_notes(model, [{n: a[:64] for n, a in data.items()}])


@pytest.mark.parametrize("name", ["digits_rescnn", "digits_encoder"])
def test_pictures_of_another_range_are_noticed(name: str) -> None:
    entry = zoo.get(name)
    data = zoo.calibration(entry)
    feeds = [{n: a[:64] * np.float32(255) for n, a in data.items()}]
    (note,) = normalisation_notes(models.load(entry.model), feeds)
    assert "check the scale" in note


CIFAR = {
    "resnet20_cifar10_optA": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "resnet20_cifar10_proj": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "shufflenetv2_x0_5_cifar10": ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)),
    "resnet8_cifar10_mlperftiny": None,
}


@pytest.mark.parametrize("variant", ["bn", "fused"])
@pytest.mark.parametrize("name", CIFAR)
def test_real_networks_notice_raw_or_divided_pixels(shared: Path, name: str, variant: str) -> None:
    with np.load(shared / "data" / "cifar10_calib.npz") as archive:
        raw = archive["x"][:64].astype(np.float32)
    model = models.load(shared / "models" / f"{name}_{variant}.onnx")
    right, wrong = raw, raw / 255
    if (statistics := CIFAR[name]) is not None:
        mean, deviation = (np.array(each, np.float32).reshape(3, 1, 1) for each in statistics)
        right, wrong = (raw / 255 - mean) / deviation, raw
    assert not normalisation_notes(model, [{"input": right}])
    assert len(normalisation_notes(model, [{"input": wrong}])) == 1
