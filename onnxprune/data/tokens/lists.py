"""Vocabularies in plain lists: ``vocab.txt``, and ``vocab.json`` with ``merges.txt``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from onnxprune.data.tokens.merges import Merges
from onnxprune.data.tokens.tokenizer import SPECIAL_NAMES, FormError, Tokenizer, checked_ids
from onnxprune.data.tokens.tokenizer_json import byte_ids, dump_like, filter_merges, parse_merges
from onnxprune.model.limits import parse_json

_UNKNOWN = ("[UNK]", "<unk>", "<|unk|>")
_WORD_END = "</w>"
_HEADER = "#version"


def parse_txt(data: Sequence[bytes]) -> Tokenizer:
    """A ``vocab.txt``: one piece of wordpiece per line, its id the number of the line.

    Raises:
        FormError: it is no text, or empty.
    """
    lines = _lines(data[0])
    if not any(lines):
        raise FormError("it holds no tokens")
    if b"\0" in data[0]:
        line = data[0].partition(b"\0")[0].count(b"\n") + 1
        raise FormError(f"line {line}: it is no text")
    pieces = {i: line.rstrip() for i, line in enumerate(lines)}  # as the library reads lines
    ids = {piece: i for i, piece in pieces.items()}
    return Tokenizer("vocab.txt", "wordpiece", ids, pieces, _special(ids), unknown=_unknown(ids))


def cut_txt(data: Sequence[bytes], places: Mapping[int, int]) -> list[bytes]:
    """The lines in ``places``, in their order."""
    lines = data[0].removesuffix(b"\n").split(b"\n")
    kept = [line for i, line in enumerate(lines) if i in places]
    return [b"\n".join(kept) + (b"\n" if data[0].endswith(b"\n") else b"")]


def parse_vocab_json(data: Sequence[bytes]) -> Tokenizer:
    """A ``vocab.json``, and the ``merges.txt`` of byte-level byte-pair encoding if there is one.

    Without merges it is a table that pieces are looked up in.

    Raises:
        FormError: it is none; the message begins with ``merges.txt`` where that file is meant.
    """
    ids = checked_ids(parse_json(data[0]), "the document")
    pieces = {value: piece for piece, value in ids.items()}
    special, unknown = _special(ids), _unknown(ids)
    if len(data) == 1:
        return Tokenizer("vocab.json", "wordlevel", ids, pieces, special, unknown=unknown)
    merges = [line for line in _lines(data[1]) if line and not line.startswith(_HEADER)]
    suffix = _WORD_END if any(line.endswith(_WORD_END) for line in merges) else ""
    rule = parse_merges(merges, ids, suffix=suffix, place="merges.txt")
    base = frozenset(byte_ids(ids, suffix=suffix)) - special
    return Tokenizer("vocab.json", "bpe", ids, pieces, special, base, unknown, rule)


def cut_vocab_json(data: Sequence[bytes], places: Mapping[int, int]) -> list[bytes]:
    """The files with the pieces in ``places`` alone, under their new ids."""
    tokenizer = parse_vocab_json(data)
    ids = {piece: places[i] for piece, i in tokenizer.ids.items() if i in places}
    out = [dump_like(ids, data[0])]
    if isinstance(tokenizer.merges, Merges):
        lines = _lines(data[1])
        header = [line for line in lines[:1] if line.startswith(_HEADER)]
        merges = [line for line in lines if line and not line.startswith(_HEADER)]
        kept = filter_merges(merges, tokenizer.merges, ids)
        out.append("".join(f"{line}\n" for line in [*header, *kept]).encode())
    return out


def _lines(data: bytes) -> list[str]:
    """Lines of a text; other separators of Unicode than line feeds may be tokens.

    Raises:
        FormError: it is not UTF-8.
    """
    lines = data.decode("utf-8").removesuffix("\n").split("\n")
    return [line.removesuffix("\r") for line in lines]


def _special(ids: Mapping[str, int]) -> frozenset[int]:
    return frozenset(ids[name] for name in SPECIAL_NAMES if name in ids)


def _unknown(ids: Mapping[str, int]) -> int | None:
    return next((ids[name] for name in _UNKNOWN if name in ids), None)
