"""SentencePiece models of all kinds.

A model is a protobuf message. Its form is declared here with the fields that hold pieces and ids;
all others pass through unread. Source: ``sentencepiece_model.proto`` of SentencePiece.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from onnxprune.data.tokens.merges import Scores
from onnxprune.data.tokens.tokenizer import FormError, Kind, Tokenizer

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = range(1, 7)
_KINDS: Mapping[int, Kind] = {1: "unigram", 2: "bpe", 3: "wordlevel", 4: "wordlevel"}
_IDS = ("unk_id", "bos_id", "eos_id", "pad_id")
_F = descriptor_pb2.FieldDescriptorProto
_MESSAGES: Mapping[str, Sequence[tuple[str, int, int | str, bool]]] = {
    # name, number, type (or message), repeated
    "Piece": [
        ("piece", 1, _F.TYPE_STRING, False),
        ("score", 2, _F.TYPE_FLOAT, False),
        ("type", 3, _F.TYPE_INT32, False),
    ],
    "TrainerSpec": [
        ("model_type", 3, _F.TYPE_INT32, False),
        ("vocab_size", 4, _F.TYPE_INT32, False),
        *((name, 40 + i, _F.TYPE_INT32, False) for i, name in enumerate(_IDS)),
    ],
    "Sample": [("input", 1, _F.TYPE_STRING, False), ("expected", 2, _F.TYPE_STRING, False)],
    "SelfTest": [("samples", 1, "Sample", True)],
    "Model": [
        ("pieces", 1, "Piece", True),
        ("trainer_spec", 2, "TrainerSpec", False),
        ("self_test_data", 4, "SelfTest", False),
    ],
}


@cache
def _model_class() -> Any:  # noqa: ANN401  made by protobuf
    file = descriptor_pb2.FileDescriptorProto(
        name="onnxprune/sentencepiece.proto", package="onnxprune.sentencepiece", syntax="proto2"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field, number, kind, repeated in fields:
            label = _F.LABEL_REPEATED if repeated else _F.LABEL_OPTIONAL
            entry = message.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                entry.type, entry.type_name = _F.TYPE_MESSAGE, f".{file.package}.{kind}"
            else:
                entry.type = kind  # type: ignore[assignment]
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{file.package}.Model"))


def _read(data: bytes) -> Any:  # noqa: ANN401  made by protobuf
    try:
        return _model_class().FromString(data)
    except DecodeError as error:
        raise FormError("it is no SentencePiece model") from error


def parse(data: Sequence[bytes]) -> Tokenizer:
    """The vocabulary in the bytes of a SentencePiece model.

    Raises:
        FormError: they are none.
    """
    model = _read(data[0])
    if not model.pieces:
        raise FormError("it holds no pieces")
    kind = _KINDS.get(model.trainer_spec.model_type or 1)
    if kind is None:
        raise FormError(f"trainer_spec.model_type: {model.trainer_spec.model_type} is no kind")
    pieces: dict[int, str] = {}
    types: dict[int, int] = {}
    scores: dict[int, float] = {}
    for i, each in enumerate(model.pieces):
        pieces[i], types[i], scores[i] = each.piece, each.type or _NORMAL, each.score
        if not pieces[i] or not math.isfinite(scores[i]) or not 1 <= types[i] <= _BYTE:
            raise FormError(f"pieces[{i}]: it is no piece with a score and a type")
    ids = {piece: i for i, piece in pieces.items()}
    if len(ids) < len(pieces):
        twice = next(piece for i, piece in pieces.items() if ids[piece] != i)
        raise FormError(f"pieces[{ids[twice]}]: {twice[:40]!r} is there twice")
    unknown = next((i for i in pieces if types[i] == _UNKNOWN), None)
    special = frozenset(i for i in pieces if types[i] in (_UNKNOWN, _CONTROL, _USER_DEFINED))
    base = {i for i in pieces if types[i] == _BYTE}
    normal = [i for i in pieces if types[i] == _NORMAL]
    rule = None
    if kind == "unigram" and normal:
        # The lowest score sets that of unknown text; up to SentencePiece 0.2.0, the highest sets
        # that of user-defined symbols.
        base |= {min(normal, key=scores.__getitem__), max(normal, key=scores.__getitem__)}
    elif kind == "bpe":
        # Unused pieces are joined, and parted again afterwards.
        base |= {i for i in pieces if types[i] == _UNUSED}
        joined = (_NORMAL, _USER_DEFINED, _UNUSED)
        rule = Scores({pieces[i]: scores[i] for i in pieces if types[i] in joined})
    return Tokenizer("sentencepiece", kind, ids, pieces, special, frozenset(base), unknown, rule)


def cut(data: Sequence[bytes], places: Mapping[int, int]) -> list[bytes]:
    """The model with the pieces in ``places`` alone, in their order.

    Samples of its own test that use other pieces are left out: SentencePiece refuses models that
    fail their test.

    Raises:
        FormError: it is no SentencePiece model.
    """
    model = _read(data[0])
    kept = [each for i, each in enumerate(model.pieces) if i in places]
    names = {each.piece for each in kept}
    samples = [
        each
        for each in model.self_test_data.samples
        if each.expected and set(each.expected.split(" ")) <= names
    ]
    size = len(model.pieces)
    out = _model_class()()
    out.CopyFrom(model)
    del out.pieces[:]
    out.pieces.extend(kept)
    if model.HasField("self_test_data"):
        del out.self_test_data.samples[:]
        out.self_test_data.samples.extend(samples)
    spec = out.trainer_spec
    if spec.HasField("vocab_size"):
        spec.vocab_size = len(kept)
    for name in _IDS:
        if spec.HasField(name) and 0 <= (old := getattr(spec, name)) < size and old in places:
            setattr(spec, name, places[old])
    return [out.SerializeToString()]
