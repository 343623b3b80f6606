"""onnxruntime's quantizers, from model to model.

They read and write files and want an operator set with scales per channel, BatchNormalization
folded into the convolution before it, weights stored as the nodes read them, and a name for every
node.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
from onnx import version_converter

from onnxprune import model as models
from onnxprune.config import QuantizeOptions
from onnxprune.errors import OnnxpruneError, stated, suggest_glob
from onnxprune.graph.analysis import identity
from onnxprune.jobs.quantize.purposes import dynamic_arguments, static_arguments
from onnxprune.jobs.quantize.rows import as_read
from onnxprune.quantities import plural
from onnxprune.runtime.complaints import plain

Feeds = Mapping[str, npt.NDArray[Any]]

_PER_CHANNEL = 13  # first operator set whose QuantizeLinear has an axis
_LARGEST = 1 << 31  # bytes of one protobuf message


def prepared(model: models.Model) -> tuple[models.Model, tuple[str, ...]]:
    """A float model in the form that quantizers need, and notes on the changes.

    Raises:
        OnnxpruneError: onnxruntime cannot fold what has to be folded.
    """
    notes: list[str] = []
    result = models.clone(model)
    if any(n.op_type == "BatchNormalization" for g in models.graphs(result) for n in g):
        result = _folded(result)
        notes.append("BatchNormalization was folded into the convolutions before it")
    if result.ir.opset_imports.get("", _PER_CHANNEL) < _PER_CHANNEL:
        result, note = _newer(result)
        notes.append(note)
    if count := as_read(result):
        notes.append(
            f"{plural(count, 'weight')} of transposed or reshaped layers were laid out anew"
        )
    for graph in models.graphs(result):
        for node in graph:
            node.name = identity(node)  # what the user excludes by name must have one
    return result, tuple(notes)


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
                hint=suggest_glob(glob, known, f"the model has {plural(len(known), 'node')}"),
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


def run(model: models.Model, settings: QuantizeOptions, feeds: Sequence[Feeds]) -> models.Model:
    """Quantize a prepared model.

    Args:
        model: not changed.
        settings: the options.
        feeds: inputs for the ranges of activations; unused by dynamic quantization.

    Raises:
        OnnxpruneError: onnxruntime's quantizer refuses it.
    """
    import onnxruntime.quantization as q

    large = models.size_bytes(model) >= _LARGEST
    common = {
        "nodes_to_exclude": excluded(model, settings.skip) + _lookups_of_activations(model),
        "use_external_data_format": large,
    }
    with tempfile.TemporaryDirectory(prefix="onnxprune.") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        models.save(model, source, external=large)
        try:
            with _quiet():
                if settings.dynamic:
                    q.quantize_dynamic(source, target, **common, **dynamic_arguments(settings))
                else:
                    versions = model.ir.opset_imports
                    arguments = static_arguments(
                        settings,
                        convolutions=has_convolutions(model),
                        per_channel=versions.get("", _PER_CHANNEL) >= _PER_CHANNEL,
                    )
                    q.quantize_static(source, target, _reader(feeds), **common, **arguments)
        except Exception as error:
            raise OnnxpruneError(
                f"onnxruntime's quantizer refuses the model: {plain(error)}",
                hint="leave out what it names with --skip, or try --dynamic",
            ) from error
        result = models.load(target)
        return result if large else _in_memory(result)


def _reader(feeds: Sequence[Feeds]) -> Any:  # noqa: ANN401  # a class of onnxruntime's
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """Hands out one feed after the other, of all or of a range of them."""

        def __init__(self) -> None:
            self._left = iter(feeds)

        def __len__(self) -> int:
            return len(feeds)

        def set_range(self, start_index: int, end_index: int) -> None:
            """Go on with these."""
            self._left = iter(feeds[start_index:end_index])

        def get_next(self) -> dict[str, Any] | None:
            """The next feed, None after the last."""
            feed = next(self._left, None)
            return None if feed is None else dict(feed)

    return Reader()


def _folded(model: models.Model) -> models.Model:
    """What onnxruntime's basic graph optimisations, which stay standard ONNX, make of a model."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory(prefix="onnxprune.") as folder:
        source, target = Path(folder) / "float.onnx", Path(folder) / "folded.onnx"
        large = models.size_bytes(model) >= _LARGEST
        models.save(model, source, external=large)
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        if large:
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", "folded.data"
            )
        try:
            ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise OnnxpruneError(
                f"onnxruntime cannot fold BatchNormalization for quantization: {plain(error)}"
            ) from error
        result = models.load(target)
        return result if large else _in_memory(result)


def _newer(model: models.Model) -> tuple[models.Model, str]:
    """The model in an operator set that knows scales per channel, if onnx can convert it."""
    old = model.ir.opset_imports.get("", 0)
    try:
        proto = version_converter.convert_version(models.to_proto(model), _PER_CHANNEL)
        onnx.checker.check_model(proto)
    except Exception as error:  # noqa: BLE001 the converter raises whatever its C++ raises
        why = " ".join(str(error).split())[:200]
        note = f"operator set {old} knows no scales per channel, and onnx cannot convert it: {why}"
        return model, note
    return models.load(proto), f"operator set {old} was converted to {_PER_CHANNEL}"


def _in_memory(model: models.Model) -> models.Model:
    """The model without the files it came from, which are about to go.

    One too large for a message keeps them mapped, which outlives their names.
    """
    return models.load(models.to_proto(model))


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
