"""What TensorRT said of sparse layers on a machine with a GPU."""

from __future__ import annotations

import onnx

from two_four_cases import build, floats, node

LOG = """\
[08/05/2024-12:06:50] [V] [TRT] Engine generation completed in 12.9 seconds.
[08/05/2024-12:06:54] [I] [TRT] (Sparsity) Layers eligible for sparse math: MatMul_401, \
Conv_619 + Relu_620, Conv_626, Conv_234 + Add_240 + Relu_241
[08/05/2024-12:06:54] [I] [TRT] (Sparsity) TRT inference plan picked sparse implementation for \
layers: Conv_619 + Relu_620
[08/05/2024-12:06:54] [I] [TRT] [MemUsageChange] TensorRT-managed allocation in building engine
"""

CONVOLUTION = {
    "Name": "resnetv15_stage3_conv4_fwd + resnetv15_stage3_batchnorm4_fwd",
    "LayerType": "CaskConvolution",
    "ParameterType": "Convolution",
    "Weights": {"Type": "Int8", "Count": 589824},
    "HasSparseWeights": 1,
    "TacticName": (
        "sm80_xmma_fprop_avdt_sparse_int8int8_tilesize64x64x64_tapsperload3_r3s3_u1v1_relu"
    ),
    "Metadata": (
        "[ONNX Layer: resnetv15_stage3_conv4_fwd]\x1e[ONNX Layer: resnetv15_stage3_batchnorm4_fwd]"
    ),
}


def network() -> onnx.ModelProto:
    first = node("Conv", "x a", "p")
    first.name = "Conv_619"
    nodes = [first, node("Relu", "p", "r"), node("Conv", "r b", "y")]
    return build(nodes, {"a": floats(8, 8, 3, 3), "b": floats(8, 8, 3, 3)}, [1, 8, 9, 9])
