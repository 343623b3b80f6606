"""A tokenizer read from its files, and a smaller one written beside a smaller model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

from onnxprune.data.tokens import lists, model_proto, sidefiles, tokenizer_json
from onnxprune.data.tokens.tokenizer import Form, FormError, Tokenizer, close_ids, sibling_ids
from onnxprune.errors import OnnxpruneError
from onnxprune.model.files import check_target, write
from onnxprune.model.limits import parse_json, read_bytes

_OPTION = "--tokenizer"
_FORMS = "tokenizer.json, vocab.txt, vocab.json with merges.txt, or a SentencePiece .model"
_HINT = f"give {_FORMS}, or the folder that holds one"
_MERGES = "merges.txt"
_POINTER = b"version https://git-lfs.github.com/spec/"
_SHIFTED = (
    "XLMRoberta",
    "Camembert",
    "MBart",
    "Nllb",
    "XGLM",
    "Barthez",
    "Plbart",
    "XLMProphetNet",
)
"""Tokenizers whose ids are not those of their SentencePiece model."""


_T = TypeVar("_T")


@dataclass(frozen=True)
class _Format:
    """What reads and cuts one kind of file."""

    parse: Callable[[Sequence[bytes]], Tokenizer]
    cut: Callable[[Sequence[bytes], Mapping[int, int]], list[bytes]]


_FORMATS: Mapping[Form, _Format] = {
    "tokenizer.json": _Format(tokenizer_json.parse, tokenizer_json.cut),
    "vocab.txt": _Format(lists.parse_txt, lists.cut_txt),
    "vocab.json": _Format(lists.parse_vocab_json, lists.cut_vocab_json),
    "sentencepiece": _Format(model_proto.parse, model_proto.cut),
}


def read_tokenizer(path: str | Path) -> Tokenizer:
    """The tokenizer in a file, or in a folder as transformers writes it.

    Args:
        path: of ``tokenizer.json``, ``vocab.txt``, ``vocab.json`` (``merges.txt`` is read from
            beside it), a SentencePiece ``.model``, or of a folder with such files; ids are then
            those of the first in this order: ``tokenizer.json``, ``vocab.json``, ``vocab.txt``,
            SentencePiece.

    Raises:
        OnnxpruneError: it is missing, unreadable or malformed.
    """
    path = Path(path)
    with _reading(path):
        groups = _groups(path)
        first, *others = (_parse(form, files) for form, files in groups)
        return _with_sidefiles(replace(first, siblings=tuple(others)))


def write_tokenizer(tokenizer: Tokenizer, kept: npt.ArrayLike, folder: str | Path) -> list[Path]:
    """Write a tokenizer of fewer tokens, and the files beside it that hold ids.

    Args:
        tokenizer: the original, as `read_tokenizer` returns it.
        kept: ids that remain, ascending, as `onnxprune.data.vocabulary.keep_ids` returns them; the
            new id is the place in this list.
        folder: of the new files, which have the names of the old ones.

    Returns:
        The files: those of the tokenizer, then those beside it.

    Raises:
        OnnxpruneError: a file would replace one of the original's, or cannot be written; or an id
            is missing that the tokenizer needs.
    """
    folder = Path(folder)
    ids = [int(each) for each in np.asarray(kept, np.int64).ravel()]
    places = {old: new for new, old in enumerate(ids)}
    _check_kept(tokenizer, ids)
    contents: list[tuple[Path, bytes]] = []
    with _reading(tokenizer.path):
        new = _cut(tokenizer, places)
        contents += new
        _check_result(tokenizer, places, [data for _, data in new])
        for sibling in tokenizer.siblings:
            remaining = sorted(sibling_ids(tokenizer, sibling, ids))
            contents += _cut(sibling, {old: new for new, old in enumerate(remaining)})
        for source, document in _sidefiles(tokenizer.folder):
            cut = sidefiles.cut(source.name, document, places, len(ids))
            if cut is not None:
                contents.append((source, tokenizer_json.dump_like(cut, read_bytes(source))))
    targets = [folder / source.name for source, _ in contents]
    for target in targets:
        real = check_target(target)
        clash = next((source for source, _ in contents if _same(source, real)), None)
        if clash is not None:
            raise OnnxpruneError(
                f"{_OPTION}: the smaller tokenizer would replace {clash}",
                hint="write the model to a folder of its own, and the tokenizer goes there too",
            )
    for target, (_, data) in zip(targets, contents, strict=True):
        write(target, data, "the tokenizer")
    return targets


# --- reading ---------------------------------------------------------------------------------


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn the errors of parsers into ours.

    Raises:
        OnnxpruneError: instead of an OSError or a ValueError.
    """
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror or error if isinstance(error, OSError) else error
        raise OnnxpruneError(
            f"{_OPTION}: {path} cannot be read as a tokenizer: {reason}", hint=_HINT
        ) from error


def _groups(path: Path) -> list[tuple[Form, tuple[Path, ...]]]:
    """The vocabularies of a file or folder: their form and files, the one that sets ids first."""
    if not path.is_dir():
        return [_group(path)]
    names = sorted(each.name for each in path.iterdir() if each.is_file())
    pieces = [name for name in names if name.endswith((".model", ".spm"))]
    ordered = [name for name in ("tokenizer.json", "vocab.json", "vocab.txt") if name in names]
    groups = [_group(path / name) for name in (*ordered, *pieces)]
    if not groups:
        raise ValueError("the folder holds none")
    return groups


def _group(path: Path) -> tuple[Form, tuple[Path, ...]]:
    suffix = path.suffix.lower()
    if path.name == _MERGES:
        path = path.with_name("vocab.json")
        suffix = ".json"
    if suffix == ".json":
        content = _named(path, lambda: parse_json(_content(path)))
        if isinstance(content, dict) and not isinstance(content.get("model"), int | None):
            return "tokenizer.json", (path,)
        merges = path.with_name(path.name.replace("vocab.json", _MERGES))
        paired = merges != path and merges.is_file()
        return "vocab.json", (path, merges) if paired else (path,)
    if suffix == ".txt":
        return "vocab.txt", (path,)
    if suffix in (".model", ".spm"):
        return "sentencepiece", (path,)
    path.stat()
    raise ValueError(f"its name ends in {suffix!r}" if suffix else "its name has no ending")


def _parse(form: Form, files: tuple[Path, ...]) -> Tokenizer:
    parse = _FORMATS[form].parse
    tokenizer = _named(files[0], lambda: parse([_content(file) for file in files]))
    return replace(tokenizer, files=files)


def _named(path: Path, function: Callable[[], _T]) -> _T:
    """The result of a function, whose errors name the file that they are about.

    Raises:
        ValueError: the function raised one.
    """
    try:
        return function()
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _content(path: Path) -> bytes:
    """The bytes of a file.

    Raises:
        ValueError: Git LFS has left a pointer in its place.
    """
    data = read_bytes(path)
    if data.startswith(_POINTER):
        raise ValueError("it is a pointer of Git LFS, and not yet the file; git lfs pull gets it")
    return data


def _with_sidefiles(tokenizer: Tokenizer) -> Tokenizer:
    """A tokenizer that knows what the files beside it say of special tokens."""
    pieces, special, roles = dict(tokenizer.pieces), set(tokenizer.special), dict[str, str]()
    for path, document in _sidefiles(tokenizer.folder):
        if tokenizer.form == "sentencepiece":
            _check_class(str(document.get("tokenizer_class", "")), tokenizer.path)
        special |= _named(path, partial(sidefiles.special_ids, path.name, document))
        added = _named(path, partial(sidefiles.added_pieces, path.name, document))
        pieces = added | pieces
        if path.name in sidefiles.TOKENS:
            roles |= sidefiles.special_names(document)
    named = {piece: number for number, piece in pieces.items()} | dict(tokenizer.ids)
    special |= {named[piece] for piece in roles.values() if piece in named}
    unknown = tokenizer.unknown
    if unknown is None:
        unknown = named.get(roles.get("unk_token", ""))
    return replace(
        tokenizer,
        pieces=pieces,
        special=frozenset(special),
        base=tokenizer.base - special,
        unknown=unknown,
    )


def _check_class(name: str, path: Path) -> None:
    if name.startswith(_SHIFTED):
        raise OnnxpruneError(
            f"{_OPTION}: {name} has other ids than {path}",
            hint="give its tokenizer.json, which save_pretrained of transformers writes",
        )


def _sidefiles(folder: Path) -> list[tuple[Path, dict[str, Any]]]:
    paths = [folder / name for name in sidefiles.NAMES if (folder / name).is_file()]
    return [(path, _named(path, partial(_mapping, path))) for path in paths]


def _mapping(path: Path) -> dict[str, Any]:
    content = parse_json(_content(path))
    if not isinstance(content, dict):
        raise FormError("it is no mapping")
    return content


# --- writing ---------------------------------------------------------------------------------


def _check_kept(tokenizer: Tokenizer, ids: Sequence[int]) -> None:
    """Refuse ids that do not ascend, or without some that the tokenizer needs."""
    if any(a >= b for a, b in pairwise(ids)) or (ids and ids[0] < 0):
        raise OnnxpruneError("the kept ids do not ascend", hint="sort them, each once")
    missing = sorted(close_ids(tokenizer, ids) - set(ids))
    if missing:
        piece = tokenizer.pieces.get(missing[0], "")
        raise OnnxpruneError(
            f"{tokenizer.path} cannot do without {len(missing)} of the removed ids, such as "
            f"{missing[0]} ({piece!r})",
            hint="keep what onnxprune.data.vocabulary.keep_ids returns",
        )


def _cut(tokenizer: Tokenizer, places: Mapping[int, int]) -> list[tuple[Path, bytes]]:
    """Every file of a vocabulary with its new content."""
    data = [read_bytes(file) for file in tokenizer.files]
    new = _FORMATS[tokenizer.form].cut(data, places)
    return list(zip(tokenizer.files, new, strict=True))


def _check_result(tokenizer: Tokenizer, places: Mapping[int, int], data: Sequence[bytes]) -> None:
    """Refuse a new file whose tokens have other ids than the new model."""
    original = _FORMATS[tokenizer.form].parse([read_bytes(file) for file in tokenizer.files])
    pieces = _FORMATS[tokenizer.form].parse(data).pieces
    for old, new in places.items():
        if old in original.pieces and pieces.get(new) != original.pieces[old]:
            last = max((i for i in places if i < old and i not in original.pieces), default=old)
            raise OnnxpruneError(
                f"{tokenizer.path} has no token of the id {last}, and the ids after it would move",
                hint="leave this id out",
            )


def _same(source: Path, target: Path) -> bool:
    try:
        return source.samefile(target)
    except OSError:  # the target is not there yet
        return False
