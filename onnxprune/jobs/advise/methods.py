"""What could be done to a model, method by method, and whether it pays on a backend.

An estimate is Amdahl's law over measured shares: the remainder of a run if a part of it shrinks by
a known factor. It is the best case; `onnxprune bench` measures the real one.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Literal

from onnxprune.jobs.advise import facts
from onnxprune.jobs.advise.evidence import Evidence, Spent
from onnxprune.jobs.advise.facts import Fact
from onnxprune.quantities import measured, percent, size, times

Method = Literal["structured", "2:4", "zeros", "int8", "sparse-int8", "nothing"]
Word = Literal["pays", "may pay", "does not pay"]

WORTH = 0.9
"""An estimate above this is not worth the trouble: less than a tenth of the latency."""
_OVERHEAD = 0.5
"""Share of a run from which on overhead is the reason."""
_VNNI = {"avx_vnni", "avx512_vnni", "amx_int8", "asimddp", "i8mm"}
_INT8_FACTOR = 0.25
"""What is left of products in INT8 at best: four to an instruction, or half the bits twice."""
_SPARSE_FACTOR = 0.45
"""What is left of large INT8 layers at 90 % zeros, as measured."""
_TWO_FOUR_FACTOR = 0.5
"""What is left of 2:4 products at best: sparse tensor cores have twice the peak."""
_SOME = 0.1
"""Shares of the weights below this are not worth a method of their own."""
_INT8_BYTES = 0.25
_PACKED = 0.23
"""Bytes left of fp32 weights with 80 % zeros, as bitmask and values."""
_SMALL = 1 << 20


@dataclass(frozen=True)
class Advice:
    """One thing that could be done, and whether to.

    Attributes:
        method: its name.
        backend: for which; empty where that does not matter.
        word: whether it pays.
        estimate: share of the latency that remains at best; None if unknown or not about latency.
        bytes_left: estimate of the share of weight bytes left; None where unknown.
        why: in a sentence.
        evidence: the numbers behind it.
        command: to run next; empty if there is none.
        fact: about the runtime, with its source.
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


def structured(evidence: Evidence, spent: Spent) -> Advice:
    """Fewer units: the share of a run that remains without half of them."""
    sizes = evidence.sizes
    remaining = amdahl(spent.contractions, sizes.half_macs)
    figures: dict[str, object] = {
        "contractions": spent.contractions,
        "overhead": spent.overhead,
        "reachable": sizes.reachable,
        "macs_left_at_half": sizes.half_macs,
    }
    word: Word = "does not pay"
    if not sizes.reachable:
        why = "no unit of this model can be removed"
        remaining, fact = 1.0, facts.REACH
    elif remaining > WORTH:
        reason = (
            f"only {percent(spent.contractions)} of a run are convolutions and products"
            if spent.contractions < WORTH
            else f"half of all units are only {percent(1 - sizes.half_macs)} of the MACs"
        )
        why = f"{reason}, so removing half of all units leaves {times(remaining)} at best"
        fact = facts.AMDAHL
    else:
        word = "pays"
        why = (
            f"{percent(spent.contractions)} of a run are convolutions and products; with half of "
            f"all units removed, {percent(sizes.half_macs)} of the MACs remain"
        )
        fact = facts.MACS
    command = "" if word == "does not pay" else _prune(evidence, "--target macs=50%", "pruned.onnx")
    left_bytes = sizes.half_params if word == "pays" else None
    return Advice(
        "structured", spent.backend, word, remaining, left_bytes, why, command, fact, figures
    )


def int8(evidence: Evidence, spent: Spent) -> Advice:
    """Products in INT8, where there are instructions for them."""
    here = sorted(_VNNI & set(evidence.features))
    remaining = amdahl(spent.contractions, _INT8_FACTOR)
    gpu = _is_gpu(spent.backend)
    fact = facts.INT8_GPU if gpu else facts.INT8_X86
    figures: dict[str, object] = {"contractions": spent.contractions, "features": here}
    word: Word = "does not pay"
    command = ""
    if evidence.sizes.quantized:
        why, remaining = "the model is quantized already", 1.0
    elif not (here or gpu):
        why, remaining = (
            "this CPU has no instruction for int8 products (VNNI, AMX, dot product)",
            1.0,
        )
    elif remaining > WORTH:
        share = percent(spent.contractions)
        why = (
            f"only {share} of a run are convolutions and products, which leaves {times(remaining)}"
        )
    else:
        # Not "pays": what conversions cost, and what accuracy does, only measuring tells.
        word = "may pay"
        with_what = ", ".join(here) if here else "tensor cores"
        why = (
            f"{percent(spent.contractions)} of a run are convolutions and products, and there is "
            f"{with_what}; look at the accuracy"
        )
        purpose = {"openvino": "openvino", "tensorrt": "tensorrt"}.get(family(spent.backend))
        command = f"onnxprune quantize {evidence.model} --calib {_calib(evidence)}"
        command += f" --backend {purpose} -o int8.onnx" if purpose else " -o int8.onnx"
    bytes_left = _INT8_BYTES if word != "does not pay" else None
    return Advice("int8", spent.backend, word, remaining, bytes_left, why, command, fact, figures)


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
            "% zeros on they run faster; look at the accuracy"
        )
        calib = _calib(evidence)
        command = (
            f"onnxprune prune {evidence.model} --sparsity 0.8 --calib {calib} -o sparse.onnx"
            f" && onnxprune quantize sparse.onnx --calib {calib} --backend openvino-sparse"
            " -o int8.onnx"
        )
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
    command = "" if word == "does not pay" else _prune(evidence, "--sparsity 2:4", "sparse.onnx")
    return Advice("2:4", backend, word, remaining, None, why, command, facts.TWO_FOUR, figures)


def zeros(evidence: Evidence) -> Advice:
    """Zeros stored packed: fewer bytes, the same time."""
    sizes = evidence.sizes
    remaining = 1 - (1 - _PACKED) * sizes.floats / sizes.bytes if sizes.bytes else 1.0
    figures: dict[str, object] = {"bytes": sizes.bytes, "floats": sizes.floats}
    if sizes.floats < _SMALL:
        why = f"the weights are {size(sizes.floats)}: there is little to save"
        return Advice("zeros", "", "does not pay", None, None, why, "", facts.ZEROS, figures)
    why = (
        f"80 % zeros leave {times(remaining)} of {size(sizes.bytes)} of weights in the file; "
        "latency stays as it is"
    )
    command = _prune(evidence, "--sparsity 0.8 --store packed", "sparse.onnx")
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


def _is_gpu(backend: str) -> bool:
    return is_tensorrt(backend) or backend in ("cuda", "rocm", "migraphx", "dml")


def _calib(evidence: Evidence) -> str:
    return evidence.calib or "DATA.npz"


def _prune(evidence: Evidence, what: str, out: str) -> str:
    return f"onnxprune prune {evidence.model} {what} --calib {_calib(evidence)} -o {out}"
