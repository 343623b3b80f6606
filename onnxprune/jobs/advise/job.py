"""Advice for one model: measure, look, judge."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from onnxprune import model as models
from onnxprune.config import AdviseOptions, FilePath, keywords, split
from onnxprune.errors import OnnxpruneError, as_path
from onnxprune.evaluate.environment import environment, is_busy
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.advise.evidence import Evidence, Sizes, Spent
from onnxprune.jobs.advise.judgement import derive_advice
from onnxprune.jobs.advise.methods import Advice
from onnxprune.jobs.bench.samples import open_samples
from onnxprune.jobs.results.reachable import reachable
from onnxprune.model.decode import densify
from onnxprune.runtime.interface import COMPILED, stored_precision
from onnxprune.runtime.profiling import profile
from onnxprune.runtime.registry import parse
from onnxprune.sparse.eligibility import Layer, layers

Progress = Callable[[str], None]

_LARGE = 256
_LINEAR = ("MatMul", "Gemm")
_SPARSE_KERNEL = 4096 * 4096


@keywords("advise")
def advise(
    model: FilePath,
    options: AdviseOptions | None = None,
    *,
    progress: Progress = lambda _: None,
    **fields: object,
) -> tuple[Evidence, tuple[Advice, ...]]:
    """Gather evidence on a model and its backends, and derive advice.

    Args:
        model: path of the model.
        options: backends and inputs; or give the same as keywords
            (``advise("model.onnx", backend="cpu,openvino")``).
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Returns:
        The evidence, and the advice that follows from it.

    Raises:
        OnnxpruneError: the model or the inputs cannot be read, or a backend is unknown. A backend
            that cannot be profiled is part of the evidence, with the reason.
    """
    config = split("advise", fields, options)[0]
    backends = parse(",".join(config.backend))
    path = as_path(model, "model", "give the path of its file; a model in memory is saved first")
    progress(f"reading {path}")
    onnx_model = models.load(path)
    samples, batch = open_samples(
        onnx_model, calib=config.calib, preprocess=config.preprocess, shapes=config.shapes or None
    )
    feeds = samples.timed(config.batch or samples.batch or batch or 1)
    progress("finding what can be removed")
    sizes = sizes_of(onnx_model, {name: array.shape for name, array in feeds.items()})
    spent, unmeasured = [], []
    for each in backends:
        progress(f"profiling on {each.name}")
        state = each.available()
        if not state.ok:
            unmeasured.append((each.name, state.reason))
            continue
        try:
            timing = profile(each, path, feeds, threads=config.threads)
        except OnnxpruneError as error:
            unmeasured.append((each.name, error.message))
            continue
        inside = sum(one.seconds for one in timing.operators if one.op == COMPILED)
        if inside > sum(one.seconds for one in timing.operators) / 2:
            reason = f"{each.name} runs the model as compiled pieces and does not show their inside"
            unmeasured.append((each.name, reason))
            continue
        spent.append(
            Spent(each.name, timing.precision, timing.run_s, timing.operators, timing.gaps_s)
        )
    evidence = Evidence(
        model=str(path),
        calib=str(config.calib or ""),
        sizes=sizes,
        spent=tuple(spent),
        unmeasured=tuple(unmeasured),
        features=environment().features,
        busy=is_busy(),
    )
    return evidence, derive_advice(evidence)


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
    whole, half = costs(), costs(halves(analysis))
    share = reachable(analysis)
    eligible = layers(dense)
    elements = max(sum(each.elements for each in eligible), 1)
    stored = [models.constant(value) for value in models.constants(dense).values()]
    tensors = [each for each in stored if each is not None]
    return Sizes(
        bytes=sum(each.nbytes for each in tensors),
        floats=sum(each.nbytes for each in tensors if each.dtype.is_floating_point()),
        macs=whole.macs,
        params=whole.params,
        reachable=share.exact / max(share.params, 1),
        half_macs=half.macs / whole.macs if whole.macs else 1.0,
        half_params=half.params / whole.params if whole.params else 1.0,
        quantized=stored_precision(dense).startswith("int8"),
        two_four=sum(each.elements for each in eligible if _is_large(each)) / elements,
        large_linear=sum(
            each.elements
            for each in eligible
            if each.op in _LINEAR and each.inputs * each.outputs >= _SPARSE_KERNEL
        )
        / elements,
    )


def halves(analysis: Analysis) -> dict[str, tuple[int, ...]]:
    """Every second unit of every group whose removal is exact, at least one staying."""
    return {
        group.name: tuple(range(len(group) // 2))
        for group in analysis.groups
        if group.exact and len(group) > 1
    }


def _is_large(layer: Layer) -> bool:
    return layer.state != "never" and min(layer.inputs, layer.outputs) >= _LARGE
