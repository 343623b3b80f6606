"""What a sweep found: plain data, and its JSON form."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnxprune.errors import OnnxpruneError, as_path
from onnxprune.model.files import write
from onnxprune.model.limits import read_json
from onnxprune.quantities import plural

SCHEMA = "onnxprune.sensitivity"
VERSION = 1
"""Raised when a field changes its meaning or goes away; a new field does not raise it."""


@dataclass(frozen=True)
class Target:
    """What is pruned in some cells of a sweep.

    Attributes:
        name: of the group, the block or the stored weight.
        kind: the kind of the group (``channel``, ``head``, ``ffn``, ...), ``block`` or ``weight``.
        units: units of the group, entries of the weight, 1 for a block.
        params, macs: what one unit of a group costs, or the whole block or weight.
        order: the units of a group, the first to leave first; empty for others.
    """

    name: str
    kind: str
    units: int
    params: int
    macs: int
    order: tuple[int, ...] = ()


@dataclass(frozen=True)
class Cell:
    """What one target costs at one ratio, everything else dense and nothing refitted.

    Attributes:
        target: its name.
        ratio: asked for; 1 for a block.
        removed: units or entries that went.
        value: the metric, or agreement with the dense model; None where the cell failed.
        drop: what was lost of it (negative where the pruned model is better).
        drop_error: standard error of ``drop``, both models having seen the same samples; None
            where no such thing is known of the metric.
        kl, cosine, relative_error: of the output that says most, against the dense model's.
        reason: why there is no value; empty if there is one.
    """

    target: str
    ratio: float
    removed: int = 0
    value: float | None = None
    drop: float | None = None
    drop_error: float | None = None
    kl: float | None = None
    cosine: float | None = None
    relative_error: float | None = None
    reason: str = ""

    @property
    def error(self) -> float | None:
        """What allocation counts: the divergence of class scores, else the squared error.

        Both are smooth where a metric jumps by whole samples, and start as squares of the change,
        so that errors of several targets can be added.
        """
        if self.kl is not None:
            return self.kl
        return None if self.relative_error is None else self.relative_error**2


@dataclass(frozen=True)
class Recommendation:
    """Ratios, by group, that were measured together.

    Attributes:
        drop: what they may cost.
        ratios: by group, as shares that widths allow; groups that should stay whole are absent.
        measured: what they cost together, nothing refitted; None where there are none.
        macs, params: the parts of the model they leave.
        error: standard error of ``measured``; None where none is known.
        samples: inputs that it was measured on.
        refitted: what they cost once `prune` has refitted the remaining weights, on inputs that
            nothing was fitted to; None where it was not measured.
        refitted_error: standard error of ``refitted``.
        refitted_samples: inputs that it was measured on.
        command: that prunes so; empty where the model or the data have no path.
        round_to: what widths are multiples of; None for those that are fast on the backend.
    """

    drop: float
    ratios: Mapping[str, float]
    measured: float | None = None
    macs: float = 1.0
    params: float = 1.0
    error: float | None = None
    samples: int = 0
    refitted: float | None = None
    refitted_error: float | None = None
    refitted_samples: int = 0
    command: str = ""
    round_to: int | None = None


@dataclass(frozen=True, repr=False)
class Sensitivity:
    """The result of a sweep.

    Attributes:
        structure: hash of the graph (``model.structure_hash``).
        model: file name of the model.
        metric: its name, or ``agreement`` or ``cosine`` with the dense model's outputs.
        higher_is_better: which way is up.
        dense: its value for the dense model.
        samples: how many inputs every cell was measured on.
        inputs: where they came from.
        criterion: which units of a group went first.
        ratios: the columns.
        targets: the rows, in the order of the network.
        cells: one per target and ratio, in that order.
        recommended: ratios for a drop, if any were asked for.
        declined: by name, why something that could have been a row is none.
        notes: whole sentences.
        argv: the command line as it was run, program first; empty for a call from Python.
    """

    structure: str
    model: str
    metric: str
    higher_is_better: bool
    dense: float
    samples: int
    inputs: str
    criterion: str
    ratios: tuple[float, ...]
    targets: tuple[Target, ...]
    cells: tuple[Cell, ...]
    recommended: Recommendation | None = None
    declined: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    argv: tuple[str, ...] = ()

    def __repr__(self) -> str:
        shape = f"{plural(len(self.targets), 'target')} at {plural(len(self.ratios), 'ratio')}"
        return f"<Sensitivity: {self.model}, {shape}, {self.metric} {self.dense:.4g}>"

    def of(self, target: str) -> list[Cell]:
        """The cells of one row."""
        return [cell for cell in self.cells if cell.target == target]

    def save(self, path: str | Path) -> Path:
        """Write it as JSON, whole or not at all.

        Raises:
            OnnxpruneError: the file cannot be written.
        """
        return write(path, json.dumps(to_json(self), indent=2) + "\n")

    def __str__(self) -> str:
        return (
            f"{plural(len(self.targets), 'target')} at {plural(len(self.ratios), 'ratio')}, "
            f"{self.metric} {self.dense:.4g} on {self.samples} samples"
        )


def to_json(sweep: Sensitivity) -> dict[str, object]:
    """The document ``onnxprune.sensitivity``, version 1."""
    plain: dict[str, Any] = _plain(asdict(sweep))
    plain["metric"] = {
        "name": sweep.metric,
        "higher_is_better": plain.pop("higher_is_better"),
        "dense": plain.pop("dense"),
    }
    plain["declined"] = [{"target": t, "reason": why} for t, why in sweep.declined.items()]
    head = {
        "schema": SCHEMA,
        "version": VERSION,
        "onnxprune": importlib.metadata.version("onnxprune"),
    }
    return head | plain


def load_sensitivity(path: str | os.PathLike[str]) -> Sensitivity:
    """Read what :meth:`Sensitivity.save` or ``onnxprune sensitivity --json`` wrote.

    Raises:
        OnnxpruneError: the file cannot be read or is no such document.
    """
    hint = "write one with `onnxprune sensitivity MODEL --calib DATA --json > FILE`"
    path = as_path(path, "path")
    try:
        plain = read_json(path)
    except OSError as error:
        raise OnnxpruneError(
            f"the sensitivity file {path} cannot be read: {error.strerror}", hint=hint
        ) from error
    except ValueError as error:
        raise OnnxpruneError(f"the sensitivity file {path} is not JSON", hint=hint) from error
    if not isinstance(plain, dict) or plain.get("schema") != SCHEMA:
        raise OnnxpruneError(f"{path} is no result of a sensitivity sweep", hint=hint)
    if plain.get("version") != VERSION:
        raise OnnxpruneError(
            f"{path} has version {plain.get('version')} of its format, and {VERSION} is known",
            hint="update onnxprune, or sweep again",
        )
    try:
        return _read(plain)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise OnnxpruneError(f"{path} is damaged: {error!r}", hint=hint) from error


def _read(plain: Mapping[str, Any]) -> Sensitivity:
    advice = plain.get("recommended")
    return Sensitivity(
        structure=str(plain["structure"]),
        model=str(plain["model"]),
        metric=str(plain["metric"]["name"]),
        higher_is_better=bool(plain["metric"]["higher_is_better"]),
        dense=float(plain["metric"]["dense"]),
        samples=int(plain["samples"]),
        inputs=str(plain.get("inputs", "")),
        criterion=str(plain.get("criterion", "")),
        ratios=tuple(float(each) for each in plain["ratios"]),
        targets=tuple(
            Target(**{**row, "order": tuple(int(u) for u in row.get("order", ()))})
            for row in plain["targets"]
        ),
        cells=tuple(Cell(**_numbers(row)) for row in plain["cells"]),
        recommended=None if advice is None else Recommendation(**advice),
        declined={row["target"]: row["reason"] for row in plain.get("declined", ())},
        notes=tuple(plain.get("notes", ())),
        argv=tuple(plain.get("argv", ())),
    )


_FIGURES = ("value", "drop", "drop_error", "kl", "cosine", "relative_error")


def _numbers(row: Mapping[str, Any]) -> dict[str, Any]:
    """Figures that JSON has no number for were written as text: ``inf``."""
    return {
        name: float(each) if name in _FIGURES and each is not None else each
        for name, each in row.items()
    }


def cell_to_json(cell: Cell) -> dict[str, Any]:
    """One row of ``cells``."""
    plain: dict[str, Any] = _plain(asdict(cell))
    return plain


def cell_from_json(row: Mapping[str, Any]) -> Cell:
    """The inverse of :func:`cell_to_json`.

    Raises:
        TypeError, ValueError: it is no such row.
    """
    return Cell(**_numbers(row))


def _plain(value: Any) -> Any:  # noqa: ANN401 whatever asdict makes
    if isinstance(value, Mapping):
        return {str(key): _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
