"""What a quantized model is for, and which settings of onnxruntime's quantizer that takes.

Weights are symmetric int8 with zero point 0 always: then zero is stored as 0, so what was pruned
stays pruned. Sources: onnxruntime's documentation of ``quantize_static`` (x86, ARM and TensorRT),
TensorRT's developer guide ("Working with Quantized Types": symmetric, Q/DQ before linear layers).
"""

from __future__ import annotations

from typing import Any

from onnxprune.config import QuantizeOptions
from onnxprune.quantities import either

LINEAR = ("Conv", "ConvTranspose", "Gemm", "MatMul")
TABLES = ("Gather",)
"""Looked up rather than multiplied with: a stored table is smaller in int8 and no slower."""
DYNAMIC = ("MatMul", "Gemm", "LSTM", "Attention", *TABLES)
"""What is quantized while the model runs. Not Conv: ConvInteger is slower than Conv on
onnxruntime's CPU."""


def static_arguments(
    settings: QuantizeOptions, *, convolutions: bool, per_channel: bool
) -> dict[str, Any]:
    """Arguments of onnxruntime's static quantizer, named as those of ``quantize_static``.

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
        "op_types_to_quantize": None if every else [*LINEAR, *(() if tensorrt else TABLES)],
        "per_channel": per_channel and not settings.per_tensor,
        "reduce_range": settings.reduce_range,
        "activation_type": q.QuantType.QInt8 if tensorrt else q.QuantType.QUInt8,
        "weight_type": q.QuantType.QInt8,
        "calibrate_method": methods[settings.ranges],
        "extra_options": {
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

    return {
        "op_types_to_quantize": [*DYNAMIC] if settings.ops != "all" else None,
        "per_channel": not settings.per_tensor,
        "reduce_range": settings.reduce_range,
        "weight_type": q.QuantType.QInt8,
        "extra_options": {
            "WeightSymmetric": True,
            "MatMulConstBOnly": True,
            "EnableSubgraph": True,
        },
    }


def quantized_operators() -> frozenset[str]:
    """Operators that onnxruntime's static quantizer writes in int8."""
    from onnxruntime.quantization import registry

    return frozenset([*registry.QDQRegistry, *registry.QLinearOpsRegistry])


def why_float(op: str, settings: QuantizeOptions) -> str:
    """Why the weights of an operator stayed floating point, in words."""
    static = op in quantized_operators()
    if settings.dynamic and settings.ops != "all" and op not in DYNAMIC:
        reason = f"--dynamic quantizes {either(DYNAMIC, 'and')} alone"
        return f"{reason}; {op} becomes int8 too with --calib" if static else reason
    if not settings.dynamic and not static:
        reason = f"onnxruntime's static quantizer has no int8 {op}"
        return f"{reason}; --dynamic has" if op in DYNAMIC else reason
    if not settings.dynamic and settings.ops == "linear" and op not in (*LINEAR, *TABLES):
        return "--ops linear leaves it out"
    return "onnxruntime's quantizer left it out"
