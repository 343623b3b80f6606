"""What could be done to a model, method by method, and whether it pays on a backend.

Latencies are those of trials: the command of the advice was carried out on few samples and its
result timed. Where nothing could be timed, Amdahl's law over measured shares bounds the latency:
from the remainder of a run if a part of it shrinks by a known factor, to no gain at all.
"""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass, field
from typing import Literal

from onnxprune.jobs.advise import facts
from onnxprune.jobs.advise.evidence import Evidence, Spent, Trial
from onnxprune.jobs.advise.facts import Fact
from onnxprune.quantities import measured, percent, size, times

Method = Literal["structured", "2:4", "zeros", "int8", "sparse-int8", "nothing"]
Word = Literal["pays", "may pay", "does not pay"]

WORTH = 0.9
"""An estimate above this is not worth the trouble: less than a tenth of the latency."""
_UNSURE = 1.3
"""Factor between the ends of an interval from which on a measurement decides nothing."""
_OVERHEAD = 0.5
"""Share of a run from which on overhead is the reason."""
_VNNI = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_INT8_FACTOR = 0.25
"""What is left of products in INT8 at best: four to an instruction, or half the bits twice."""
_SPARSE_FACTOR = 0.45
"""What is left of large INT8 layers at 90 % zeros, as measured."""
_TWO_FOUR_FACTOR = 0.5
"""What is left of 2:4 products at best: sparse tensor cores have twice the peak."""
DATA = "DATA.npz"
"""What stands in commands for inputs that the user has yet to give."""
_TARGET = "macs=50%"
_HALF = 0.5
"""The target of the command, and what it leaves of products."""
_SOME = 0.1
"""Shares of the weights below this are not worth a method of their own."""
_INT8_BYTES = 0.25
_SMALL = 1 << 20


@dataclass(frozen=True, repr=False)
class Advice:
    """One thing that could be done, and whether to.

    Attributes:
        method: its name.
        backend: for which; empty where that does not matter.
        word: whether it pays.
        estimate: share of the latency that remains after ``command``; at best, where ``high`` says
            that it may be no gain. None if unknown or not about latency.
        bytes_left: estimate of the share of weight bytes left; None where unknown.
        why: in a sentence.
        evidence: the numbers behind it.
        command: to run next; empty if there is none.
        fact: about the runtime, with its source.
        low, high: between what ``estimate`` lies: the 95 % interval of what was timed, else the
            best case and the original.
        macs_left: share of the multiply-accumulates that remains; None where it stays or is
            unknown.
    """

    method: Method
    backend: str
    word: Word
    estimate: float | None
    bytes_left: float | None
    why: str
    command: str
    fact: Fact
    evidence: dict[str, object] = field(default_factory=dict)
    low: float | None = None
    high: float | None = None
    macs_left: float | None = None

    def __repr__(self) -> str:
        where = f" on {self.backend}" if self.backend else ""
        latency = "" if self.estimate is None else f", {times(self.estimate)} latency"
        return f"<Advice: {self.method}{where} {self.word}{latency}>"


def structured(evidence: Evidence, spent: Spent) -> Advice:
    """Fewer units: what `prune --target macs=50%` leaves of a run."""
    sizes, trial = evidence.sizes, evidence.trial("structured", spent.backend)
    figures: dict[str, object] = {
        "contractions": spent.contractions,
        "overhead": spent.overhead,
        "reachable": sizes.reachable,
    }
    if not sizes.reachable or (trial is not None and not trial.amount):
        met = "" if trial is None else trial.reason
        why = met if sizes.reachable else "no unit of this model can be removed"
        return Advice(
            "structured", spent.backend, "does not pay", 1.0, None, why, "", facts.REACH, figures,
            low=1.0, high=1.0,
        )  # fmt: skip
    remaining, low, high = _latency(trial, amdahl(spent.contractions, _HALF))
    amount = _TARGET if trial is None else trial.amount
    share = percent(spent.contractions)
    word: Word = "pays" if remaining <= WORTH else "does not pay"
    if word == "does not pay" and low <= WORTH and high > _UNSURE * low:
        word = "may pay"
    fact = facts.AMDAHL if word == "does not pay" else facts.MACS
    reason = f"{share} of a run are convolutions and products"
    if word == "does not pay" and spent.contractions < WORTH:
        reason = f"only {reason}"
    why = f"{reason}; {amount} leaves {_amount(trial, remaining)} of the latency"
    if not evidence.calib and word != "does not pay":
        why += f"; {DATA} are your inputs, by which the cut is chosen, refitted and judged"
    return Advice(
        "structured",
        spent.backend,
        word,
        remaining,
        None if trial is None else trial.bytes,
        why,
        "" if word == "does not pay" else _prune(evidence, f"--target {amount}", spent.backend),
        fact,
        figures,
        low=low,
        high=high,
        macs_left=_HALF if trial is None else trial.macs,
    )


def int8(evidence: Evidence, spent: Spent) -> Advice:
    """Products in INT8, where there are instructions for them."""
    here = sorted(_VNNI & set(evidence.features))
    trial = evidence.trial("int8", spent.backend)
    gpu = _is_gpu(spent.backend)
    fact = facts.INT8_GPU if gpu else facts.INT8_X86
    figures: dict[str, object] = {"contractions": spent.contractions, "features": here}
    remaining, low, high = _latency(trial, amdahl(spent.contractions, _INT8_FACTOR))
    word: Word = "does not pay"
    command = ""
    if not tries_int8(evidence, spent.backend):
        remaining = low = high = 1.0
        why = "this CPU has no instruction for int8 products (VNNI, AMX, dot product)"
        if evidence.sizes.quantized:
            why = "the model is quantized already"
    elif trial is not None and trial.bytes is None:
        remaining = low = high = 1.0
        why = f"it cannot be quantized: {trial.reason}"
    elif remaining > WORTH:
        share = percent(spent.contractions)
        why = f"{share} of a run are convolutions and products; int8 leaves "
        why += f"{_amount(trial, remaining)} of the latency"
    else:
        # Not "pays": what it costs in accuracy, only data tell.
        word = "may pay"
        with_what = ", ".join(here) if here else "tensor cores"
        why = (
            f"{percent(spent.contractions)} of a run are convolutions and products, and there is "
            f"{with_what}: {_amount(trial, remaining)} of the latency; look at the accuracy"
        )
        command = _quantize(evidence, evidence.model, spent.backend)
    bytes_left = _INT8_BYTES if trial is None else trial.bytes
    return Advice(
        "int8",
        spent.backend,
        word,
        remaining,
        bytes_left if word != "does not pay" else None,
        why,
        command,
        fact,
        figures,
        low=low,
        high=high,
    )


def tries_int8(evidence: Evidence, backend: str) -> bool:
    """Whether int8 can be faster at all: the model is in floats and the machine multiplies int8."""
    able = bool(_VNNI & set(evidence.features)) or _is_gpu(backend)
    return able and not evidence.sizes.quantized


def sparse_int8(evidence: Evidence, spent: Spent) -> Advice:
    """OpenVINO's sparse INT8 kernel: large linear layers and AMX."""
    share = evidence.sizes.large_linear
    amx = "amx_int8" in evidence.features
    remaining = amdahl(spent.contractions * share, _INT8_FACTOR * _SPARSE_FACTOR)
    figures: dict[str, object] = {"large_linear": share, "amx_int8": amx}
    word: Word = "does not pay"
    command = ""
    if not amx:
        why, remaining = "this CPU has no AMX, which OpenVINO's sparse kernel is written for", 1.0
    elif remaining > WORTH:
        why = f"{percent(share)} of the weights are in linear layers of 4096 x 4096 or more"
    else:
        word = "may pay"
        why = (
            f"{percent(share)} of the weights are in linear layers of 4096 x 4096 or more; from 70 "
            f"% zeros on they run faster, {times(remaining)} at best; look at the accuracy"
        )
        sparse = _prune(evidence, "--sparsity 0.8", "", "sparse.onnx")
        command = f"{sparse} && {_quantize(evidence, 'sparse.onnx', 'openvino-sparse')}"
    return Advice(
        "sparse-int8",
        spent.backend,
        word,
        remaining,
        None,
        why,
        command,
        facts.SPARSE_INT8,
        figures,
        low=remaining,
        high=1.0,
    )


def two_four(evidence: Evidence, backend: str, spent: Spent | None) -> Advice:
    """Two of every four weights zero; ``spent`` is None where nothing was measured."""
    share = evidence.sizes.two_four
    figures: dict[str, object] = {"eligible_and_large": share}
    word: Word = "does not pay"
    remaining = 1.0
    if not is_tensorrt(backend):
        why = f"{backend} has no kernels for 2:4"
    elif share < _SOME:
        why = f"only {percent(share)} of the weights are in layers large enough"
    else:
        why = f"{percent(share)} of the weights are in layers that can run 2:4 and are large enough"
        word = "may pay"
        remaining = amdahl((spent.contractions if spent else 1.0) * share, _TWO_FOUR_FACTOR)
    command = ""
    if word != "does not pay":
        command = _prune(evidence, "--sparsity 2:4", "", "sparse.onnx")
    return Advice(
        "2:4", backend, word, remaining, None, why, command, facts.TWO_FOUR, figures,
        low=remaining, high=1.0,
    )  # fmt: skip


def zeros(evidence: Evidence) -> Advice:
    """Zeros stored packed: fewer bytes, the same time."""
    sizes = evidence.sizes
    remaining = sizes.packed / sizes.bytes if sizes.bytes else 1.0
    figures: dict[str, object] = {"bytes": sizes.bytes, "floats": sizes.floats}
    if sizes.floats < _SMALL:
        why = f"the weights are {size(sizes.floats)}: there is little to save"
        return Advice("zeros", "", "does not pay", None, None, why, "", facts.ZEROS, figures)
    why = (
        f"80 % zeros leave {times(remaining)} of {size(sizes.bytes)} of weights in the file; "
        "latency stays as it is"
    )
    command = _prune(evidence, "--sparsity 0.8 --store packed", "", "sparse.onnx")
    return Advice("zeros", "", "may pay", None, remaining, why, command, facts.ZEROS, figures)


def nothing(evidence: Evidence, spent: Spent) -> Advice:
    """Advice against pruning where no method shortens a run: the operators that the run takes."""
    slowest = [asdict(each) for each in spent.operators[:3]]
    figures: dict[str, object] = {
        "run_s": spent.run_s,
        "overhead": spent.overhead,
        "contractions": spent.contractions,
        "slowest": slowest,
    }
    if spent.overhead >= _OVERHEAD:
        why = (
            f"{percent(spent.overhead)} of a run of {measured(spent.undisturbed_s, 'seconds')} "
            "are spent between operators: larger batches or fewer nodes help, fewer channels do not"
        )
        fact = facts.OVERHEAD
    elif not evidence.sizes.reachable:
        why, fact = "no unit of this model can be removed", facts.REACH
    else:
        others = [row.op for row in spent.operators[:3]]
        why = f"a run is spent in {', '.join(others)}, where fewer units save too little"
        fact = facts.AMDAHL
    return Advice("nothing", spent.backend, "pays", 1.0, 1.0, why, "", fact, figures)


def amdahl(share: float, factor: float) -> float:
    """The remainder of a whole if ``share`` of it is multiplied by ``factor``."""
    return 1 - share + share * factor


def family(backend: str) -> str:
    """The runtime behind a backend, without the package and precision in its name."""
    name = backend.partition(":")[0].removeprefix("ort-")
    return "tensorrt" if is_tensorrt(backend) else name


def is_tensorrt(backend: str) -> bool:
    """Whether TensorRT is behind a backend, in whichever way."""
    name = backend.partition(":")[0].removeprefix("ort-")
    return name in ("tensorrt", "tensorrt-rtx", "trtexec")


def quantize_format(backend: str) -> str:
    """The backend that `quantize` writes for, to run on this one."""
    if backend == "openvino-sparse":
        return backend
    return {"openvino": "openvino", "tensorrt": "tensorrt"}.get(family(backend), "cpu")


def _latency(trial: Trial | None, best: float) -> tuple[float, float, float]:
    """The remaining share of the latency and its interval: as timed, else from the best case."""
    if trial is None or trial.latency is None:
        return best, best, 1.0
    low, high = trial.low, trial.high
    return trial.latency, trial.latency if low is None else low, high or trial.latency


def _amount(trial: Trial | None, remaining: float) -> str:
    timed = trial is not None and trial.latency is not None
    return times(remaining) if timed else f"{times(remaining)} at best"


def _is_gpu(backend: str) -> bool:
    return is_tensorrt(backend) or backend in ("cuda", "rocm", "migraphx", "dml")


def _prune(evidence: Evidence, what: str, backend: str, output: str = "") -> str:
    words = ["onnxprune", "prune", evidence.model, *what.split()]
    if backend not in ("", "cpu"):
        words += ["--backend", backend]
    named = f"-{backend.replace(':', '-')}" if backend not in ("", "cpu") else ""
    words += [*evidence.flags, *_placeholder(evidence)]
    return shlex.join([*words, "-o", output or f"pruned{named}.onnx"])


def _placeholder(evidence: Evidence) -> list[str]:
    """Inputs in a command, where the advice was given none.

    Ranges of activations take some, and a cut without any is neither refitted nor judged.
    """
    return [] if evidence.calib else ["--calib", DATA]


def _quantize(evidence: Evidence, model: str, backend: str) -> str:
    words = ["onnxprune", "quantize", model, *evidence.flags, *_placeholder(evidence)]
    written = quantize_format(backend)
    named = "" if written == "cpu" else f"-{written}"
    words += ["--backend", written] if written != "cpu" else []
    return shlex.join([*words, "-o", f"int8{named}.onnx"])
