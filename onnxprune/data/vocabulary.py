"""Which token ids a smaller vocabulary keeps, and what texts lose by it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.data.arrays import load, open_npy, open_npz
from onnxprune.data.tokens import Tokenizer, close_ids
from onnxprune.data.tokens.tokenizer import FormError
from onnxprune.errors import OnnxpruneError, blame, suggest
from onnxprune.model.limits import read_bytes, read_json

Array: TypeAlias = npt.NDArray[Any]
Ids: TypeAlias = npt.NDArray[np.int64]

_OPTION = "--vocab"
_FORMS = "ids:FILE, tokens:FILE, calib or top=N"
_KEYS = ("ids", "input_ids", "vocab")
"""Keys of ids in archives."""
_SHOWN = 3


@dataclass(frozen=True)
class VocabularySpec:
    """The value of ``--vocab``.

    Attributes:
        source: of the ids: a file of ids, one of tokens, all ids in the calibration data, or the
            most frequent of these.
        file: of ids or tokens.
        count: of the most frequent ids.
    """

    source: Literal["ids", "tokens", "calib", "top"]
    file: Path | None = None
    count: int | None = None

    @property
    def needs_data(self) -> bool:
        """Whether it counts ids in calibration data."""
        return self.source in ("calib", "top")


@dataclass(frozen=True)
class KeptIds:
    """The ids that remain of a vocabulary.

    Attributes:
        size: ids before.
        ids: those that remain, ascending, ``[kept]``.
        requested: how many were asked for.
        special: how many more are special or basic tokens, which always stay.
        needed: how many more byte-pair encoding needs to build others.
    """

    size: int
    ids: Ids = field(repr=False)
    requested: int
    special: int = 0
    needed: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def mask(self) -> npt.NDArray[np.bool_]:
        """Which ids remain, ``[size]``."""
        out = np.zeros(self.size, np.bool_)
        out[self.ids] = True
        return out


@dataclass(frozen=True)
class Coverage:
    """What texts lose with the ids that are removed.

    Attributes:
        texts: number of texts.
        lossy_texts: those of them that lose a token.
        tokens: number of their tokens, special ones left out.
        lost_tokens: those of them whose id is removed.
    """

    texts: int = 0
    lossy_texts: int = 0
    tokens: int = 0
    lost_tokens: int = 0

    @property
    def text_share(self) -> float:
        """Share of texts that lose a token, 0 to 1."""
        return self.lossy_texts / self.texts if self.texts else 0.0

    @property
    def token_share(self) -> float:
        """Share of tokens that are lost, 0 to 1."""
        return self.lost_tokens / self.tokens if self.tokens else 0.0


def parse_vocabulary(text: str) -> VocabularySpec:
    """The value of ``--vocab``.

    Raises:
        OnnxpruneError: it is none.

    Example:
        >>> parse_vocabulary("top=8000").count
        8000
    """
    head, colon, file = text.partition(":")
    if colon and head in ("ids", "tokens"):
        if not file:
            raise OnnxpruneError(f"{_OPTION} {text} names no file", hint=f"write {head}:FILE")
        return VocabularySpec("ids" if head == "ids" else "tokens", Path(file))
    if text == "calib":
        return VocabularySpec("calib")
    word, equals, number = text.partition("=")
    if word == "top" and equals:
        if not (number.isascii() and number.isdigit()) or len(number) > 9 or int(number) == 0:
            raise OnnxpruneError(
                f"{_OPTION} {text}: {number!r} is no number of tokens", hint="write top=8000"
            )
        return VocabularySpec("top", count=int(number))
    raise OnnxpruneError(
        f"{_OPTION} {text} is not understood", hint=f"write one of {_FORMS}, such as top=8000"
    )


def keep_ids(
    spec: str | VocabularySpec,
    size: int,
    tokenizer: Tokenizer | None = None,
    arrays: Iterable[Array] | None = None,
) -> KeptIds:
    """The ids that a smaller vocabulary keeps.

    Args:
        spec: the value of ``--vocab``: a file of ids (``ids:``) or of tokens (``tokens:``), all ids
            in the data (``calib``), or the most frequent of them (``top=N``; of equally frequent
            ones the lower ids).
        size: of the vocabulary of the model; rows of its embedding.
        tokenizer: whose special tokens stay, with all that byte-pair encoding needs.
        arrays: of ids, for ``calib`` and ``top=N``; negative ids count from the end, as in ONNX.

    Raises:
        OnnxpruneError: a file cannot be read, an id or token is not in the vocabulary, tokens are
            named without a tokenizer, or ids are to be counted without data.

    Example:
        >>> keep_ids("top=2", 8, arrays=[np.array([[5, 1, 5], [1, 5, 7]])]).ids
        array([1, 5])
    """
    spec = parse_vocabulary(spec) if isinstance(spec, str) else spec
    if tokenizer is not None and tokenizer.special:
        highest = max(tokenizer.special)
        if highest >= size:
            raise OnnxpruneError(
                f"--tokenizer: {tokenizer.path} has a special token of the id {highest}, and the "
                f"model has {size} ids",
                hint="give the tokenizer of this model",
            )
    with blame(_OPTION):
        ids = _requested(spec, size, tokenizer, arrays)
    requested = set(ids.ravel().tolist())
    fixed, everything = set[int](), requested
    if tokenizer is not None:
        fixed = {*tokenizer.special, *tokenizer.base} - requested
        everything = close_ids(tokenizer, requested)
    if not everything:
        raise OnnxpruneError(f"{_OPTION}: no id would remain", hint="name at least one")
    kept = np.array(sorted(everything), np.int64)
    if kept[-1] >= size:
        raise OnnxpruneError(
            f"--tokenizer: the tokens that stay reach the id {kept[-1]}, and the model has {size}",
            hint="give the tokenizer of this model",
        )
    needed = len(kept) - len(requested) - len(fixed)
    return KeptIds(size, kept, len(requested), len(fixed), needed)


def coverage(
    kept: KeptIds, samples: Iterable[Array], tokenizer: Tokenizer | None = None
) -> Coverage:
    """What texts lose with the ids that are removed.

    Args:
        kept: the ids that remain.
        samples: arrays of ids; one text along the last axis, or along all but the first where there
            are several. `onnxprune.data.tokens.encode` makes them of texts.
        tokenizer: whose special tokens do not count.

    Raises:
        OnnxpruneError: an id is not in the vocabulary.

    Example:
        >>> kept = keep_ids("top=2", 8, arrays=[np.array([5, 1, 5, 1, 7])])
        >>> coverage(kept, [np.array([[5, 1], [5, 7]])]).text_share
        0.5
    """
    lost = ~kept.mask
    counts = np.ones(kept.size, np.bool_)
    if tokenizer is not None:
        counts[[each for each in tokenizer.special if each < kept.size]] = False
    texts = lossy_texts = tokens = lost_tokens = 0
    for array in samples:
        ids = _checked(np.asarray(array), kept.size, "the data")
        rows = (
            ids.reshape(len(ids), math.prod(ids.shape[1:])) if ids.ndim > 1 else ids.reshape(1, -1)
        )
        missing = lost[rows]
        texts += len(rows)
        lossy_texts += int(missing.any(axis=1).sum())
        tokens += int(counts[rows].sum())
        lost_tokens += int(missing.sum())
    return Coverage(texts, lossy_texts, tokens, lost_tokens)


def _requested(
    spec: VocabularySpec, size: int, tokenizer: Tokenizer | None, arrays: Iterable[Array] | None
) -> Ids:
    if spec.needs_data:
        if arrays is None:
            raise OnnxpruneError(
                f"{_OPTION} {spec.source} counts ids in data, and there are none",
                hint="give --calib with texts as ids, or name ids with ids:FILE",
            )
        counts = np.zeros(size, np.int64)
        for array in arrays:
            ids = _checked(np.asarray(array), size, "the data")
            counts += np.bincount(ids.ravel(), minlength=size)
        order = np.argsort(-counts, kind="stable")
        count = int((counts > 0).sum())
        return order[: count if spec.count is None else min(count, spec.count)]
    assert spec.file is not None
    path = spec.file
    try:
        if spec.source == "ids":
            return _checked(_read_ids(path), size, str(path), negative=False)
        tokens = _read_tokens(path)
    except (OSError, ValueError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise OnnxpruneError(
            f"{path} cannot be read as {spec.source}: {reason}",
            hint="write one per line, a JSON list, or .npy for ids",
        ) from error
    return _resolve(tokens, tokenizer, path)


def _checked(ids: Array, size: int, where: str, *, negative: bool = True) -> Ids:
    """Whole numbers below ``size``; negative ones count from the end."""
    if ids.size and ids.dtype.kind not in "iu":
        raise OnnxpruneError(
            f"{where} holds {ids.dtype.name}, not ids", hint="ids are whole numbers from 0"
        )
    flat = ids.ravel()
    wrong = flat[(flat >= size) | (flat < (-size if negative else 0))]
    if wrong.size:
        raise OnnxpruneError(
            f"{where} holds the id {wrong[0]}, and the vocabulary has {size}",
            hint="these are not the ids of this model",
        )
    out: Ids = ids.astype(np.int64)
    return np.where(out < 0, out + size, out)


def _read_ids(path: Path) -> Array:
    match path.suffix.lower():
        case ".npy":
            return open_npy(path)
        case ".npz":
            members = open_npz(path)
            key = next((key for key in _KEYS if key in members), None)
            if key is None and len(members) == 1:
                key = next(iter(members))
            if key is None:
                raise FormError(f"it has no array 'ids' among {', '.join(members)}")
            return np.asarray(load(members[key]))
        case ".json":
            content = read_json(path)
            if not isinstance(content, list):
                raise FormError("it is no list")
            numbers = content
        case _:
            lines = [line.strip() for line in _text(path).split("\n")]
            numbers = []
            for i, line in enumerate(lines):
                digits = line.removeprefix("-")
                if line and not (digits.isascii() and digits.isdigit()):
                    raise FormError(f"line {i + 1}: {line[:40]!r} is no id")
                numbers += [int(line)] if len(line) < 19 and line else []
                if len(line) >= 19:
                    raise FormError(f"line {i + 1}: {line[:40]!r} is no id")
    for i, number in enumerate(numbers):
        if type(number) is not int or abs(number) >= 1 << 62:
            raise FormError(f"entry {i}: {str(number)[:40]!r} is no id")
    return np.array(numbers, np.int64)


def _read_tokens(path: Path) -> list[str]:
    if path.suffix.lower() != ".json":
        lines = [line.removesuffix("\r") for line in _text(path).split("\n")]
        return [line for line in lines if line]
    content = read_json(path)
    if not isinstance(content, list):
        raise FormError("it is no list")
    for i, each in enumerate(content):
        if not isinstance(each, str):
            raise FormError(f"entry {i}: {str(each)[:40]!r} is no token")
    return content


def _text(path: Path) -> str:
    return read_bytes(path).decode("utf-8-sig")


def _resolve(tokens: Sequence[str], tokenizer: Tokenizer | None, path: Path) -> Ids:
    """The ids of tokens; where several have the same text, all of them."""
    if tokenizer is None:
        raise OnnxpruneError(
            f"{_OPTION} tokens:{path} names tokens, and there is no tokenizer that knows them",
            hint="give --tokenizer with the tokenizer of the model, or ids with ids:FILE",
        )
    known: dict[str, list[int]] = {}
    for number, piece in tokenizer.pieces.items():
        known.setdefault(piece, []).append(number)
    unknown = [token for token in tokens if token not in known]
    if unknown:
        few = ", ".join(repr(each[:40]) for each in unknown[:_SHOWN])
        amount = "1 token" if len(unknown) == 1 else f"{len(unknown)} tokens"
        raise OnnxpruneError(
            f"{path} names {amount} that {tokenizer.path} does not have, "
            f"{'such as ' if len(unknown) > _SHOWN else ''}{few}",
            hint=_spelling(unknown[0], known),
        )
    return np.array([each for token in tokens for each in known[token]], np.int64)


def _spelling(token: str, known: dict[str, list[int]]) -> str:
    """A hint: the same token with the mark of a word's beginning or middle, else a like one."""
    for form in (f"##{token}", f"Ġ{token}", f"▁{token}", f"{token}</w>"):
        if form in known:
            return f"tokens are written as in the tokenizer's file: did you mean {form!r}?"
    alike = [
        piece for piece in known if piece[:1] == token[:1] and abs(len(piece) - len(token)) < 3
    ]
    return suggest(token[:40], alike[:2000]) if alike else "write tokens as in the tokenizer's file"
