"""What advice is given from: numbers that were measured or read off the model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from onnxprune.runtime.profiling import OperatorTime

CONTRACTIONS = frozenset(
    """
    Conv ConvTranspose Gemm MatMul FusedConv FusedGemm FusedMatMul QLinearConv QLinearMatMul
    ConvInteger MatMulInteger MatMulIntegerToFloat DynamicQuantizeMatMul MatMulNBits QGemm Einsum
    Attention MultiHeadAttention GroupQueryAttention QAttention LSTM GRU RNN DynamicQuantizeLSTM
    Convolution GroupConvolution Deconvolution FullyConnected LSTMSequence GRUSequence RNNSequence
    LSTMCell GRUCell RNNCell ScaledDotProductAttention Subgraph_MatMul
    """.split()
)
"""Operators whose work is multiply-accumulates, as onnxruntime and OpenVINO call them."""


@dataclass(frozen=True)
class Spent:
    """Where the time of a run goes on one backend.

    Attributes:
        backend: its name.
        precision: of the computation.
        run_s: seconds of a run, the median.
        operators: what they take when nothing interrupts them, the slowest first.
        gaps_s: the same of what lies between them.
    """

    backend: str
    precision: str
    run_s: float
    operators: tuple[OperatorTime, ...]
    gaps_s: float

    @property
    def undisturbed_s(self) -> float:
        """Seconds of a run that nothing interrupts."""
        return self.gaps_s + sum(each.seconds for each in self.operators)

    @property
    def overhead(self) -> float:
        """The share of a run that is spent between operators."""
        return self.gaps_s / self.undisturbed_s if self.undisturbed_s else 0.0

    @property
    def contractions(self) -> float:
        """The share of a run that is spent in convolutions, products and recurrences."""
        inside = sum(each.seconds for each in self.operators if each.op in CONTRACTIONS)
        return inside / self.undisturbed_s if self.undisturbed_s else 0.0


@dataclass(frozen=True)
class Sizes:
    """What the model is made of.

    Attributes:
        bytes: of stored weights.
        floats: of them, in floating point tensors.
        packed: bytes of all weights with 80 % zeros in those that can be sparse, stored packed.
        macs: of one sample.
        params: stored elements.
        reachable: share of ``params`` that leaves with some unit, exactly.
        quantized: whether the model is in int8 already.
        two_four: share of weights in layers that TensorRT could run 2:4 and that are large enough
            to gain (256 inputs and outputs).
        large_linear: share of weights in linear layers of at least 4096 x 4096.
    """

    bytes: int
    floats: int
    packed: int
    macs: int
    params: int
    reachable: float
    quantized: bool
    two_four: float
    large_linear: float


@dataclass(frozen=True)
class Trial:
    """A command of the advice, carried out here on few samples, and its result timed.

    Attributes:
        method: ``structured`` or ``int8``.
        backend: its name.
        amount: the target that could be met, as in ``macs=50%``; empty for other methods, and
            where none could.
        macs, params, bytes: shares of the original that remain; None where nothing was made.
        latency: share of the latency that remains; None where it was not timed.
        low, high: 95 % interval of it.
        clock: ``wall``, or ``cpu`` where the machine was busy: the share of the processor's time
            that remains stands in for that of the latency.
        reason: why there is no latency; empty where there is one.
    """

    method: Literal["structured", "int8"]
    backend: str
    amount: str = ""
    macs: float | None = None
    params: float | None = None
    bytes: float | None = None
    latency: float | None = None
    low: float | None = None
    high: float | None = None
    clock: Literal["wall", "cpu"] = "wall"
    reason: str = ""


@dataclass(frozen=True, repr=False)
class Evidence:
    """All that is known.

    Attributes:
        model: its path, for commands.
        calib: the user's data, for commands; empty if there are none.
        sizes: of the model.
        spent: on every backend that could be profiled.
        unmeasured: reasons by backend, for the others.
        features: of the CPU, those that kernels are chosen by.
        busy: whether the machine did other things while it was measured.
        trials: of the commands, on every backend that could be profiled.
        flags: options of the user that commands repeat: inputs and their preprocessing.
    """

    model: str
    calib: str
    sizes: Sizes
    spent: tuple[Spent, ...]
    unmeasured: tuple[tuple[str, str], ...]
    features: tuple[str, ...]
    busy: bool = False
    trials: tuple[Trial, ...] = ()
    flags: tuple[str, ...] = ()

    def __repr__(self) -> str:
        backends = ", ".join(each.backend for each in self.spent)
        return f"<Evidence: {self.model} on {backends or 'no backend'}>"

    def trial(self, method: str, backend: str) -> Trial | None:
        """The trial of a method on a backend; None without."""
        tried = (t for t in self.trials if (t.method, t.backend) == (method, backend))
        return next(tried, None)
