"""Files beside a tokenizer that hold ids or name special tokens, as transformers writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from onnxprune.data.tokens.tokenizer import FormError, checked_id

NAMES = (
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "config.json",
    "generation_config.json",
)
TOKENS = NAMES[:2]
"""Files that name special tokens; they are copied even if they hold no id."""
_ADDED, _DECODER = "added_tokens.json", "added_tokens_decoder"
_ONE = ("_token_id", "_token_ids", "_token_index")
"""Ends of keys of ids that a model cannot do without."""
_LISTS = ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids")
"""Keys of lists that lose what is removed."""
_PAIRS = "forced_decoder_ids"
_SIZE = "vocab_size"


def special_ids(name: str, document: Mapping[str, Any]) -> set[int]:
    """Ids that a file names as those of special tokens.

    Raises:
        FormError: something else stands where an id should.
    """
    out = {value for _, _, value in _slots(name, document)}
    return out | {int(key) for key in _decoder(document)}


def special_names(document: Mapping[str, Any]) -> dict[str, str]:
    """Special tokens by their role, as in ``{"unk_token": "[UNK]"}``."""
    out: dict[str, str] = {}
    listed = document.get("additional_special_tokens")
    entries = [(key, value) for key, value in document.items() if key.endswith("_token")]
    if isinstance(listed, list):
        entries += [(f"additional_special_tokens[{i}]", each) for i, each in enumerate(listed)]
    for key, value in entries:
        content = value.get("content") if isinstance(value, dict) else value
        if isinstance(content, str):
            out[key] = content
    return out


def added_pieces(name: str, document: Mapping[str, Any]) -> dict[int, str]:
    """Tokens that a file adds to a vocabulary, by id.

    Raises:
        FormError: something else stands where an id or a token should.
    """
    if name == _ADDED:
        return {value: str(key) for _, key, value in _slots(name, document)}
    out = {}
    for key, entry in _decoder(document).items():
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise FormError(f"{_DECODER}[{key}]: it is no token")
        out[int(key)] = entry["content"]
    return out


def cut(
    name: str, document: dict[str, Any], places: Mapping[int, int], size: int
) -> dict[str, Any] | None:
    """A file with new ids; None where it has none and nobody needs a copy.

    Args:
        name: of the file.
        document: its content; changed.
        places: new id of every old one that remains.
        size: ids that remain.

    Raises:
        FormError: something else stands where an id should.
    """
    changed = name in TOKENS
    for container, key, value in list(_slots(name, document)):
        container[key] = places[value]
        changed = True
    if decoder := _decoder(document):
        document[_DECODER] = {str(places[int(key)]): entry for key, entry in decoder.items()}
    if name == _ADDED:
        return document
    for level in _levels(document):
        if type(level.get(_SIZE)) is int:
            level[_SIZE], changed = size, True
        for key in _LISTS:
            if isinstance(level.get(key), list):
                level[key], changed = _filtered(level[key], places, key), True
        if isinstance(level.get(_PAIRS), list):
            level[_PAIRS], changed = _forced(level[_PAIRS], places), True
    return document if changed else None


def _levels(document: Mapping[str, Any]) -> Iterator[Any]:
    """A document and the mappings in it, such as ``text_config``."""
    yield document
    for key, value in document.items():
        if isinstance(value, dict) and key != _DECODER:
            yield from _levels(value)


def _slots(name: str, document: Mapping[str, Any]) -> Iterator[tuple[Any, Any, int]]:
    """Container, key and value of every id that has to remain."""
    if name == _ADDED:
        for key, value in document.items():
            yield document, key, checked_id(value, key[:40])
        return
    for level in _levels(document):
        for key, value in level.items():
            if not key.endswith(_ONE) or value is None:
                continue
            if isinstance(value, list):
                yield from ((value, i, checked_id(each, key)) for i, each in enumerate(value))
            elif value != -1:  # none, in some files
                yield level, key, checked_id(value, key)


def _decoder(document: Mapping[str, Any]) -> dict[str, Any]:
    decoder = document.get(_DECODER) or {}
    if not isinstance(decoder, dict):
        raise FormError(f"{_DECODER}: it is no mapping")
    for key in decoder:
        checked_id(int(key) if key.isascii() and key.isdigit() and len(key) < 9 else key, _DECODER)
    return decoder


def _filtered(ids: list[Any], places: Mapping[int, int], key: str) -> list[Any]:
    """Ids, or lists of them, of which those that lose one are left out."""
    out: list[Any] = []
    for each in ids:
        words = each if isinstance(each, list) else [each]
        new = [places.get(checked_id(word, key)) for word in words if word != -1]
        if None not in new:
            out.append(new if isinstance(each, list) else new[0] if new else each)
    return out


def _forced(pairs: list[Any], places: Mapping[int, int]) -> list[Any]:
    """Pairs of a position and an id, without those whose id is removed."""
    out = []
    for pair in pairs:
        if not isinstance(pair, list) or len(pair) != 2:
            raise FormError(f"{_PAIRS}: {str(pair)[:40]!r} is no pair of a position and an id")
        position, value = pair
        if value is None:
            out.append(pair)
        elif checked_id(value, _PAIRS) in places:
            out.append([position, places[value]])
    return out
