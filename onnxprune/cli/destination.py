"""Check where results may be written, before the work starts rather than after it."""

from __future__ import annotations

import errno
import os
import shlex
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from onnxprune.errors import MODELS, OnnxpruneError

Kind = Literal["model", "plan", "recipe", "page", "picture", "engine"]

_PAGES = (".html", ".htm")

_EXAMPLES: Mapping[Kind, str] = {
    "model": "small.onnx",
    "plan": "plan.json",
    "recipe": "recipe.yaml",
    "page": "report.html",
    "picture": "figure.svg",
    "engine": "model.engine",
}


def check(flag: str, path: str | None, others: Mapping[str, object], kind: Kind) -> Path | None:
    """The path of a flag, once it is certain that it can be written and is no other file.

    Args:
        flag: name of the flag, for the message.
        path: its value.
        others: the other files of this run, read or written, by what the user calls them; what is
            no path is passed over.
        kind: of the file. Models end in one of ``MODELS``, and nothing else does; pages end in
            ``.html``.

    Raises:
        OnnxpruneError: the folder is missing or not writable, the path is a folder, a device, a
            pipe, one of the others, or ends like a file of another kind.
    """
    if path is None:
        return None
    if not path.strip():
        raise OnnxpruneError(f"{flag} is empty", hint=f"name a file, as in {_EXAMPLES[kind]}")
    target = Path(path)
    _check_length(flag, target, kind)
    if target.is_dir():
        example = shlex.quote(str(target / _EXAMPLES[kind]))
        raise OnnxpruneError(
            f"{flag} {path} is a folder", hint=f"name a file in it, as in {flag} {example}"
        )
    # Imported here so that --help does not wait for onnx.
    from onnxprune.model.files import check_target

    try:
        real = check_target(target)
    except OnnxpruneError as error:
        if target.parent.is_dir():
            raise OnnxpruneError(f"{flag} {error.message}", hint=error.hint) from error
        real = target  # the folder is missing, which is said below
    for name, other in others.items():
        if isinstance(other, str | Path) and str(other) and _same(target, Path(other)):
            raise OnnxpruneError(
                f"{flag} {path} is the same file as {name}", hint="write to another file"
            )
    _check_name(flag, target, kind)
    folder = target.parent
    if not folder.is_dir():
        for each in (folder, *folder.parents):
            if each.exists() and not each.is_dir():
                raise OnnxpruneError(
                    f"the folder of {flag} {path} cannot be there: {each} is a file",
                    hint="choose another folder",
                )
        raise OnnxpruneError(
            f"the folder of {flag} {path} does not exist",
            hint=f"create it: mkdir -p {shlex.quote(str(folder))}",
        )
    try:
        # Only writing tells: permissions, read-only mounts and full disks look alike from outside.
        with tempfile.TemporaryFile(dir=real.parent):
            pass
    except OSError as error:
        raise OnnxpruneError(
            f"the folder of {flag} {path} cannot be written: {error.strerror}",
            hint="choose another folder",
        ) from error
    return target


def _check_length(flag: str, target: Path, kind: Kind) -> None:
    """Refuse a name that is too long, or to which a file beside it could not add its ending."""
    names = [target.name]
    if kind == "model":
        names += [f"{target.name}.{'0' * 12}.data", f"{target.stem}.certificate.json"]
    for name in names:
        try:
            os.lstat(target.parent / name)
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                raise OnnxpruneError(
                    f"{flag} {target} cannot be written: its name is too long",
                    hint="give a shorter name",
                ) from error
        except ValueError as error:  # a null byte
            raise OnnxpruneError(f"{flag} {target} is not a path", hint="give a name") from error


def _check_name(flag: str, target: Path, kind: Kind) -> None:
    """Refuse a name that says another kind of file than is written."""
    suffix = target.suffix.lower()
    is_model = suffix in MODELS
    if is_model == (kind == "model") and (kind != "page" or suffix in _PAGES):
        return
    ending = ".onnx" if kind == "model" else Path(_EXAMPLES[kind]).suffix
    stem = target.with_suffix("") if target.suffix[1:].isalpha() else target
    example = shlex.quote(f"{stem}{ending}")
    problem = f"does not end in {'.html' if kind == 'page' else ' or '.join(MODELS)}"
    if is_model:
        problem = f"ends like a model, and a{'n' * (kind == 'engine')} {kind} is written there"
    raise OnnxpruneError(f"{flag} {target} {problem}", hint=f"write it as in {flag} {example}")


def _same(one: Path, other: Path) -> bool:
    if one.exists() and other.exists():
        return one.samefile(other)  # sees through links of either kind
    return one.resolve() == other.resolve()
