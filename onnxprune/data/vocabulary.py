"""Which token ids a smaller vocabulary keeps, and what texts lose by it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.data.arrays import load, open_npy, open_npz
from onnxprune.data.tokens import Tokenizer, close_ids
from onnxprune.data.tokens.tokenizer import FormError
from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.model.limits import read_bytes, read_json

Array: TypeAlias = npt.NDArray[Any]
Ids: TypeAlias = npt.NDArray[np.int64]

_KEYS = ("ids", "input_ids", "vocab")
"""Keys of ids in archives."""
_SHOWN = 3
"""Tokens named in a message."""


@dataclass(frozen=True)
class KeptVocabulary:
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


def keep_ids(
    requested: Iterable[int] | Ids, size: int, tokenizer: Tokenizer | None = None
) -> KeptVocabulary:
    """The ids that a smaller vocabulary keeps: those asked for, and all that must stay with them.

    Args:
        requested: ids, as `read_ids`, `read_tokens` and `most_frequent` return them.
        size: of the vocabulary of the model; rows of its embedding.
        tokenizer: whose special tokens stay, with all that byte-pair encoding needs.

    Raises:
        OnnxpruneError: an id is not in the vocabulary, none would remain, or the tokenizer is that
            of another model.

    Example:
        >>> keep_ids([5, 1], size=8).ids
        array([1, 5])
    """
    ids = np.asarray(requested if isinstance(requested, np.ndarray) else list(requested))
    wanted = set(_checked(ids, size, "the list of kept ids", negative=False).ravel().tolist())
    fixed, everything = set[int](), wanted
    if tokenizer is not None:
        fixed = {*tokenizer.special, *tokenizer.base} - wanted
        everything = close_ids(tokenizer, wanted)
    if not everything:
        raise OnnxpruneError("no id of the vocabulary would remain", hint="name at least one")
    kept = np.array(sorted(everything), np.int64)
    if kept[-1] >= size:
        assert tokenizer is not None
        piece = tokenizer.pieces.get(int(kept[-1]), "")
        raise OnnxpruneError(
            f"{tokenizer.path} needs the id {kept[-1]} ({piece!r}), and the model has {size} ids",
            hint="give the tokenizer of this model",
        )
    needed = len(kept) - len(wanted) - len(fixed)
    return KeptVocabulary(size, kept, len(wanted), len(fixed), needed)


def count_ids(arrays: Iterable[Array], size: int) -> Ids:
    """How often every id occurs, ``[size]``.

    Args:
        arrays: of ids, in any shape; negative ones count from the end, as in ONNX.
        size: of the vocabulary.

    Raises:
        OnnxpruneError: an id is not in the vocabulary.
    """
    counts = np.zeros(size, np.int64)
    for array in arrays:
        ids = _checked(np.asarray(array), size, "the data")
        counts += np.bincount(ids.ravel(), minlength=size)
    return counts


def most_frequent(counts: Ids, count: int | None = None) -> Ids:
    """The ids that occur most, the lower ones first where several occur equally often.

    Args:
        counts: of every id, as `count_ids` returns them.
        count: how many; None for all that occur.

    Example:
        >>> most_frequent(count_ids([np.array([[5, 1, 5], [1, 5, 7]])], size=8), 2)
        array([5, 1])
    """
    order = np.argsort(-counts, kind="stable")
    occurring = int((counts > 0).sum())
    return order[: occurring if count is None else min(count, occurring)]


def read_ids(path: Path, size: int) -> Ids:
    """The ids in a file.

    Args:
        path: of an .npy file, an .npz file with one array or one under ``ids``, a .json file with a
            list, or a text file with one id per line.
        size: of the vocabulary.

    Raises:
        OnnxpruneError: it cannot be read, or an id is not in the vocabulary.
    """
    with _reading(path, "ids"):
        ids = _read_ids(path)
    return _checked(ids, size, str(path), negative=False).ravel()


def read_tokens(path: Path, tokenizer: Tokenizer) -> Ids:
    """The ids of the tokens in a file.

    Args:
        path: of a .json file with a list, or a text file with one token per line; tokens are
            written as in the tokenizer's own file (``##ing``, ``Ġthe``, ``▁the``).
        tokenizer: that knows them.

    Raises:
        OnnxpruneError: it cannot be read, or the tokenizer has no such token.
    """
    with _reading(path, "tokens"):
        tokens = _read_tokens(path)
    return find_tokens(tokens, tokenizer, str(path))


def find_tokens(tokens: Sequence[str], tokenizer: Tokenizer, where: str) -> Ids:
    """The ids of tokens; where several have the same text, all of them.

    Args:
        tokens: written as in the tokenizer's own file.
        tokenizer: that knows them.
        where: they are named, for messages.

    Raises:
        OnnxpruneError: the tokenizer has no such token.
    """
    known: dict[str, list[int]] = {}
    for number, piece in tokenizer.pieces.items():
        known.setdefault(piece, []).append(number)
    unknown = [token for token in tokens if token not in known]
    if unknown:
        few = ", ".join(repr(each[:40]) for each in unknown[:_SHOWN])
        amount = "1 token" if len(unknown) == 1 else f"{len(unknown)} tokens"
        raise OnnxpruneError(
            f"{where} names {amount} that {tokenizer.path} does not have, "
            f"{'such as ' if len(unknown) > _SHOWN else ''}{few}",
            hint=_spelling(unknown[0], known),
        )
    return np.array([each for token in tokens for each in known[token]], np.int64)


def coverage(
    kept: KeptVocabulary, samples: Iterable[Array], tokenizer: Tokenizer | None = None
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
        >>> kept = keep_ids([5, 1], size=8)
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


@contextmanager
def _reading(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise OnnxpruneError(
            f"{path} cannot be read as {what}: {reason}",
            hint="write one per line, a JSON list, or .npy for ids",
        ) from error


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
            f"{where} holds the id {wrong[0]}, and the vocabulary has {size} ids",
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


def _spelling(token: str, known: dict[str, list[int]]) -> str:
    """A hint: the same token with the mark of a word's beginning or middle, else a like one."""
    for form in (f"##{token}", f"Ġ{token}", f"▁{token}", f"{token}</w>"):
        if form in known:
            return f"tokens are written as in the tokenizer's file: did you mean {form!r}?"
    alike = [
        piece for piece in known if piece[:1] == token[:1] and abs(len(piece) - len(token)) < 3
    ]
    return suggest(token[:40], alike[:2000]) if alike else "write tokens as in the tokenizer's file"
