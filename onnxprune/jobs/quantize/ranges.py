"""Ranges of activations, measured by onnxruntime's calibrators within the memory budget.

A minimum and a maximum are computed inside the network, but a histogram needs the values, so that
calibrator returns every value of the network at once. Here tensors are divided into passes that
fit, each with a calibrator of its own; ranges of one tensor do not depend on the others.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.batches import inputs_of, rebatch
from onnxprune.graph.shapes import propagate
from onnxprune.jobs.quantize.preparation import LARGEST
from onnxprune.model import Model
from onnxprune.model.files import ScratchFolder

Feeds = Mapping[str, npt.NDArray[Any]]

_AT_ONCE = 4
"""Most samples of a run: memory grows with them, speed hardly."""


def measure(
    model: Model, source: Path, feeds: Sequence[Feeds], arguments: Mapping[str, Any], most: int
) -> Any:  # noqa: ANN401  # onnxruntime's TensorsData
    """Measure the range of every activation that may be quantized.

    Args:
        model: prepared.
        source: the file that it was written to.
        feeds: inputs.
        arguments: those of `purposes.static_arguments`.
        most: bytes of values that one pass may return for one feed.

    Returns:
        onnxruntime's ``TensorsData``: a range for every name.
    """
    from onnxruntime.quantization import CalibrationMethod
    from onnxruntime.quantization.calibrate import TensorsData

    method = arguments["calibrate_method"]
    operators = operators_of(arguments)
    storage = {"use_external_data_format": models.size_bytes(model) >= LARGEST}
    batches = list(feeds)
    if method == CalibrationMethod.MinMax:  # in which batches samples come makes no difference
        inputs = inputs_of(model)
        batches = [part for each in feeds for part in rebatch([dict(each)], inputs, _AT_ONCE)]
    batches = [{**empty(model), **each} for each in batches]
    symmetric = arguments["extra_options"]["CalibTensorRangeSymmetric"]
    ranges: dict[str, Any] = {}
    with ScratchFolder() as folder:
        augmented = Path(folder) / "augmented.onnx"

        def calibrator(names: frozenset[str] | None) -> Any:  # noqa: ANN401
            kind = _calibrator(method, names)
            return kind(source, operators, str(augmented), symmetric=symmetric, **storage)

        everything = calibrator(None)
        names, _ = everything.select_tensors_to_calibrate(everything.model)
        del everything
        held = method != CalibrationMethod.MinMax
        sizes = _sizes(model, batches, names) if held else dict.fromkeys(sorted(names), 0)
        for chosen in passes(sizes, most):
            one = calibrator(chosen)
            one.augment_graph()
            one.create_inference_session()
            for each in batches:
                one.collect_data(_reader_of(each))
            ranges |= dict(one.compute_data().items())
            del one
    return TensorsData(method, ranges)


def operators_of(arguments: Mapping[str, Any]) -> list[str]:
    """The operators that arguments of ``quantize_static`` name: by default all that it knows."""
    from onnxruntime.quantization import registry

    every = {*registry.QLinearOpsRegistry, *registry.QDQRegistry}
    return arguments["op_types_to_quantize"] or sorted(every)


def passes(sizes: Mapping[str, int], most: int) -> list[frozenset[str]]:
    """Names in groups whose sizes add up to at most so much; one that is larger stands alone."""
    groups: list[set[str]] = []
    total = 0
    for name, size in sizes.items():
        if not groups or total + size > most:
            groups.append(set())
            total = 0
        groups[-1].add(name)
        total += size
    return [frozenset(each) for each in groups]


def _sizes(model: Model, feeds: Iterable[Feeds], names: Iterable[str]) -> dict[str, int]:
    """Bytes of tensors for the largest feed; those of an unknown size count as the largest."""
    largest = max(feeds, key=lambda each: sum(getattr(a, "nbytes", 0) for a in each.values()))
    shapes = {name: array.shape for name, array in largest.items() if hasattr(array, "shape")}
    facts = propagate(model, shapes)
    known = {
        name: math.prod(sizes) * (fact.dtype.itemsize if fact.dtype is not None else 4)
        for name in sorted(names)
        if (fact := facts.get(name)) is not None and (sizes := fact.sizes) is not None
    }
    unknown = max(known.values(), default=0)
    return {name: int(known.get(name, unknown)) for name in sorted(names)}


def _calibrator(method: Any, names: frozenset[str] | None) -> Any:  # noqa: ANN401
    """The calibrator of a method, for some tensors only; its runs leave no memory behind."""
    import onnxruntime as ort
    from onnxruntime.quantization import CalibrationMethod, calibrate

    base = {
        CalibrationMethod.MinMax: calibrate.MinMaxCalibrater,
        CalibrationMethod.Percentile: calibrate.PercentileCalibrater,
        CalibrationMethod.Entropy: calibrate.EntropyCalibrater,
    }[method]

    class Calibrator(base):  # type: ignore[misc, valid-type]
        """Of some tensors."""

        def select_tensors_to_calibrate(self, model: Any) -> tuple[set[str], dict[str, Any]]:  # noqa: ANN401
            """Those that the operators read or write, and that belong to this pass."""
            every, infos = super().select_tensors_to_calibrate(model)
            return every if names is None else every & names, infos

        def create_inference_session(self) -> None:
            """Open the network that returns what is collected; its runs leave no memory behind."""
            settings = ort.SessionOptions()
            settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            settings.enable_cpu_mem_arena = False
            settings.log_severity_level = 4
            settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
            self.infer_session = ort.InferenceSession(
                self.augmented_model_path, settings, providers=self.execution_providers
            )

    return Calibrator


def _reader_of(feeds: Feeds) -> Any:  # noqa: ANN401  # a class of onnxruntime's
    """A reader that hands out one feed."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        """One feed, then None."""

        def __init__(self) -> None:
            self._feeds = iter([dict(feeds)])

        def get_next(self) -> dict[str, Any] | None:
            """The feed, None after it."""
            return next(self._feeds, None)

    return Reader()


def empty(model: Model) -> dict[str, Any]:
    """What inputs that are no tensors are fed: None for an optional, an empty sequence."""
    inputs = model.ir.graph.inputs
    kinds = {value.name or "": value.type for value in inputs if not value.is_initializer()}
    optional = {name: None for name, kind in kinds.items() if isinstance(kind, ir.OptionalType)}
    return {n: [] for n, k in kinds.items() if isinstance(k, ir.SequenceType)} | optional
