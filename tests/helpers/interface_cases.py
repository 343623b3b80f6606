"""Small graphs whose interface can lose indices: language models, classifiers, detectors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper

from models.skeletons.net import INT64, Net

Output = tuple[str, Sequence[int | str], int]
WORDS, WIDTH = 70, 8
PAD = 1


@dataclass(frozen=True)
class Case:
    """A model, and what of its interface leaves.

    Attributes:
        value, axis: the graph input or output that loses indices; no axis for ids.
        leaving: the indices.
        size: their number before.
        changed: outputs that are not the original's: they are normalised over what remains, or
            follow from what left.
    """

    model: onnx.ModelProto
    value: str
    axis: int | None
    leaving: tuple[int, ...]
    size: int
    changed: tuple[str, ...] = ()


def finish(net: Net, outputs: Mapping[str, Output]) -> onnx.ModelProto:
    """The checked model with these outputs: name -> value, shape, element type."""
    infos = []
    for name, (value, shape, dtype) in outputs.items():
        net.nodes.append(helper.make_node("Identity", [value], [name], net.name("Identity")))
        infos.append(helper.make_tensor_value_info(name, dtype, shape))
    graph = helper.make_graph(net.nodes, "case", net.inputs, infos, net.initializers)
    model = helper.make_model(graph, opset_imports=net.opsets)
    model.ir_version = 8
    onnx.checker.check_model(model)
    return model


def embed(net: Net, ids: str, table: str | None = None) -> str:
    """Rows of a table of words."""
    table = table or net.weight(WORDS, WIDTH, fan=1, stem="words")
    return net.node("Gather", table, ids, width=WIDTH)


FLOAT = TensorProto.FLOAT
TEXT = ("batch", "length")
DROPPED = (3, 20, 21, 22, 69)


def language_model(*, tied: bool) -> Case:
    """Ids in, scores for each id out."""
    net = Net(1)
    ids = net.input("ids", TEXT, INT64)
    table = net.weight(WORDS, WIDTH, fan=1, stem="words")
    x = net.layer_norm(net.dense(embed(net, ids, table), WIDTH))
    if tied:
        logits = net.node("MatMul", x, net.node("Transpose", table, perm=[1, 0]))
    else:
        logits = net.dense(x, WORDS)
    model = finish(net, {"logits": (logits, (*TEXT, WORDS), FLOAT)})
    return Case(model, "ids", None, DROPPED, WORDS)


def scores_of_an_untied_head() -> Case:
    """Only the scores lose ids."""
    case = language_model(tied=False)
    return Case(case.model, "logits", 2, DROPPED, WORDS)


def padding_mask() -> Case:
    """A mask is computed from the ids: where they are padding, nothing is summed."""
    net = Net(2)
    ids = net.input("ids", TEXT, INT64)
    mask = net.node("Equal", ids, net.constant(np.array(PAD, np.int64)))
    factor = net.node("Sub", net.scalar(1.0), net.node("Cast", mask, to=FLOAT))
    wide = net.node("Unsqueeze", factor, net.constant([2]))
    x = net.node("ReduceSum", net.node("Mul", embed(net, ids), wide), net.constant([1]), keepdims=0)
    net.width[x] = WIDTH
    return Case(
        finish(net, {"y": (net.dense(x, 4), ("batch", 4), FLOAT)}), "ids", None, DROPPED, WORDS
    )


def views_of_ids(dtype: int) -> Case:
    """Ids are cast, reshaped and sliced on their way to the table."""
    net = Net(3)
    ids = net.input("ids", TEXT, dtype)
    flat = net.node("Reshape", net.node("Cast", ids, to=INT64), net.constant([-1]))
    x = net.node("Reshape", embed(net, flat), net.constant([-1, WIDTH]))
    net.width[x] = WIDTH
    model = finish(net, {"y": (net.dense(x, 4), ("rows", 4), FLOAT)})
    return Case(model, "ids", None, DROPPED, WORDS)


def one_hot_lookup() -> Case:
    """One hot rows, multiplied with a table."""
    net = Net(4)
    ids = net.input("ids", TEXT, INT64)
    depth, values = net.constant([WORDS]), net.constant(np.array([0, 1], np.float32))
    hot = net.node("OneHot", ids, depth, values, width=WORDS)
    x = net.dense(hot, WIDTH)
    return Case(finish(net, {"y": (x, (*TEXT, WIDTH), FLOAT)}), "ids", None, DROPPED, WORDS)


def two_inputs_of_one_table() -> Case:
    """An encoder and a decoder share their words."""
    net = Net(5)
    table = net.weight(WORDS, WIDTH, fan=1, stem="words")
    ids, more = net.input("ids", TEXT, INT64), net.input("more", TEXT, INT64)
    x = net.node("Add", embed(net, ids, table), embed(net, more, table))
    model = finish(net, {"y": (net.dense(x, 4), (*TEXT, 4), FLOAT)})
    return Case(model, "ids", None, DROPPED, WORDS)


def greedy_choice() -> Case:
    """The likeliest id is an output, and is looked up again."""
    net = Net(6)
    ids = net.input("ids", TEXT, INT64)
    table = net.weight(WORDS, WIDTH, fan=1, stem="words")
    logits = net.node("MatMul", embed(net, ids, table), net.node("Transpose", table, perm=[1, 0]))
    best = net.node("ArgMax", logits, axis=-1, keepdims=0)
    y = net.dense(embed(net, best, table), 3)
    outputs = {"best": (best, TEXT, INT64), "y": (y, (*TEXT, 3), FLOAT)}
    return Case(finish(net, outputs), "ids", None, DROPPED, WORDS, ("best", "y"))


def quantized_table() -> Case:
    """Rows of 8-bit integers, made floats again behind the lookup."""
    net = Net(7)
    ids = net.input("ids", TEXT, INT64)
    table = net.constant(net.rng.integers(-127, 127, (WORDS, WIDTH)).astype(np.int8), "words")
    rows = net.node("Gather", table, ids, width=WIDTH)
    scale, zero = net.scalar(0.02), net.constant(np.array(3, np.int8))
    x = net.node("DequantizeLinear", rows, scale, zero, width=WIDTH)
    return Case(
        finish(net, {"y": (net.dense(x, 4), (*TEXT, 4), FLOAT)}), "ids", None, DROPPED, WORDS
    )


def classifier(last: str, opset: int = 17) -> Case:
    """Scores of ten classes, perhaps normalised."""
    net = Net(8, opset=opset)
    x = net.node("Relu", net.conv(net.input("x", ("batch", 3, 6, 6), width=3), 8, 3))
    scores = net.head(x, 10)
    scores = (
        net.node(last, scores, **({"axis": 1} if "Softmax" in last else {})) if last else scores
    )
    model = finish(net, {"scores": (scores, ("batch", 10), FLOAT)})
    return Case(model, "scores", 1, (0, 4, 9), 10, changed=("scores",) if "Softmax" in last else ())


def written_out_softmax() -> Case:
    """As TensorFlow and JAX export it: ReduceMax, Exp, ReduceSum."""
    net = Net(17)
    x = net.dense(net.node("Relu", net.dense(net.input("x", ("batch", 6), width=6), 8)), 10)
    y = net.node("Exp", net.node("Sub", x, net.node("ReduceMax", x, axes=[1], keepdims=1)))
    y = net.node("Div", y, net.node("ReduceSum", y, net.constant([1]), keepdims=1))
    return Case(finish(net, {"y": (y, ("batch", 10), FLOAT)}), "y", 1, (0, 4, 9), 10, ("y",))


def _levels(net: Net) -> list[str]:
    x = net.conv_norm(net.input("x", ("batch", 3, 16, 16), width=3), 8, 3)
    return [x, net.conv_norm(x, 8, 3, stride=2)]


def yolo8() -> Case:
    """Four coordinates and eight classes of each place, one column each."""
    net, rows = Net(9), []
    for x in _levels(net):
        both = net.concat(net.conv(x, 4, 1), net.conv(x, 8, 1))
        rows.append(net.node("Reshape", both, net.constant([0, 12, -1])))
    every = net.node("Concat", *rows, axis=2)
    boxes, classes = net.nodes_with("Split", (every, net.constant([4, 8])), 2, axis=1)
    boxes = net.node("Mul", boxes, net.constant(np.full((1, 4, 1), 8, np.float32)))
    y = net.node("Concat", boxes, net.node("Sigmoid", classes), axis=1)
    return Case(finish(net, {"y": (y, ("batch", 12, 320), FLOAT)}), "y", 1, (4, 6, 7, 8, 11), 12)


def yolox() -> Case:
    """Four coordinates, an objectness and eight classes of each place, one row each."""
    net, rows = Net(10), []
    for x in _levels(net):
        scores = [net.node("Sigmoid", net.conv(x, n, 1), width=n) for n in (1, 8)]
        both = net.concat(net.conv(x, 4, 1), *scores)
        rows.append(net.node("Reshape", both, net.constant([0, 13, -1])))
    y = net.node("Transpose", net.node("Concat", *rows, axis=2), perm=[0, 2, 1])
    return Case(finish(net, {"y": (y, ("batch", 320, 13), FLOAT)}), "y", 2, (5, 8, 9, 10, 12), 13)


def yolo5() -> Case:
    """Three anchors at each place; channels are anchors times values."""
    net, rows = Net(11), []
    for x, side in zip(_levels(net), (16, 8), strict=True):
        y = net.node("Reshape", net.conv(x, 3 * 13, 1), net.constant([-1, 3, 13, side, side]))
        y = net.node("Sigmoid", net.node("Transpose", y, perm=[0, 1, 3, 4, 2]))
        parts = net.nodes_with("Split", (y, net.constant([2, 2, 9])), 3, axis=4)
        grid = net.constant(net.rng.random((1, 3, side, side, 2)).astype(np.float32))
        places = net.node("Add", parts[0], grid)
        y = net.node("Concat", places, parts[1], parts[2], axis=4)
        rows.append(net.node("Reshape", y, net.constant([-1, 3 * side * side, 13])))
    y = net.node("Concat", *rows, axis=1)
    return Case(finish(net, {"y": (y, ("batch", 960, 13), FLOAT)}), "y", 2, (5, 7, 12), 13)


def ssd() -> Case:
    """Boxes and scores apart, scores normalised over nothing and eight classes."""
    net, boxes, scores = Net(12), [], []
    for x in _levels(net):
        for size, into in ((4, boxes), (9, scores)):
            y = net.node("Transpose", net.conv(x, 6 * size, 1), perm=[0, 2, 3, 1])
            into.append(net.node("Reshape", y, net.constant([0, -1, size])))
    every = net.node("Softmax", net.node("Concat", *scores, axis=1), axis=2)
    outputs = {
        "boxes": (net.node("Concat", *boxes, axis=1), ("batch", 1920, 4), FLOAT),
        "scores": (every, ("batch", 1920, 9), FLOAT),
    }
    return Case(finish(net, outputs), "scores", 2, (2, 3, 5, 6, 8), 9, ("scores",))


def detr() -> Case:
    """Queries that give a box and scores each."""
    net = Net(13)
    x = net.layer_norm(net.dense(net.input("x", ("batch", 5, 8), width=8), 8))
    outputs = {
        "logits": (net.dense(x, 9), ("batch", 5, 9), FLOAT),
        "boxes": (net.node("Sigmoid", net.dense(x, 4)), ("batch", 5, 4), FLOAT),
    }
    return Case(finish(net, outputs), "logits", 2, (0, 2, 7), 9)


def characters() -> Case:
    """A text recogniser: normalised scores of characters at each step."""
    net = Net(14)
    x = net.dense(net.input("x", ("batch", "steps", 8), width=8), 8)
    y = net.node("LogSoftmax", net.dense(net.node("Relu", x), 40), axis=-1)
    model = finish(net, {"y": (y, ("batch", "steps", 40), FLOAT)})
    return Case(model, "y", 2, tuple(range(20, 35)), 40, ("y",))


def normalised_embedding() -> Case:
    """A projection of unit length: what remains is another direction."""
    net = Net(15)
    x = net.dense(net.input("x", ("batch", 6), width=6), 12)
    y = net.node("Div", x, net.node("ReduceL2", x, axes=[1], keepdims=1))
    return Case(finish(net, {"y": (y, ("batch", 12), FLOAT)}), "y", 1, (1, 5), 12, ("y",))


def features() -> Case:
    """A table of numbers: inputs leave."""
    net = Net(16)
    x = net.node("Relu", net.dense(net.input("x", ("batch", 9), width=9), 8))
    return Case(
        finish(net, {"y": (net.dense(x, 3), ("batch", 3), FLOAT)}), "x", 1, (2, 8), 9, ("y",)
    )


CASES: Mapping[str, Callable[[], Case]] = {
    "tied": lambda: language_model(tied=True),
    "untied": lambda: language_model(tied=False),
    "untied scores": scores_of_an_untied_head,
    "mask of ids": padding_mask,
    "views of int64": lambda: views_of_ids(INT64),
    "views of int32": lambda: views_of_ids(TensorProto.INT32),
    "views of float": lambda: views_of_ids(FLOAT),
    "one hot": one_hot_lookup,
    "two inputs": two_inputs_of_one_table,
    "greedy": greedy_choice,
    "quantized": quantized_table,
    "scores": lambda: classifier(""),
    "sigmoid": lambda: classifier("Sigmoid"),
    "softmax": lambda: classifier("Softmax"),
    "softmax of opset 11": lambda: classifier("Softmax", 11),
    "softmax written out": written_out_softmax,
    "yolo8": yolo8,
    "yolox": yolox,
    "yolo5": yolo5,
    "ssd": ssd,
    "detr": detr,
    "characters": characters,
    "embedding": normalised_embedding,
    "features": features,
}


def feeds(case: Case, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of a case."""
    rng = np.random.default_rng(seed)
    out = {}
    for value in case.model.graph.input:
        kind = value.type.tensor_type
        shape = [
            d.dim_value or {"batch": 3, "length": 7}.get(d.dim_param, 5) for d in kind.shape.dim
        ]
        dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type)
        ids = case.axis is None and case.value == "ids"
        out[value.name] = (
            rng.integers(0, case.size, shape).astype(dtype)
            if ids
            else rng.standard_normal(shape).astype(dtype)
        )
    return out
