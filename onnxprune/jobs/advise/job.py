"""Advice for one model: measure, try, judge."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from typing import Any

import onnx_ir as ir

from onnxprune import model as models
from onnxprune.config import AdviseOptions, FilePath, Options, split
from onnxprune.data.ranks import with_ranks
from onnxprune.errors import OnnxpruneError, as_path
from onnxprune.evaluate.environment import environment, is_busy
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.advise.evidence import Evidence, Sizes, Spent
from onnxprune.jobs.advise.judgement import derive_advice
from onnxprune.jobs.advise.methods import Advice, tries_int8
from onnxprune.jobs.advise.trials import Feeds, run_trials
from onnxprune.jobs.bench.samples import open_samples
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.results.reachable import reachable
from onnxprune.model.decode import densify
from onnxprune.quantities import Sparsity, shape_text
from onnxprune.runtime.interface import COMPILED, stored_precision
from onnxprune.runtime.profiling import profile
from onnxprune.runtime.registry import Backend, parse
from onnxprune.sparse.eligibility import Layer, layers
from onnxprune.sparse.targets import find_targets

Progress = Callable[[str], None]

_LARGE = 256
_LINEAR = ("MatMul", "Gemm")
_SPARSE_KERNEL = 4096 * 4096
_ZEROS = 0.8
"""Share of the weights that the advice on zeros makes zero."""


@dataclass(frozen=True, repr=False)
class AdviceReport:
    """What pays on a model and its backends; unpacks into evidence and advice.

    Attributes:
        evidence: what was measured and read.
        advice: everything that could be done, the most worthwhile first.
    """

    evidence: Evidence
    advice: tuple[Advice, ...]

    def __iter__(self) -> Iterator[Any]:
        return iter((self.evidence, self.advice))

    def __repr__(self) -> str:
        useful = [each for each in self.advice if each.word != "does not pay"]
        words = [str(each).removeprefix("<Advice: ").removesuffix(">") for each in useful]
        return f"<AdviceReport: {self.evidence.model}: {'; '.join(words) or 'nothing pays'}>"

    def _repr_html_(self) -> str:
        # Of the room above, so it is imported by name on demand.
        drawn = importlib.import_module("onnxprune.report.python")
        return str(drawn.advice(self.evidence, self.advice))


@keywords("advise")
def advise(
    model: FilePath,
    options: AdviseOptions | None = None,
    *,
    progress: Progress = lambda _: None,
    **fields: object,
) -> AdviceReport:
    """Try what could be done to a model on its backends, and say what pays.

    The commands of the advice are carried out here on few samples and their results timed beside
    the original, so an estimate is that of the command it stands beside.

    Args:
        model: path of the model.
        options: backends and inputs; or give the same as keywords
            (``advise("model.onnx", backend="cpu,openvino")``).
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Returns:
        The evidence, and the advice that follows from it:
        ``evidence, advice = onnxprune.advise("model.onnx")``.

    Raises:
        OnnxpruneError: the model or the inputs cannot be read, or a backend is unknown. A backend
            that cannot be profiled is part of the evidence, with the reason.
    """
    config = split("advise", fields, options)[0]
    backends = parse(",".join(config.backend))
    path = as_path(model, "model", "give the path of its file; a model in memory is saved first")
    progress(f"reading {path}")
    own = Options(calib=config.calib, preprocess=config.preprocess, shapes=config.shapes)
    onnx_model = with_ranks(models.load(path), own)
    samples, batch = open_samples(
        onnx_model, calib=config.calib, preprocess=config.preprocess, shapes=config.shapes or None
    )
    feeds = samples.timed(config.batch or samples.batch or batch or 1)
    progress("finding what can be removed")
    sizes = sizes_of(onnx_model, {name: array.shape for name, array in feeds.items()})
    evidence = Evidence(
        model=str(path),
        calib=_written(config.calib),
        sizes=sizes,
        spent=(),
        unmeasured=(),
        features=environment().features,
        busy=is_busy(),
        flags=tuple(_flags(config)),
    )
    for each in backends:
        progress(f"profiling on {each.name}")
        spent = _profiled(each, path, feeds, config.threads)
        if isinstance(spent, str):
            evidence = replace(evidence, unmeasured=(*evidence.unmeasured, (each.name, spent)))
            continue
        methods = [
            *(["structured"] if sizes.reachable else []),
            *(["int8"] if tries_int8(evidence, each.name) else []),
        ]
        inputs, busy = samples.calibration, evidence.busy
        trials = run_trials(path, each, methods, config, inputs, feeds, progress, busy=busy)
        evidence = replace(
            evidence, spent=(*evidence.spent, spent), trials=(*evidence.trials, *trials)
        )
    return AdviceReport(evidence, derive_advice(evidence))


def _profiled(backend: Backend, path: Path, feeds: Feeds, threads: int | None) -> Spent | str:
    """Where the time of a run goes on a backend, or why that cannot be told."""
    state = backend.available()
    if not state.ok:
        return state.reason
    try:
        timing = profile(backend, path, feeds, threads=threads)
    except OnnxpruneError as error:
        return error.message
    inside = sum(each.seconds for each in timing.operators if each.op == COMPILED)
    if inside > sum(each.seconds for each in timing.operators) / 2:
        return f"{backend.name} runs the model as compiled pieces and does not show their inside"
    return Spent(backend.name, timing.precision, timing.run_s, timing.operators, timing.gaps_s)


def _flags(config: AdviseOptions) -> Iterator[str]:
    """The options on inputs, as the commands of the advice repeat them."""
    if config.calib is not None:
        yield from ("--calib", _written(config.calib))
    if config.preprocess is not None:
        yield from ("--preprocess", _written(config.preprocess, "FILE.py:FUNCTION"))
    for name, sizes in config.shapes.items():
        yield from ("--shapes", f"{name}={shape_text(sizes)}")


def _written(value: object, absent: str = "DATA.npz") -> str:
    """A path or text as a command names it; ``absent`` stands for what is in memory only."""
    if value is None:
        return ""
    return str(value) if isinstance(value, str | PathLike) else absent


def sizes_of(model: models.Model, shapes: Mapping[str, tuple[int, ...]]) -> Sizes:
    """Sizes of a model, and the share that pruning can remove.

    Args:
        model: sparse and packed weights count as decoded.
        shapes: of its inputs.

    Raises:
        OnnxpruneError: it cannot be analysed.
    """
    dense, _ = densify(model)
    analysis = analyse(dense, inputs=shapes)
    costs = CostModel(analysis)
    whole = costs()
    share = reachable(analysis)
    eligible = layers(dense)
    elements = max(sum(each.elements for each in eligible), 1)
    stored = [models.constant(value) for value in models.constants(dense).values()]
    tensors = [each for each in stored if each is not None]
    return Sizes(
        bytes=sum(each.nbytes for each in tensors),
        floats=sum(each.nbytes for each in tensors if each.dtype.is_floating_point()),
        packed=_packed_bytes(dense, tensors),
        macs=whole.macs,
        params=whole.params,
        reachable=share.exact / max(share.params, 1),
        quantized=stored_precision(dense).startswith("int8"),
        two_four=sum(each.elements for each in eligible if _is_large(each)) / elements,
        large_linear=sum(
            each.elements
            for each in eligible
            if each.op in _LINEAR and each.inputs * each.outputs >= _SPARSE_KERNEL
        )
        / elements,
    )


def _packed_bytes(model: models.Model, tensors: Iterable[ir.TensorProtocol]) -> int:
    """Bytes of all weights once those that can be sparse have 80 % zeros and are stored packed.

    A packed weight is its nonzero values and one bit for each element.
    """
    total = sum(each.nbytes for each in tensors)
    for layer in find_targets(model, Sparsity(_ZEROS))[0]:
        tensor = models.constant(layer.tensor.value)
        dense = 0 if tensor is None else tensor.nbytes
        total -= max(dense - round((1 - _ZEROS) * dense) - layer.size // 8, 0)
    return total


def _is_large(layer: Layer) -> bool:
    return layer.state != "never" and min(layer.inputs, layer.outputs) >= _LARGE
