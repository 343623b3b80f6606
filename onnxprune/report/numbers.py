"""Numbers as people read them."""

from __future__ import annotations

import math

from onnxprune.report.schema import Unit

_THOUSANDS = ("", " k", " M", " G", " T", " P")
_BINARY = (" B", " KiB", " MiB", " GiB", " TiB", " PiB")


def quantity(value: float) -> str:
    """A count to three figures: ``950``, ``12.3 k``, ``1.05 G``."""
    return _scaled(value, 1000, _THOUSANDS)


def size(value: float) -> str:
    """Bytes to three figures: ``950 B``, ``12.3 KiB``, ``1.05 GiB``."""
    return _scaled(value, 1024, _BINARY)


def percent(value: float) -> str:
    """A fraction as a percentage that is 0 or 100 only where the value is exactly that."""
    text = f"{value * 100:.1f}"
    if text == "0.0" and value > 0:
        return "< 0.1 %"
    if text == "100.0" and value < 1:
        return "> 99.9 %"
    return f"{text.removesuffix('.0')} %"


def measured(value: float | None, unit: Unit) -> str:
    """A measure in its unit; ``-`` where there is none."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    match unit:
        case "count":
            return quantity(value)
        case "bytes":
            return size(value)
        case "fraction":
            return f"{value * 100:.2f} %"
        case "seconds":
            return f"{value * 1000:.3g} ms" if value < 1 else f"{value:.3g} s"
        case "number":
            return f"{value:.4g}"


def figure(value: float) -> str:
    """A number of unknown unit: a large one as a quantity, any other to three figures."""
    if math.isfinite(value) and abs(value) >= 1000:
        return quantity(value)
    return f"{value + 0.0:.3g}"  # so that a negative zero has no sign


def change(dense: float | None, pruned: float | None, unit: Unit) -> str:
    """From before to after: points for fractions, a ratio for amounts, a difference otherwise."""
    if dense is None or pruned is None or not (math.isfinite(dense) and math.isfinite(pruned)):
        return ""
    if unit == "fraction":
        return f"{(pruned - dense) * 100:+.2f} points"
    if unit == "number":
        return f"{pruned - dense:+.4g}"
    return f"{pruned / dense:.3f}x" if dense else ""


def plural(number: int, word: str) -> str:
    """``1 group``, ``13 groups``."""
    if number == 1:
        return f"1 {word}"
    return f"{number:,} {word[:-2]}ices" if word.endswith("ex") else f"{number:,} {word}s"


def _scaled(value: float, base: int, suffixes: tuple[str, ...]) -> str:
    magnitude, step = float(value), 0
    while abs(magnitude) >= base and step < len(suffixes) - 1:
        magnitude /= base
        step += 1
    # 999.6 k would print as 1e+03 k, so it moves up before it is rounded.
    if abs(magnitude) >= 999.5 and step and step < len(suffixes) - 1:
        magnitude /= base
        step += 1
    if step == 0:
        return f"{value:g}{suffixes[0]}"
    figures = 2 if abs(magnitude) < 10 else 1 if abs(magnitude) < 100 else 0
    return f"{magnitude:.{figures}f}{suffixes[step]}"
