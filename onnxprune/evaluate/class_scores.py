"""Which outputs are scores of classes, whose largest entry is an answer, and which embeddings.

The shape alone does not say: embeddings, boxes and features have it too, and the place of their
largest entry means nothing. Taking an embedding for scores calls a good model degraded; taking
scores for an embedding loses the most telling figure there is. So the end of the graph decides
where it can, then the name of the output, then its values.

Embeddings are compared by direction, so a common factor means nothing. Of other numbers it means a
lot, so only what is named like an embedding, or pooled, is taken for one.
"""

from __future__ import annotations

import re
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune.evaluate.output_comparison import (
    Meaning,
    MeaningTest,
    is_distribution,
    is_scores,
)
from onnxprune.graph.layers.linear import rule_of
from onnxprune.model import Model, constant

Array = npt.NDArray[Any]
Evidence = Literal["scores", "other", "linear", "unknown"]
"""What the end of a graph says: ``linear`` is a layer's plain output, which may be either."""

_MOVING = frozenset(
    {
        *("Transpose", "Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten", "Cast"),
        *("Dropout", "QuantizeLinear", "DequantizeLinear", "Slice", "Gather"),
    }
)
_SCORING = frozenset(
    {
        *("Softmax", "LogSoftmax", "Hardmax"),
        *("LinearClassifier", "SVMClassifier", "TreeEnsembleClassifier", "ZipMap"),
    }
)
_OTHER = frozenset(
    {
        *("LayerNormalization", "SimplifiedLayerNormalization", "RMSNormalization"),
        *("SkipLayerNormalization", "SkipSimplifiedLayerNormalization", "InstanceNormalization"),
        *("GroupNormalization", "LpNormalization", "Normalizer"),
        *("LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor", "Scaler"),
    }
)
_HARDLY = frozenset({"Tanh", "ReduceL2", "Resize", "Upsample", "Add", "Mul"})
"""Operators that hardly end a classifier, as states, residual sums and products of two values."""
_POOLS = frozenset({"GlobalAveragePool", "GlobalMaxPool", "AveragePool", "MaxPool", "ReduceMean"})
_RECTIFIERS = frozenset({"Relu", "LeakyRelu", "PRelu", "Clip", "HardSwish", "Gelu"})
_MONOTONE = frozenset({"Sigmoid", "BatchNormalization"})
_PACKED = frozenset({"MatMulNBits"})
"""Products whose weights are packed, so that the algebra has no rule for them."""
_ROOTS = frozenset({"Sqrt", "ReduceL2", "ReduceSum", "ReduceMean"})
_REACH = 4  # nodes between a division and the root or sum that it normalises by

_IS_OTHER = re.compile(
    r"embed|feat|hidden|pool|box|(^|[_./])loc|landmark|keypoint|kpt|kps|coord|pose|mask|depth|state"
    r"|vector|angle|offset|delta|(^|_)regr?(_|$)|regress",
    re.IGNORECASE,
)
_IS_EMBEDDING = re.compile(r"embed|feat|hidden|pool|vector|represent|encod|latent", re.IGNORECASE)
_IS_SCORES = re.compile(r"logit|prob|score|class|(^|_)cls|softmax|label", re.IGNORECASE)

WIDTH = 64
"""Sizes of embeddings are multiples of it; those of classes rarely are."""
_VOCABULARY = 4096  # wider is a vocabulary, padded to a multiple
_COORDINATES, _ROWS = 3, 3
"""Columns that may be coordinates too, and the fewest rows that tell."""
_SURE = 0.3
"""Mean largest probability of a row, from which on entries are taken for logits."""


def graph_evidence(model: Model) -> dict[str, Evidence]:
    """What the end of the graph, then the name, says about each output.

    Example:
        >>> from onnxprune.data import zoo
        >>> from onnxprune.model import load
        >>> graph_evidence(load(zoo.get("digits_mlp").model))
        {'logits': 'scores'}
    """
    tables = {
        value
        for node in model.ir.graph
        if node.op_type == "Gather" and (value := node.inputs[0]) is not None
    }
    return {
        value.name or "": _with_name(value.name or "", *_end(value, tables))
        for value in model.ir.graph.outputs
    }


def meaning_test(model: Model, metric: str | None = None, output: str = "") -> MeaningTest:
    """What an output of a model holds, by its name and some of its rows.

    Args:
        model: the dense one.
        metric: kind of the task metric, where there are labels: those of classes vouch for scores.
        output: that the labels belong to; empty for the only one.
    """
    evidence = graph_evidence(model)
    if metric in ("accuracy", "nats", "perplexity"):
        labelled = output or (next(iter(evidence)) if len(evidence) == 1 else "")
        evidence |= {labelled: "scores"} if labelled else {}
    pooled = {value.name for value in model.ir.graph.outputs if _is_pooled(value)}

    def meaning(name: str, rows: Array) -> Meaning:
        if holds_scores(rows, evidence.get(name, "unknown"), known=True):
            return "scores"
        return "embedding" if is_embedding(rows, name, pooled=name in pooled) else "numbers"

    return meaning


def is_embedding(array: Array, name: str, *, pooled: bool = False) -> bool:
    """Whether an output that is no scores holds one vector per sample, whose length means nothing.

    Args:
        array: some rows of it.
        name: of the output.
        pooled: whether the graph ends in a mean or maximum over positions.

    Example:
        >>> rows = np.ones((2, 384))
        >>> is_embedding(rows, "embedding"), is_embedding(rows, "forecast")
        (True, False)
    """
    if array.ndim != 2 or array.dtype.kind != "f" or array.shape[1] < WIDTH:
        return False
    regular = array.shape[1] % WIDTH == 0
    return _IS_EMBEDDING.search(name) is not None or (pooled and regular)


def _is_pooled(output: ir.Value) -> bool:
    """Whether an output is a mean or maximum over positions, but for moved elements and factors."""
    node = output.producer()
    while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    node = _without_constants(node)
    if node is not None and node.op_type == "Div":  # a sum over tokens by their number
        node = None if node.inputs[0] is None else node.inputs[0].producer()
        return node is not None and node.op_type == "ReduceSum"
    return node is not None and node.op_type in _POOLS


def undecided(model: Model, name: str, array: Array) -> bool:
    """Whether rows of an output could be scores of classes, and nothing says that they are not."""
    evidence = graph_evidence(model).get(name, "unknown")
    return is_scores(array) and evidence in ("linear", "unknown")


def _with_name(name: str, evidence: Evidence, firm: bool) -> Evidence:  # noqa: FBT001
    if firm:
        return evidence
    if _IS_OTHER.search(name):
        return "other"
    return "scores" if _IS_SCORES.search(name) else evidence


def _end(value: ir.Value, tables: set[ir.Value]) -> tuple[Evidence, bool]:
    """What produces a value, behind what only moves its elements, and whether that is firm."""
    output, moved = value, False
    node = value.producer()
    while node is not None and node.op_type in _MOVING and node.inputs[0] is not None:
        moved = moved or node.op_type == "Transpose"
        node = node.inputs[0].producer()
    node = _without_constants(node)
    if node is None:
        return "unknown", False
    kind = node.op_type
    if kind == "Log" and node.inputs[0] is not None:  # of probabilities, else of a spectrum
        return "scores" if _end(node.inputs[0], tables)[0] == "scores" else "other", False
    quotient = kind == "Div" and _produces(node.inputs[0]) == "Exp"  # a softmax in parts
    if kind in _SCORING or quotient:
        return "scores", not quotient
    rule = rule_of(node)
    if kind in _HARDLY or (rule is not None and rule.kind == "recurrent"):
        return "other", False
    if kind in _OTHER or _normalises(node):
        return "other", True
    rank = None if output.shape is None else len(output.shape)
    return _layer_end(node, tables, moved=moved, rank=rank)


def _layer_end(
    node: ir.Node | None, tables: set[ir.Value], *, moved: bool, rank: int | None
) -> tuple[Evidence, bool]:
    """The same for a layer, behind activations and pooling."""
    kind = "" if node is None else node.op_type
    while node is not None and node.op_type in _POOLS | _RECTIFIERS | _MOVING | _MONOTONE:
        moved = moved or node.op_type == "Transpose"
        before = node.inputs[0]
        node = _without_constants(None if before is None else before.producer())
    rule = None if node is None else rule_of(node)
    if node is None or (rule is None and node.op_type not in _PACKED):
        return ("other" if kind in _POOLS | _RECTIFIERS else "unknown"), False
    if rule is not None and rule.windowed and rank != 2 and not moved:
        return "other", False  # its classes are not along the last axis
    return ("scores", True) if _is_tied(node, tables) else ("linear", False)


def _without_constants(node: ir.Node | None) -> ir.Node | None:
    """The node before additions and multiplications of constants: biases, gains, temperatures."""
    while node is not None and node.op_type in ("Add", "Sub", "Mul", "Div"):
        parts = [value for value in node.inputs if value is not None and constant(value) is None]
        if len(parts) != 1:
            return node
        node = parts[0].producer()
    return node


def _produces(value: ir.Value | None) -> str:
    node = None if value is None else value.producer()
    return "" if node is None else node.op_type


def _normalises(node: ir.Node) -> bool:
    """Whether a node divides by a norm, a deviation or a count that is computed."""
    if node.op_type != "Div" or node.inputs[1] is None:
        return False
    value: ir.Value | None = node.inputs[1]
    for _ in range(_REACH):
        producer = None if value is None else value.producer()
        if producer is None:
            return False
        if producer.op_type in _ROOTS:
            return True
        value = producer.inputs[0] if producer.inputs else None
    return False


def _is_tied(node: ir.Node, tables: set[ir.Value]) -> bool:
    """Whether a layer's weight is also a table of embeddings, as in a language model."""
    weight = node.inputs[1] if len(node.inputs) > 1 else None
    while weight is not None and weight not in tables:
        producer = weight.producer()
        if producer is None or producer.op_type not in _MOVING:
            return False
        weight = producer.inputs[0]
    return weight is not None


def holds_scores(array: Array, evidence: Evidence = "unknown", *, known: bool = False) -> bool:
    """Whether an output is scores of classes, as far as its graph and its values tell.

    Args:
        array: some rows of it.
        evidence: of its graph; see `graph_evidence`.
        known: whether ``evidence`` was looked for; where it was not, what may be scores is taken
            for such.

    Example:
        >>> holds_scores(np.eye(2, 384), "linear", known=True)
        False
    """
    if not is_scores(array) or evidence == "other":
        return False
    if evidence == "scores":
        return True
    rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
    rows = rows[np.isfinite(rows).all(1)]
    if not len(rows) or is_distribution(rows):
        return True
    if _has_unit_norm(rows) or _are_boxes(rows, array.ndim):
        return False
    width = rows.shape[1]
    if width % WIDTH == 0 and width <= _VOCABULARY:
        return _confidence(rows) > _SURE
    if known and width <= _COORDINATES:  # or coordinates, angles, grades
        if len(rows) < _ROWS:  # nothing can be told
            return False
        return _exclude_each_other(rows) if (rows.std(0) > 0).all() else array.ndim == 2
    return not (known and evidence == "unknown" and _confidence(rows) < _SURE)


def _has_unit_norm(rows: Array) -> bool:
    return rows.shape[1] > 2 * _COORDINATES and np.allclose(
        np.linalg.norm(rows, axis=1), 1, 0, 0.01
    )


def _are_boxes(rows: Array, rank: int) -> bool:
    """Whether rows are corners (left, top, right, bottom), or rank and width say boxes."""
    if rows.shape[1] != 4:
        return False
    return rank > 2 or bool((rows[:, :2] <= rows[:, 2:]).all() and len(rows) > 4)


def _confidence(rows: Array) -> float:
    """The mean largest probability, were the rows logits."""
    with np.errstate(over="ignore"):
        odds = np.exp(rows - rows.max(1, keepdims=True))
    return float((1 / odds.sum(1)).mean())


def _exclude_each_other(rows: Array) -> bool:
    """Whether one column falls where others rise, as scores trained against each other do."""
    table = np.corrcoef(rows.T)
    return float(table[np.triu_indices(len(table), 1)].mean()) < -0.1
