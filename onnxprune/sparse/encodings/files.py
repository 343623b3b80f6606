"""What a model takes on disk, data beside it included."""

from __future__ import annotations

from pathlib import Path

from onnxprune import model as models
from onnxprune.model.core import origin_of


def file_bytes(path: Path) -> int:
    """Bytes of a model file and of every file its weights are in."""
    files = {path.resolve(), *origin_of(models.load(path).ir).files}
    return sum(file.stat().st_size for file in files)


def take_back(path: Path) -> None:
    """Remove a model that was just written, data beside it included."""
    for file in {path.resolve(), *origin_of(models.load(path).ir).files}:
        file.unlink(missing_ok=True)
