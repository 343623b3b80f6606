"""The ids that a smaller vocabulary keeps, and the tokenizer that is written for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data.calibration import Calibration
from onnxprune.data.tokens import Tokenizer, close_ids, read_tokenizer, write_tokenizer
from onnxprune.data.vocabulary import VocabularySpec, keep_ids
from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.graph.opened import Vocabulary
from onnxprune.quantities import KeptIds


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
        samples: of calibration.
        tokenizer: whose special tokens stay; None where there is none for this vocabulary.
        unknown: id or token that removed ids are read as; by default that of the tokenizer.

    Raises:
        OnnxpruneError: a file cannot be read, an id or token is unknown, or all would stay.
    """
    of = vocabulary.inputs[0]
    kept, special, needed = set[int](), 0, 0
    for choice in choices:
        if isinstance(choice.value, tuple):
            kept |= _in_memory(choice.value, vocabulary, tokenizer)
            continue
        result = keep_ids(_spec(choice), vocabulary.size, tokenizer, _ids(vocabulary, samples))
        kept |= {int(each) for each in result.ids}
        special, needed = max(special, result.special), max(needed, result.needed)
    stands = _unknown(unknown, vocabulary, tokenizer)
    kept |= set() if stands is None else {stands}
    if len(kept) == vocabulary.size:
        raise OnnxpruneError(
            f"--vocab keeps all {vocabulary.size:,} ids of '{of}'",
            hint="keep fewer, as in --vocab top=8000",
        )
    where = ", ".join(f"'{name}'" for name in (*vocabulary.inputs, *vocabulary.outputs))
    note = f"{len(kept):,} of {vocabulary.size:,} ids stay, of {where}"
    parts = [f"{special:,} as special or basic tokens"] if special else []
    parts += [f"{needed:,} that others are built from"] if needed else []
    note += f", among them {' and '.join(parts)}" if parts else ""
    return SmallVocabulary(tuple(sorted(kept)), stands, tokenizer, (note,))


def _spec(choice: KeptIds) -> VocabularySpec:
    if choice.form == "top":
        assert isinstance(choice.value, int)
        return VocabularySpec("top", count=choice.value)
    if choice.form == "calib":
        return VocabularySpec("calib")
    return VocabularySpec(choice.form, Path(str(choice.value)))


def _in_memory(ids: Iterable[int], vocabulary: Vocabulary, tokenizer: Tokenizer | None) -> set[int]:
    """Ids that were passed as numbers, with all that the tokenizer needs."""
    outside = [each for each in ids if each >= vocabulary.size]
    if outside:
        raise OnnxpruneError(
            f"--vocab: there is no id {outside[0]}, of {vocabulary.size:,}",
            hint="these are not the ids of this model",
        )
    return {*ids} if tokenizer is None else close_ids(tokenizer, ids)


def _ids(vocabulary: Vocabulary, samples: Calibration | None) -> Iterator[npt.NDArray[np.generic]]:
    """The ids of a vocabulary in samples, batch by batch."""
    for feeds in samples or ():
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
        numbers = [number for number, piece in tokenizer.pieces.items() if piece == unknown]
        if not numbers:
            raise OnnxpruneError(
                f"--unknown {unknown}: {tokenizer.path} has no such token",
                hint=suggest(unknown, list(tokenizer.pieces.values()), "name an id"),
            )
        unknown = numbers[0]
    if unknown >= vocabulary.size:
        raise OnnxpruneError(
            f"--unknown {unknown}: there is no such id, of {vocabulary.size:,}",
            hint="name an id of the model",
        )
    return unknown
