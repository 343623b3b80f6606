"""Plans on disk: JSON that can be read and edited, and masks in safetensors beside it.

    plan.json                        what is removed, one group per line
    plan.3f0c9a1be552.safetensors    only where single weights are zeroed; one bit per weight

The mask file's name carries its content, and the JSON names it: whichever moment a write is cut
short at, the JSON that is there goes with masks that are there.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from onnxprune.errors import OnnxpruneError
from onnxprune.plan.core import Origin, PackedMask, Plan

_FORMAT = "onnxprune-plan"
_VERSION = 1
_KEYS = ("format", "version", "origin", "units", "removed", "bypassed", "reordered", "zeroed")


def save_plan(plan: Plan, path: str | Path) -> Path:
    """Write a plan, atomically; a plan that is there already is replaced.

    Args:
        plan: any plan.
        path: of the JSON file.

    Returns:
        The path of the JSON file.

    Raises:
        OnnxpruneError: the folder does not exist or cannot be written to.
    """
    path = Path(path)
    document: dict[str, Any] = {
        "format": _FORMAT,
        "version": _VERSION,
        "origin": asdict(plan.origin),
        "units": dict(plan.units),
        "removed": {name: list(units) for name, units in plan.removed.items()},
        "bypassed": list(plan.bypassed),
        "zeroed": {},
    }
    if plan.reordered:
        document["reordered"] = {name: list(order) for name, order in plan.reordered.items()}
    try:
        before = _mask_file(path)
        if plan.zeroed:
            file, digest = _write_masks(plan.zeroed, path)
            shapes = {name: list(mask.shape) for name, mask in plan.zeroed.items()}
            document["zeroed"] = {"file": file, "sha256": digest, "shapes": shapes}
        with _beside(path) as part:
            part.write_text(_text(document), encoding="utf-8")
            part.replace(path)
        if before is not None and before.name != document["zeroed"].get("file"):
            before.unlink(missing_ok=True)
    except (OSError, SafetensorError) as error:
        why = error.strerror if isinstance(error, OSError) else None
        raise OnnxpruneError(
            f"the plan cannot be written to {path}: {why or error}",
            hint="choose a folder that exists and can be written to",
        ) from error
    return path


def load_plan(path: str | Path) -> Plan:
    """Read a plan.

    Raises:
        OnnxpruneError: there is no plan at ``path``, it is of a newer version, it has a key or a
            value that no plan has, or its masks are missing or not the ones it was saved with.
    """
    path = Path(path)
    document = _read(path)
    unknown = next((key for key in document if key not in _KEYS), None)
    if unknown is not None:
        near = difflib.get_close_matches(unknown, _KEYS, 1)
        hint = f"did you mean {near[0]!r}?" if near else f"a plan has {', '.join(_KEYS)}"
        raise OnnxpruneError(f"{path}: a plan has no key {unknown!r}", hint=hint)
    origin = document.get("origin", {})
    strange = next((k for k in origin if k not in {f.name for f in fields(Origin)}), None)
    if strange is not None:
        raise OnnxpruneError(f"{path}: a plan's origin has no key {strange!r}")
    try:
        return Plan(
            removed={name: _units(units) for name, units in document.get("removed", {}).items()},
            bypassed=tuple(map(str, document.get("bypassed", []))),
            zeroed=_read_masks(document.get("zeroed", {}), path),
            origin=Origin(**origin),
            units={name: int(size) for name, size in document.get("units", {}).items()},
            reordered={
                name: _units(order) for name, order in document.get("reordered", {}).items()
            },
        )
    except OnnxpruneError as error:
        raise OnnxpruneError(f"{path}: {error.message}", hint=error.hint) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise OnnxpruneError(
            f"{path} is not a well-formed plan: {error}",
            hint='units are written as in "removed": {"conv1:channel": [0, 3, 5]}',
        ) from error


def _units(units: object) -> tuple[int, ...]:
    if not isinstance(units, list) or any(type(unit) is not int for unit in units):
        raise TypeError(f"units are whole numbers in a list, not {units!r}")
    return tuple(units)


def _read(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise OnnxpruneError(f"{path} cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise OnnxpruneError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict) or document.get("format") != _FORMAT:
        raise OnnxpruneError(f"{path} is not a plan", hint=f'a plan says "format": "{_FORMAT}"')
    version = document.get("version")
    if not isinstance(version, int) or not 1 <= version <= _VERSION:
        raise OnnxpruneError(
            f"{path} is a plan of version {version}, and only version {_VERSION} can be read",
            hint="it was written by a newer onnxprune: upgrade",
        )
    return document


def _text(document: Mapping[str, Any]) -> str:
    """JSON with one line per group."""
    parts = []
    for key, value in document.items():
        text = json.dumps(value, ensure_ascii=False)
        if isinstance(value, dict) and value:
            lines = [
                f"    {json.dumps(k, ensure_ascii=False)}: {json.dumps(v, ensure_ascii=False)}"
                for k, v in value.items()
            ]
            text = "{\n" + ",\n".join(lines) + "\n  }"
        parts.append(f"  {json.dumps(key)}: {text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def _mask_file(path: Path) -> Path | None:
    """The mask file that the plan now at ``path`` names, if it is one of ours."""
    try:
        named = _read(path).get("zeroed", {}).get("file")
    except (OnnxpruneError, AttributeError):
        return None
    ours = isinstance(named, str) and named.startswith(f"{path.stem}.") and _is_plain(named)
    return path.with_name(str(named)) if ours else None


def _is_plain(name: str) -> bool:
    """Whether it names a file in the plan's own folder, and nowhere else."""
    return name == Path(name).name and name.endswith(".safetensors")


def _write_masks(masks: Mapping[str, PackedMask], path: Path) -> tuple[str, str]:
    """Write packed masks under a name made of their content; the name and the full digest."""
    arrays = {name: mask.bits for name, mask in masks.items()}
    with _beside(path) as part:
        part.write_bytes(save(arrays))  # save_file leaves a file that only its owner may read
        digest = _digest(part)
        name = f"{path.stem}.{digest[:12]}.safetensors"
        part.replace(path.with_name(name))
    return name, digest


def _read_masks(entry: Mapping[str, Any], path: Path) -> dict[str, PackedMask]:
    if not entry:
        return {}
    name = str(entry["file"])
    if not _is_plain(name):
        raise OnnxpruneError(f"its masks cannot be in {name!r}", hint="they lie beside the plan")
    file = path.with_name(name)
    if not file.is_file():
        raise OnnxpruneError(
            f"its masks are not there: {file}", hint="copy both files of a plan together"
        )
    if _digest(file) != entry["sha256"]:
        raise OnnxpruneError(
            f"{name} does not hold the masks the plan was saved with",
            hint="copy both files of a plan together",
        )
    try:
        arrays = load_file(file)
    except SafetensorError as error:
        raise OnnxpruneError(f"{name} cannot be read: {error}") from error
    shapes: dict[str, list[int]] = entry["shapes"]
    if arrays.keys() != shapes.keys():
        odd = min(arrays.keys() ^ shapes.keys())
        raise OnnxpruneError(f"{name} and the plan disagree about the mask of {odd!r}")
    return {
        weight: PackedMask(tuple(map(int, shape)), np.asarray(arrays[weight]))
        for weight, shape in shapes.items()
    }


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _beside(path: Path) -> Iterator[Path]:
    """A file on the same disk to write to before it is renamed; gone afterwards in any case."""
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".plan-") as folder:
        yield Path(folder) / "part"
