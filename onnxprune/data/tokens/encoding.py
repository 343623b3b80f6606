"""Texts as ids, by the library that a tokenizer's file is made for."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.data.tokens.merges import Merges
from onnxprune.data.tokens.tokenizer import Tokenizer
from onnxprune.errors import OnnxpruneError
from onnxprune.model.limits import parse_json, read_bytes

_BATCH = 256
_Encode = Callable[[list[str]], list[list[int]]]


def encode(tokenizer: Tokenizer, texts: Iterable[str]) -> Iterator[npt.NDArray[np.int64]]:
    """The ids of texts, neither cut off nor padded.

    They begin and end with special tokens where the tokenizer adds them; SentencePiece adds none.

    Args:
        tokenizer: as `read_tokenizer` returns it.
        texts: read as they are needed.

    Returns:
        One array ``[tokens]`` per text.

    Raises:
        OnnxpruneError: the library is not installed, does not load the file, or the file does not
            say how texts are split.
    """
    function = _encoder(tokenizer)
    rest = iter(texts)
    while batch := list(islice(rest, _BATCH)):
        with_ids = _guarded(tokenizer, partial(function, batch))
        yield from (np.asarray(ids, np.int64) for ids in with_ids)


def _encoder(tokenizer: Tokenizer) -> _Encode:
    match tokenizer.form:
        case "sentencepiece":
            library = _library("sentencepiece")
            data = read_bytes(tokenizer.path)
            model = _guarded(tokenizer, lambda: library.SentencePieceProcessor(model_proto=data))
            return lambda texts: list(model.encode(texts))
        case "tokenizer.json":
            library = _library("tokenizers")
            data = read_bytes(tokenizer.path)
            loaded = _guarded(tokenizer, lambda: library.Tokenizer.from_buffer(data))
        case "vocab.txt":
            library = _library("tokenizers")
            lowercase = _is_lowercase(tokenizer)
            loaded = _guarded(
                tokenizer,
                lambda: library.BertWordPieceTokenizer(dict(tokenizer.ids), lowercase=lowercase),
            )
        case _:
            rule = tokenizer.merges
            if not isinstance(rule, Merges) or rule.suffix:
                raise OnnxpruneError(
                    f"--tokenizer: {tokenizer.path} does not say how texts are split",
                    hint="give the tokenizer.json of this tokenizer",
                )
            library = _library("tokenizers")
            pairs = sorted(rule.ranks, key=lambda pair: rule.ranks[pair][0])
            loaded = _guarded(
                tokenizer, lambda: library.ByteLevelBPETokenizer(dict(tokenizer.ids), pairs)
            )
    loaded.no_truncation()
    loaded.no_padding()
    return lambda texts: [each.ids for each in loaded.encode_batch(texts)]


def _is_lowercase(tokenizer: Tokenizer) -> bool:
    """Whether texts are put into small letters, as the files say, else as the pieces are."""
    path = tokenizer.folder / "tokenizer_config.json"
    if path.is_file():
        value = parse_json(read_bytes(path)).get("do_lower_case")
        if isinstance(value, bool):
            return value
    return all(
        piece == piece.lower()
        for number, piece in tokenizer.pieces.items()
        if number not in tokenizer.special and not piece.startswith("[")
    )


def _library(name: str) -> Any:  # noqa: ANN401  a module
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise OnnxpruneError(
            f"texts cannot be tokenised: {name} is not installed",
            hint="pip install 'onnxprune[text]'",
        ) from error


def _guarded(tokenizer: Tokenizer, function: Callable[[], Any]) -> Any:  # noqa: ANN401
    """What a library returns, its errors as ours."""
    try:
        return function()
    except Exception as error:
        raise OnnxpruneError(
            f"--tokenizer: {tokenizer.path} does not work: {str(error).splitlines()[0][:200]}",
            hint="check that the library it is made for loads it",
        ) from error
