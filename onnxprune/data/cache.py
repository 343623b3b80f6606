"""The cache folder for slow measurements: error curves, times of layers, cells of sweeps.

It is optional: where the folder cannot be written or a file is damaged, a message says so and
everything is measured again. Its size is bounded: files used longest ago are removed first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from onnxprune.errors import OnnxpruneError
from onnxprune.model.files import replacing

FOLDER_VARIABLE = "ONNXPRUNE_CACHE"
"""The environment variable that names the folder."""
LARGEST = 256 << 20
"""Bytes that the folder may hold."""
Kind: TypeAlias = Literal["curves", "latency", "cells"]

_OURS = (*(f".{kind}.jsonl" for kind in get_args(Kind)), ".curves.npz", ".latency.json")
"""Endings of our files, now and in earlier versions; others in the folder are left alone."""


def folder() -> Path | None:
    """Its path: ``$ONNXPRUNE_CACHE``, else in the user's cache; None without one."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "onnxprune"
    except RuntimeError:  # a user without a home
        return None


class Cache:
    """Values of one kind by key; anything JSON can hold.

    A file holds records, each a line with a digest of its key and its content, so that neither a
    damaged record nor one of another key is believed. Whole files are replaced in one step.

    Args:
        kind: of the values; the ending of the files.
        progress: receives messages on problems with the folder.
        enabled: False for a cache that holds and keeps nothing.

    Example:
        >>> times = Cache("latency", print, enabled=False)
        >>> times.put("0f3a", {"conv1": 0.002})
        >>> times.get("0f3a") is None
        True
    """

    def __init__(
        self, kind: Kind, progress: Callable[[str], None], *, enabled: bool = True
    ) -> None:
        self._kind, self._progress = kind, progress
        self._folder = folder() if enabled else None

    def get(self, key: str) -> Any | None:  # noqa: ANN401 whatever was put
        """The value of a key; None without a valid one."""
        records = self.records(key)
        if records == []:
            self._ignored(key, "it is damaged")
        return records[-1] if records else None

    def records(self, key: str) -> list[Any] | None:
        """All values appended to a key, those that are damaged left out; None without a file."""
        if self._folder is None:
            return None
        path = self._path(self._folder, key)
        try:
            lines = [line.split(b" ", 1) for line in _content(path).splitlines() if line]
        except FileNotFoundError:
            return None
        except OSError as error:
            self._ignored(key, error.strerror or str(error))
            return None
        with contextlib.suppress(OSError):  # a folder that only others write
            os.utime(path)  # used now: others go first
        return [json.loads(line[1]) for line in lines if line[0] == _digest(key, line[-1])]

    def put(self, key: str, value: object) -> None:
        """Keep a value in place of all earlier ones of the key."""

        def write(place: Path) -> None:
            with replacing(self._path(place, key)) as change:
                change.file.write(_record(key, value))
            _trim(place)

        self._written(write)

    def append(self, key: str, value: object) -> None:
        """Keep a value beside the earlier ones of the key."""

        def write(place: Path) -> None:
            path = self._path(place, key)
            new = not path.exists()
            with path.open("ab") as file:
                file.write(_record(key, value))
            if new:
                _trim(place)

        self._written(write)

    def _path(self, place: Path, key: str) -> Path:
        return place / f"{key}.{self._kind}.jsonl"

    def _written(self, write: Callable[[Path], None]) -> None:
        if self._folder is None:
            return
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            write(self._folder)
        except (OSError, OnnxpruneError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or error
            self._progress(f"what was measured is not kept for the next time: {reason}")
            self._folder = None

    def _ignored(self, key: str, reason: str) -> None:
        name = f"{key}.{self._kind}.jsonl"
        self._progress(f"ignoring {name} in the cache, which cannot be used: {reason}")


def _content(path: Path) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if status.st_size > LARGEST:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), str(path))
    return path.read_bytes()


def _record(key: str, value: object) -> bytes:
    """A line; it starts with the line break, which ends a record that was cut short before."""
    data = json.dumps(value).encode()
    return b"\n%b %b" % (_digest(key, data), data)


def _digest(key: str, data: bytes) -> bytes:
    digest = hashlib.blake2b(key.encode() + b" " + data, digest_size=16)
    return digest.hexdigest().encode()


def _trim(place: Path) -> None:
    """Remove what was used longest ago until the folder holds at most ``LARGEST`` bytes."""
    files = []
    for path in place.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:  # another process trims too
            continue
        if path.name.endswith(_OURS):
            files.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in files)
    for _, size, path in sorted(files):
        if total <= LARGEST:
            return
        path.unlink(missing_ok=True)
        total -= size
