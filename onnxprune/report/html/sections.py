"""Which sections the page has of a model, in the order in which they are read."""

from __future__ import annotations

from dataclasses import dataclass

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
from onnxprune.report.html.families import Family
from onnxprune.report.html.markup import Markup, folded, join, tag


@dataclass(frozen=True)
class Section:
    """A part of the page: its identity there, its title, and its HTML."""

    key: str
    title: str
    content: Markup


def sections(family: Family, key: str, most: int) -> list[Section]:
    """All that the family has something for.

    Args:
        family: a model.
        key: of it, unique on the page.
        most: rows of a table.
    """
    couplings = f"{key}-couplings"
    described = next((run for run in family.runs if run.couplings), None)
    found = [
        Section(f"{key}-tradeoff", "Trade-off", tradeoff.section(family)),
        Section(f"{key}-latency", "Latency", latency.section(family)),
        *_runs(family, key, couplings, most),
        Section(
            f"{key}-sensitivity",
            "Sensitivity",
            sensitivity.section(family, f"{key}-sensitivity", most),
        ),
    ]
    if described is not None:
        found.append(Section(couplings, "Couplings", coupling.section(described, couplings, most)))
    found.append(Section(f"{key}-reproduce", "Reproduce", reproduce.section(family)))
    return [each for each in found if each.content]


def _runs(family: Family, key: str, couplings: str, most: int) -> list[Section]:
    """One run has its parts as sections; of several, each is one, with its parts folded."""
    found = []
    for k, run in enumerate(family.runs):
        own = f"{key}-r{k}"
        parts = [
            ("Result", overview.details(run)),
            ("Structure", structure.section(run, f"{own}-groups", couplings, most)),
            *recovery.sections(run, most),
        ]
        if len(family.runs) == 1:
            keys = (f"{own}-{title.lower().replace(' ', '-')}" for title, _ in parts)
            found += [Section(name, *part) for name, part in zip(keys, parts, strict=True)]
            continue
        details = [
            folded(tag("h4", title), part, open_=not n) for n, (title, part) in enumerate(parts)
        ]
        found.append(Section(own, overview.label(run), join(overview.top(run, family), details)))
    return found
