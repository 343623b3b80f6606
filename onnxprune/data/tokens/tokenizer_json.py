"""``tokenizer.json`` of Hugging Face's tokenizers library.

Source: the serialisation of the library (https://github.com/huggingface/tokenizers).
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxprune.data.tokens.merges import Merges
from onnxprune.data.tokens.tokenizer import (
    BYTE_PIECES,
    BYTE_SYMBOLS,
    SPECIAL_NAMES,
    FormError,
    Kind,
    Tokenizer,
    checked_id,
    checked_ids,
)
from onnxprune.model.limits import parse_json

_KINDS: Mapping[str, Kind] = {
    "WordPiece": "wordpiece",
    "BPE": "bpe",
    "Unigram": "unigram",
    "WordLevel": "wordlevel",
}


def parse(data: Sequence[bytes]) -> Tokenizer:
    """The tokenizer in the bytes of a ``tokenizer.json``.

    Raises:
        FormError: it is none.
    """
    document = parse_json(data[0])
    return _parse(document)


def cut(data: Sequence[bytes], places: Mapping[int, int]) -> list[bytes]:
    """The file with the tokens in ``places`` alone, under their new ids.

    Args:
        data: the bytes of the file.
        places: new id of every old one that remains.

    Raises:
        FormError: it is no ``tokenizer.json``.
    """
    document = parse_json(data[0])
    tokenizer = _parse(document)
    model = document["model"]
    if added := document.get("added_tokens"):  # the library counts anew, and skips empty ones
        effective = _added(document, tokenizer.ids)
        document["added_tokens"] = [
            token | {"id": effective[token["content"]]} for token in added if token["content"]
        ]
    for container, key, _ in _slots(document):
        container[key] = places[container[key]]
    if tokenizer.kind == "unigram":
        model["vocab"] = [each for i, each in enumerate(model["vocab"]) if i in places]
    else:
        model["vocab"] = {p: places[i] for p, i in model["vocab"].items() if i in places}
    if isinstance(tokenizer.merges, Merges):
        model["merges"] = filter_merges(model["merges"], tokenizer.merges, model["vocab"])
    return [dump_like(document, data[0])]


def filter_merges(merges: Sequence[Any], rule: Merges, pieces: Mapping[str, int]) -> list[Any]:
    """The merges whose pair and result all remain."""
    out = []
    for merge in merges:
        pair = _pair(merge)
        if pair is not None and {*pair, rule.ranks[pair][1]} <= pieces.keys():
            out.append(merge)
    return out


def parse_merges(
    merges: Any,  # noqa: ANN401  JSON
    ids: Mapping[str, int],
    prefix: str = "",
    suffix: str = "",
    place: str = "merges",
) -> Merges:
    """A table of merges.

    Args:
        merges: pairs, or texts of two pieces with a space between them.
        ids: of the pieces.
        prefix: of pieces that continue a word.
        suffix: of pieces that end one.
        place: of the merges in the file, for messages.

    Raises:
        FormError: they are none, or name a piece that is not in ``ids``.
    """
    if not isinstance(merges, list):
        raise FormError(f"{place}: it is no list")
    ranks: dict[tuple[str, str], tuple[float, str]] = {}
    for rank, merge in enumerate(merges):
        pair = _pair(merge)
        if pair is None:
            raise FormError(f"{place}[{rank}]: {str(merge)[:40]!r} is no pair of tokens")
        result = pair[0] + pair[1][len(prefix) :]
        for piece in (*pair, result):
            if piece not in ids:
                raise FormError(f"{place}[{rank}]: {piece[:40]!r} is not in the vocabulary")
        ranks[pair] = rank, result  # of a pair that comes twice, the library takes the last
    return Merges(ranks, prefix, suffix)


def dump_like(document: Any, original: bytes) -> bytes:  # noqa: ANN401  JSON
    """A JSON document as bytes, indented if the original is."""
    text = original[:4096].decode("utf-8", "replace")
    indented = "\n " in text
    width = len(text.partition("\n")[2]) - len(text.partition("\n")[2].lstrip(" "))
    out = json.dumps(
        document,
        ensure_ascii=False,
        indent=max(1, width) if indented else None,
        separators=None if indented or ", " in text[:200] else (",", ":"),
    )
    try:
        return out.encode() + (b"\n" if original.endswith(b"\n") else b"")
    except UnicodeEncodeError:  # half a surrogate pair, which JSON can escape
        return json.dumps(document).encode()


def _parse(document: Any) -> Tokenizer:  # noqa: ANN401  JSON
    model = document.get("model") if isinstance(document, dict) else None
    if not isinstance(model, dict):
        raise FormError("model: it is no mapping")
    kind = _kind(model)
    if kind == "unigram":
        scores = _scores(model.get("vocab"))
        ids = {piece: i for i, (piece, _) in enumerate(scores)}
        pieces = {i: piece for i, (piece, _) in enumerate(scores)}
        lowest = min(range(len(scores)), key=lambda i: scores[i][1])
        base = {lowest}  # ten below the lowest score is that of unknown text
        unknown = model.get("unk_id")
        if unknown is not None and checked_id(unknown, "model.unk_id") >= len(scores):
            raise FormError(f"model.unk_id: {unknown}, of {len(scores)}")
    else:
        ids = checked_ids(model.get("vocab"), "model.vocab")
        pieces = {value: piece for piece, value in ids.items()}
        base = set()
        token = model.get("unk_token")
        unknown = ids.get(token) if isinstance(token, str) else None
    rule = None
    if kind == "bpe":
        prefix, suffix = (
            _affix(model, k) for k in ("continuing_subword_prefix", "end_of_word_suffix")
        )
        rule = parse_merges(model.get("merges"), ids, prefix, suffix, "model.merges")
        base |= byte_ids(ids, prefix, suffix) if _is_byte_level(document) else set()
    elif _is_byte_level(document):
        base |= byte_ids(ids, _affix(model, "continuing_subword_prefix"))
    if model.get("byte_fallback"):
        base |= {ids[piece] for piece in BYTE_PIECES if piece in ids}
    special = {ids[piece] for piece in SPECIAL_NAMES if piece in ids}
    special |= set() if unknown is None else {unknown}
    added = _added(document, ids)
    pieces |= {i: piece for piece, i in added.items()}
    special |= set(added.values())
    special |= {
        checked_id(container[key], place)
        for container, key, place in _slots(document)
        if not place.startswith("added_tokens")  # those were read above
    }
    return Tokenizer(
        "tokenizer.json",
        kind,
        ids,
        pieces,
        frozenset(special),
        frozenset(base - special),
        unknown,
        rule,
    )


def _kind(model: Mapping[str, Any]) -> Kind:
    name = model.get("type")
    if name is None:  # files of old releases
        if "merges" in model:
            name = "BPE"
        elif isinstance(model.get("vocab"), list):
            name = "Unigram"
        else:
            name = "WordPiece" if "max_input_chars_per_word" in model else "WordLevel"
    if not isinstance(name, str) or name not in _KINDS:
        raise FormError(f"model.type: {str(name)[:40]!r} is none of {', '.join(_KINDS)}")
    return _KINDS[name]


def _scores(vocab: Any) -> list[tuple[str, float]]:  # noqa: ANN401  JSON
    if not isinstance(vocab, list) or not vocab:
        raise FormError("model.vocab: it is no list of tokens and scores")
    for i, entry in enumerate(vocab):
        match entry:
            case [str(), int() | float() as score] if math.isfinite(score):
                pass
            case _:
                raise FormError(f"model.vocab[{i}]: it is no token with its score")
    return [(piece, float(score)) for piece, score in vocab]


def _affix(model: Mapping[str, Any], key: str) -> str:
    value = model.get(key) or ""
    if not isinstance(value, str):
        raise FormError(f"model.{key}: it is no text")
    return value


def byte_ids(ids: Mapping[str, int], prefix: str = "", suffix: str = "") -> set[int]:
    """Ids of the pieces that stand for single bytes, inside a word and at its end."""
    forms = {
        start + symbol + end
        for symbol in BYTE_SYMBOLS
        for start in {"", prefix}
        for end in {"", suffix}
    }
    return {ids[form] for form in forms if form in ids}


def _is_byte_level(document: Mapping[str, Any]) -> bool:
    level: list[Any] = [document.get("normalizer"), document.get("pre_tokenizer")]
    while level:
        each = level.pop()
        if isinstance(each, dict):
            if each.get("type") == "ByteLevel":
                return True
            level += each.values()
        elif isinstance(each, list):
            level += each
    return False


def _added(document: Mapping[str, Any], ids: Mapping[str, int]) -> dict[str, int]:
    """The id that the library gives every added token: that of the model, else the next free one.

    Raises:
        FormError: they are no list of tokens, or two tokens get one id.
    """
    entries = document.get("added_tokens") or []
    if not isinstance(entries, list):
        raise FormError("added_tokens: it is no list")
    out: dict[str, int] = {}
    used = set(ids.values())
    for i, entry in enumerate(entries):
        if not isinstance(entry, dict) or not isinstance(entry.get("content"), str):
            raise FormError(f"added_tokens[{i}]: it is no token")
        checked_id(entry.get("id"), f"added_tokens[{i}].id")
        content = entry["content"]
        if content in ids:
            out[content] = ids[content]
        elif content and content not in out:
            highest = max(out.values(), default=-1)
            out[content] = max(highest + 1, len(ids))
            if out[content] in used:
                raise FormError(
                    f"added_tokens[{i}].id: the library gives {content[:40]!r} the id "
                    f"{out[content]}, which another token has"
                )
    return out


def _slots(document: Any) -> Iterator[tuple[Any, Any, str]]:  # noqa: ANN401  JSON
    """Every place of an id outside the vocabulary: container, key, and path for messages.

    Raises:
        FormError: something else stands where an id should.
    """
    for i, token in enumerate(document.get("added_tokens") or ()):
        yield token, "id", f"added_tokens[{i}].id"
    if document["model"].get("unk_id") is not None:
        yield document["model"], "unk_id", "model.unk_id"
    padding = document.get("padding")
    if padding is not None:
        if not isinstance(padding, dict):
            raise FormError("padding: it is no mapping")
        if "pad_id" in padding:
            yield padding, "pad_id", "padding.pad_id"
    yield from _processor_slots(document.get("post_processor"), "post_processor")


def _processor_slots(processor: Any, place: str) -> Iterator[tuple[Any, Any, str]]:  # noqa: ANN401
    if processor is None:
        return
    if not isinstance(processor, dict):
        raise FormError(f"{place}: it is no mapping")
    match processor.get("type"):
        case "Sequence":
            inner = _typed(processor, "processors", list, place)
            for i, each in enumerate(inner):
                yield from _processor_slots(each, f"{place}.processors[{i}]")
        case "TemplateProcessing":
            for name, token in _typed(processor, "special_tokens", dict, place).items():
                at = f"{place}.special_tokens[{name[:40]!r}]"
                if not isinstance(token, dict):
                    raise FormError(f"{at}: it is no mapping")
                listed = _typed(token, "ids", list, at)
                yield from ((listed, i, f"{at}.ids") for i in range(len(listed)))
        case "BertProcessing" | "RobertaProcessing":
            for key in ("sep", "cls"):
                pair = _typed(processor, key, list, place)
                if len(pair) != 2:
                    raise FormError(f"{place}.{key}: it is no token with its id")
                yield pair, 1, f"{place}.{key}"


def _typed(content: Mapping[str, Any], key: str, kind: type, place: str) -> Any:  # noqa: ANN401
    value = content.get(key)
    if not isinstance(value, kind):
        raise FormError(f"{place}.{key}: it is no {kind.__name__}")
    return value


def _pair(merge: Any) -> tuple[str, str] | None:  # noqa: ANN401  JSON
    parts = merge.split(" ") if isinstance(merge, str) else merge
    match parts:
        case [str() as left, str() as right]:
            return left, right
        case _:
            return None
