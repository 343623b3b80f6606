"""Digests of the data that a run reads: of samples as they are fed, and of every file.

Samples have one digest however they are stored and batched; files have one of their bytes, so that
whoever has them can see that they are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.config import Options
from onnxprune.data import Calibration, open_calibration
from onnxprune.errors import OnnxpruneError
from onnxprune.model import Model
from onnxprune.model.seal import hash_file
from onnxprune.model.signature import signature_of

ROLES = {
    "calib": "--calib",
    "labels": "--labels",
    "eval": "--eval",
    "eval_labels": "--eval-labels",
    "slices": "--slices",
    "vocabulary": "--vocabulary",
    "preprocess": "--preprocess",
}
"""Options that may name files of data -> their flags."""


def samples_of(config: Options | None, dense: Model) -> dict[str, object] | None:
    """Digest, number and description of the samples of a run; None without data.

    Args:
        config: the options.
        dense: the model whose inputs they are.
    """
    if config is None or config.calib is None or _is_random(config.calib):
        return None
    try:
        source = open_calibration(
            config.calib,
            signature_of(dense),
            preprocess=config.preprocess,
            samples=config.calib_samples,
            batch=config.batch,
            seed=config.seed,
        )
        digest, count = data_digest(source)
    except OnnxpruneError:  # data that can be read once only
        return {"sha256": None, "samples": None, "description": ""}
    return {"sha256": digest, "samples": count, "description": source.description}


def data_digest(source: Calibration) -> tuple[str, int]:
    """SHA-256 of samples as they are fed, however they are batched, and their number."""
    digests: dict[str, Any] = {}
    count = 0
    for feeds in source:
        count += source.inputs.count(feeds)
        for name, array in feeds.items():
            if name not in digests:
                head = f"{name} {array.dtype} {list(array.shape[1:])}"
                digests[name] = hashlib.sha256(head.encode())
            digests[name].update(_content(array))
    parts = [digests[name].hexdigest() for name in sorted(digests)]
    return hashlib.sha256(" ".join(parts).encode()).hexdigest(), count


def files_of(config: Options | None) -> list[dict[str, object]]:
    """Role, name and digest of everything that a run reads beside the model.

    Args:
        config: the options.

    Returns:
        One entry per option that names data. ``sha256`` is that of the file; of a folder, that of
        the names and digests of its files, one per line as ``sha256sum`` writes them; of arrays,
        that of their types, shapes and contents; None for what can be read once only.
    """
    entries: list[dict[str, object]] = []
    for name, role in ROLES.items():
        value = None if config is None else getattr(config, name)
        if value is None or _is_random(value) or _is_builtin(name, value):
            continue
        entries.append({"role": role, "name": _name(value), "sha256": _digest(value)})
    return entries


def _is_random(value: object) -> bool:
    """Whether samples are synthetic; arrays compare element by element."""
    return isinstance(value, str) and value == "random"


def _is_builtin(name: str, value: object) -> bool:
    """Whether an option is text that names no file, as in ``--preprocess imagenet``."""
    if not isinstance(value, str | Path):
        return name == "preprocess"
    return name in ("preprocess", "vocabulary") and _path(value) is None


def _path(value: str | Path) -> Path | None:
    """The file or folder that a value names; of ``file.py:function``, the file."""
    for each in (str(value), str(value).rpartition(":")[0]):
        try:
            if each and Path(each).exists():
                return Path(each)
        except (OSError, ValueError):  # too long a name, or one with a null byte
            return None
    return None


def _name(value: object) -> str:
    return Path(value).name if isinstance(value, str | Path) else type(value).__name__


def _digest(value: object) -> str | None:
    try:
        if isinstance(value, str | Path):
            path = _path(value)
            return None if path is None else _of_path(path)
        digest = hashlib.sha256()
        return digest.hexdigest() if _update(digest, value) else None
    except OnnxpruneError:  # it is gone
        return None


def _of_path(path: Path) -> str:
    if path.is_file():
        return hash_file(path)
    lines = [
        f"{hash_file(each)}  {each.relative_to(path).as_posix()}\n"
        for each in sorted(path.rglob("*"))
        if each.is_file()
    ]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _update(digest: Any, value: object) -> bool:  # noqa: ANN401  a hash object
    """Hash arrays, and lists and mappings of such; whether all of it could be."""
    if isinstance(value, Mapping):
        return all(_update(digest, [str(key), each]) for key, each in value.items())
    if isinstance(value, list | tuple):
        digest.update(f"[{len(value)}".encode())
        return all(_update(digest, each) for each in value)
    if isinstance(value, np.ndarray | np.generic | str | bytes | int | float):
        array = np.asarray(value)
        digest.update(f"{array.dtype} {list(array.shape)}".encode())
        digest.update(_content(array))
        return True
    return False


def _content(array: Any) -> bytes:  # noqa: ANN401  an array of any type
    whole = np.ascontiguousarray(array)
    return repr(whole.tolist()).encode() if whole.dtype.hasobject else whole.tobytes()


def same_files(
    stated: Iterable[Mapping[str, object]], config: Options
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Which data of these options a certificate names, and which it does not.

    Args:
        stated: entries of a certificate.
        config: the options.

    Returns:
        Roles in the certificate, of what is the same, each once, and flags of what it does not
        name.
    """
    known: dict[object, list[str]] = {}
    for entry in stated:
        known.setdefault(entry.get("sha256"), []).append(str(entry.get("role")))
    roles: list[str] = []
    others: list[str] = []
    for entry in files_of(config):
        digest = entry["sha256"]
        if digest is not None and digest in known:
            roles += known[digest]  # one file may hold both samples and labels
        else:
            others.append(str(entry["role"]))
    return tuple(dict.fromkeys(roles)), tuple(others)
