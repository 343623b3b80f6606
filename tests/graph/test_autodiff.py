"""Gradients by rules are those that finite differences find; what has no rule says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.student import Student, distance, losses_of, visible
from onnxprune.graph.autodiff import Loss, backward
from onnxprune.graph.ops import GRADIENTS
from onnxprune.graph.ops.gradient_call import BODIES
from onnxprune.graph.shapes import propagate
from onnxprune.runtime import open_session

Array = np.ndarray[Any, Any]
Node = onnx.NodeProto
SHAPES = {"tokens": (3, 5, 8), "map": (3, 4, 6, 6), "flat": (6, 8)}


def node(kind: str, *inputs: str, out: str = "y", **attributes: Any) -> Node:
    return helper.make_node(kind, list(inputs), out.split(), **attributes)


def const(name: str, *values: Any, dtype: Any = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(*values, dtype), name)


def normal(name: str, *shape: int, away: float = 0.0, seed: int = 0) -> onnx.TensorProto:
    array = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return numpy_helper.from_array(array + np.float32(away), name)


# What follows a linear layer whose output is "h": (input, nodes that make "y", stored, opset)
CASES: dict[str, tuple[str, list[Node], list[onnx.TensorProto], int]] = {
    kind: ("tokens", [node(kind, "h")], [], 17)
    for kind in ("Identity", "Sigmoid", "Tanh", "Erf", "Exp", "Neg", "Softplus", "Sin", "Cos",
                 "Softmax", "LogSoftmax", "LeakyRelu", "Elu", "HardSwish", "HardSigmoid", "Relu",
                 "ReduceMean", "ReduceSum", "ReduceL2", "Abs", "Flatten", "Transpose", "Selu",
                 "Sinh", "Cosh", "Tan", "Atan", "Asinh", "Softsign", "Celu", "ReduceL1",
                 "ReduceSumSquare", "ReduceLogSumExp")
}  # fmt: skip
CASES |= {  # the same, through bodies that are older or younger than the operator set
    f"{kind}-{opset}": ("tokens", [node(kind, "h")], [], opset)
    for opset in (9, 14, 20, 22)
    for kind in ("HardSigmoid", "LeakyRelu", "Elu", "Selu", "Softplus", "Softsign", "Relu")
}
CASES |= {f"HardSwish-{n}": ("tokens", [node("HardSwish", "h")], [], n) for n in (14, 22)}
CASES |= {f"Mish-{n}": ("tokens", [node("Mish", "h")], [], n) for n in (18, 22)}
CASES |= {f"PRelu-{n}": ("tokens", [node("PRelu", "h", "v")], [normal("v", 8)], n)
          for n in (9, 16)}  # fmt: skip
CASES |= {f"MeanVarianceNormalization-{n}": (
              "map", [node("MeanVarianceNormalization", "h", axes=[0, 2, 3])], [], n)
          for n in (9, 13, 18)}  # fmt: skip
CASES |= {
    "Gelu": ("tokens", [node("Gelu", "h")], [], 20),
    "Celu-alpha": ("tokens", [node("Celu", "h", alpha=0.6)], [], 12),
    "ThresholdedRelu": ("tokens", [node("ThresholdedRelu", "h", alpha=0.3)], [], 17),
    "Shrink": ("tokens", [node("Shrink", "h", lambd=0.2, bias=0.2)], [], 17),
    "HardSigmoid-attributes": ("tokens", [node("HardSigmoid", "h", alpha=0.3, beta=0.4)], [], 17),
    "LeakyRelu-attributes": ("tokens", [node("LeakyRelu", "h", alpha=0.3)], [], 17),
    "ReduceLogSum": ("tokens", [node("Exp", "h", out="e"), node("ReduceLogSum", "e", axes=[1])],
                     [], 17),
    "ReduceLogSumExp-18": ("tokens", [node("ReduceLogSumExp", "h", "a", keepdims=0)],
                           [const("a", [0, 2])], 18),
    "GroupNormalization": ("map", [node("GroupNormalization", "h", "g", "b", num_groups=2)],
                           [normal("g", 4), normal("b", 4)], 21),
    "Attention-onnx": ("tokens", [node("Attention", "h", "h", "h", q_num_heads=2,
                                       kv_num_heads=2)], [], 23),
    "RotaryEmbedding": ("tokens", [node("RotaryEmbedding", "h", "c", "s", "p", num_heads=2)],
                        [normal("c", 5, 2), normal("s", 5, 2),
                         const("p", [[0, 1, 2, 3, 4]] * 3)], 23),
    "Einsum": ("tokens", [node("Einsum", "h", "h", equation="bic,bjc->bij")], [], 17),
    "Einsum-weight": ("tokens", [node("Einsum", "m", "h", equation="co,bic->boi")],
                      [normal("m", 8, 3)], 17),
    "CumSum": ("tokens", [node("CumSum", "h", "a", exclusive=1)], [const("a", 1)], 17),
    "ReduceMax": ("tokens", [node("ReduceMax", "h", axes=[1], keepdims=0)], [], 17),
    "ReduceMin": ("tokens", [node("ReduceMin", "h", axes=[2])], [], 17),
    "InstanceNormalization": ("map", [node("InstanceNormalization", "h", "g", "b")],
                              [normal("g", 4), normal("b", 4)], 17),
    "Trilu": ("map", [node("Trilu", "h", upper=0)], [], 17),
    "DepthToSpace": ("map", [node("DepthToSpace", "h", blocksize=2)], [], 17),
    "SpaceToDepth": ("map", [node("SpaceToDepth", "h", blocksize=2)], [], 17),
    "Gather-rows": ("flat", [node("ArgMax", "h", axis=0, keepdims=0, out="k"),
                             node("Gather", "h", "k")], [], 17),
    "GatherElements": ("flat", [node("GatherElements", "h", "k", axis=1)],
                       [const("k", [[0, 3, 3], [7, 1, 2]])], 17),
    "GatherND": ("tokens", [node("GatherND", "h", "k")], [const("k", [[0, 4], [2, 1]])], 17),
    "ScatterElements": ("flat", [node("Exp", "h", out="e"),
                                 node("ScatterElements", "h", "k", "e", axis=1)],
                        [const("k", [[0, 3, 5, 4, 1, 2, 6, 7]] * 6)], 17),
    "ScatterND-add": ("tokens", [node("Exp", "h", out="e"),
                                 node("ScatterND", "h", "k", "e", reduction="add")],
                      [const("k", [[1], [2], [1]])], 17),
    "ScatterND": ("tokens", [node("Exp", "h", out="e"),
                             node("ScatterND", "h", "k", "e")], [const("k", [[1], [2], [0]])], 17),
    "RotaryEmbedding-caches": ("tokens", [node("RotaryEmbedding", "h", "c", "s", num_heads=2)],
                               [normal("c", 3, 5, 2), normal("s", 3, 5, 2)], 23),
    "Gelu-microsoft": ("tokens", [node("Gelu", "h", domain="com.microsoft")], [], 17),
    "QuickGelu": ("tokens", [node("QuickGelu", "h", domain="com.microsoft", alpha=1.5)], [], 17),
    "Gelu-tanh": ("tokens", [node("Gelu", "h", approximate="tanh")], [], 20),
    "Swish": ("tokens", [node("Swish", "h", alpha=1.3)], [], 24),
    "Dropout": ("tokens", [node("Dropout", "h")], [], 17),
    "Cast": ("tokens", [node("Cast", "h", to=TensorProto.FLOAT)], [], 17),
    "Log": ("tokens", [node("Exp", "h", out="e"), node("Log", "e")], [], 17),
    "Sqrt": ("tokens", [node("Exp", "h", out="e"), node("Sqrt", "e")], [], 17),
    "Reciprocal": ("tokens", [node("Exp", "h", out="e"), node("Reciprocal", "e")], [], 17),
    "Clip": ("tokens", [node("Clip", "h", "low", "high")],
             [const("low", -0.5, dtype=np.float32), const("high", 0.7, dtype=np.float32)], 17),
    "Pow": ("tokens", [node("Exp", "h", out="e"), node("Pow", "e", "p")],
            [const("p", 1.7, dtype=np.float32)], 17),
    "Pow-square": ("tokens", [node("Pow", "h", "p")], [const("p", 2)], 17),
    "Add": ("tokens", [node("Add", "h", "v", out="a"), node("Add", "a", "h")],
            [normal("v", 8)], 17),
    "Sum": ("tokens", [node("Sum", "h", "x", "h")], [], 17),
    "Sub": ("tokens", [node("Sub", "v", "h")], [normal("v", 1, 5, 1)], 17),
    "Mul": ("tokens", [node("ReduceMean", "h", axes=[1], out="m"), node("Mul", "m", "h")], [], 17),
    "Div": ("tokens", [node("Exp", "h", out="e"), node("ReduceSum", "e", "last", out="s"),
                       node("Div", "h", "s")], [const("last", [-1])], 17),
    "Max": ("tokens", [node("Max", "h", "v")], [normal("v", 8)], 17),
    "Min": ("tokens", [node("Min", "v", "h")], [normal("v", 8)], 17),
    "Where": ("tokens", [node("Where", "c", "h", "v")],
              [const("c", [[True, False] * 4], dtype=bool), normal("v", 5, 8)], 17),
    "ReduceMean-kept": ("tokens", [node("ReduceMean", "h", axes=[1, 2], keepdims=0)], [], 13),
    "ReduceMean-18": ("tokens", [node("ReduceMean", "h", "axes")], [const("axes", [-1])], 18),
    "Softmax-11": ("tokens", [node("Softmax", "h", axis=2)], [], 11),
    "Squeeze": ("tokens", [node("Unsqueeze", "h", "axes", out="u"), node("Exp", "u", out="e"),
                           node("Squeeze", "e", "axes")], [const("axes", [1])], 17),
    "Squeeze-11": ("tokens", [node("Unsqueeze", "h", axes=[1], out="u"), node("Exp", "u", out="e"),
                              node("Squeeze", "e", axes=[1])], [], 11),
    "Reshape": ("tokens", [node("Reshape", "h", "shape", out="r"), node("Exp", "r")],
                [const("shape", [0, -1])], 17),
    "Transpose-perm": ("tokens", [node("Transpose", "h", perm=[2, 0, 1])], [], 17),
    "Expand": ("flat", [node("Unsqueeze", "h", "axes", out="u"), node("Expand", "u", "shape")],
               [const("axes", [1]), const("shape", [6, 3, 8])], 17),
    "Concat": ("tokens", [node("Exp", "h", out="e"), node("Concat", "h", "x", "e", axis=-1)],
               [], 17),
    "Split": ("tokens", [node("Split", "h", "sizes", axis=2, out="a b c"),
                         node("Exp", "c", out="e"), node("MatMul", "e", "m", out="f"),
                         node("Concat", "a", "f", axis=2)],
              [const("sizes", [3, 2, 3]), normal("m", 3, 4)], 17),
    "Slice": ("tokens", [node("Slice", "h", "from", "to", "axes")],
              [const("from", [1, -6]), const("to", [4, 9999]), const("axes", [1, 2])], 17),
    "Gather": ("tokens", [node("Gather", "h", "k", axis=1)], [const("k", -2)], 17),
    "Gather-order": ("tokens", [node("Gather", "h", "k", axis=2)],
                     [const("k", [3, 1, 0, 2, 7, 6, 5, 4])], 17),
    "MatMul": ("tokens", [node("Transpose", "h", perm=[0, 2, 1], out="t"),
                          node("MatMul", "h", "t")],
               [], 17),
    "MatMul-shared": ("tokens", [node("MatMul", "b", "h")], [normal("b", 2, 1, 5, 5)], 17),
    "Gemm": ("flat", [node("Gemm", "h", "b", alpha=0.7, transB=1)], [normal("b", 4, 8)], 17),
    "Gemm-right": ("flat", [node("Gemm", "b", "h", transA=1, transB=1)], [normal("b", 8, 4)], 17),
    "Gemm-both": ("flat", [node("Gemm", "h", "h", transA=1)], [], 17),
    "LayerNormalization": ("tokens", [node("LayerNormalization", "h", "g", "v")],
                           [normal("g", 8), normal("v", 8)], 17),
    "RMSNormalization": ("tokens", [node("RMSNormalization", "h", "g")], [normal("g", 8)], 23),
    "BatchNormalization": ("map", [node("BatchNormalization", "h", "g", "b", "m", "s")],
                           [normal("g", 4), normal("b", 4), normal("m", 4),
                            const("s", [0.5, 1, 2, 3], dtype=np.float32)], 17),
    "Conv": ("map", [node("Conv", "h", "k", pads=[1, 0, 1, 2], strides=[2, 1])],
             [normal("k", 5, 4, 3, 2)], 17),
    "Conv-short": ("map", [node("Conv", "h", "k", strides=[4, 4])], [normal("k", 2, 4, 1, 1)], 17),
    "Conv-same": ("map", [node("Conv", "h", "k", auto_pad="SAME_UPPER", strides=[2, 2])],
                  [normal("k", 2, 4, 3, 3)], 17),
    "Conv-grouped": ("map", [node("Conv", "h", "k", group=2, dilations=[2, 1], pads=[1, 1, 1, 1])],
                     [normal("k", 6, 2, 3, 3)], 17),
    "ConvTranspose": ("map", [node("ConvTranspose", "h", "k", strides=[2, 2], pads=[1, 0, 0, 1],
                                   group=2)], [normal("k", 4, 3, 3, 3)], 17),
    "GlobalAveragePool": ("map", [node("GlobalAveragePool", "h")], [], 17),
    "AveragePool": ("map", [node("AveragePool", "h", kernel_shape=[3, 2], strides=[2, 2])], [], 17),
    "MaxPool": ("map", [node("MaxPool", "h", kernel_shape=[3, 3], strides=[2, 2],
                             pads=[1, 1, 1, 1])], [], 17),
    "Pad": ("map", [node("Pad", "h", "p", out="q"), node("Exp", "q")],
            [const("p", [0, 0, 1, 0, 0, 0, 0, 2])], 17),
}  # fmt: skip


def built(case: str) -> tuple[models.Model, dict[str, Array]]:
    """A linear layer (weight "w") and what follows it, and inputs."""
    kind, nodes, stored, opset = CASES[case]
    shape = SHAPES[kind]
    if kind == "map":
        layer, weight = node("Conv", "x", "w", out="h"), normal("w", 4, 4, 1, 1, seed=1)
    else:
        layer, weight = node("MatMul", "x", "w", out="h"), normal("w", 8, 8, seed=1)
    weight = numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(0.4), "w")
    graph = helper.make_graph(
        [layer, *nodes],
        case,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [weight, *stored],
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    x = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    return models.load(proto), {"x": x}


KERNELS: dict[str, Node] = {
    "plain": node("Conv", "x", "w", "b", pads=[1, 1, 1, 1]),
    "strides": node("Conv", "x", "w", "b", pads=[1, 0, 1, 2], strides=[2, 3]),
    "dilations": node("Conv", "x", "w", dilations=[2, 1], pads=[0, 1, 0, 0]),
    "groups": node("Conv", "x", "w", "b", group=2, pads=[1, 1, 1, 1], strides=[2, 1]),
    "depthwise": node("Conv", "x", "w", "b", group=4, auto_pad="SAME_UPPER", strides=[2, 2]),
    "transposed": node("ConvTranspose", "x", "w", "b", strides=[2, 1], pads=[1, 0, 0, 1]),
    "transposed-groups": node("ConvTranspose", "x", "w", group=2, output_padding=[1, 0],
                              strides=[2, 2], pads=[1, 1, 1, 1]),
}  # fmt: skip


@pytest.mark.parametrize("opset", [9, 17])
@pytest.mark.parametrize("case", KERNELS)
def test_kernels_and_biases_agree_with_finite_differences(case: str, opset: int) -> None:
    layer = KERNELS[case]
    group = next((a.i for a in layer.attribute if a.name == "group"), 1)
    transposed = layer.op_type == "ConvTranspose"
    shape = (4, 4, 3, 2) if transposed else (4, 4 // group, 3, 2)
    stored = [normal("w", *shape), normal("b", 4)]
    graph = helper.make_graph(
        [layer],
        case,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4, 6, 7])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        stored[: len(layer.input) - 1],
    )
    opsets = [helper.make_opsetid("", opset)]
    model = models.load(helper.make_model(graph, opset_imports=opsets, ir_version=8))
    rng = np.random.default_rng(3)
    feeds = {"x": rng.standard_normal((3, 4, 6, 7)).astype(np.float32)}
    dense = open_session(model).run(feeds)["y"]
    wanted = {"y": (dense + rng.standard_normal(dense.shape)).astype(np.float32)}
    losses = [Loss("y", "square")]
    pupil = Student(model, ["w"], losses, feeds)
    found = gradients(pupil, feeds, wanted)
    assert set(found) == {each.name for each in stored[: len(layer.input) - 1]}
    for name, gradient in found.items():
        assert gradient.shape == pupil.weights[name].shape
        way = (2e-3 * rng.standard_normal(gradient.shape)).astype(np.float32)
        expected = float((gradient * way).sum())
        scale = float(np.linalg.norm(gradient) * np.linalg.norm(way)) / way.size**0.5
        assert slope(pupil, feeds, wanted, name, way) == pytest.approx(expected, abs=0.02 * scale)


def total(pupil: Student, feeds: dict[str, Array], wanted: Any, weights: Any) -> float:
    given = pupil.run(feeds, weights)
    return sum(
        distance(loss, wanted[loss.output], given[loss.output], rows) / float(rows.sum())
        for loss in pupil.losses
        for rows in [visible(wanted[loss.output], feeds)]
    )


def gradients(pupil: Student, feeds: Any, wanted: Any) -> dict[str, Array]:
    """Of every stored weight and bias."""
    share = {loss.output: 1.0 for loss in pupil.losses}
    return pupil.gradients(pupil.inputs(feeds, wanted, share, pupil.weights))


def slope(pupil: Student, feeds: Any, wanted: Any, name: str, way: Array) -> float:
    """How the loss changes along a change of one weight."""
    up, down = (
        total(pupil, feeds, wanted, pupil.weights | {name: pupil.weights[name] + s * way})
        for s in (1, -1)
    )
    return (up - down) / 2


@pytest.mark.parametrize("case", CASES)
def test_rules_agree_with_finite_differences(case: str) -> None:
    model, feeds = built(case)
    try:
        dense = open_session(model).run(feeds)
    except OnnxpruneError as error:
        pytest.skip(f"this onnxruntime does not run it: {error.message}")
    rng = np.random.default_rng(3)
    wanted = {"y": (dense["y"] + 0.3 * rng.standard_normal(dense["y"].shape)).astype(np.float32)}
    pupil = Student(model, ["w"], [Loss("y", "square")], feeds)
    found = gradients(pupil, feeds, wanted)["w"]
    for _ in range(2):
        way = (2e-4 * rng.standard_normal(found.shape)).astype(np.float32)
        expected = float((found * way).sum())
        scale = float(np.linalg.norm(found) * np.linalg.norm(way)) / way.size**0.5
        assert scale > 0
        assert slope(pupil, feeds, wanted, "w", way) == pytest.approx(expected, abs=0.02 * scale)


def test_every_rule_and_body_is_held_to_that() -> None:
    tested = {each.op_type for _, nodes, _, _ in CASES.values() for each in nodes}
    aliases = {"SimplifiedLayerNormalization"}  # not in the default domain of newer onnxruntimes
    assert {op for _, op in GRADIENTS} - tested == aliases
    assert tested >= BODIES


@pytest.mark.parametrize("name", ["digits_rescnn", "digits_encoder", "digits_mlp"])
def test_whole_networks_agree_with_finite_differences(name: str) -> None:
    entry = zoo.get(name)
    with np.load(entry.calibration) as z:
        feeds = {key: z[key][:8] for key in z.files}
    model = models.load(entry.model)
    wanted = open_session(model).run(feeds)
    rng = np.random.default_rng(0)
    weights = [n for n, v in models.constants(model).items() if n.endswith("weight")]
    pupil = Student(model, weights, losses_of(model, wanted), feeds)
    assert not pupil.stopped
    for key, array in pupil.weights.items():  # else the loss and its gradient are zero
        noise = 1 + 0.2 * rng.standard_normal(array.shape)
        pupil.weights[key] = (array * noise).astype(np.float32)
    found = gradients(pupil, feeds, wanted)
    assert set(found) == set(pupil.trained)
    for key, gradient in found.items():
        # Along the gradient itself rounding matters least.
        way = gradient * np.float32(1e-3 / max(float(np.linalg.norm(gradient)), 1e-12))
        expected = float((gradient * way).sum())
        assert slope(pupil, feeds, wanted, key, way) == pytest.approx(expected, rel=0.1, abs=1e-7)


def test_a_part_of_a_gradient_is_none() -> None:
    """One way to the loss has a rule, the other has none: nothing is said."""
    graph = helper.make_graph(
        [
            node("MatMul", "x", "w", out="h"),
            node("Round", "h", out="r"),
            node("Add", "h", "r", out="s"),
            node("MatMul", "s", "v"),
        ],
        "two ways",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4, 8])],
        [normal("w", 8, 8), normal("v", 8, 8, seed=1)],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    model = models.load(proto)
    facts = propagate(model, {"x": (4, 8)})
    made = backward(model, facts, [Loss("y", "square")], ["h", "y"], ["w", "v"])
    assert set(made.gradients) == {"y"}
    assert made.stopped == {"r": "Round has no rule"}
    with pytest.raises(OnnxpruneError, match="Round has no rule"):
        Student(model, ["w"], [Loss("y", "square")], {"x": np.zeros((4, 8), np.float32)})


def test_integers_are_not_passed_through() -> None:
    """Shapes that are computed from values do not depend smoothly on them."""
    model, feeds = built("MatMul")
    facts = propagate(model, {"x": feeds["x"].shape})
    made = backward(model, facts, [Loss("y", "kl")], ["h"], ["w"], ["y"])
    names = {v.name for v in made.model.ir.graph.inputs}
    assert names == {"x", "w", "y/wanted", "y/weight"}
    assert "w" in models.constants(model)  # the model itself is as it was
