"""A cut model equals its masked original: on random graphs, on the zoo, on strangers' exports."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import SHARED
from models.skeletons import SMALL
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import difference
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import cost
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import cut
from onnxprune.runtime import open_session
from random_graphs import random_graph
from verified_cuts import assert_verified, choose


@given(st.integers(0, 10_000), st.sampled_from([0.2, 0.5, 0.7]))
@settings(max_examples=40)
def test_random_graphs(seed: int, part: float) -> None:
    analysis = analyse(models.load(random_graph(seed)))
    assert_verified(analysis, part, seed)


@pytest.mark.parametrize("name", sorted(SMALL))
def test_skeletons(name: str) -> None:
    analysis = analyse(models.load(SMALL[name]()))
    for seed in range(2):
        assert assert_verified(analysis, 0.3, seed, blocks=seed) > 0


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo(name: str) -> None:
    analysis = analyse(models.load(zoo.get(name).model))
    for seed in range(2):
        assert assert_verified(analysis, 0.4, seed, blocks=seed) > 0


_FILES = sorted(SHARED.glob("models/*.onnx")) + sorted(SHARED.glob("wild/*.onnx"))
_SLOW = {
    *("basic_pitch_nmp", "dnsmos_sig_bak_ovr", "mobilenetv1_0.75_imagenet_bn"),
    "onnx_light_densenet121",
}
"""Networks whose node-by-node check is slow."""
_REFUSED = {"onnx_tutorial_super_resolution.onnx", "superres_prepost_op18.onnx"}


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(p, marks=[pytest.mark.heavy] if p.stem in _SLOW else [], id=p.stem)
        for p in _FILES
    ]
    or [pytest.param(None, id="none")],
)
def test_real_models(path: Path | None) -> None:
    if path is None:
        pytest.skip(f"no real models in {SHARED} (set ONNXPRUNE_SHARED)")
    if path.name in _REFUSED:
        with pytest.raises(OnnxpruneError):
            assert_verified(analyse(models.load(path)))
        return
    assert assert_verified(analyse(models.load(path)), 0.3, 0, blocks=1) > 0


def test_nothing_removed_changes_nothing() -> None:
    dense = models.load(random_graph(7))
    small = cut(analyse(dense), {})
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, 6, 6)).astype(np.float32)}
    assert np.array_equal(
        open_session(dense).run(feeds)["logits"], open_session(small).run(feeds)["logits"]
    )


@given(st.integers(0, 1000))
@settings(max_examples=10)
def test_the_callers_model_is_never_changed(seed: int) -> None:
    model = models.load(random_graph(seed))
    before = models.to_proto(model).SerializeToString(deterministic=True)
    analysis = analyse(model)
    removed = choose(analysis, 0.5, seed)
    cut(analysis, removed)
    mask_model(analysis, removed)
    assert models.to_proto(model).SerializeToString(deterministic=True) == before


@given(st.integers(0, 1000))
@settings(max_examples=15)
def test_costs_are_those_of_the_cut_model(seed: int) -> None:
    """The predicted cost of a cut is the cost of the cut model analysed anew."""
    alive = cut(analyse(models.load(random_graph(seed))), {})  # without what nothing reads
    analysis = analyse(alive)
    removed = choose(analysis, 0.4, seed)
    again = analyse(cut(analysis, removed), inputs=analysis.inputs[0])
    predicted, found = cost(analysis, removed), cost(again)
    assert predicted.macs == found.macs
    assert predicted.params == found.params


def test_shared_biases_couple_nobody_and_stay_right() -> None:
    """Twenty layers reading one zero bias are cut apart, and every one of them still fits."""
    model = random_graph(3, steps=0)
    del model.graph.node[:], model.graph.initializer[:]
    rng = np.random.default_rng(0)
    names = ["x"]
    for k in range(4):
        weight = rng.standard_normal((8, 3 if k == 0 else 8, 3, 3)).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, f"w{k}"))
        node = onnx.helper.make_node(
            "Conv", [names[-1], f"w{k}", "shared"], [f"y{k}"], pads=[1, 1, 1, 1]
        )
        model.graph.node.append(node)
        names.append(f"y{k}")
    bias = np.arange(8, dtype=np.float32)
    head = rng.standard_normal((5, 8 * 36)).astype(np.float32)
    for name, array in (("shared", bias), ("head", head)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    model.graph.node.append(onnx.helper.make_node("Flatten", ["y3"], ["flat"]))
    model.graph.node.append(onnx.helper.make_node("Gemm", ["flat", "head"], ["logits"], transB=1))
    analysis = analyse(models.load(model))
    assert len(analysis.groups) == 4
    assert assert_verified(analysis, 0.5, 1) == 16


def test_emptying_an_axis_is_refused() -> None:
    analysis = analyse(models.load(SMALL["vgg"]()))
    group = analysis.groups[0]
    with pytest.raises(OnnxpruneError, match="leave nothing"):
        cut(analysis, {group.name: range(len(group))})


def test_difference_sees_what_is_not_finite() -> None:
    a = np.array([1.0, np.inf])
    assert difference(a, a) == 0
    assert difference(np.array([1.0, 2.0]), a) == float("inf")
    assert difference(np.array([1.0, np.nan]), np.array([1.0, 2.0])) == float("inf")


def test_the_removal_itself_costs_no_accuracy(shared: Path) -> None:
    """Pruned and masked ResNet-20 answer alike on every picture, whoever exported it."""
    pictures = np.load(shared / "data" / "cifar10_test.npz")["x"][:100]
    mean = np.array([0.4914, 0.4822, 0.4465], np.float32).reshape(3, 1, 1)
    std = np.array([0.2023, 0.1994, 0.2010], np.float32).reshape(3, 1, 1)
    feeds = {"input": ((pictures / np.float32(255) - mean) / std).astype(np.float32)}
    for path in sorted((shared / "models").glob("resnet20_cifar10_*.onnx")):
        analysis = analyse(models.load(path))
        removed = choose(analysis, 0.15, 0)
        small, reference = cut(analysis, removed), mask_model(analysis, removed)
        answers = [
            next(iter(open_session(m).run(feeds).values())).argmax(1) for m in (small, reference)
        ]
        assert np.array_equal(*answers), path.name
        assert len(set(answers[0].tolist())) > 2  # the cut network still tells pictures apart


@pytest.mark.parametrize("unit", [-1, 32])
def test_a_unit_that_is_not_there_is_refused(unit: int) -> None:
    analysis = analyse(models.load(zoo.get("digits_rescnn").model))
    with pytest.raises(OnnxpruneError, match="has no unit"):
        cut(analysis, {"body.0:channel": [0, unit]})
