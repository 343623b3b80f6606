"""onnxruntime's quantizers, from model to model; they read and write files."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import QuantizeOptions
from onnxprune.errors import OnnxpruneError, stated, suggest_glob
from onnxprune.graph.analysis import identity
from onnxprune.jobs.quantize import ranges
from onnxprune.jobs.quantize.preparation import LARGEST, PER_CHANNEL, in_memory
from onnxprune.jobs.quantize.purposes import dynamic_arguments, static_arguments
from onnxprune.model.files import ScratchFolder
from onnxprune.quantities import example_of
from onnxprune.runtime.complaints import load_error, plain

Feeds = Mapping[str, npt.NDArray[Any]]


class QuantizerError(OnnxpruneError):
    """onnxruntime's quantizer refuses a model.

    Attributes:
        complaint: in its words.
    """

    complaint = ""


_INT8 = frozenset(
    {"DequantizeLinear", "ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul"}
)


def is_quantized(model: models.Model) -> bool:
    """Whether a layer of a model reads stored weights of one byte or less per value."""
    stored = (
        models.constant(value)
        for graph in models.graphs(model)
        for node in graph
        if node.op_type in _INT8
        for value in node.inputs
        if value is not None
    )
    return any(each is not None and len(each.shape) > 1 for each in stored)


def float_weights(model: models.Model) -> bool:
    """Whether a model stores floating-point weights of two axes or more."""
    tensors = (models.constant(value) for value in models.constants(model).values())
    return any(t is not None and t.dtype.is_floating_point() and len(t.shape) > 1 for t in tensors)


def has_convolutions(model: models.Model) -> bool:
    """Whether a model has convolutions."""
    return any(n.op_type == "Conv" for g in models.graphs(model) for n in g)


def excluded(model: models.Model, globs: Sequence[str]) -> list[str]:
    """The nodes that are, or read a weight, called so.

    Raises:
        OnnxpruneError: a glob matches nothing.
    """
    names: list[str] = []
    for glob in globs:
        hits = [
            identity(node)
            for graph in models.graphs(model)
            for node in graph
            if node.op_type != "Constant"
            and any(
                fnmatchcase(name, glob)
                for name in (identity(node), *(v.name or "" for v in node.inputs if v is not None))
            )
        ]
        if not hits:
            known = [identity(node) for graph in models.graphs(model) for node in graph]
            raise OnnxpruneError(
                f"{stated('--skip', glob)} matches no node and no weight",
                hint=suggest_glob(glob, known, example_of(known, "node")),
            )
        names += hits
    return names


def _lookups_of_activations(model: models.Model) -> list[str]:
    """Gathers from computed tensors: quantizing those only adds conversions."""
    return [
        identity(node)
        for graph in models.graphs(model)
        for node in graph
        if node.op_type == "Gather"
        and (node.inputs[0] is None or models.constant(node.inputs[0]) is None)
    ]


@contextlib.contextmanager
def _file_of(model: models.Model) -> Iterator[Path]:
    """A prepared model in a file; what the quantizer says of it is an error of ours.

    Raises:
        QuantizerError: onnxruntime's quantizer refuses it.
    """
    with ScratchFolder() as folder:
        source = Path(folder) / "float.onnx"
        models.save(model, source, external=models.size_bytes(model) >= LARGEST)
        try:
            with _quiet():
                yield source
        except OnnxpruneError:
            raise
        except Exception as error:
            raise _refusal(str(error)) from error


def measure_ranges(
    model: models.Model, settings: QuantizeOptions, feeds: Sequence[Feeds], most: int = 1 << 29
) -> Any:  # noqa: ANN401  # onnxruntime's TensorsData
    """Ranges of the activations of a prepared model; None where they are measured at run time.

    Args:
        model: not changed.
        settings: the options.
        feeds: inputs.
        most: bytes of values that are looked at together.

    Raises:
        QuantizerError: onnxruntime's calibrator refuses it.
    """
    if settings.dynamic:
        return None
    with _file_of(model) as source:
        return ranges.measure(model, source, feeds, _arguments(model, settings), most)


def run(
    model: models.Model,
    settings: QuantizeOptions,
    activation_ranges: Any,  # noqa: ANN401  # onnxruntime's TensorsData
    left_out: Sequence[str] = (),
) -> models.Model:
    """Quantize a prepared model.

    Args:
        model: not changed.
        settings: the options.
        activation_ranges: of `measure_ranges`; unused by dynamic quantization.
        left_out: nodes that stay as they are, besides those of ``--skip``.

    Raises:
        QuantizerError: onnxruntime's quantizer refuses it.
    """
    import onnxruntime.quantization as q
    from onnxruntime.quantization import qdq_quantizer, quant_utils

    large = models.size_bytes(model) >= LARGEST
    names = [*excluded(model, settings.skip), *_lookups_of_activations(model), *left_out]
    with _file_of(model) as source:
        target = source.with_name("int8.onnx")
        if settings.dynamic:
            q.quantize_dynamic(
                source,
                target,
                nodes_to_exclude=names,
                use_external_data_format=large,
                **dynamic_arguments(settings),
            )
        else:
            arguments = _arguments(model, settings)
            quantizer = qdq_quantizer.QDQQuantizer(
                quant_utils.load_model_with_shape_infer(source),
                arguments["per_channel"],
                arguments["reduce_range"],
                arguments["weight_type"],
                arguments["activation_type"],
                activation_ranges,
                [],
                names,
                ranges.operators_of(arguments),
                arguments["extra_options"],
            )
            quantizer.quantize_model()
            quantizer.model.save_model_to_file(target, large)
        result = models.load(target)
        return result if large else in_memory(result)


def _arguments(model: models.Model, settings: QuantizeOptions) -> dict[str, Any]:
    return static_arguments(
        settings,
        convolutions=has_convolutions(model),
        per_channel=model.ir.opset_imports.get("", PER_CHANNEL) >= PER_CHANNEL,
    )


def _refusal(complaint: str) -> OnnxpruneError:
    if "is not a registered function/op" in complaint or "No Op registered" in complaint:
        return load_error("the model", complaint)
    text = plain(complaint)
    hint = "leave out what it names with --skip, or try --dynamic"
    if "while running" in text:
        hint = "the float model does not run on these inputs: check their sizes and values"
    error = QuantizerError(f"onnxruntime's quantizer refuses the model: {text}", hint=hint)
    error.complaint = text
    return error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the log and the output of the quantizer."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
