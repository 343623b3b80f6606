"""What a quantized model is for, and which settings of onnxruntime's quantizer that takes.

Weights are symmetric int8 with zero point 0 always: then zero is stored as 0, so what was pruned
stays pruned. Sources: onnxruntime's documentation of ``quantize_static`` (x86, ARM and TensorRT),
TensorRT's developer guide ("Working with Quantized Types": symmetric, Q/DQ before linear layers).
"""

from __future__ import annotations

from typing import Any

from onnxprune.config import QuantizeOptions

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TABLES = ("Gather",)
"""Looked up rather than multiplied with: a stored table is smaller in int8 and no slower."""


def static_arguments(
    settings: QuantizeOptions, *, convolutions: bool, per_channel: bool
) -> dict[str, Any]:
    """Keyword arguments of ``quantize_static``.

    Args:
        settings: the options.
        convolutions: whether the model has any.
        per_channel: whether its operator set knows scales per channel.
    """
    import onnxruntime.quantization as q

    tensorrt = settings.format == "tensorrt"
    every = settings.ops == "all" or (settings.ops is None and convolutions and not tensorrt)
    methods = {
        "minmax": q.CalibrationMethod.MinMax,
        "percentile": q.CalibrationMethod.Percentile,
        "entropy": q.CalibrationMethod.Entropy,
    }
    return {
        "quant_format": q.QuantFormat.QDQ,
        "op_types_to_quantize": None if every else [*LINEAR, *(() if tensorrt else TABLES)],
        "per_channel": per_channel and not settings.per_tensor,
        "reduce_range": settings.reduce_range,
        "activation_type": q.QuantType.QInt8 if tensorrt else q.QuantType.QUInt8,
        "weight_type": q.QuantType.QInt8,
        "calibrate_method": methods[settings.ranges],
        "extra_options": {
            # Input by input, or all activations of all inputs are held at once, and histograms
            # want inputs of one size.
            "CalibStridedMinMax": 1,
            "WeightSymmetric": True,
            "ActivationSymmetric": tensorrt,
            "CalibTensorRangeSymmetric": tensorrt,
            "QuantizeBias": not tensorrt,
            "MatMulConstBOnly": True,  # products of activations lose most and gain least
            "QDQKeepRemovableActivations": tensorrt,
        },
    }


def dynamic_arguments(settings: QuantizeOptions) -> dict[str, Any]:
    """Keyword arguments of ``quantize_dynamic``."""
    import onnxruntime.quantization as q

    # ConvInteger is slower than Conv on onnxruntime's CPU, so convolutions stay as they are.
    kinds = ["MatMul", "Gemm", "LSTM", "Attention", *TABLES] if settings.ops != "all" else None
    return {
        "op_types_to_quantize": kinds,
        "per_channel": not settings.per_tensor,
        "reduce_range": settings.reduce_range,
        "weight_type": q.QuantType.QInt8,
        "extra_options": {
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "EnableSubgraph": True,
        },
    }
