"""Which weights are made sparse, and why others stay dense.

Sparse kernels win where there are many channels ("if C and K are large enough (>256)", NVIDIA in
github.com/NVIDIA/TensorRT issue 3849; a 3x3 kernel counts as nine times its channels), and the
first and the last layer are the ones that papers leave dense because they cost most accuracy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from onnxprune import model as models
from onnxprune.errors import spelled, stated
from onnxprune.graph.layers.applications import find_applications
from onnxprune.graph.layers.linear import LinearLayer, find_layers, plain
from onnxprune.quantities import Sparsity
from onnxprune.types import LayerOutcome

PAYS = 256
"""Inputs times kernel positions, and outputs, from which NVIDIA expects a gain."""


def find_targets(
    model: models.Model,
    sparsity: Sparsity,
    skip: Sequence[str] = (),
    exclude: Mapping[str, str] | None = None,
) -> tuple[list[LinearLayer], list[LayerOutcome]]:
    """The layers that can be made sparse and refitted, in graph order, and why others cannot.

    Of several layers that apply one weight the first stands for all, see ``graph.layers``.

    Args:
        model: the model; it is only read.
        sparsity: under N:M, layers whose inputs cannot be grouped stay dense.
        skip: globs over names of weights that stay dense.
        exclude: names of weights that stay dense, with the reason.
    """
    targets: list[LinearLayer] = []
    declined: dict[str, str] = {}
    excluded: list[LayerOutcome] = []
    every = find_layers(model)
    joint, shared = find_applications(every)
    for layer in every:
        if layer.kind == "sum" and sparsity.m:
            declined[layer.node] = "an Einsum has no sparse kernels: write it as a MatMul"
            continue
        if layer.kind != "plain" and (layer.kind != "sum" or layer.declined):
            continue  # gates and other equations are no candidates yet
        if layer.declined:
            declined[layer.node] = layer.declined
            continue
        if layer.node not in joint and layer.node not in shared:
            continue  # another application of a weight that was seen before
        excluding = (exclude or {}).get(layer.weight) or _why_not(layer, sparsity, skip)
        reason = excluding or shared.get(layer.node, "")
        if reason:
            excluded.append(
                LayerOutcome(
                    layer.node, reason=reason, weight=layer.weight, shape=layer.tensor.shape
                )
            )
        else:
            targets.append(layer)
    return targets, [LayerOutcome(node, reason=why) for node, why in declined.items()] + excluded


def _why_not(layer: LinearLayer, sparsity: Sparsity, skip: Sequence[str]) -> str:
    glob = next((g for g in skip if fnmatchcase(layer.weight, g)), None)
    if glob is not None:
        return stated("--skip", glob)
    if sparsity.m and layer.channels % sparsity.m:
        per = " per group" if layer.groups > 1 else ""
        return f"its {layer.channels} inputs{per} are no multiple of {sparsity.m}"
    if not layer.size:
        return "its weight is empty"
    return ""


def integer_layers(model: models.Model) -> str:
    """The layers of a quantized model that multiply in integers, in words; empty for none."""
    layers = [layer for layer in find_layers(model) if layer.kind == "quantized"]
    if not layers:
        return ""
    first = layers[0]
    others = f" and {len(layers) - 1} more" * (len(layers) > 1)
    return f"weights are already int8 ({first.operator.op_type} '{first.node}'{others})"


FLOAT_FIRST = "prune the float model that this one was made from, and quantize after pruning"
"""What to do with a model whose layers multiply in integers."""


def excluded_weights(
    model: models.Model, *, small: int | None = None, first: int = 0, last: int = 0
) -> dict[str, str]:
    """The weights that are to stay dense, with the reason.

    Args:
        model: the model; it is only read.
        small: layers with fewer inputs (times kernel positions) or outputs stay dense.
        first: how many layers at the front of the graph stay dense.
        last: how many at its end.
    """
    if small is None and not first and not last:
        return {}
    layers = plain(find_layers(model))
    excluded: dict[str, str] = {}
    for number, layer in enumerate(layers):
        if number < first:
            excluded[layer.weight] = f"it is one of the first {first} ({spelled('--skip-first')})"
        elif number >= len(layers) - last:
            excluded[layer.weight] = f"it is one of the last {last} ({spelled('--skip-last')})"
        elif small is not None and is_small(layer, small):
            excluded[layer.weight] = (
                f"its {layer.inputs * layer.taps} inputs or {layer.outputs} outputs are "
                f"fewer than {small} ({spelled('--skip-small')})"
            )
    return excluded


def is_small(layer: LinearLayer, least: int = PAYS) -> bool:
    """Whether a layer has fewer inputs, times kernel positions, or outputs than that."""
    return layer.inputs * layer.taps < least or layer.outputs < least
