"""TensorRT's choices for sparse weights, by node of the ONNX graph.

With SPARSE_WEIGHTS, TensorRT (not TensorRT-RTX) ends a build with two lines of its log::

    (Sparsity) Layers eligible for sparse math: Conv_0 + Relu_1, MatMul_401
    (Sparsity) TRT inference plan picked sparse implementation for layers: Conv_0 + Relu_1

and the engine inspector's JSON (``trtexec --profilingVerbosity=detailed --exportLayerInfo``) has
``HasSparseWeights``, and ``sparse`` in the name of the tactic that was picked. Layers are fused
nodes: ``Conv_0 + Relu_1``, ``PWN(Sigmoid_2)``, ``{ForeignNode[a...b]}``, ``name_myl9_4``; newer
versions keep the nodes in ``Metadata`` as ``[ONNX Layer: name]``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import identity
from onnxprune.graph.layers.linear import walk
from onnxprune.model.limits import parse_json

_ELIGIBLE = re.compile(r"\(Sparsity\) Layers eligible for sparse math:(.*)")
_PICKED = re.compile(
    r"\(Sparsity\) TRT inference plan picked sparse implementation for layers:(.*)"
)
_METADATA = re.compile(r"\[ONNX Layer: ([^\]]*)\]")
_WRAPPED = re.compile(r"^(?:PWN|BiasAct|Reformatting CopyNode for .*? to )\(?(.*?)\)?$")
_MYELIN = re.compile(r"_myl\d+_\d+$")


@dataclass(frozen=True)
class Layer:
    """A layer of an engine.

    Attributes:
        name: as TensorRT has it.
        nodes: the names of the ONNX nodes in it, as far as the name or the metadata tell.
        eligible: whether its weights have the pattern; None if unknown.
        picked: whether a sparse kernel was chosen.
        tactic: name of the kernel; empty where it is not known.
    """

    name: str
    nodes: tuple[str, ...]
    eligible: bool | None = None
    picked: bool = False
    tactic: str = ""


def from_log(lines: Iterable[str]) -> tuple[Layer, ...]:
    """The layers that a log calls eligible, and which of them it calls picked; the last build wins.

    Args:
        lines: of a log, or messages of a logger, in order; everything else is passed over.
    """
    eligible: dict[str, bool] = {}
    for line in lines:
        if match := _ELIGIBLE.search(line):
            eligible = dict.fromkeys(_names(match[1]), False)
        elif match := _PICKED.search(line):
            eligible |= dict.fromkeys(_names(match[1]), True)
    return tuple(Layer(n, nodes_in(n), eligible=True, picked=p) for n, p in eligible.items())


def from_inspector(text: str) -> tuple[Layer, ...]:
    """The layers of the engine inspector's JSON that are about sparse weights.

    Raises:
        OnnxpruneError: it is not such JSON, or has names only because profiling was not detailed.
    """
    try:
        document = parse_json(text)
        layers = document["Layers"]
    except (ValueError, KeyError, TypeError) as error:
        raise OnnxpruneError(
            "this is not layer information of a TensorRT engine",
            hint="write it with trtexec --exportLayerInfo=FILE --profilingVerbosity=detailed",
        ) from error
    if layers and all(isinstance(each, str) for each in layers):
        raise OnnxpruneError(
            "the layer information holds names only",
            hint="build with --profilingVerbosity=detailed",
        )
    return tuple(
        _layer(each) for each in layers if isinstance(each, Mapping) and _is_about_sparsity(each)
    )


def nodes_in(name: str) -> tuple[str, ...]:
    """The nodes that a layer is fused from, by its name."""
    names = []
    for part in name.split(" + "):
        one = part.strip()
        if one.startswith("{ForeignNode["):
            names += one.removeprefix("{ForeignNode[").rstrip("]}").split("...")
            continue
        wrapped = _WRAPPED.match(one)
        one = wrapped[1] if wrapped else one
        names += [_MYELIN.sub("", each.strip()) for each in one.split(", ") if each.strip()]
    return tuple(names)


def by_node(layers: Iterable[Layer], model: models.Model) -> dict[str, Layer]:
    """TensorRT's choice for every node of a model, by the node's identity.

    Args:
        layers: of its engine.
        model: what the engine was built from. TensorRT calls a node by its name, or by its first
            output where it has none.
    """
    named: dict[str, str] = {}
    for node, _ in walk(model):
        named.setdefault(identity(node), identity(node))
        if node.name:
            named[node.name] = identity(node)
    result: dict[str, Layer] = {}
    for layer in layers:
        for name in layer.nodes:
            if name in named:
                result[named[name]] = layer
    return result


def word(layer: Layer) -> str:
    """TensorRT's choice for a layer, in a word."""
    if layer.picked:
        return "picked"
    if layer.eligible is None:
        return ""
    return "eligible" if layer.eligible else "not eligible"


def _names(text: str) -> list[str]:
    return [each.strip() for each in text.split(", ") if each.strip()]


def _is_about_sparsity(layer: Mapping[str, Any]) -> bool:
    return "HasSparseWeights" in layer or "AllowSparse" in layer or _sparse(layer)


def _layer(layer: Mapping[str, Any]) -> Layer:
    name = str(layer.get("Name", ""))
    metadata = tuple(_METADATA.findall(str(layer.get("Metadata", ""))))
    says = layer.get("HasSparseWeights", layer.get("AllowSparse"))
    return Layer(
        name,
        metadata or nodes_in(name),
        eligible=None if says is None else bool(int(says)),
        picked=_sparse(layer),
        tactic=str(layer.get("TacticName", "")),
    )


def _sparse(layer: Mapping[str, Any]) -> bool:
    return "sparse" in str(layer.get("TacticName", "")).lower()
