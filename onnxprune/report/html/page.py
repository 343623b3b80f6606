"""The page: every family's sections, with style, scripts and data inside."""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterable
from importlib.resources import files
from pathlib import Path
from string import Template

from onnxprune.errors import OnnxpruneError
from onnxprune.report.html import overview
from onnxprune.report.html.documents import Document
from onnxprune.report.html.families import Family, families
from onnxprune.report.html.markup import Markup, join, tag
from onnxprune.report.html.sections import Section, sections

HEAVIEST = 1_400_000
"""Bytes a page may have: one that is heavier is made again with shorter tables."""
_ROWS = (2000, 1000, 500, 250, 120, 60, 30)
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
            part.replace(path)
    except OSError as error:
        raise OnnxpruneError(
            f"the page cannot be written to {path}: {error.strerror}",
            hint="choose a folder that exists and can be written to",
        ) from error


def build(documents: Iterable[Document]) -> str:
    """One self-contained HTML page of all documents, as long as fits in `HEAVIEST`.

    Args:
        documents: of any kinds; what is about the same model comes together.

    Raises:
        OnnxpruneError: two of them are about different models with the same name.
    """
    found = families(documents)
    text = ""
    for most in _ROWS:
        text = _page(found, most)
        if len(text.encode()) <= HEAVIEST:
            break
    return text


def _page(found: list[Family], most: int) -> str:
    """The page with tables of at most ``most`` rows."""
    script = "".join(_asset(f"{name}.js") for name in _SCRIPTS)
    script = f'"use strict";\n(() => {{\n{script}}})();\n'
    articles, links = [], []
    for k, family in enumerate(found):
        parts = sections(family, f"m{k}", most)
        articles.append(_article(family, f"m{k}", parts))
        if len(found) > 1:
            links.append(tag("a", family.name, href=f"#m{k}", class_="model"))
        links += [tag("a", part.title, href=f"#{part.key}") for part in parts]
    return Template(_asset("page.html")).substitute(
        title=tag("title", f"{', '.join(family.name for family in found)} · onnxprune"),
        digest=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        style=_asset("page.css"),
        links=join(links),
        articles=join(articles),
        script=script,
    )


def _article(family: Family, key: str, parts: list[Section]) -> Markup:
    body = [
        tag(
            "section",
            tag("h3", tag("a", part.title, href=f"#{part.key}")),
            part.content,
            id=part.key,
        )
        for part in parts
    ]
    head = tag("header", tag("h2", family.name), overview.header(family, key))
    return tag("article", head, body, id=key)


def _asset(name: str) -> str:
    return (files(__package__) / "assets" / name).read_text(encoding="utf-8")
