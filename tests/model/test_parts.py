"""Outputs that are put together from unlike things are compared part by part."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune import prune
from onnxprune.evaluate.evaluation import Evaluation, compare_answers
from onnxprune.evaluate.output_comparison import Comparison
from onnxprune.evaluate.output_error import OutputError
from onnxprune.evaluate.student import losses_of

Array = npt.NDArray[Any]

UNITS = 16


def detector(rng: np.random.Generator, pixels: float = 300.0) -> onnx.ModelProto:
    """Boxes in pixels from one hidden layer, scores from another: ``[batch, places, 4 + 3]``."""
    names = ("near", "far")
    stored = {
        **{f"{n}.w1": rng.standard_normal((UNITS, 6, 1)) / 2.5 for n in names},
        "near.w2": rng.standard_normal((4, UNITS, 1)),
        "far.w2": rng.standard_normal((3, UNITS, 1)),
        "grid": np.linspace(0, pixels, 5)[None, None, :],
        "stride": np.array(pixels / 30),
    }
    nodes = []
    for name in names:
        nodes += [
            helper.make_node("Conv", ["x", f"{name}.w1"], [f"{name}.h"], name=f"{name}.conv1"),
            helper.make_node("Relu", [f"{name}.h"], [f"{name}.r"]),
            helper.make_node(
                "Conv", [f"{name}.r", f"{name}.w2"], [f"{name}.y"], name=f"{name}.conv2"
            ),
        ]
    nodes += [
        helper.make_node("Mul", ["near.y", "stride"], ["moved"]),
        helper.make_node("Add", ["moved", "grid"], ["boxes"]),
        helper.make_node("Sigmoid", ["far.y"], ["scores"]),
        helper.make_node("Concat", ["boxes", "scores"], ["both"], axis=1),
        helper.make_node("Transpose", ["both"], ["found"], perm=[0, 2, 1]),
    ]
    floats = TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "detector",
        [helper.make_tensor_value_info("x", floats, ["n", 6, 5])],
        [helper.make_tensor_value_info("found", floats, ["n", 5, 7])],
        [numpy_helper.from_array(a.astype(np.float32), n) for n, a in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def feeds(rng: np.random.Generator, count: int = 4) -> list[dict[str, Array]]:
    return [{"x": rng.standard_normal((16, 6, 5)).astype(np.float32)} for _ in range(count)]


def noisy(model: models.Model, weight: str, share: float, rng: np.random.Generator) -> models.Model:
    made = models.clone(model)
    value = models.constants(made)[weight]
    array = models.constant(value).numpy()  # type: ignore[union-attr]
    noise = rng.standard_normal(array.shape).astype(np.float32)
    models.set_constant(value, array + np.float32(share) * noise)
    return made


def test_parts_are_found_behind_what_only_moves_numbers(rng: np.random.Generator) -> None:
    assert models.parts(models.load(detector(rng))) == {"found": ("boxes", "scores")}


def test_an_output_that_is_one_thing_is_its_only_part(rng: np.random.Generator) -> None:
    made = detector(rng)
    del made.graph.node[-2:]
    made.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("boxes", TensorProto.FLOAT, ["n", 4, 5])
    )
    assert models.parts(models.load(made)) == {"boxes": ("boxes",)}


def test_errors_of_small_parts_count_like_those_of_large_ones(rng: np.random.Generator) -> None:
    """The unit that one part is in does not matter, and neither does a grid that is added."""
    data = feeds(rng)
    errors = []
    for pixels in (3.0, 300.0, 30000.0):
        model = models.load(detector(np.random.default_rng(1), pixels))
        error = OutputError(model, data)
        spoiled = [noisy(model, w, 0.2, np.random.default_rng(2)) for w in ("near.w2", "far.w2")]
        errors.append([error.of(each) for each in spoiled])
        assert error.of(model) == 0
    np.testing.assert_allclose(errors, np.broadcast_to(errors[0], (3, 2)), rtol=1e-2)
    assert min(errors[0]) > 0.1 * max(errors[0])


def test_the_error_is_relative_to_what_varies(rng: np.random.Generator) -> None:
    model = models.load(detector(rng))
    (data,) = feeds(rng, 1)
    error = OutputError(model, [data])
    both = noisy(noisy(model, "near.w2", 0.3, rng), "far.w2", 0.3, rng)
    from onnxprune.runtime import open_session

    dense, other = (open_session(m).run(data)["found"].astype(float) for m in (model, both))
    expected = sum(
        np.square(other[..., at] - dense[..., at]).sum()
        / np.square(dense[..., at] - dense[..., at].mean(axis=0)).sum()
        for at in (slice(0, 4), slice(4, 7))
    )
    assert error.of(both) == pytest.approx(expected, rel=1e-4)


def test_parts_are_no_class_scores(rng: np.random.Generator) -> None:
    model = models.load(detector(rng))
    boxes, scores = rng.random((2, 4, 5), np.float32), rng.random((2, 3, 5), np.float32)
    found = {"found": np.concatenate([boxes, scores], 1), "boxes": boxes, "scores": scores}
    names = [*models.parts(model)["found"]]
    losses = losses_of(model, {name: found[name] for name in names})
    assert [(loss.output, loss.kind) for loss in losses] == [
        ("boxes", "square"),
        ("scores", "square"),
    ]
    compared = Comparison(models.parts(model))
    compared.add(found, found | {"scores": -scores})
    result = compared.result()
    assert [*result] == ["found: boxes", "found: scores"]
    assert all(each.top1 is None and each.kl is None for each in result.values())
    assert result["found: boxes"].cosine == pytest.approx(1)
    assert Evaluation(result).main.name == "found: scores"  # whatever is furthest off


def test_a_model_without_these_parts_is_judged_by_whole_outputs(rng: np.random.Generator) -> None:
    (data,) = feeds(rng, 1)
    whole = rng.random((16, 5, 7), np.float32)
    dense = {"found": whole, "boxes": whole[..., :4], "scores": whole[..., 4:]}
    judged = compare_answers(
        lambda _: {"found": whole}, [data], [dense], parts={"found": ("found",)}
    )
    assert [*judged.outputs] == ["found"]
    assert judged.main.equal == 1


def test_no_part_is_sacrificed_to_another(rng: np.random.Generator) -> None:
    """Boxes in pixels have a million times the energy of scores; half of the units go."""
    made = detector(rng)
    data = feeds(rng, 32)
    pruned = prune(made, target="macs=50%", calib=data, calib_samples=512)
    kept = {name: UNITS - len(units) for name, units in pruned.plan.removed.items()}
    left = [kept.get(group.name, UNITS) for group in pruned.analysis.groups]
    assert min(left) >= 0.5 * max(left), left
    assert {"found: boxes", "found: scores"} == {*pruned.evaluation.outputs}
