"""Whether inputs are what the first normalisation of a model expects.

Pictures in 0..255 where a model was trained on 0..1 run without an error, and give nonsense. What a
model expects is stored in it where the path of an input starts with constants (subtract a mean,
divide by a deviation) or leads, over at most one layer, to a BatchNormalization. Where that was
folded into the layer, the biases of the layer are of the size of its outputs. Some networks were
trained otherwise, so there the answers decide: on a wrong scale they collapse into few classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.data.activations.runner import Segments
from onnxprune.data.batches import Feeds
from onnxprune.graph.layers.linear import rule_of
from onnxprune.model.signature import is_floating
from onnxprune.quantities import figure
from onnxprune.runtime import open_session

F64 = npt.NDArray[np.float64]

FACTOR = 4.0
"""Factor between deviations that real data do not reach: pictures of half the light have 2."""
DISTANCE = 3.0
"""Distance of means, in deviations, that they do not reach."""
BIASES = (0.05, 30.0)
"""Sizes of a first layer's outputs, in those of its biases, that right scales stay between."""
COLLAPSED = 0.5
"""Share of one answer of several from which on answers have collapsed."""
_LEVEL, _LARGE = 0.05, 16.0
"""Deviation, and size, that inputs stay between after a normalisation by constants."""
_ANSWERS, _CLASSES = 32, 4
"""Fewest samples and classes from which on a share of answers means anything."""

_MOVING = frozenset(
    {
        *("Transpose", "Reshape", "Unsqueeze", "Squeeze", "Identity", "Cast", "Flatten"),
        *("Dropout", "Pad"),
    }
)
_SHIFTS = frozenset({"Sub", "Add"})
_SCALES = frozenset({"Div", "Mul"})
_LONGEST = 12  # nodes from an input to its normalisation


@dataclass(frozen=True, eq=False)
class Normalisation:
    """The first normalisation behind an input.

    Attributes:
        input: name of the input.
        value: that is compared with it.
        kind: ``BatchNormalization``; ``constants`` that shift and scale, or only ``scale``; the
            ``biases`` of a layer.
        mean, deviation: stored ones of each channel; of biases, 0 and their sizes; None for
            constants.
        layer: whether a layer is applied before.
        axis: of the channels.
    """

    input: str
    value: str
    kind: str
    mean: F64 | None = None
    deviation: F64 | None = None
    layer: bool = False
    axis: int = 1


def find_normalisations(model: models.Model) -> tuple[Normalisation, ...]:
    """The first normalisation behind each floating input, of those that are stored."""
    stored = models.constants(model)
    inputs = (value for value in model.ir.graph.inputs if value.name not in stored)
    each = (_behind(value) for value in inputs if _floating(value))
    return tuple(one for one in each if one is not None)


def _floating(value: ir.Value) -> bool:
    return value.dtype is not None and is_floating(np.dtype(value.dtype.numpy()))


def _behind(start: ir.Value) -> Normalisation | None:
    value, steps, layer, axis = start, set[str](), False, 1
    biases: Normalisation | None = None
    for _ in range(_LONGEST):
        readers = [node for node, _ in value.uses() if node.op_type not in ("Shape", "Size")]
        if len(readers) != 1:
            break
        node = readers[0]
        kind, position = node.op_type, list(node.inputs).index(value)
        rule = rule_of(node)
        first = rule is not None and rule.kind == "plain" and position == 0 and not (layer or steps)
        if kind == "BatchNormalization" and position == 0:
            return _batch_normalisation(start, value, node, layer=layer)
        if kind in _MOVING and position == 0 and not node.domain:
            pass
        elif kind in _SHIFTS | _SCALES and not layer and _constant_beside(node, position):
            steps.add("shift" if kind in _SHIFTS else "scale")
        elif kind == "Scaler" and node.domain == "ai.onnx.ml":
            steps |= {"shift", "scale"}
        elif rule is not None and first:
            layer, axis = True, 1 if rule.windowed else -1
            if len(node.inputs) > 2 and node.inputs[2] is not None:
                biases = _biases(start, node.outputs[0], node.inputs[2], axis)
        elif kind == "Add" and layer and biases is None and _constant_beside(node, position):
            biases = _biases(start, node.outputs[0], node.inputs[1 - position], axis)
        else:
            break
        value = node.outputs[0]
    if layer or "scale" not in steps:
        return biases
    kind = "constants" if "shift" in steps else "scale"
    return Normalisation(start.name or "", value.name or "", kind)


def _biases(
    start: ir.Value, value: ir.Value, bias: ir.Value | None, axis: int
) -> Normalisation | None:
    if bias is None or models.constant(bias) is None:
        return None
    sizes = np.abs(np.asarray(models.array_of(bias), np.float64)).ravel()
    names = start.name or "", value.name or ""
    return Normalisation(*names, "biases", np.zeros_like(sizes), sizes, layer=True, axis=axis)


def _constant_beside(node: ir.Node, position: int) -> bool:
    other = node.inputs[1 - position]
    return other is not None and models.constant(other) is not None


def _batch_normalisation(
    start: ir.Value, value: ir.Value, node: ir.Node, *, layer: bool
) -> Normalisation | None:
    stored = [each for each in node.inputs[3:5] if each is not None and models.constant(each)]
    if len(stored) < 2:
        return None
    mean, variance = (np.asarray(models.array_of(each), np.float64) for each in stored)
    epsilon = node.attributes.get("epsilon")
    small = 1e-5 if epsilon is None else float(epsilon.as_float())
    deviation = np.sqrt(np.maximum(variance, 0) + small)
    name = start.name or ""
    return Normalisation(name, value.name or "", "BatchNormalization", mean, deviation, layer)


def normalisation_notes(
    model: models.Model, batches: Sequence[Feeds], provider: str = "cpu"
) -> tuple[str, ...]:
    """A sentence for each input that is far from what its normalisation expects.

    Args:
        model: whose inputs they are; only its first nodes run.
        batches: some feeds.
        provider: execution provider.

    Raises:
        OnnxpruneError: the model does not run.
    """
    expected = find_normalisations(model)
    if not (expected and batches):
        return ()
    names = dict.fromkeys(each.value for each in expected)
    pieces = Segments(model, batches, kept=names, provider=provider)
    pieces.advance(names)
    notes = []
    for each in expected:
        values = [pieces.value(each.value, k) for k in range(len(batches))]
        note = compare(each, values)
        if note and (each.kind != "biases" or _collapsed(model, batches, provider)):
            notes.append(note)
    return tuple(notes)


def compare(expected: Normalisation, values: Sequence[npt.NDArray[np.generic]]) -> str:
    """A sentence where values are far from what is expected; empty otherwise.

    Args:
        expected: the normalisation.
        values: what it reads (a BatchNormalization) or gives (constants, biases), with samples
            along the first axis.
    """
    if expected.mean is None or expected.deviation is None:
        return _compare_constants(expected, values)
    axis, count = expected.axis, len(expected.deviation)
    if any(v.ndim < 2 or v.shape[axis] != count or not v.size for v in values):
        return ""
    channels = [np.moveaxis(v.astype(np.float64), axis, 0).reshape(count, -1) for v in values]
    joined = np.concatenate(channels, axis=1)
    if joined.shape[1] < 2:
        return ""
    mean, deviation = joined.mean(1), joined.std(1)
    live = expected.deviation > 1e-3 * np.median(expected.deviation)  # others are never active
    if not live.any():
        return ""
    factor = float(np.median(deviation[live] / expected.deviation[live]))
    if expected.kind == "biases":
        return _compare_biases(expected, factor)
    distance = float(np.median(np.abs(mean - expected.mean)[live] / expected.deviation[live]))
    if 1 / FACTOR <= factor <= FACTOR and distance <= DISTANCE:
        return ""
    before = "values behind the first layer" if expected.layer else "values"
    stored = figure(float(np.median(expected.deviation[live])))
    seen = figure(float(np.median(deviation[live])))
    far = f", with means {figure(distance)} deviations off" if distance > DISTANCE else ""
    return (
        f"the input '{expected.input}' is unlike what the first BatchNormalization expects: "
        f"{before} have a standard deviation of {seen} instead of {stored}{far}: check the scale "
        "and the preprocessing"
    )


def _compare_biases(expected: Normalisation, factor: float) -> str:
    least, most = BIASES
    if least <= factor <= most:
        return ""
    return (
        f"the input '{expected.input}' is on another scale than the first layer's biases: its "
        f"outputs vary by {figure(factor)} times their size, and one class is most of the answers: "
        "check the scale and the preprocessing"
    )


def _collapsed(model: models.Model, batches: Sequence[Feeds], provider: str) -> bool:
    """Whether one class is most of the answers; without classes, that is not known."""
    session = open_session(model, provider=provider, arena=False)
    answers = []
    for batch in batches:
        outputs = session.run(batch).values()
        scores = [each for each in outputs if isinstance(each, np.ndarray) and each.ndim == 2]
        if len(scores) != 1 or scores[0].shape[1] < _CLASSES:
            return False
        answers.append(scores[0].argmax(1))
    joined = np.concatenate(answers)
    return len(joined) >= _ANSWERS and np.bincount(joined).max() > COLLAPSED * len(joined)


def _compare_constants(expected: Normalisation, values: Sequence[npt.NDArray[np.generic]]) -> str:
    joined = np.concatenate([each.astype(np.float64).ravel() for each in values])
    if not joined.size:
        return ""
    mean, deviation, largest = joined.mean(), joined.std(), np.abs(joined).max()
    level = deviation if expected.kind == "constants" else largest
    size = float(np.hypot(mean, deviation))
    if level >= _LEVEL and size <= _LARGE:
        return ""
    return (
        f"the input '{expected.input}' is unlike what the model expects: its first constants turn "
        f"it into values of mean {figure(float(mean))} and standard deviation "
        f"{figure(float(deviation))}: check the scale and the preprocessing"
    )
