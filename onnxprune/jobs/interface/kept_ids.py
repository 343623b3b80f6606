"""The ids that a smaller vocabulary keeps, and the tokenizer that is written for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data.calibration import Calibration
from onnxprune.data.tokens import Tokenizer, read_tokenizer, write_tokenizer
from onnxprune.data.vocabulary import (
    count_ids,
    find_tokens,
    keep_ids,
    most_frequent,
    read_ids,
    read_tokens,
)
from onnxprune.errors import OnnxpruneError, blame, stated
from onnxprune.graph.opened import Vocabulary
from onnxprune.quantities import KeptIds, percent


@dataclass(frozen=True, eq=False)
class SmallVocabulary:
    """The ids of a vocabulary that stay.

    Attributes:
        kept: ascending.
        unknown: the id that removed ones are read as; None where there is none.
        tokenizer: of these ids; None where none was given.
        notes: whole sentences.
    """

    kept: tuple[int, ...] = ()
    unknown: int | None = None
    tokenizer: Tokenizer | None = None
    notes: tuple[str, ...] = ()

    def check(self, path: Path) -> None:
        """Refuse to write a model beside the tokenizer that it was made with.

        Raises:
            OnnxpruneError: the new tokenizer would take the place of the original.
        """
        if self.tokenizer is not None:
            refuse_same_folder(self.tokenizer.folder, path)

    def write(self, folder: Path) -> list[Path]:
        """Write the tokenizer of the new ids into a folder; nothing where there is none.

        Raises:
            OnnxpruneError: a file would replace one of the original's, or cannot be written.
        """
        if self.tokenizer is None:
            return []
        return write_tokenizer(self.tokenizer, self.kept, folder)


def refuse_same_folder(folder: Path, path: Path) -> None:
    """Refuse an output in the folder of the tokenizer, whose files would be replaced.

    Raises:
        OnnxpruneError: it is there.
    """
    if folder.resolve() == path.parent.resolve():
        raise OnnxpruneError(
            f"the new tokenizer would replace the one in {folder}",
            hint=f"write the model to another folder, as in -o small/{path.name}",
        )


def tokenizer_of(config: Options) -> Tokenizer | None:
    """The tokenizer that options name.

    Raises:
        OnnxpruneError: it cannot be read.
    """
    return None if config.tokenizer is None else read_tokenizer(Path(config.tokenizer))


def small_vocabulary(
    choices: Sequence[KeptIds],
    vocabulary: Vocabulary,
    samples: Calibration | None,
    tokenizer: Tokenizer | None = None,
    unknown: int | str | None = None,
) -> SmallVocabulary:
    """The ids that options keep of one vocabulary.

    Args:
        choices: that keep some; all of them together stay.
        vocabulary: of the model.
        samples: of calibration; ids are counted in all that the data hold.
        tokenizer: whose special tokens stay; None where there is none for this vocabulary.
        unknown: id or token that removed ids are read as; by default that of the tokenizer.

    Raises:
        OnnxpruneError: a file cannot be read, an id or token is unknown, or all would stay.
    """
    size = vocabulary.size
    if samples is not None:  # ids are counted in all of them, not only in --calib-samples
        samples = replace(samples, indices=None)
    stands = _unknown(unknown, vocabulary, tokenizer)
    requested = {
        int(each)
        for choice in choices
        for each in _requested(choice, vocabulary, samples, tokenizer)
    }
    if stands is not None and unknown is not None:  # that of the tokenizer stays anyway
        requested.add(stands)
    with blame("--vocab"):
        kept = keep_ids(requested, size, tokenizer)
    if len(kept) == size:
        raise OnnxpruneError(
            f"--vocab keeps all {size:,} ids of '{vocabulary.inputs[0]}'",
            hint="keep fewer, as in --vocab top=8000",
        )
    where = ", ".join(f"'{name}'" for name in (*vocabulary.inputs, *vocabulary.outputs))
    note = f"{len(kept):,} of {size:,} ids stay, of {where}"
    parts = [f"{kept.special:,} as special or basic tokens"] if kept.special else []
    parts += [f"{kept.needed:,} that others are built from"] if kept.needed else []
    note += f", among them {' and '.join(parts)}" if parts else ""
    notes = [note]
    if samples is not None and any(choice.form in ("calib", "top") for choice in choices):
        notes += _unseen(vocabulary, samples)
    return SmallVocabulary(tuple(kept.ids.tolist()), stands, tokenizer, tuple(notes))


def _unseen(vocabulary: Vocabulary, samples: Calibration) -> list[str]:
    """What other texts will lose, told from ids that one sample alone holds.

    Counted in all samples but one, the ids would not have covered that one (leave-one-out).
    """
    holders = np.full(vocabulary.size, -1, np.int64)
    alone = np.zeros(vocabulary.size, np.bool_)
    count = 0
    for feeds in samples:
        arrays = [np.asarray(feeds[name]) for name in vocabulary.inputs if name in feeds]
        rows = [array.reshape(len(array), -1) for array in arrays if array.ndim > 1]
        for row in np.concatenate(rows, axis=1) if rows else ():
            own = np.unique(row.astype(np.int64) % vocabulary.size)
            alone[own] = holders[own] < 0
            holders[own] = count
            count += 1
    lossy = len(np.unique(holders[alone]))
    note = (
        f"{lossy:,} of {count:,} samples ({percent(lossy / max(count, 1))}) hold an id that no "
        "other has: about as many of other texts like these will lose one"
    )
    return [note] if lossy else []


def _requested(
    choice: KeptIds,
    vocabulary: Vocabulary,
    samples: Calibration | None,
    tokenizer: Tokenizer | None,
) -> Iterable[int]:
    """The ids that one choice keeps."""
    with blame("--vocab"):
        match choice.form, choice.value:
            case _, tuple() as ids:
                return ids
            case "ids", file:
                return read_ids(Path(str(file)), vocabulary.size)
            case "tokens", file:
                if tokenizer is None:
                    raise OnnxpruneError(
                        f"--vocab {choice} names tokens, and no tokenizer that knows them",
                        hint="give --tokenizer with the tokenizer of the model, or ids:FILE",
                    )
                return read_tokens(Path(str(file)), tokenizer)
            case _, count:
                counts = count_ids(_ids(vocabulary, samples), vocabulary.size)
                return most_frequent(counts, count if isinstance(count, int) else None)


def _ids(vocabulary: Vocabulary, samples: Calibration | None) -> Iterator[npt.NDArray[np.generic]]:
    """The ids of a vocabulary in samples, batch by batch."""
    for feeds in () if samples is None else samples:
        for name in vocabulary.inputs:
            if name in feeds:
                yield np.asarray(feeds[name])


def _unknown(
    unknown: int | str | None, vocabulary: Vocabulary, tokenizer: Tokenizer | None
) -> int | None:
    """The id that removed ones are read as."""
    if unknown is None:
        return None if tokenizer is None else tokenizer.unknown
    if isinstance(unknown, str):
        assert tokenizer is not None  # as the options were checked
        with blame("--unknown"):
            unknown = int(find_tokens([unknown], tokenizer, "the option")[0])
    if unknown >= vocabulary.size:
        raise OnnxpruneError(
            f"{stated('--unknown', unknown)}: there is no such id, of {vocabulary.size:,}",
            hint="name an id of the model",
        )
    return unknown
