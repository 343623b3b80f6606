"""The folder that keeps what took long to find out: damage curves, times of layers.

Files are written beside their place and renamed, so that whoever reads sees a whole file or none.
The folder is bounded: what was used longest ago goes first.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

FOLDER_VARIABLE = "ONNXPRUNE_CACHE"
"""The environment variable that names the folder."""
LARGEST = 256 << 20
"""Bytes that the folder may hold."""
CELLS = ".cells.jsonl"
"""How files end that hold cells of a sensitivity sweep (``sweep.checkpoint``)."""
_ENDINGS = (".curves.npz", ".latency.json", CELLS)
"""Of the files that are ours: others in the folder are left alone."""
_ABANDONED = 3600.0
"""Seconds after which a file that is being written belongs to nobody."""


def folder() -> Path | None:
    """Where it is: ``$ONNXPRUNE_CACHE``, else in the user's cache; None without one."""
    if named := os.environ.get(FOLDER_VARIABLE):
        return Path(named)
    base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    try:
        return (Path(base) if base else Path.home() / ".cache") / "onnxprune"
    except RuntimeError:  # a user without a home
        return None


def keep(place: Path, name: str, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file of that name, and drop what was used longest ago where room is short.

    Raises:
        OSError: the folder cannot be written.
    """
    place.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(".part", f"{name.partition('.')[0]}.", place)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        Path(part).replace(place / name)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    trim(place)


def trim(place: Path) -> None:
    """Remove what was used longest ago until the folder holds at most ``LARGEST`` bytes."""
    found = []
    for path in place.iterdir():
        try:
            status = path.stat()
        except FileNotFoundError:  # somebody else trims too
            continue
        if path.name.endswith(_ENDINGS):
            found.append((status.st_mtime, status.st_size, path))
        elif path.suffix == ".part" and status.st_mtime < time.time() - _ABANDONED:
            path.unlink(missing_ok=True)
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= LARGEST:
            return
        path.unlink(missing_ok=True)
        total -= size
