"""The small trained models that ship with onnxprune, with calibration and evaluation data.

They exist so that every command can be tried, and every claim tested, without downloading anything:
``zoo.get("digits_rescnn").model`` is the path of a real, trained, over-parameterised network. All
files live in ``zoo_data`` beside this module, so they are part of every install. ``models/`` in the
source repository holds the scripts that trained them and the origins of the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from onnxprune.errors import OnnxpruneError, suggest

FOLDER = Path(__file__).parent / "zoo_data"
LABEL = "label"  # the key of the labels in an evaluation file; every other key is a model input
OUTPUT = "logits"  # what every model calls its one output

Metric = Literal["accuracy", "nats/char"]
Feeds = dict[str, NDArray[Any]]
Run = Callable[[Mapping[str, NDArray[Any]]], Mapping[str, NDArray[Any]]]


@dataclass(frozen=True)
class Entry:
    """One model of the zoo.

    Attributes:
        name: as ``get`` takes it.
        about: one line of description.
        metric: "accuracy" (0..1, higher is better) or "nats/char" (mean cross entropy, lower is).
        measured: the metric on the evaluation set, measured with onnxruntime on the .onnx file.
        model: path of the .onnx file; its inputs have a dynamic batch axis, its output is "logits".
        calibration: path of an .npz of unlabelled inputs, keyed by input name, batch axis first.
        evaluation: path of an .npz of inputs by name, and of integer class labels under "label".
    """

    name: str
    about: str
    metric: Metric
    measured: float
    model: Path
    calibration: Path
    evaluation: Path


_TASKS: dict[str, Metric] = {"digits": "accuracy", "chars": "nats/char"}
_ABOUT = {
    "digits_rescnn": "residual CNN: BatchNorm, depthwise convolutions, channel gate, concat",
    "digits_mlp": "three hidden layers, Gemm only",
    "digits_encoder": "vision transformer: fused QKV, LayerNorm, GELU, class token",
    "digits_lstm": "two bidirectional LSTM layers over the rows of a picture",
    "chars_decoder": "decoder: grouped-query attention, rotary, RMSNorm, SwiGLU, tied embedding",
}


def names() -> tuple[str, ...]:
    """The models of the zoo, the one that ``onnxprune demo`` uses first."""
    return tuple(_ABOUT)


def get(name: str) -> Entry:
    """The entry of one model.

    Raises:
        OnnxpruneError: no model has that name, or the install lacks the model's file.
    """
    if name not in _ABOUT:
        raise OnnxpruneError(f"the zoo has no model {name!r}", hint=suggest(name, _ABOUT))
    task = name.partition("_")[0]
    files = [
        FOLDER / file
        for file in (f"{name}.onnx", f"{task}_calibration.npz", f"{task}_evaluation.npz")
    ]
    for path in files:
        if not path.is_file():
            raise OnnxpruneError(
                f"{path} is missing from this install of onnxprune",
                hint="reinstall onnxprune; its wheel contains the file",
            )
    measured = json.loads((FOLDER / "measured.json").read_text(encoding="utf-8"))
    value = float(measured.get(name, "nan"))  # nan: trained just now, not measured yet
    return Entry(name, _ABOUT[name], _TASKS[task], value, *files)


def calibration(entry: Entry) -> Feeds:
    """The unlabelled inputs by name, batch axis first, in the dtype the model takes."""
    with np.load(entry.calibration) as data:
        return {key: data[key] for key in data.files}


def evaluation(entry: Entry) -> tuple[Feeds, NDArray[np.int64]]:
    """The evaluation inputs by name, and the labels: [n], or [n, length] for a language model."""
    with np.load(entry.evaluation) as data:
        return {key: data[key] for key in data.files if key != LABEL}, data[LABEL]


def score(metric: Metric, logits: NDArray[Any], labels: NDArray[np.int64]) -> float:
    """The metric of logits [..., classes] against integer labels [...].

    Raises:
        OnnxpruneError: the logits do not have one row per label.
    """
    if logits.shape[:-1] != labels.shape:
        raise OnnxpruneError(
            f"logits of shape {logits.shape} do not fit labels of shape {labels.shape}",
            hint="give one row of logits per label",
        )
    if metric == "accuracy":
        return float(np.mean(logits.argmax(-1) == labels))
    wide = logits.astype(np.float64)
    top = wide.max(-1, keepdims=True)
    log_sum = np.log(np.exp(wide - top).sum(-1)) + top[..., 0]
    chosen = np.take_along_axis(wide, labels[..., None], -1)[..., 0]
    return float(np.mean(log_sum - chosen))


def measure(entry: Entry, run: Run, *, batch: int = 100) -> float:
    """The entry's metric on its evaluation set, for the model that ``run`` executes.

    Args:
        entry: whose evaluation set and metric to use.
        run: takes inputs by name and gives outputs by name, among them "logits".
        batch: how many samples to feed at once.
    """
    feeds, labels = evaluation(entry)
    parts = [
        run({key: value[start : start + batch] for key, value in feeds.items()})[OUTPUT]
        for start in range(0, len(labels), batch)
    ]
    return score(entry.metric, np.concatenate(parts), labels)
