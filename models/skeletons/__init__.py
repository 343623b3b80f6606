"""Small graphs with random weights for tests: one per way in which networks couple their channels.

Every builder returns a model that passes ``onnx.checker``, runs in onnxruntime, has one output
called "output", and reacts to every one of its weights. ``SMALL`` lists them in test sizes;
``resnet50`` and ``bert_base`` have the shapes of the real ones. All batch axes are dynamic.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from models.skeletons.convolutional import (
    channels_last,
    densenet,
    inception,
    mobilenet_v3,
    resnet,
    resnext,
    shufflenet_v2,
    unet,
    vgg,
)
from models.skeletons.sequential import (
    bert,
    glu_ffn,
    microsoft_attention,
    modern_decoder,
    recurrent,
)
from models.skeletons.wrapped import branched, quantized

resnet50 = partial(resnet, (3, 4, 6, 3), 64, side=224, classes=1000)
bert_base = partial(bert, 12, 768, 12, 3072, vocabulary=30522, positions=512)

SMALL: dict[str, Callable[[], onnx.ModelProto]] = {
    "resnext": resnext,
    "densenet": densenet,
    "shufflenet_v2": shufflenet_v2,
    "inception": inception,
    "mobilenet_v3": mobilenet_v3,
    "vgg": vgg,
    "unet": unet,
    "channels_last": channels_last,
    "resnet": resnet,
    "resnet_folded": partial(resnet, folded=True),
    "glu_ffn": glu_ffn,
    "bert": bert,
    "microsoft_attention": microsoft_attention,
    "modern_decoder": modern_decoder,
    "lstm": partial(recurrent, "LSTM"),
    "gru": partial(recurrent, "GRU"),
    "rnn_forward": partial(recurrent, "RNN", bidirectional=False),
    "quantized": quantized,
    "branched": branched,
}


def feeds(
    model: onnx.ModelProto, seed: int = 0, *, batch: int = 3, length: int = 7
) -> dict[str, NDArray[Any]]:
    """Random inputs for any model of this package.

    Floats are standard normal, token codes below 50, masks mostly 1, a bool is true.
    """
    rng = np.random.default_rng(seed)
    sizes = {"batch": batch, "length": length}
    result: dict[str, NDArray[Any]] = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [sizes.get(dim.dim_param, dim.dim_value) for dim in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        if dtype == np.float32:
            result[value.name] = rng.standard_normal(shape, np.float32)
        elif "mask" in value.name:
            result[value.name] = (rng.random(shape) < 0.8).astype(dtype)
        else:
            high = 2 if dtype == np.bool_ else 50
            result[value.name] = rng.integers(1, high, shape).astype(dtype)
    return result


__all__ = [
    "SMALL",
    "bert",
    "bert_base",
    "branched",
    "channels_last",
    "densenet",
    "feeds",
    "glu_ffn",
    "inception",
    "microsoft_attention",
    "mobilenet_v3",
    "modern_decoder",
    "quantized",
    "recurrent",
    "resnet",
    "resnet50",
    "resnext",
    "shufflenet_v2",
    "unet",
    "vgg",
]
