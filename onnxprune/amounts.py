"""How amounts are written: ``30%``, ``0.5x``, ``1.2M``, ``4MiB``, ``1x3x224x224``.

The command line, recipes and the Python API all read amounts here, so that they accept the same
spellings and refuse with the same words.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from onnxprune.errors import OnnxpruneError

BudgetKind = Literal["macs", "params", "bytes", "latency"]
BUDGET_KINDS: tuple[str, ...] = get_args(BudgetKind)

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|[A-Za-z]*)\s*")
_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BYTES = {
    **_DECIMAL,
    "b": 1.0,
    **{f"{prefix}b": factor for prefix, factor in _DECIMAL.items() if prefix},
    **{f"{prefix}ib": 1024.0**power for power, prefix in enumerate("kmgt", start=1)},
}
_NANOSECONDS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


@dataclass(frozen=True)
class Budget:
    """What may be left of a model.

    Attributes:
        kind: ``macs`` (multiply-accumulates of one run), ``params`` (stored weight elements) or
            ``bytes`` (stored weight bytes) or ``latency`` (nanoseconds of one run).
        value: a fraction of the dense model if ``relative``, else a count.
        relative: which of the two ``value`` is.
        backend: what a latency is measured on; empty for the provider of the run.
    """

    kind: BudgetKind
    value: float
    relative: bool
    backend: str = ""

    def __post_init__(self) -> None:
        if self.kind not in BUDGET_KINDS:
            raise OnnxpruneError(
                f"a budget cannot limit {self.kind!r}", hint=f"limit {_either(BUDGET_KINDS)}"
            )
        if not (math.isfinite(self.value) and self.value > 0):
            raise OnnxpruneError(
                f"a budget of {self.kind}={self.value:g} leaves nothing",
                hint=f"ask for more than 0, as in {self.kind}=50%",
            )
        if self.relative and self.value > 1:
            raise OnnxpruneError(
                f"a budget of {self.kind}={self.value:.4g}x is more than the whole model",
                hint=f"write the part that is left, as in {self.kind}=50% or {self.kind}=0.5x",
            )
        if self.backend and self.kind != "latency":
            raise OnnxpruneError(
                f"a budget of {self.kind} is the same everywhere, also on {self.backend}",
                hint=f"leave @{self.backend} out, or limit latency",
            )

    def limit(self, dense: int) -> int:
        """The most that may be left, in the unit of ``kind``, of a model that has ``dense``."""
        return math.floor(self.value * dense) if self.relative else math.floor(self.value)

    def __str__(self) -> str:
        where = f"@{self.backend}" if self.backend else ""
        if self.relative:
            return f"{self.kind}={self.value * 100:.10g}%{where}"
        if self.kind == "latency":
            unit = "ms" if self.value >= _NANOSECONDS["us"] else "ns"
            return f"{self.kind}={self.value / _NANOSECONDS[unit]:.15g}{unit}{where}"
        return f"{self.kind}={self.value:.15g}"


def fraction(text: object, *, of: str) -> float:
    """A fraction in ``[0, 1]``, written ``0.3`` or ``30%``.

    Args:
        text: the number, or how the user wrote it.
        of: what the user calls it, for the message: ``--ratio``.

    Raises:
        OnnxpruneError: it is no fraction.
    """
    number, suffix = _quantity(text, of)
    if suffix == "%":
        number /= 100
    if suffix not in ("", "%") or not 0 <= number <= 1:
        hint = f"write {number / 100:g} or {number:g}%" if not suffix and number <= 100 else ""
        raise OnnxpruneError(
            f"{of} {text} is not a fraction between 0 and 1",
            hint=hint or "write it as in 0.3 or 30%",
        )
    return number


def count(text: object, *, of: str, least: int = 0) -> int:
    """A whole number of at least ``least``; ``of`` is what the user calls it.

    Raises:
        OnnxpruneError: it is no such number.
    """
    try:
        number = int(text) if isinstance(text, int | str) and not isinstance(text, bool) else None
    except ValueError:
        number = None
    if number is None or number < least:
        raise OnnxpruneError(
            f"{of} {text} is not a whole number of at least {least}",
            hint=f"write a number such as {of} {max(least, 1)}",
        )
    return number


def budget(text: object, *, of: str = "--target") -> Budget:
    """A budget, written ``macs=50%``, ``params=1.2M``, ``bytes=4MiB`` or ``latency=0.5x@cpu``.

    Raises:
        OnnxpruneError: the kind is unknown or the amount cannot be read.
    """
    if isinstance(text, Budget):
        return text
    kind, equals, amount = str(text).partition("=")
    example = (
        f"write it as in {of} macs=50%, {of} params=1.2M, {of} bytes=4MiB, {of} latency=0.5x@cpu "
        f"or {of} latency=5ms@openvino"
    )
    kind = kind.strip().lower()
    if not equals or kind not in BUDGET_KINDS:
        raise OnnxpruneError(f"{of} {text} does not name a budget that is known", hint=example)
    amount, at, backend = (part.strip() for part in amount.partition("@"))
    if at and not backend:
        raise OnnxpruneError(f"{of} {text} names nothing behind the @", hint=example)
    number, suffix = _quantity(amount, f"{of} {kind}=")
    relative = suffix.lower() in ("%", "x")
    units = {"bytes": _BYTES, "latency": _NANOSECONDS}.get(kind, _DECIMAL)
    factor = {"%": 0.01, "x": 1.0}.get(suffix.lower(), units.get(suffix.lower()))
    fractions = f"for a fraction write {kind}={number * 100:g}% or {kind}={number:g}x"
    if factor is None:
        hint = example
        if kind == "latency" and not suffix:
            hint = f"for a time write {kind}={number:g}ms"
            hint = hint if number > 1 else f"{fractions}; {hint}"
        raise OnnxpruneError(f"{of} {text} has no unit that fits {kind}", hint=hint)
    if not relative and (number * factor < 1 or (not suffix and number <= 1)):
        raise OnnxpruneError(f"{of} {text} could mean a count or a fraction", hint=fractions)
    value = number / 100 if suffix == "%" else number * factor
    if kind == "latency" and not relative:
        value = float(round(value))
    return Budget(kind, value, relative, backend)  # type: ignore[arg-type]


def byte_count(text: object, *, of: str) -> int:
    """A number of bytes, written ``4GiB``, ``512 MB`` or ``1000000``.

    Args:
        text: what the user gave.
        of: what the user calls it.

    Raises:
        OnnxpruneError: it is no amount of bytes.
    """
    number, suffix = _quantity(text, of)
    factor = _BYTES.get(suffix.lower())
    if factor is None:
        raise OnnxpruneError(
            f"{of} {text} is not an amount of bytes", hint=f"write it as in {of} 4GiB"
        )
    return int(number * factor)


def shapes(given: object, *, of: str = "--shapes") -> dict[str, tuple[int, ...]]:
    """Input shapes, written ``input=1x3x224x224`` or as a mapping from names to sizes.

    Args:
        given: one text with commas between inputs, several texts, or a mapping.
        of: what the user calls it.

    Raises:
        OnnxpruneError: a shape cannot be read.
    """
    if isinstance(given, Mapping):
        return {str(name): _shape(sizes, f"{of} {name}=") for name, sizes in given.items()}
    found: dict[str, tuple[int, ...]] = {}
    texts = [given] if isinstance(given, str) else list(_sequence(given, of))
    for part in (part for text in texts for part in str(text).split(",")):
        name, equals, sizes = part.rpartition("=")
        if not (name and equals):
            raise OnnxpruneError(
                f"{of} {part} names no input", hint=f"write it as in {of} input=1x3x224x224"
            )
        found[name.strip()] = _shape(sizes, f"{of} {name.strip()}=")
    return found


def _shape(sizes: object, of: str) -> tuple[int, ...]:
    parts = sizes.split("x") if isinstance(sizes, str) else _sequence(sizes, of)
    try:
        shape = tuple(count(part, of=of, least=1) for part in parts)
    except OnnxpruneError as error:
        raise OnnxpruneError(
            f"{of}{sizes} is not a shape of whole numbers",
            hint="write sizes with x between them, as in 1x3x224x224",
        ) from error
    return shape


def _sequence(given: object, of: str) -> Sequence[object]:
    if isinstance(given, Sequence):
        return given
    raise OnnxpruneError(f"{of} {given} is not a list", hint="give one value or a list of values")


def _quantity(text: object, of: str) -> tuple[float, str]:
    if isinstance(text, int | float) and not isinstance(text, bool):
        return float(text), ""
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise OnnxpruneError(
            f"{of} {text} is not a number", hint="write a number such as 0.3 or 30%"
        )
    return float(match[1]), match[2]


def _either(words: Sequence[str]) -> str:
    return f"{', '.join(words[:-1])} or {words[-1]}"
