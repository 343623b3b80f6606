"""A chart's place on the page: its data as JSON, and the same numbers as a table."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping

from onnxprune.report.html.markup import Content, Markup, folded, tag

_ESCAPES = str.maketrans(
    {each: f"\\u{ord(each):04x}" for each in ("<", ">", "&", "\u2028", "\u2029")}
)


def chart(
    kind: str, data: Mapping[str, object], *, title: str, about: str, numbers: Content
) -> Markup:
    """A figure that the script draws into.

    Args:
        kind: which of the scripts draws it.
        data: what it draws.
        title: above it.
        about: what it shows, in words, for those who do not see it.
        numbers: the same as a table, folded away below.
    """
    return tag(
        "figure",
        tag("figcaption", title),
        tag("div", class_="plot", role="img", aria_label=f"{title}. {about}"),
        block(data),
        folded("The numbers", numbers),
        class_="chart",
        data_chart=kind,
    )


def block(data: object) -> Markup:
    """Data for a script; nothing in it can end the element it stands in."""
    text = json.dumps(_finite(data), ensure_ascii=False, separators=(",", ":"))
    return Markup(f'<script type="application/json">{text.translate(_ESCAPES)}</script>')


def _finite(value: object) -> object:
    """What is no number becomes null: there is no place for it in a chart."""
    if isinstance(value, Mapping):
        return {str(key): _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
