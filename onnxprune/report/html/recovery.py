"""What became of single layers and weights: refits, zeros, and the form they are stored in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from onnxprune import quantities as numbers
from onnxprune.jobs.results.schema import RefitRow, Report, SparseRow
from onnxprune.jobs.results.weights import StoredRow, ZerosRow
from onnxprune.report.html.markup import Markup, code, join, table, tag


def refits(rows: tuple[RefitRow, ...], most: int) -> Markup:
    """Errors on held-out inputs before and after refitting, in the order of the network."""
    tried = [row for row in rows if not row.reason]
    shown = [
        (
            code(row.node),
            "left: nothing was better" if row.method == "none" else row.method,
            numbers.figure(row.before),
            numbers.figure(row.after),
            _bars(row.before, row.after),
        )
        for row in tried
    ]
    changed = sum(row.method != "none" for row in rows)
    about = (
        f"{changed} of {numbers.plural(len(rows), 'layer')} refitted. Errors are relative squared "
        "errors of a layer's output on inputs that nothing was fitted to."
    )
    heads = ("layer", "how", "error before>", "after>", "what is left of it")
    return join(
        tag("p", about),
        table(heads, shown, caption="Refitted layers", tall=True, most=most) if shown else None,
        _counted((row.reason for row in rows), "layer"),
    )


def sparse(rows: tuple[SparseRow, ...], most: int) -> Markup:
    """Zeros of each weight, and errors as masked and as refitted."""
    shown = [
        (
            code(row.weight),
            "x".join(map(str, row.shape)),
            numbers.percent(row.sparsity),
            row.method,
            row.refit,
            "" if row.before is None else numbers.figure(row.before),
            "" if row.after is None else numbers.figure(row.after),
        )
        for row in rows
        if not row.reason
    ]
    heads = ("weight", "shape", "zeros>", "chosen by", "then", "error>", "after>")
    return join(
        table(heads, shown, caption="Thinned weights", tall=True, most=most) if shown else None,
        _counted((row.reason for row in rows), "weight"),
    )


def storage(zeros: tuple[ZerosRow, ...], stored: tuple[StoredRow, ...], most: int) -> Markup:
    """Zeros and their patterns, bytes in every form, and the form that was written."""
    forms = list(dict.fromkeys(form for row in zeros for form in row.bytes))
    found = [
        (
            code(row.weight),
            "x".join(map(str, row.shape)),
            numbers.percent(row.zeros),
            row.pattern,
            *(numbers.size(row.bytes[form]) if form in row.bytes else "-" for form in forms),
        )
        for row in zeros
    ]
    heads = ("weight", "shape", "zeros>", "pattern", *(f"{form}>" for form in forms))
    written = [
        (
            code(row.weight),
            row.form,
            row.values,
            numbers.percent(row.zeros),
            numbers.size(row.dense),
            numbers.size(row.stored),
            numbers.change(row.dense, row.stored, "bytes"),
            row.remark,
        )
        for row in stored
    ]
    total = ""
    if stored:
        before, after = sum(row.dense for row in stored), sum(row.stored for row in stored)
        ratio = numbers.change(before, after, "bytes")
        total = f"{numbers.size(before)} dense, {numbers.size(after)} stored: {ratio}."
    under = ("weight", "form", "values", "zeros>", "dense>", "stored>", "change>", "remark")
    return join(
        table(heads, found, caption="Zeros", tall=True, most=most) if found else None,
        table(under, written, caption="Stored weights", tall=True, most=most) if written else None,
        tag("p", total) if total else None,
        tag("p", "Sparse storage is not sparse compute: a file shrinks, a run does not."),
    )


def sections(run: Report, most: int) -> list[tuple[str, Markup]]:
    """Titles and content of those parts that the run has, of tables of ``most`` rows."""
    found = []
    if run.refits:
        found.append(("Recovery", refits(run.refits, most)))
    if run.sparse:
        found.append(("Thinned weights", sparse(run.sparse, most)))
    if run.weights or run.stored:
        found.append(("Storage", storage(run.weights, run.stored, most)))
    return found


def _bars(before: float, after: float) -> Markup:
    """What is left of the error, as a bar."""
    left = min(after / before, 1.0) if before > 0 else 0.0
    return tag("span", class_="bar small", style=f"--kept:{left:.4f}")


def _counted(reasons: Iterable[str], what: str) -> Markup:
    """Why others were left as they are."""
    known = Counter(reason for reason in reasons if reason)
    items = [
        tag("li", f"{numbers.plural(number, what)} left: {reason}")
        for reason, number in known.most_common()
    ]
    return tag("ul", items) if items else Markup()
