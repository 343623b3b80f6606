"""Where results may be written, asked before the work starts rather than after it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

from onnxprune.errors import OnnxpruneError


def check(flag: str, path: str | None, inputs: Iterable[str | Path]) -> Path | None:
    """The path behind a flag, once it is sure that it can be written and is no input.

    Args:
        flag: how the user named it, for the message.
        path: what the user gave.
        inputs: files of this run that must not be overwritten.

    Raises:
        OnnxpruneError: the folder is missing or not writable, or the path is an input or a folder.
    """
    if path is None:
        return None
    target = Path(path)
    if target.is_dir():
        raise OnnxpruneError(
            f"{flag} {path} is a folder", hint=f"name a file in it, as in {target / 'out.onnx'}"
        )
    for each in inputs:
        if target.exists() and Path(each).exists() and target.samefile(each):
            raise OnnxpruneError(
                f"{flag} {path} is the file that is read", hint="write to another file"
            )
    folder = target.parent
    if not folder.is_dir():
        raise OnnxpruneError(f"the folder of {flag} {path} does not exist", hint="create it")
    try:
        # Only writing tells: permissions, read-only mounts and full disks look alike from outside.
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OnnxpruneError(
            f"the folder of {flag} {path} cannot be written: {error.strerror}",
            hint="choose another folder",
        ) from error
    return target
