"""Error rates of text: CER over characters or tokens, WER over words.

Outputs are scores of tokens per step, which are decoded greedily as CTC (the best token of each
step, repetitions joined, the blank left out), or token numbers, which are taken as they are.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics.scores import Array, Batch, Metric, Reading, Score, nothing, pick

_SPACES = ("▁", "Ġ")
"""Marks that stand for a space in vocabularies: SentencePiece's, and that of byte-level BPE."""
_LETTER_SPACE = "|"
"""The same in vocabularies of letters that have no space."""

_Units: TypeAlias = Sequence[object] | Array
"""What edits are counted in: characters, words or token numbers."""


def score_text(metric: Metric, batches: Iterable[Batch]) -> Score:
    """Edits (insertions, deletions, substitutions) per character, token or word of the labels.

    The rate is that of the whole set: all edits over all units of the labels. Where labels are
    text, spaces at both ends count for nothing; where they are token numbers (negative ones are
    padding), CER counts tokens. These are jiwer's ``cer`` and ``wer``.

    Raises:
        OnnxpruneError: no output or several are tokens, text is asked for without a vocabulary, or
            the vocabulary has another number of tokens than the model.
    """
    name = ""
    edits, lengths = [np.zeros(0)], [np.zeros(0)]
    for batch in batches:
        if not name:
            name = _output_of(metric, batch)
        answers = _answers(batch, name, metric.reading)
        pairs: list[tuple[_Units, _Units]]
        if metric.kind == "wer" or batch.labels.dtype.kind == "U":
            labels = _texts(batch.labels)
            tokens = _vocabulary(batch.outputs[name], metric.reading)
            texts = ["".join(tokens[k] for k in each.tolist()) for each in answers]
            pairs = [
                (_units(metric, text), _units(metric, label))
                for text, label in zip(texts, labels, strict=True)
            ]
        else:
            rows = batch.labels.reshape(len(batch), -1)
            pairs = [(a, row[row >= 0]) for a, row in zip(answers, rows, strict=True)]
        edits.append(np.array([edit_distance(a, b) for a, b in pairs], np.float64))
        lengths.append(np.array([len(b) for _, b in pairs], np.float64))
    sums, counts = np.concatenate(edits), np.concatenate(lengths)
    if not counts.sum():
        raise nothing(metric, "all labels are empty")
    return Score(float(sums.sum() / counts.sum()), sums, counts)


def ctc_decode(scores: Array, blank: int = 0) -> list[npt.NDArray[np.int64]]:
    """Greedy decoding of CTC outputs.

    Args:
        scores: ``[samples, steps, classes]``: logits, probabilities or their logarithms.
        blank: the class that stands for no token; negative from the last one.

    Returns:
        the tokens of each sample: the best class of each step (of equal ones the first), with
        repetitions joined and blanks left out.

    Example:
        >>> ctc_decode(np.eye(3)[None, [1, 1, 0, 1, 2, 2]])[0].tolist()
        [1, 1, 2]
    """
    best = scores.argmax(-1)
    new = np.ones(best.shape, bool)
    new[:, 1:] = best[:, 1:] != best[:, :-1]
    keep = new & (best != blank % scores.shape[-1])
    return [row[kept].astype(np.int64) for row, kept in zip(best, keep, strict=True)]


def edit_distance(one: _Units, other: _Units) -> int:
    """The least number of insertions, deletions and substitutions between two sequences.

    Example:
        >>> edit_distance("kitten", "sitting")
        3
    """
    _, numbers = np.unique(np.array([*one, *other], dtype=object), return_inverse=True)
    a, b = numbers[: len(one)], numbers[len(one) :]
    places = np.arange(len(b) + 1)
    row = places.copy()
    for k, unit in enumerate(a, 1):
        best = np.minimum(row[1:] + 1, row[:-1] + (b != unit))
        row = np.concatenate([[k], best])
        row = np.minimum.accumulate(row - places) + places  # insertions, one after the other
    return int(row[-1])


def _output_of(metric: Metric, batch: Batch) -> str:
    def fits(array: Array) -> bool:
        if array.dtype.kind in "iu":
            return array.ndim == 2 and len(array) == len(batch)
        floats = array.dtype.kind == "f" or array.dtype.name == "bfloat16"
        return floats and _steps(array, len(batch)) is not None

    hint = "scores [samples, steps, tokens] or token numbers [samples, steps]"
    return pick(metric, batch, fits, f"texts of {len(batch)} samples", hint)


def _steps(array: Array, samples: int) -> Array | None:
    """Scores ``[samples, steps, classes]``; None where an output has no such form.

    Recurrent networks may put the steps first.
    """
    if array.ndim == 2 and samples == 1:
        array = array[None]
    if array.ndim != 3 or array.shape[-1] < 2:
        return None
    if len(array) == samples and not (array.shape[1] == samples == 1 < len(array)):
        return array
    return array.swapaxes(0, 1) if array.shape[1] == samples else None


def _answers(batch: Batch, name: str, reading: Reading) -> list[npt.NDArray[np.int64]]:
    """The tokens of each sample."""
    array = batch.outputs[name]
    if array.dtype.kind in "iu":
        return [row[(row >= 0) & (row != reading.blank)].astype(np.int64) for row in array]
    scores = _steps(array, len(batch))
    if scores is None:
        raise OnnxpruneError(
            f"the output '{name}' {list(array.shape)} has no scores for {len(batch)} samples",
            hint="scores are [samples, steps, tokens] or [steps, samples, tokens]",
        )
    return ctc_decode(scores, reading.blank)


def _texts(labels: Array) -> list[str]:
    if labels.dtype.kind != "U":
        raise OnnxpruneError(
            "words cannot be told from token numbers",
            hint="give labels as text, one line per sample, or measure --metric cer",
        )
    return [str(each) for each in labels]


def _units(metric: Metric, text: str) -> Sequence[str]:
    return text.split() if metric.kind == "wer" else text.strip()


def _vocabulary(output: Array, reading: Reading) -> dict[int, str]:
    """The text of every token number.

    A vocabulary has as many tokens as the model has classes; or one less, without the blank; or two
    less, without the blank and a space at the end (PaddleOCR's lists of characters).
    """
    words = [_spaced(each, reading.vocabulary) for each in reading.vocabulary]
    if not words:
        raise OnnxpruneError(
            "text is compared, and nothing says which text a token stands for",
            hint="give --vocabulary FILE: a token per line, or JSON; or labels as token numbers",
        )
    if output.dtype.kind in "iu":
        unknown = output[output >= len(words)]
        if unknown.size:
            raise OnnxpruneError(
                f"there is a token {unknown[0]}, and the vocabulary has {len(words)}",
                hint="give the vocabulary of this model with --vocabulary",
            )
        return dict(enumerate(words))
    classes = output.shape[-1]
    blank = reading.blank % classes
    if classes - len(words) in (1, 2):
        words += [" "] * (classes - len(words) - 1)
        words.insert(blank, "")
    if len(words) != classes:
        raise OnnxpruneError(
            f"the vocabulary has {len(words)} tokens, and the output {classes} classes",
            hint="give one token per class, with or without the blank, in --vocabulary",
        )
    return dict(enumerate(words))


def _spaced(token: str, vocabulary: Sequence[str]) -> str:
    if token == _LETTER_SPACE and " " not in vocabulary:
        return " "
    for mark in _SPACES:
        token = token.replace(mark, " ")
    return token
