"""The page: every family's sections, with style, scripts and data inside."""

from __future__ import annotations

import base64
import hashlib
import os
import tempfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

from onnxprune.errors import OnnxpruneError
from onnxprune.report.html import (
    coupling,
    latency,
    overview,
    recovery,
    reproduce,
    sensitivity,
    structure,
    tradeoff,
)
from onnxprune.report.html.documents import Document
from onnxprune.report.html.families import Family, families
from onnxprune.report.html.markup import Markup, folded, join, tag
from onnxprune.report.html.measured import Bench
from onnxprune.report import numbers
from onnxprune.report.html.markup import code, table

_SCRIPTS = ("theme", "drawing", "tooltip", "pareto", "ecdf", "rows", "heat", "couplings", "copying")
"""In the order in which they use one another."""


def save_page(documents: Iterable[Document], path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        OnnxpruneError: documents contradict each other, or ``path`` cannot be written.
    """
    text = build(documents)
    try:
        with tempfile.TemporaryDirectory(dir=path.parent, prefix=".report-") as folder:
            part = Path(folder) / "part"
            part.write_text(text, encoding="utf-8", newline="\n")
            os.replace(part, path)
    except OSError as error:
        raise OnnxpruneError(
            f"the page cannot be written to {path}: {error.strerror}",
            hint="choose a folder that exists and can be written to",
        ) from error


def build(documents: Iterable[Document]) -> str:
    """One self-contained HTML page of all documents.

    Args:
        documents: of any kinds; what is about the same model comes together.

    Raises:
        OnnxpruneError: two of them are about different models with the same name.
    """
    found = families(documents)
    script = "".join(_asset(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    articles, links = [], []
    for k, family in enumerate(found):
        key = f"m{k}"
        sections = _sections(family, key)
        articles.append(_article(family, key, sections))
        if len(found) > 1:
            links.append(tag("a", family.name, href=f"#{key}", class_="model"))
        links += [tag("a", title, href=f"#{name}") for name, title, _ in sections]
    return Template(_asset("page.html")).substitute(
        title=tag("title", f"{', '.join(family.name for family in found)} · onnxprune"),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_asset("page.css"),
        links=join(links),
        articles=join(articles),
        script=script,
    )


def _article(family: Family, key: str, sections: list[tuple[str, str, Markup]]) -> Markup:
    head: list[Markup] = [tag("h2", family.name)]
    if family.runs:
        run = family.runs[0]
        head.append(overview.model(run))
        if len(family.runs) == 1:
            head += [overview.verdict(run), overview.tiles(run, family), overview.asked(run)]
        else:
            head.append(overview.compared(family, [f"{key}-r{k}" for k in range(len(family.runs))]))
    else:
        head += [_models(bench) for bench in family.benches]
    body = [
        tag("section", tag("h3", tag("a", title, href=f"#{name}")), content, id=name)
        for name, title, content in sections
    ]
    return tag("article", tag("header", head), body, id=key)


def _sections(family: Family, key: str) -> list[tuple[str, str, Markup]]:
    """Identity, title and content of all that the family has something for."""
    found = []
    found.append((f"{key}-tradeoff", "Trade-off", tradeoff.section(family)))
    if family.benches:
        found.append((f"{key}-latency", "Latency", latency.section(family)))
    described = next((run for run in family.runs if run.couplings), None)
    couplings = f"{key}-couplings"
    for k, run in enumerate(family.runs):
        own = f"{key}-r{k}"
        parts = [
            ("Result", overview.details(run)),
            ("Structure", structure.section(run, f"{own}-groups", couplings)),
            *recovery.section(run),
        ]
        if len(family.runs) == 1:
            found += [(f"{own}-{title.lower()}".replace(" ", "-"), title, part) for title, part in parts]
        else:
            whole = [folded(tag("h4", title), part, open_=title == "Result") for title, part in parts]
            content = join(overview.verdict(run), overview.tiles(run, family), overview.asked(run), whole)
            found.append((own, overview.label(run), content))
    if family.sweeps:
        found.append((f"{key}-sensitivity", "Sensitivity", sensitivity.section(family, f"{key}-s")))
    if described is not None:
        found.append((couplings, "Couplings", coupling.section(described, couplings)))
    found.append((f"{key}-reproduce", "Reproduce", reproduce.section(family)))
    return [(name, title, content) for name, title, content in found if content]


def _models(bench: Bench) -> Markup:
    """The models of a benchmark, where no run says more of them."""
    rows = []
    for each in bench.models:
        size = "-" if each.bytes is None else numbers.size(each.bytes)
        counts = ("-" if n is None else numbers.quantity(n) for n in (each.params, each.macs))
        rows.append((code(each.name), size, *counts))
    return table(("model", "file>", "parameters>", "MACs>"), rows, caption="Models")


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
