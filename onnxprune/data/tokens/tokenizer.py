"""The value of a tokenizer that was read, and the ids that a smaller one must keep."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from onnxprune.data.tokens.merges import Rule, close

Kind: TypeAlias = Literal["wordpiece", "bpe", "unigram", "wordlevel"]
Form: TypeAlias = Literal["tokenizer.json", "vocab.txt", "vocab.json", "sentencepiece"]

LARGEST = 1 << 24
"""Ids of a vocabulary; the largest published ones have 2**20."""
BYTE_PIECES = frozenset(f"<0x{byte:02X}>" for byte in range(256))
"""Pieces that stand for the bytes of a character without a piece of its own."""
SPECIAL_NAMES = frozenset(
    "[PAD] [UNK] [CLS] [SEP] [MASK] [BOS] [EOS] <pad> <unk> <s> </s> <mask> <bos> <eos> <cls> <sep>"
    " <|endoftext|> <|startoftext|> <|unk|> <|pad|>".split()
)
"""Tokens that are special in any file that does not say which are."""


def _byte_symbols() -> tuple[str, ...]:
    """The character that byte-level tokenizers write for every byte, as GPT-2 does."""
    printed = {*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    rest = iter(range(256, 512))
    return tuple(chr(byte if byte in printed else next(rest)) for byte in range(256))


BYTE_SYMBOLS = _byte_symbols()


class FormError(ValueError):
    """A place in a file does not hold what it should."""


@dataclass(frozen=True)
class Tokenizer:
    """The vocabulary of a tokenizer, and what of it a smaller one cannot do without.

    Attributes:
        form: of its file.
        kind: of its algorithm.
        ids: id of every piece of the algorithm.
        pieces: piece of every id, tokens that were added to the algorithm's included.
        special: ids that stand for no text (padding, ends, unknown, mask) or were added as whole
            tokens; always kept.
        base: ids that texts without them may need: bytes, and pieces whose score sets that of
            unknown text; always kept.
        unknown: id of unknown text, if there is one.
        merges: how pieces are joined; None where they are looked up.
        files: that the vocabulary was read from; one, or ``vocab.json`` and ``merges.txt``.
        siblings: other files of the same vocabulary in the folder that was named.
    """

    form: Form
    kind: Kind
    ids: Mapping[str, int] = field(repr=False)
    pieces: Mapping[int, str] = field(repr=False)
    special: frozenset[int]
    base: frozenset[int] = field(default=frozenset(), repr=False)
    unknown: int | None = None
    merges: Rule | None = field(default=None, repr=False)
    files: tuple[Path, ...] = ()
    siblings: tuple[Tokenizer, ...] = ()

    @property
    def size(self) -> int:
        """Smallest number above all ids."""
        return max((*self.pieces, *self.special), default=-1) + 1

    @property
    def path(self) -> Path:
        """The file, or the first of them."""
        return self.files[0]

    @property
    def folder(self) -> Path:
        """The folder of its files."""
        return self.path.parent


def close_ids(tokenizer: Tokenizer, ids: Iterable[int]) -> set[int]:
    """Ids and all that a tokenizer with them needs, so that it splits texts as before.

    A text whose tokens are all among ``ids`` has the same tokens afterwards. One exception remains:
    a word that wordpiece could not split at all, and that is therefore unknown, may be split by a
    smaller vocabulary in which a longer piece no longer leads astray; vocabularies in which every
    character of a piece is also a piece have no such words.

    Args:
        tokenizer: the original.
        ids: to keep.

    Returns:
        These, the special and basic ones, and with byte-pair encoding the pieces that they are
        built from.
    """
    out = {*ids, *tokenizer.special, *tokenizer.base}
    if tokenizer.merges is not None:
        inside = _inside(tokenizer, out)
        out |= {tokenizer.ids[each] for each in close(tokenizer.merges, inside, tokenizer.ids)}
    for sibling in tokenizer.siblings:
        pieces = {sibling.pieces[each] for each in sibling_ids(tokenizer, sibling, out)}
        extra = {tokenizer.ids[each] for each in pieces if each in tokenizer.ids} - out
        if extra:
            return close_ids(tokenizer, out | extra)
    return out


def sibling_ids(tokenizer: Tokenizer, sibling: Tokenizer, ids: Iterable[int]) -> set[int]:
    """The ids of another file of the same vocabulary for the pieces of ``ids``, closed."""
    return close_ids(sibling, (sibling.ids[each] for each in _inside(tokenizer, ids, sibling)))


def _inside(tokenizer: Tokenizer, ids: Iterable[int], within: Tokenizer | None = None) -> list[str]:
    """The pieces of ids that the algorithm of a tokenizer knows."""
    known = (within or tokenizer).ids
    pieces = (tokenizer.pieces[each] for each in ids if each in tokenizer.pieces)
    return [piece for piece in pieces if piece in known]


def checked_id(value: Any, place: str) -> int:  # noqa: ANN401  JSON
    """A value as an id.

    Raises:
        FormError: it is none.
    """
    if type(value) is not int or not 0 <= value < LARGEST:
        raise FormError(f"{place}: {str(value)[:40]!r} is no id")
    return value


def checked_ids(content: Any, place: str) -> dict[str, int]:  # noqa: ANN401  JSON
    """A mapping from pieces to ids.

    Raises:
        FormError: it is none, or is empty.
    """
    if not isinstance(content, dict) or not content:
        raise FormError(f"{place}: it is no mapping from tokens to ids")
    for piece, value in content.items():
        checked_id(value, f"{place}[{piece[:40]!r}]")
    return content
