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
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.config import QuantizeOptions
from onnxprune.data.batches import InputFormat, inputs_of, rebatch
from onnxprune.errors import OnnxpruneError, stated, suggest_glob
from onnxprune.files import ScratchFolder
from onnxprune.graph.analysis import identity
from onnxprune.jobs.quantize.preparation import LARGEST, PER_CHANNEL, in_memory
from onnxprune.jobs.quantize.purposes import dynamic_arguments, static_arguments
from onnxprune.quantities import plural
from onnxprune.runtime.complaints import load_error, plain

Feeds = Mapping[str, npt.NDArray[Any]]

_AT_ONCE = 4
"""Samples that ranges are measured on at once: all values of a network are there together."""


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


def run(
    model: models.Model,
    settings: QuantizeOptions,
    feeds: Sequence[Feeds],
    left_out: Sequence[str] = (),
) -> models.Model:
    """Quantize a prepared model.

    Args:
        model: not changed.
        settings: the options.
        feeds: inputs for the ranges of activations; unused by dynamic quantization.
        left_out: nodes that stay as they are, besides those of ``--skip``.

    Raises:
        QuantizerError: onnxruntime's quantizer refuses it.
    """
    import onnxruntime.quantization as q

    large = models.size_bytes(model) >= LARGEST
    common = {
        "nodes_to_exclude": [
            *excluded(model, settings.skip),
            *_lookups_of_activations(model),
            *left_out,
        ],
        "use_external_data_format": large,
    }
    with ScratchFolder() as folder:
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
                        per_channel=versions.get("", PER_CHANNEL) >= PER_CHANNEL,
                    )
                    if settings.ranges == "minmax":  # batches do not matter to these
                        feeds = _parts(feeds, inputs_of(model))
                    q.quantize_static(
                        source,
                        target,
                        _reader([{**empty(model), **each} for each in feeds]),
                        **common,
                        **arguments,
                    )
        except Exception as error:
            raise _refusal(str(error)) from error
        result = models.load(target)
        return result if large else in_memory(result)


def empty(model: models.Model) -> dict[str, Any]:
    """What inputs that are no tensors are fed: None for an optional, an empty sequence."""
    inputs = model.ir.graph.inputs
    kinds = {value.name or "": value.type for value in inputs if not value.is_initializer()}
    optional = {name: None for name, kind in kinds.items() if isinstance(kind, ir.OptionalType)}
    return {n: [] for n, k in kinds.items() if isinstance(k, ir.SequenceType)} | optional


def _parts(batches: Sequence[Feeds], inputs: InputFormat) -> list[Feeds]:
    """Batches of fewer samples, none joined."""
    return [part for each in batches for part in rebatch([dict(each)], inputs, _AT_ONCE)]


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
