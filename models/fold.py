"""Folds batch normalisation into the convolution before it, as exporters do by default.

Pure ONNX and numpy, so that tests get the folded sibling of a trained model without torch.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import numpy_helper


def fold_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which every Conv that only a BatchNormalization reads has absorbed it.

    y = (W * x - mean) / sqrt(variance + epsilon) * gamma + beta is a convolution with W scaled per
    output channel and a bias. A Conv that already has a bias is left alone.
    """
    model = onnx.ModelProto.FromString(model.SerializeToString())
    graph = model.graph
    arrays = {item.name: numpy_helper.to_array(item) for item in graph.initializer}
    readers: dict[str, list[onnx.NodeProto]] = {}
    for node in graph.node:
        for value in node.input:
            readers.setdefault(value, []).append(node)
    for conv in [node for node in graph.node if node.op_type == "Conv"]:
        after = readers.get(conv.output[0], [])
        if len(conv.input) > 2 or [node.op_type for node in after] != ["BatchNormalization"]:
            continue
        norm = after[0]
        gamma, beta, mean, variance = (arrays.pop(name) for name in norm.input[1:])
        epsilon = next((a.f for a in norm.attribute if a.name == "epsilon"), 1e-5)
        scale = gamma / np.sqrt(variance + epsilon)
        weight = arrays[conv.input[1]]
        arrays[conv.input[1]] = weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
        arrays[norm.input[2]] = beta - mean * scale
        conv.input.append(norm.input[2])
        conv.output[0] = norm.output[0]
        graph.node.remove(norm)
    del graph.initializer[:]
    graph.initializer.extend(numpy_helper.from_array(a, name) for name, a in arrays.items())
    onnx.checker.check_model(model, full_check=True)
    return model
