"""Cells on disk as they come, so that a sweep that was cut short goes on where it was.

One file per sweep in the cache folder, named by the key of the job, one JSON object a line. Lines
are whole or, where the power went, the last one is not and is passed over. Cells of other ratios
stay, so that asking for more of them measures only those.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable
from pathlib import Path

from onnxprune.data.cache import CELLS, folder, trim
from onnxprune.select.sensitivity import Cell, cell_from_json, cell_to_json


class Checkpoint:
    """The cells of one sweep that are known.

    Args:
        key: of the job; empty for a sweep that nothing can name, and nothing is kept of.
        tell: hears what is wrong with the folder.
    """

    def __init__(self, key: str, tell: Callable[[str], None]) -> None:
        place = folder() if key else None
        self._path: Path | None = None if place is None else place / f"{key}{CELLS}"
        self._tell = tell
        self.cells: dict[tuple[str, float], Cell] = {}
        if self._path is None:
            return
        with contextlib.suppress(OSError):
            for line in self._path.read_text(encoding="utf-8").splitlines():
                with contextlib.suppress(ValueError, TypeError, AttributeError):
                    cell = cell_from_json(json.loads(line))
                    self.cells[cell.target, cell.ratio] = cell
        with contextlib.suppress(OSError):
            self._path.touch(exist_ok=True)  # used now: others go first
            trim(self._path.parent)

    def keep(self, cell: Cell) -> None:
        """Remember a cell, also for the next run unless it failed."""
        self.cells[cell.target, cell.ratio] = cell
        if self._path is None or cell.reason:
            return
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(cell_to_json(cell)) + "\n")
        except OSError as error:
            self._tell(f"what is measured is not kept for the next time: {error.strerror}")
            self._path = None
