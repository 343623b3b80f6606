"""Check where results may be written, before the work starts rather than after it."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path

from onnxprune.errors import OnnxpruneError


def check(flag: str, path: str | None, others: Mapping[str, object]) -> Path | None:
    """The path of a flag, once it is certain that it can be written and is no other file.

    Args:
        flag: name of the flag, for the message.
        path: its value.
        others: the other files of this run, read or written, by what the user calls them; what is
            no path is passed over.

    Raises:
        OnnxpruneError: the folder is missing or not writable, or the path is a folder or one of
            the others.
    """
    if path is None:
        return None
    target = Path(path)
    if target.is_dir():
        raise OnnxpruneError(
            f"{flag} {path} is a folder", hint=f"name a file in it, as in {target / 'NAME'}"
        )
    for name, other in others.items():
        if isinstance(other, str | Path) and _same(target, Path(other)):
            raise OnnxpruneError(
                f"{flag} {path} is the same file as {name}", hint="write to another file"
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


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)  # sees through links of either kind
    return one.resolve() == other.resolve()
