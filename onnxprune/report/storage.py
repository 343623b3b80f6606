"""Weights on disk in a report: what their zeros look like, and the form each is stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from onnxprune.jobs.results.weights import StoredRow, ZerosRow
from onnxprune.quantities import change, percent, plural, size

if TYPE_CHECKING:
    pass

_MOST = 12


def zeros(rows: Sequence[ZerosRow]) -> RenderableType:
    """Zeros, pattern and bytes in each form, the largest weights first; and what all take."""
    from onnxprune.sparse.encodings.table import ENCODINGS  # a page without it starts sooner

    forms = [form for form in ENCODINGS if _any(rows, form)]
    table = _table("weight", "shape", "zeros>", "pattern", *(f"{form}>" for form in forms))
    ordered = sorted(rows, key=lambda row: -row.bytes["dense"])
    for row in ordered[:_MOST]:
        smallest = min(row.bytes.values())
        cells = [
            Text(size(row.bytes[form]) if form in row.bytes else "-", _best(row, form, smallest))
            for form in forms
        ]
        table.add_row(Text(row.weight), _shape(row.shape), percent(row.zeros), row.pattern, *cells)
    under = []
    if len(rows) > _MOST:
        under.append(Text(f"the {_MOST} largest of {len(rows)}; --json lists all", "dim"))
    dense = sum(row.bytes["dense"] for row in rows)
    least = sum(min(row.bytes.values()) for row in rows)
    told = f"{size(dense)} dense, {size(least)} in the smallest form of each (onnxprune store)"
    under.append(Text(told))
    under.append(
        Text("sparse storage is not sparse compute: a file shrinks, a run does not", "dim")
    )
    return Group(table, *under)


def stored(rows: Sequence[StoredRow]) -> RenderableType:
    """How many weights each form holds and what that saves; and why others stayed as they were."""
    table = _table("form", "values", "weights>", "zeros>", "dense>", "stored>", "change>")
    kinds: dict[tuple[str, str], list[StoredRow]] = {}
    for row in rows:
        kinds.setdefault((row.form, row.values), []).append(row)
    for (form, values), members in kinds.items():
        before = sum(row.dense for row in members)
        after = sum(row.stored for row in members)
        empty = sum(row.zeros * row.dense for row in members) / max(before, 1)
        cells = (percent(empty), size(before), size(after), change(before, after, "bytes"))
        table.add_row(form, values, str(len(members)), *cells)
    remarks = Counter(row.remark for row in rows if row.remark)
    under = [
        Text(f"{plural(number, 'weight')}: {remark}", "dim")
        for remark, number in remarks.most_common()
    ]
    return Group(table, *under)


def _any(rows: Sequence[ZerosRow], form: str) -> bool:
    return any(form in row.bytes for row in rows)


def _best(row: ZerosRow, form: str, smallest: int) -> str:
    return "green" if row.bytes.get(form) == smallest else ""


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape))


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for head in heads:
        right = head.endswith(">")
        table.add_column(
            head.removesuffix(">"),
            justify="right" if right else "left",
            overflow="fold",
            no_wrap=right,
        )
    return table
