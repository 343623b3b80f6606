"""The page: every family's sections, with style, scripts and data inside."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

from onnxprune.errors import OnnxpruneError
from onnxprune.model.files import write
from onnxprune.report.documents import Document
from onnxprune.report.families import Family, families
from onnxprune.report.html import measured, reproduce
from onnxprune.report.html import run as runs
from onnxprune.report.html.markup import Markup, folded, join, tag

HEAVIEST = 1_400_000
"""Bytes a page may have: one that is heavier is made again with shorter tables."""
_ROWS = (2000, 1000, 500, 250, 120, 60, 30)


@dataclass(frozen=True)
class Section:
    """A part of the page: its identity there, its title, and its HTML."""

    key: str
    title: str
    content: Markup


def save_page(documents: Iterable[Document], path: Path) -> None:
    """Write the page, whole or not at all.

    Raises:
        OnnxpruneError: documents contradict each other, or ``path`` does not end in ``.html`` or
            cannot be written.
    """
    if path.suffix.lower() not in (".html", ".htm"):  # such as the model, which would be lost
        raise OnnxpruneError(
            f"the page {path} does not end in .html",
            hint=f"name it as in {path.with_suffix('.html').name}",
        )
    write(path, build(documents), "the page")


def build(documents: Iterable[Document]) -> str:
    """One self-contained HTML page of all documents, as long as fits in `HEAVIEST`.

    Args:
        documents: of any kinds; what is about the same model comes together.

    Raises:
        OnnxpruneError: two of them are about different models with the same name.
    """
    models = families(documents)
    text = ""
    for most in _ROWS:
        text = _page(models, most)
        if len(text.encode()) <= HEAVIEST:
            break
    return text


def _page(models: list[Family], most: int) -> str:
    """The page with tables of at most ``most`` rows."""
    script = _asset("page.js")
    articles, links = [], []
    for k, family in enumerate(models):
        parts = _sections(family, f"m{k}", most)
        articles.append(_article(family, f"m{k}", parts, contents=len(models) > 1))
        if len(models) > 1:
            links.append(tag("a", family.name, href=f"#m{k}", class_="model"))
        else:
            links += _links(parts)
    return Template(_asset("page.html")).substitute(
        title=tag("title", f"{', '.join(family.name for family in models)} · onnxprune"),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_asset("page.css"),
        links=join(links),
        articles=join(articles),
        script=script,
    )


def _links(parts: list[Section]) -> list[Markup]:
    return [tag("a", part.title, href=f"#{part.key}") for part in parts]


def _article(family: Family, key: str, parts: list[Section], *, contents: bool) -> Markup:
    body = [
        tag(
            "section",
            tag("h3", tag("a", part.title, href=f"#{part.key}")),
            part.content,
            id=part.key,
        )
        for part in parts
    ]
    nav = tag("nav", _links(parts), aria_label=family.name) if contents else None
    head = tag("header", tag("h2", family.name), nav, runs.header(family, key))
    return tag("article", head, body, id=key)


def _sections(family: Family, key: str, most: int) -> list[Section]:
    """All that the family has something for, in the order in which it is read.

    Args:
        family: a model.
        key: of it, unique on the page.
        most: rows of a table.
    """
    couplings, sweeps = f"{key}-couplings", f"{key}-sensitivity"
    source = next((run for run in family.runs if run.couplings), None)
    coupling = runs.coupling(source, couplings, most) if source else Markup()
    sections = [
        Section(f"{key}-evaluation", "Evaluation", measured.evaluation(family, most)),
        Section(f"{key}-tradeoff", "Trade-off", measured.tradeoff(family)),
        Section(f"{key}-latency", "Latency", measured.latency(family)),
        *_runs(family, key, couplings, most),
        Section(sweeps, "Sensitivity", measured.sensitivity(family, sweeps, most)),
        Section(couplings, "Couplings", coupling),
        Section(f"{key}-reproduce", "Reproduce", reproduce.section(family)),
    ]
    return [each for each in sections if each.content]


def _runs(family: Family, key: str, couplings: str, most: int) -> list[Section]:
    """One run has its parts as sections; of several, each is one, with its parts folded."""
    sections = []
    for k, run in enumerate(family.runs):
        own = f"{key}-r{k}"
        parts = runs.parts(run, f"{own}-groups", couplings, most)
        if len(family.runs) == 1:
            keys = (f"{own}-{title.lower().replace(' ', '-')}" for title, _ in parts)
            sections += [Section(name, *part) for name, part in zip(keys, parts, strict=True)]
            continue
        details = [
            folded(tag("h4", title), part, open_=not n) for n, (title, part) in enumerate(parts)
        ]
        sections.append(Section(own, runs.label(run), join(runs.top(run, family), details)))
    return sections


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
