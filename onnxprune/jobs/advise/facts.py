"""What is known of runtimes, and from where: every piece of advice names one of these."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Fact:
    """Something known.

    Attributes:
        says: the fact in a sentence.
        source: documentation, or a measurement in the repository.
    """

    says: str
    source: str


MACS = Fact(
    "with widths in multiples of 16, latency on onnxruntime and OpenVINO CPU falls with the MACs "
    "of convolutions and products, and with little else",
    "ResNet-50 and BERT-base cut to half their MACs: 0.48x to 0.53x latency, 1 thread, AVX-512",
)
TWO_FOUR = Fact(
    "only TensorRT has kernels for 2:4, and they time faster from about 256 channels on",
    "TensorRT developer guide, Structured Sparsity; its issues 3849 and 4065",
)
ZEROS = Fact(
    "sparse storage is not sparse compute: zeros make the file smaller and no run faster",
    "ResNet-50 with 90 % zeros: 54.6 ms dense, 55.4 ms sparse in onnxruntime; "
    "bench/results/storage.json",
)
INT8_X86 = Fact(
    "x86 kernels multiply int8 four at a time with VNNI; without it they may be slower than fp32",
    "onnxruntime documentation, Quantize ONNX models",
)
INT8_GPU = Fact(
    "TensorRT runs explicit Q/DQ on INT8 tensor cores",
    "TensorRT developer guide, Working with Quantized Types",
)
SPARSE_INT8 = Fact(
    "OpenVINO decompresses sparse INT8 weights of large linear layers on AMX: 1.5x to 2.2x at 70 "
    "to 90 % zeros for 4096 x 4096, nothing for 1024 x 4096",
    "bench/results/openvino_sparse.json; property CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE",
)
OVERHEAD = Fact(
    "what a runtime spends between operators does not shrink with their sizes",
    "measured here: a run less the time inside its operators",
)
AMDAHL = Fact(
    "only the time inside prunable operators can shrink",
    "measured here: the profile of the runtime",
)
REACH = Fact(
    "axes that other nodes tie to fixed sizes stay",
    "the analysis of this model: `onnxprune inspect` lists the reasons",
)
