"""The ids that a smaller vocabulary keeps, from files, tokens and calibration samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data.calibration import Calibration
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.opened import Vocabulary
from onnxprune.quantities import KeptIds


@dataclass(frozen=True, eq=False)
class IdSources:
    """Ids that stay, and where they come from.

    Attributes:
        kept: ascending.
        unknown: the id that removed ones are read as; None where there is none.
        notes: whole sentences.
    """

    kept: tuple[int, ...] = ()
    unknown: int | None = None
    notes: tuple[str, ...] = ()


def kept_ids(
    choices: Sequence[KeptIds],
    vocabulary: Vocabulary,
    config: Options,
    samples: Calibration | None,
) -> IdSources:
    """The ids that options keep of one vocabulary.

    Raises:
        OnnxpruneError: a file cannot be read, or an id is out of range.
    """
    kept: set[int] = set()
    for choice in choices:
        kept |= {*_ids(choice, vocabulary, samples)}
    outside = [each for each in kept if not 0 <= each < vocabulary.size]
    if outside:
        raise OnnxpruneError(
            f"--vocab: there is no id {outside[0]}, of {vocabulary.size:,}",
            hint="the ids are those of another tokenizer",
        )
    if not kept:
        raise OnnxpruneError("--vocab keeps no id", hint="name those that stay")
    return IdSources(tuple(sorted(kept)))


def _ids(choice: KeptIds, vocabulary: Vocabulary, samples: Calibration | None) -> Iterable[int]:
    if isinstance(choice.value, tuple):
        return choice.value
    if choice.form == "ids":
        with open(str(choice.value), encoding="utf-8") as file:
            return [int(line) for line in file if line.strip()]
    assert samples is not None
    counts = count_ids(vocabulary, samples)
    if choice.form == "calib":
        return np.flatnonzero(counts).tolist()
    assert isinstance(choice.value, int)
    order = np.argsort(-counts, kind="stable")[: choice.value]
    return order[counts[order] > 0].tolist()


def count_ids(vocabulary: Vocabulary, samples: Calibration) -> npt.NDArray[np.int64]:
    """How often each id of a vocabulary occurs in samples, ``[size]``."""
    counts = np.zeros(vocabulary.size, np.int64)
    for feeds in samples:
        for name in vocabulary.inputs:
            if name in feeds:
                ids = np.asarray(feeds[name]).astype(np.int64).ravel() % vocabulary.size
                counts += np.bincount(ids, minlength=vocabulary.size)
    return counts


def unknown_id(config: Options, vocabulary: Vocabulary, sources: IdSources) -> int | None:
    """The id that removed ones are read as."""
    if isinstance(config.unknown, int):
        if config.unknown >= vocabulary.size:
            raise OnnxpruneError(
                f"--unknown {config.unknown}: there is no such id, of {vocabulary.size:,}",
                hint="name an id of the model",
            )
        return config.unknown
    return sources.unknown
