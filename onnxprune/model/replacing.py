"""Files that appear complete or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO


@contextlib.contextmanager
def replacing(targets: Sequence[Path]) -> Iterator[list[BinaryIO]]:
    """Open a temporary file beside each target; move them over the targets when the body is done.

    They are flushed to the device before they are renamed, in the order given. If the body, or
    anything else, fails, they are removed and no target has changed.

    Raises:
        OSError: a folder is missing or not writable, or the device is full.
    """
    mark = secrets.token_hex(4)
    temporary = [target.with_name(f".{target.name}.{mark}.tmp") for target in targets]
    try:
        with contextlib.ExitStack() as stack:
            # "x" rather than tempfile: the result gets the permissions the user's umask asks for.
            files: list[BinaryIO] = [stack.enter_context(path.open("xb")) for path in temporary]
            yield files
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for path, target in zip(temporary, targets, strict=True):
            path.replace(target)
    except BaseException:
        for path in temporary:
            path.unlink(missing_ok=True)
        raise
    for folder in {target.parent for target in targets}:
        _sync(folder)


def _sync(folder: Path) -> None:
    """Make renames in ``folder`` durable where the system can (Windows cannot open a folder)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
