"""Plans: which units, blocks and single weights to remove, and the origin of that choice."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from itertools import chain, pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file

from onnxprune.errors import MODELS, OnnxpruneError, as_path, in_python, suggest
from onnxprune.graph.interface import Interface
from onnxprune.quantities import percent

if TYPE_CHECKING:
    from onnxprune.model.files import Change  # noqa: TID251  files, no models

Bool = npt.NDArray[np.bool_]
_PACKAGES = ("onnxprune", "numpy", "onnx", "onnx-ir", "onnxruntime", "onnxruntime-gpu")


def versions(packages: Iterable[str] = _PACKAGES) -> dict[str, str]:
    """Versions of those of the packages that are installed; by default what plans depend on."""
    result = {}
    for package in packages:
        try:
            result[package] = version(package)
        except PackageNotFoundError:
            continue
    return result


@dataclass(frozen=True)
class Origin:
    """The origin of a plan.

    Attributes:
        structure: hash of the graph it was made for (``model.structure_hash``); empty for a plan
            written by hand, which then fits any graph that has its groups.
        criterion, allocation, budget: the scores of units, their choice, and the amount to remove.
        seed: random seed; None where plans of different seeds were merged.
        versions: of the packages involved.
        calibration: the data of the criterion.
        memory: bytes that work on these data could take; None without data.
    """

    structure: str = ""
    criterion: str = ""
    allocation: str = ""
    budget: str = ""
    seed: int | None = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    calibration: str = ""
    memory: int | None = None


@dataclass(frozen=True, eq=False)
class PackedMask:
    """Which entries of one weight are kept, one bit each.

    Attributes:
        shape: of the weight.
        bits: uint8 ``[ceil(size / 8)]``, as ``numpy.packbits`` of the flattened mask makes them.
    """

    shape: tuple[int, ...]
    bits: npt.NDArray[np.uint8]

    def __post_init__(self) -> None:
        if self.bits.dtype != np.uint8 or self.bits.shape != ((self.size + 7) // 8,):
            raise OnnxpruneError(
                f"a mask of shape {list(self.shape)} cannot be held by {self.bits.dtype} "
                f"{list(self.bits.shape)}"
            )
        # The last byte's unused bits count for nothing, so that equal masks have equal bits.
        tail = self.size % 8
        if tail and self.bits[-1] & (0xFF >> tail):
            cleared = self.bits.copy()
            cleared[-1] &= 0xFF ^ (0xFF >> tail)
            object.__setattr__(self, "bits", cleared)

    @property
    def size(self) -> int:
        """The number of weights."""
        return math.prod(self.shape)

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        return int(np.bitwise_count(self.bits).sum(dtype=np.int64))

    def unpack(self) -> Bool:
        """The mask: bool of ``shape``, True = kept."""
        flat = np.unpackbits(self.bits, count=self.size)
        return flat.view(np.bool_).reshape(self.shape)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PackedMask):
            return NotImplemented
        return self.shape == other.shape and np.array_equal(self.bits, other.bits)

    __hash__ = None  # type: ignore[assignment]


class ComputedMask(PackedMask):
    """A mask that is computed whenever it is needed, and not held.

    Args:
        shape: of the weight.
        kept: how many weights are kept.
        compute: gives the mask: bool of ``shape``, always the same.
    """

    def __init__(self, shape: tuple[int, ...], kept: int, compute: Callable[[], Bool]) -> None:
        for name, value in (("shape", shape), ("_kept", kept), ("_compute", compute)):
            object.__setattr__(self, name, value)

    @property
    def bits(self) -> npt.NDArray[np.uint8]:
        """The bits, computed anew."""
        return np.packbits(self.unpack().reshape(-1))

    @property
    def kept(self) -> int:
        """How many weights are kept."""
        kept: int = vars(self)["_kept"]
        return kept

    def unpack(self) -> Bool:
        """The mask, computed anew."""
        mask: Bool = vars(self)["_compute"]()
        return mask

    def __reduce__(self) -> tuple[type[PackedMask], tuple[object, ...]]:
        return PackedMask, (self.shape, self.bits)  # another process has not what computes it


def pack(mask: Bool) -> PackedMask:
    """Pack a mask, True = kept.

    Raises:
        OnnxpruneError: it is not an array of bool.
    """
    if mask.dtype != np.bool_:
        raise OnnxpruneError(f"a mask is an array of bool, not of {mask.dtype}")
    return PackedMask(mask.shape, np.packbits(mask.reshape(-1)))


@dataclass(frozen=True, eq=False, repr=False)
class Plan:
    """What to remove and what to zero. It knows no model, and is never changed.

    Attributes:
        removed: group name -> indices of the removed units, ascending; only groups that lose some.
        bypassed: names of blocks whose output is replaced by their skip.
        zeroed: weight name -> mask of the entries it keeps (see :func:`pack`).
        origin: of the plan.
        units: group name -> number of units before the plan, where known: it lets the plan be
            read, and refused for another model, without the original one.
        reordered: group name -> the unit that comes to stand at each position, after the cut and
            before masks, which belong to the new order.
        interface: ids and classes that leave first; groups are then those of what remains.

    Raises:
        OnnxpruneError: a unit is named twice or is negative, or a group would lose every unit.
    """

    removed: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    bypassed: tuple[str, ...] = ()
    zeroed: Mapping[str, PackedMask] = field(default_factory=dict)
    origin: Origin = field(default_factory=Origin)
    units: Mapping[str, int] = field(default_factory=dict)
    reordered: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    interface: Interface = field(default_factory=Interface)

    def __repr__(self) -> str:
        units = sum(map(len, self.removed.values()))
        parts = [f"{units} units of {len(self.removed)} groups"]
        parts += [f"{len(self.bypassed)} blocks"] if self.bypassed else []
        parts += [f"zeros in {len(self.zeroed)} weights"] if self.zeroed else []
        return f"<Plan: {', '.join(parts)}>"

    def __post_init__(self) -> None:
        cut = {name: _indices(name, units) for name, units in self.removed.items()}
        for name, known in self.units.items():
            if len(cut.get(name, ())) >= max(known, 1):
                raise OnnxpruneError(
                    f"the plan removes all {known} units of group {name!r}",
                    hint="keep at least one; to drop a whole branch, bypass its block",
                )
        object.__setattr__(self, "removed", {name: units for name, units in cut.items() if units})
        object.__setattr__(self, "bypassed", tuple(dict.fromkeys(self.bypassed)))
        object.__setattr__(self, "zeroed", dict(self.zeroed))
        object.__setattr__(self, "units", dict(self.units))
        for name, order in self.reordered.items():
            if sorted(order) != list(range(len(order))):
                raise OnnxpruneError(
                    f"the order of group {name!r} does not name each unit once",
                    hint="list every index from 0 on, each once",
                )
        object.__setattr__(self, "reordered", {n: tuple(o) for n, o in self.reordered.items()})

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, with its masks beside it; see `save_plan`."""
        return save_plan(self, path)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Plan):
            return NotImplemented
        mine, theirs = (
            [getattr(plan, f.name) for f in fields(plan) if f.name != "bypassed"]
            for plan in (self, other)
        )
        return mine == theirs and set(self.bypassed) == set(other.bypassed)

    __hash__ = None  # type: ignore[assignment]

    def __str__(self) -> str:
        origin = self.origin
        choice = ", ".join(t for t in (origin.criterion, origin.allocation, origin.budget) if t)
        where = f"graph {origin.structure[:12]}" if origin.structure else "any graph"
        lines = [f"plan for {where}" + (f": {choice}" if choice else "")]
        lines += [
            f"  {axis.value}  {len(axis.kept)} of {axis.size} {axis.kind} indices stay"
            for axis in (*self.interface.inputs, *self.interface.outputs)
        ]
        width = max((len(n) for n in (*self.removed, *self.zeroed)), default=0)
        for name, units in self.removed.items():
            of = f" of {self.units[name]}" if name in self.units else ""
            lines.append(f"  {name:<{width}}  -{len(units)}{of}  [{ranges(units)}]")
        lines += [f"  {name}  bypassed" for name in self.bypassed]
        lines += [f"  {name}  reordered" for name in self.reordered]
        for name, mask in self.zeroed.items():
            zeros = 1 - mask.kept / max(mask.size, 1)
            shape = "x".join(map(str, mask.shape))
            lines.append(f"  {name:<{width}}  {percent(zeros)} of {shape} zeroed")
        return "\n".join(lines if len(lines) > 1 else [*lines, "  nothing is removed"])


def ranges(indices: Sequence[int], longest: int = 12) -> str:
    """Ascending indices in few words: ``0-3, 7, 9-12``; cut short after ``longest`` runs."""
    runs: list[list[int]] = []
    for index in indices:
        if runs and index == runs[-1][1] + 1:
            runs[-1][1] = index
        else:
            runs.append([index, index])
    texts = [str(a) if a == b else f"{a}-{b}" for a, b in runs[:longest]]
    return ", ".join(texts + ["..."] * (len(runs) > longest))


def _indices(group: str, units: Iterable[int]) -> tuple[int, ...]:
    """Sorted plain ints."""
    indices = sorted(int(unit) for unit in units)
    if indices and indices[0] < 0:
        raise OnnxpruneError(
            f"the plan removes unit {indices[0]} of group {group!r}", hint="units count from 0"
        )
    if len(set(indices)) < len(indices):
        twice = next(a for a, b in pairwise(indices) if a == b)
        raise OnnxpruneError(
            f"the plan removes unit {twice} of group {group!r} twice", hint="name each unit once"
        )
    return tuple(indices)


_FORMAT = "onnxprune-plan"
_VERSION = 1
_MAPPED = 64 << 20
"""Bytes from which a file of masks is mapped instead of read."""
_KEYS = (
    *("format", "version", "origin", "units", "removed", "bypassed", "reordered", "interface"),
    "zeroed",
)


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
    from onnxprune.model import files  # noqa: TID251  files that change at one moment, no models

    path = Path(path)
    with files.describing(path, "the plan"):
        try:
            with files.replacing(target := files.check_target(path), _mask_bytes(plan)) as change:
                _save(plan, target, change)
        except SafetensorError as error:
            raise OSError(str(error)) from error
    return path


def _mask_bytes(plan: Plan) -> int:
    return sum((mask.size + 7) // 8 for mask in plan.zeroed.values())


def _save(plan: Plan, path: Path, change: Change) -> None:
    """Write a plan and, under a name of their content, its masks; both change at one moment."""
    document = plan_document(plan)
    before = _mask_file(path)
    if plan.zeroed:
        part = change.part()
        digest = _write_masks(plan.zeroed, part)
        name = f"{path.stem}.{digest[:12]}.safetensors"
        same = path.with_name(name)
        if not (same.is_file() and _digest(same) == digest):
            name = change.publish(part, (name, f"{path.stem}.{digest[12:24]}.safetensors"))
        shapes = {name: list(mask.shape) for name, mask in plan.zeroed.items()}
        document["zeroed"] = {"file": name, "sha256": digest, "shapes": shapes}
    change.file.write(_text(document).encode())
    if before is not None and before.name != document["zeroed"].get("file"):
        change.remove(before.name)


def plan_document(plan: Plan) -> dict[str, Any]:
    """A plan as JSON values; its masks, which have a file of their own, are left out."""
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
    if plan.interface:
        document["interface"] = json.loads(plan.interface.to_json())
    return document


def load_plan(path: str | os.PathLike[str]) -> Plan:
    """Read a plan.

    Raises:
        OnnxpruneError: there is no plan at ``path``, it is of a newer version, it has a key or a
            value that no plan has, or its masks are missing or not the ones it was saved with.
    """
    path = as_path(path, "path", "give the path of a plan that `Plan.save` wrote")
    document = _read(path)
    plan = from_document(document, str(path))
    try:
        return replace(plan, zeroed=_read_masks(document.get("zeroed") or {}, path))
    except OnnxpruneError as error:
        raise OnnxpruneError(f"{path}: {error.message}", hint=error.hint) from error
    except _MALFORMED as error:
        raise _malformed(str(path), error) from error


def from_document(document: Mapping[str, Any], where: str) -> Plan:
    """A plan without its masks, of what `plan_document` made.

    Args:
        document: JSON values.
        where: the file they are from, for messages.

    Raises:
        OnnxpruneError: it has a key or a value that no plan has.
    """
    unknown = next((key for key in document if key not in _KEYS), None)
    if unknown is not None:
        raise OnnxpruneError(
            f"{where}: a plan has no key {unknown!r}", hint=suggest(unknown, _KEYS)
        )
    try:
        parts = {key: _object(document, key) for key in ("removed", "units", "reordered", "origin")}
        return Plan(
            removed={name: _units(units) for name, units in parts["removed"].items()},
            bypassed=_texts(document.get("bypassed", [])),
            origin=_origin(parts["origin"]),
            units={name: _count(size) for name, size in parts["units"].items()},
            reordered={name: _units(order) for name, order in parts["reordered"].items()},
            interface=_interface(document),
        )
    except OnnxpruneError as error:
        raise OnnxpruneError(f"{where}: {error.message}", hint=error.hint) from error
    except _MALFORMED as error:
        raise _malformed(where, error) from error


_MALFORMED = (AttributeError, KeyError, TypeError, ValueError, OverflowError)


def _malformed(where: str, error: Exception) -> OnnxpruneError:
    return OnnxpruneError(
        f"{where} is not a well-formed plan: {error}",
        hint='units are written as in "removed": {"conv1:channel": [0, 3, 5]}',
    )


def _object(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = document.get(key, {})
    if not isinstance(value, dict):
        raise TypeError(f"{key!r} is no object")
    return value


def _interface(document: Mapping[str, Any]) -> Interface:
    entry = document.get("interface")
    return Interface() if entry is None else Interface.from_json(json.dumps(entry), "its map")


def _texts(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or any(not isinstance(each, str) for each in value):
        raise TypeError(f"blocks are texts in a list, not {value!r}")
    return tuple(value)


def _count(value: object) -> int:
    if type(value) is not int or value < 0:
        raise TypeError(f"a number of units is a whole number, not {value!r}")
    return value


def _origin(values: Mapping[str, Any]) -> Origin:
    """An origin, each of its values of the right type.

    Raises:
        OnnxpruneError: it has a key that no origin has.
        TypeError: a value is of another type.
    """
    known = [each.name for each in fields(Origin)]
    strange = next((key for key in values if key not in known), None)
    if strange is not None:
        raise OnnxpruneError(
            f"a plan's origin has no key {strange!r}", hint=suggest(strange, known)
        )
    for name, value in values.items():
        number = name in ("seed", "memory")
        right = (
            (value is None or type(value) is int)
            if number
            else isinstance(value, dict if name == "versions" else str)
        )
        if not right:
            raise TypeError(f"{name!r} of the origin is {value!r}")
    return Origin(**values)


def _units(units: object) -> tuple[int, ...]:
    if not isinstance(units, list) or any(type(unit) is not int for unit in units):
        raise TypeError(f"units are whole numbers in a list, not {units!r}")
    return tuple(units)


def _read(path: Path) -> dict[str, Any]:
    from onnxprune.model.limits import read_json  # noqa: TID251  JSON, no models

    try:
        document = read_json(path)
    except OSError as error:
        raise OnnxpruneError(
            f"the plan {path} cannot be read: {error.strerror or error}", hint="check the path"
        ) from error
    except ValueError as error:
        hint = "write one with `onnxprune prune --save-plan`"
        if path.suffix.lower() in MODELS:
            hint = "the plan comes first, as in `onnxprune apply plan.json model.onnx`"
            if in_python():
                hint = "the model comes first, as in apply(model, plan)"
        raise OnnxpruneError(f"{path} is not JSON, as plans are", hint=hint) from error
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


def _write_masks(masks: Mapping[str, PackedMask], file: BinaryIO) -> str:
    """Write packed masks; the digest of the file.

    The bytes are those of ``safetensors.numpy.save``, but one mask is in memory at a time.
    """
    header, end = {}, 0
    for name in sorted(masks):
        start, end = end, end + (masks[name].size + 7) // 8
        header[name] = {"dtype": "U8", "shape": [end - start], "data_offsets": [start, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    parts = (masks[name].bits.tobytes() for name in header)
    for part in chain((len(text).to_bytes(8, "little"), text), parts):
        file.write(part)
        digest.update(part)
    return digest.hexdigest()


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
        arrays = load_file(file) if file.stat().st_size < _MAPPED else _map_masks(file)
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


def _map_masks(file: Path) -> dict[str, npt.NDArray[np.uint8]]:
    """The arrays of a file of masks, which stay in the file until they are read."""
    with safe_open(file, framework="numpy"):
        pass  # the file is well-formed
    data = np.asarray(np.memmap(file, np.uint8, mode="r"))
    start = 8 + int.from_bytes(data[:8].tobytes(), "little")
    header = json.loads(data[8:start].tobytes())
    header.pop("__metadata__", None)
    places = {name: each["data_offsets"] for name, each in header.items()}
    return {name: data[start + at : start + end] for name, (at, end) in places.items()}


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
