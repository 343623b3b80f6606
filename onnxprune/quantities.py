"""Values as users write and read them: ``30%``, ``0.5x``, ``1.2M``, ``4MiB``, ``1x3x224x224``.

The command line, recipes and the Python API all read values here, so that they accept the same
spellings and refuse with the same words. Which option takes which values stands in ``config``.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Literal, get_args

from onnxprune.errors import OnnxpruneError, blame, example, in_python, stated, suggest
from onnxprune.types import (
    BACKENDS,
    DETECTORS,
    FORMATS,
    backend_name,
    is_fraction,
    metric_name,
)

Unit = Literal["count", "bytes", "fraction", "seconds", "number"]
"""The unit of a measured number."""

_QUANTITY = re.compile(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%|[A-Za-z]*)\s*")
_DECIMAL = {"": 1.0, "k": 1e3, "m": 1e6, "g": 1e9, "t": 1e12}
_BYTES = {
    **_DECIMAL,
    "b": 1.0,
    **{f"{prefix}b": factor for prefix, factor in _DECIMAL.items() if prefix},
    **{f"{prefix}ib": 1024.0**power for power, prefix in enumerate("kmgt", start=1)},
}
_MOST = 2**63 - 1
"""The largest count; numpy and the runtimes take no larger one."""
_NANOSECONDS = {"ns": 1.0, "us": 1e3, "ms": 1e6, "s": 1e9}


@dataclass(frozen=True)
class CostKind:
    """A cost that a budget may limit.

    Attributes:
        units: suffixes of absolute amounts, and their factors.
        timed: whether the cost is a time measured on a backend, and not read off the graph.
    """

    units: Mapping[str, float]
    timed: bool = False


_BUDGETS = ("macs=50%", "params=1.2M", "bytes=4MiB", "latency=0.5x@cpu", "latency=5ms@openvino")
"""Examples of a budget, for hints."""

COST_KINDS: Mapping[str, CostKind] = {
    "macs": CostKind(_DECIMAL),
    "params": CostKind(_DECIMAL),
    "bytes": CostKind(_BYTES),
    "latency": CostKind(_NANOSECONDS, timed=True),
}
"""The costs that budgets limit: multiply-accumulates of one run, stored weight elements, stored
weight bytes, and nanoseconds of one run. ``graph.cost`` and ``select.latency`` measure them."""


@dataclass(frozen=True)
class Budget:
    """A limit on the cost of the pruned model.

    Attributes:
        kind: ``macs`` (multiply-accumulates of one run), ``params`` (stored weight elements) or
            ``bytes`` (stored weight bytes) or ``latency`` (nanoseconds of one run).
        value: a fraction of the dense model if ``relative``, else a count.
        relative: whether ``value`` is a fraction.
        backend: on which a latency is measured; empty for the backend of the run.
    """

    kind: str
    value: float
    relative: bool
    backend: str = ""

    def __post_init__(self) -> None:
        if self.kind not in COST_KINDS:
            raise OnnxpruneError(
                f"a budget cannot limit {self.kind!r}", hint=f"limit {either(tuple(COST_KINDS))}"
            )
        if not (math.isfinite(self.value) and self.value > 0):
            raise OnnxpruneError(
                f"a budget of {self} leaves nothing",
                hint=f"write more than 0, as in {self.kind}=50%",
            )
        if self.relative and self.value > 1:
            raise OnnxpruneError(
                f"a budget of {self} is more than the whole model",
                hint=f"write the remaining part, as in {self.kind}=50% or {self.kind}=0.5x",
            )
        if self.backend and not self.timed:
            raise OnnxpruneError(
                f"a budget of {self.kind} is the same everywhere, also on {self.backend}",
                hint=f"leave @{self.backend} out, or limit latency",
            )

    @property
    def timed(self) -> bool:
        """Whether it limits a time, which is measured on a backend."""
        return COST_KINDS[self.kind].timed

    def limit(self, dense: int) -> int:
        """The largest cost of the pruned model in the unit of ``kind``, given the dense one's."""
        return math.floor(self.value * dense) if self.relative else math.floor(self.value)

    def __str__(self) -> str:
        where = f"@{self.backend}" if self.backend else ""
        if self.relative:
            return f"{self.kind}={self.value * 100:.10g}%{where}"
        if self.timed:
            unit = "ms" if self.value >= _NANOSECONDS["us"] else "ns"
            return f"{self.kind}={self.value / _NANOSECONDS[unit]:.15g}{unit}{where}"
        return f"{self.kind}={self.value:.15g}"


def fraction(text: object, *, of: str) -> float:
    """A fraction in ``[0, 1]``, written ``0.3`` or ``30%``.

    Args:
        text: the number, or its text.
        of: name of the option in messages: ``--ratio``.

    Raises:
        OnnxpruneError: it is not a fraction.
    """
    number, suffix = _quantity(text, of)
    if suffix == "%":
        number /= 100
    if suffix not in ("", "%") or not 0 <= number <= 1:
        hint = f"write {number / 100:g} or {number:g}%" if not suffix and 1 < number <= 100 else ""
        raise OnnxpruneError(
            f"{stated(of, text)} is not a fraction between 0 and 1",
            hint=hint or "write it as in 0.3 or 30%",
        )
    return number


def count(text: object, *, of: str, least: int = 0) -> int:
    """A whole number of at least ``least``; ``of`` is the name of the option in messages.

    Raises:
        OnnxpruneError: it is not such a number.
    """
    number: int | None = None
    if not isinstance(text, bool) and isinstance(text, str | Integral):
        with suppress(ValueError):
            number = int(text)
    if number is None or number < least:
        raise OnnxpruneError(
            f"{stated(of, text)} is not a whole number of at least {least}",
            hint=f"write a number, as in {example(of, max(least, 1))}",
        )
    if number > _MOST:
        raise OnnxpruneError(f"{stated(of, text)} is too large", hint=f"write at most {_MOST}")
    return number


def budget(text: object, *, of: str = "--target") -> Budget:
    """A budget, written ``macs=50%``, ``params=1.2M``, ``bytes=4MiB`` or ``latency=0.5x@cpu``.

    Raises:
        OnnxpruneError: the kind is unknown or the amount cannot be read.
    """
    if isinstance(text, Budget):
        return text
    kind, equals, amount = str(text).partition("=")
    *amounts, last = (example(of, each) for each in _BUDGETS)
    hint = f"write it as in {', '.join(amounts)} or {last}"
    kind = kind.strip().lower()
    if not equals or kind not in COST_KINDS:
        raise OnnxpruneError(f"{stated(of, text)} does not name a budget that is known", hint=hint)
    amount, at, backend = (part.strip() for part in amount.partition("@"))
    if at and not backend:
        raise OnnxpruneError(f"{stated(of, text)} names nothing behind the @", hint=hint)
    number, suffix = _quantity(amount, of, shown=f"{kind}={amount}")
    relative = suffix.lower() in ("%", "x")
    timed, units = COST_KINDS[kind].timed, COST_KINDS[kind].units
    factor = {"%": 0.01, "x": 1.0}.get(suffix.lower(), units.get(suffix.lower()))
    fractions = f"for a fraction write {kind}={number * 100:g}% or {kind}={number:g}x"
    if factor is None:
        if timed and not suffix:
            hint = f"for a time write {kind}={number:g}ms"
            hint = hint if number > 1 else f"{fractions}; {hint}"
        raise OnnxpruneError(f"{stated(of, text)} has no unit that fits {kind}", hint=hint)
    if not relative and number and (number * factor < 1 or (not suffix and number <= 1)):
        raise OnnxpruneError(f"{stated(of, text)} could mean a count or a fraction", hint=fractions)
    value = number / 100 if suffix == "%" else number * factor
    if timed and not relative:
        value = float(round(value))
    with blame(of):
        return Budget(kind, value, relative, backend)


def byte_count(text: object, *, of: str) -> int:
    """A number of bytes, written ``4GiB``, ``512 MB`` or ``1000000``.

    Args:
        text: as the user wrote it.
        of: name of the option in messages.

    Raises:
        OnnxpruneError: it is not an amount of bytes.
    """
    hint = f"write it as in {example(of, '4GiB')}"
    number, suffix = _quantity(text, of, hint)
    factor = _BYTES.get(suffix.lower())
    if factor is None or not 0 <= number < math.inf:
        raise OnnxpruneError(f"{stated(of, text)} is not an amount of bytes", hint=hint)
    if number * factor > _MOST:
        raise OnnxpruneError(f"{stated(of, text)} is too large", hint=hint)
    return int(number * factor)


def shapes(value: object, *, of: str = "--shapes") -> dict[str, tuple[int, ...]]:
    """Input shapes, written ``input=1x3x224x224`` or as a mapping from names to sizes.

    Args:
        value: one text with commas between inputs, several texts, or a mapping.
        of: name of the option in messages.

    Raises:
        OnnxpruneError: a shape cannot be read.
    """
    if isinstance(value, Mapping):
        return {str(name): _shape(sizes, f"{of} {name}=") for name, sizes in value.items()}
    result: dict[str, tuple[int, ...]] = {}
    texts = [value] if isinstance(value, str) else list(_sequence(value, of))
    for part in (part for text in texts for part in str(text).split(",")):
        name, equals, sizes = part.rpartition("=")
        if not (name and equals):
            raise OnnxpruneError(
                f"{stated(of, part)} names no input",
                hint=f"write it as in {example(of, 'input=1x3x224x224')}",
            )
        result[name.strip()] = _shape(sizes, f"{of} {name.strip()}=")
    return result


def _shape(sizes: object, of: str) -> tuple[int, ...]:
    parts = sizes.split("x") if isinstance(sizes, str) else _sequence(sizes, of)
    try:
        shape = tuple(count(part, of=of, least=1) for part in parts)
    except OnnxpruneError as error:
        written = sizes if in_python() else _sizes(sizes)
        raise OnnxpruneError(
            f"{stated(of, written)} is not a shape of whole numbers",
            hint="write sizes with x between them, as in 1x3x224x224",
        ) from error
    return shape


def _sizes(sizes: object) -> str:
    """A shape as users write it: ``1x3x224x224``."""
    if isinstance(sizes, str) or not isinstance(sizes, Sequence):
        return str(sizes)
    return shape_text(sizes)


def shape_text(sizes: Iterable[object]) -> str:
    """A shape as users write it: ``1x3x224x224``; an open size stands as its name or ``?``.

    Example:
        >>> shape_text((1, None, "length"))
        '1x?xlength'
    """
    return "x".join("?" if size is None else str(size) for size in sizes) or "a scalar"


def _sequence(value: object, of: str) -> Sequence[object]:
    if isinstance(value, Sequence):
        return value
    raise OnnxpruneError(
        f"{stated(of, value)} is not a list", hint="give one value or a list of values"
    )


def _quantity(
    text: object,
    of: str,
    hint: str = "write a number such as 0.3 or 30%",
    *,
    shown: str | None = None,
) -> tuple[float, str]:
    if not isinstance(text, bool) and isinstance(text, int | float | Real):
        return float(text), ""
    match = _QUANTITY.fullmatch(text) if isinstance(text, str) else None
    if match is None and _QUANTITY.fullmatch(str(text).strip().removeprefix("-")):
        raise OnnxpruneError(
            f"{stated(of, text if shown is None else shown)} is negative", hint=hint
        )
    if match is None:
        raise OnnxpruneError(
            f"{stated(of, text if shown is None else shown)} is not a number", hint=hint
        )
    return float(match[1]), match[2]


def either(words: Sequence[str], conjunction: str = "or") -> str:
    """``a, b or c``; with ``and``, all of them."""
    return f"{', '.join(words[:-1])} {conjunction} {words[-1]}" if words[1:] else words[0]


Method = Literal["magnitude", "wanda", "ria", "sparsegpt", "admm"]
"""Methods for a layer's mask; all but ``magnitude`` need calibration inputs."""
Spread = Literal["per-tensor", "per-row", "global", "curves", "sensitivity"]
"""The scope in which weights compete: a tensor, one output, the model, or layers by their pruning
error or by its effect on the outputs of the model."""

_LARGEST = 64
_GROUPS = re.compile(r"\s*(\d+)\s*:\s*(\d+)\s*")


@dataclass(frozen=True)
class Sparsity:
    """A share of the weights to zero, or all but ``n`` of every ``m`` along the inputs.

    Attributes:
        share: of the weights to zero.
        n, m: of the pattern; 0 for none.
    """

    share: float
    n: int = 0
    m: int = 0

    def __str__(self) -> str:
        return f"{self.n}:{self.m}" if self.m else f"{self.share * 100:.10g}%"


def sparsity(text: object, *, of: str = "--sparsity") -> Sparsity:
    """A sparsity, written ``0.5``, ``50%`` or ``2:4`` (2 of every 4 are kept).

    Raises:
        OnnxpruneError: it cannot be read, or nothing or everything would be removed.
    """
    if isinstance(text, Sparsity):
        return text
    groups = _GROUPS.fullmatch(text) if isinstance(text, str) else None
    if groups is None and isinstance(text, str) and ":" in text:
        raise OnnxpruneError(
            f"{stated(of, text)} is not a pattern", hint=f"write N:M, as in {example(of, '2:4')}"
        )
    if groups is None:
        share = fraction(text, of=of)
        if not 0 < share < 1:
            raise OnnxpruneError(
                f"{stated(of, text)} would {'remove nothing' if share == 0 else 'leave no weight'}",
                hint="write the part that becomes zero, as in 50%, or a pattern, as in 2:4",
            )
        return Sparsity(share)
    n, m = int(groups[1]), int(groups[2])
    if not 0 < n < m <= _LARGEST:
        raise OnnxpruneError(
            f"{stated(of, text)} is not a pattern: it keeps {n} of every {m}",
            hint=f"write N:M with 0 < N < M <= {_LARGEST}, as in 2:4",
        )
    return Sparsity(1 - n / m, n, m)


Keeping = Literal["ids", "tokens", "calib", "top"]
"""Where the ids that a vocabulary keeps come from: a list of ids or of tokens, all that occur in
calibration data, or the most frequent of those."""
_SPAN = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True)
class KeptIds:
    """The ids of a vocabulary that stay.

    Attributes:
        form: where they come from.
        value: a file, ids themselves, or for ``top`` their number; empty for ``calib``.
        input: the graph input that holds the ids; empty for that of the largest vocabulary.
    """

    form: Keeping
    value: str | int | tuple[int, ...] = ""
    input: str = ""

    def __str__(self) -> str:
        start = f"{self.input}=" if self.input else ""
        if self.form == "calib":
            return f"{start}calib"
        if isinstance(self.value, tuple):
            return f"{start}ids:{plural(len(self.value), 'id')}"
        return f"{start}{self.form}{'=' if self.form == 'top' else ':'}{self.value}"


@dataclass(frozen=True)
class KeptIndices:
    """The indices of a graph output that stay.

    Attributes:
        items: indices, and labels that stand for some.
        output: its name; empty for the only output.
        labels: file of all labels, one per line; empty for those in the metadata of the model.
    """

    items: tuple[int | str, ...]
    output: str = ""
    labels: str = ""

    def __str__(self) -> str:
        start = f"{self.output}=" if self.output else ""
        file = f"@{self.labels}:" if self.labels else ""
        return f"{start}{file}{','.join(map(str, self.items))}"


def kept_ids(value: object, *, of: str = "--vocab") -> tuple[KeptIds, ...]:
    """The ids that stay, written ``ids:FILE``, ``tokens:FILE``, ``calib`` or ``top=N``.

    Args:
        value: one text or several, each perhaps with the name of the input in front
            (``input_ids=calib``), or the ids themselves.
        of: name of the option in messages.

    Raises:
        OnnxpruneError: it cannot be read.

    Example:
        >>> kept_ids("input_ids=top=8000")
        (KeptIds(form='top', value=8000, input='input_ids'),)
    """
    if isinstance(value, KeptIds | str):
        return (_kept_ids(value, of),)
    parts = list(value) if isinstance(value, Iterable) and not isinstance(value, Mapping) else None
    if not parts:
        raise OnnxpruneError(f"{stated(of, value)} keeps no id", hint=_vocab_hint(of))
    if all(isinstance(each, Integral) and not isinstance(each, bool) for each in parts):
        ids = tuple(sorted({count(each, of=of) for each in parts}))
        return (KeptIds("ids", ids),)
    return tuple(dict.fromkeys(_kept_ids(each, of) for each in parts))


def _vocab_hint(of: str) -> str:
    *forms, last = (example(of, each) for each in ("calib", "top=8000", "ids:keep.txt"))
    return f"write it as in {', '.join(forms)}, {last} or tokens:keep.txt"


def _kept_ids(value: object, of: str) -> KeptIds:
    if isinstance(value, KeptIds):
        return value
    if not isinstance(value, str):
        raise OnnxpruneError(f"{stated(of, value)} names no ids", hint=_vocab_hint(of))
    text, name = value.strip(), ""
    known = ("ids:", "tokens:", "top=")
    if not text.startswith(known) and text != "calib":
        name, equals, text = text.partition("=")
        if not (name and equals) or not (text.startswith(known) or text == "calib"):
            raise OnnxpruneError(
                f"{stated(of, value)} does not say which ids stay", hint=_vocab_hint(of)
            )
    if text == "calib":
        return KeptIds("calib", input=name)
    if text.startswith("top="):
        return KeptIds("top", count(text.removeprefix("top="), of=f"{of} top=", least=1), name)
    form, _, path = text.partition(":")
    if not path:
        raise OnnxpruneError(f"{stated(of, value)} names no file", hint=_vocab_hint(of))
    return KeptIds("ids" if form == "ids" else "tokens", path, name)


def kept_indices(value: object, *, of: str = "--keep-outputs") -> tuple[KeptIndices, ...]:
    """The indices of outputs that stay, written ``logits=0,2,5-7`` or with labels.

    Args:
        value: one text or several, or a mapping from outputs to indices and labels.
        of: name of the option in messages.

    Raises:
        OnnxpruneError: it cannot be read, or an output is named twice.

    Example:
        >>> kept_indices("logits=0,5-7")
        (KeptIndices(items=(0, 5, 6, 7), output='logits', labels=''),)
    """
    if isinstance(value, KeptIndices):
        return (value,)
    if isinstance(value, Mapping):
        parts = [_kept_indices(str(name), items, value, of) for name, items in value.items()]
    elif isinstance(value, str):
        parts = [_read_kept(value, of)]
    elif isinstance(value, Sequence) and value and not any(isinstance(v, Integral) for v in value):
        parts = [e if isinstance(e, KeptIndices) else _read_kept(str(e), of) for e in value]
    else:
        parts = [_kept_indices("", value, value, of)]
    names = [each.output for each in parts]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None or not parts:
        problem = f"names '{twice}' twice" if twice is not None else "keeps nothing"
        hint = f"write all of an output in one, as in {example(of, 'logits=0,2,7')}"
        raise OnnxpruneError(f"{stated(of, value)} {problem}", hint=hint)
    return tuple(parts)


def _read_kept(text: str, of: str) -> KeptIndices:
    name, equals, items = text.partition("=")
    if not equals:
        name, items = "", text
    return _kept_indices(name.strip(), items, text, of)


def _kept_indices(name: str, items: object, value: object, of: str) -> KeptIndices:
    """The indices of one output; ``@FILE:`` in front names the file of labels."""
    labels = ""
    if isinstance(items, str) and items.startswith("@"):
        labels, _, items = items[1:].rpartition(":")
    kept: list[int | str] = []
    for part in _parts(items, of):
        span = _SPAN.fullmatch(part) if isinstance(part, str) else None
        if span is not None:
            first, last = int(span[1]), int(span[2])
            if not first <= last < first + (1 << 24):
                raise OnnxpruneError(
                    f"{stated(of, value)}: {part} is no range", hint="write it as in 0-3"
                )
            kept += range(first, last + 1)
        elif isinstance(part, str):
            kept.append(int(part) if part.isdecimal() else part)
        else:
            kept.append(count(part, of=of))
    if not kept:
        hint = f"name what stays, as in {example(of, 'logits=0,2,7')}"
        raise OnnxpruneError(f"{stated(of, value)} keeps nothing", hint=hint)
    return KeptIndices(tuple(dict.fromkeys(kept)), name, labels)


# --- the values of options --------------------------------------------------------------------


@dataclass(frozen=True)
class Reader:
    """How the value of an option is written.

    Attributes:
        read: makes the final value of what a user wrote; it raises `OnnxpruneError` naming the
            option by its second argument.
        metavar: what help calls the value; empty for a switch.
        accepts: the Python type of the keyword.
        schema: JSON schema of the value in a recipe.
        words: all values there are, where they can be listed.
        repeats: the flag may be given several times.
        several: several values may follow the flag.
        example: of a value, where all options of this kind can have the same.
    """

    read: Callable[[object, str], object]
    metavar: str
    accepts: str
    schema: Mapping[str, object]
    words: tuple[str, ...] = ()
    repeats: bool = False
    several: bool = False
    example: str = ""

    def refuse_empty(self, value: object, of: str) -> None:
        """Refuse a value, or a part of one, that is empty.

        Raises:
            OnnxpruneError: it is.
        """
        parts = value if isinstance(value, list | tuple) else [value]
        if any(isinstance(each, str) and not each.strip(" ,") for each in parts):
            hint = f"write it as in {example(of, self.example)}" if self.example else ""
            raise OnnxpruneError(f"{of} is empty", hint=hint or "write a value, or leave it out")

    def parse(self, value: object, of: str) -> object:
        """The final value of what a user wrote.

        Raises:
            OnnxpruneError: it is empty, or cannot be read.
        """
        if self.metavar:  # a switch says itself what it takes
            self.refuse_empty(value, of)
        return self.read(value, of)


_NUMBER_OR_TEXT = {"type": ["number", "string"]}
_INTEGER = {"type": "integer"}
_STRING = {"type": "string"}
_STRINGS = {"type": ["string", "array"], "items": {"type": "string"}}


def _text(value: object, of: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise OnnxpruneError(
        f"{stated(of, value)} is not text", hint=f"write it as in {example(of, 'NAME')}"
    )


def _texts(value: object, of: str) -> tuple[str, ...]:
    if not isinstance(value, str | Sequence):
        raise OnnxpruneError(f"{stated(of, value)} is not a list", hint="write one text or a list")
    return tuple(_text(each, of) for each in _listed(value))


def _switch(value: object, of: str) -> bool:
    if isinstance(value, bool):
        return value
    words = ("True", "False") if in_python() else ("true", "false")
    raise OnnxpruneError(
        f"{stated(of, value)} is neither true nor false", hint=f"write {' or '.join(words)}"
    )


def _ratios(value: object, of: str) -> tuple[tuple[str, float], ...]:
    pairs: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        pairs += [(str(glob), ratio) for glob, ratio in value.items()]
    elif not isinstance(value, str | Sequence):
        raise OnnxpruneError(f"{stated(of, value)} is not a list", hint="write one text or a list")
    else:
        for each in _listed(value):
            if isinstance(each, tuple) and len(each) == 2:  # as they are kept
                pairs.append((str(each[0]), each[1]))
                continue
            glob, equals, amount = _text(each, of).rpartition("=")
            if not (glob and equals):
                raise OnnxpruneError(
                    f"{stated(of, each)} does not say how much",
                    hint=f"write it as in {example(of, 'layer1*=0.3')}",
                )
            pairs.append((glob, amount))
    ratios: dict[str, float] = {}
    for glob, ratio in pairs:
        ratios.pop(glob, None)  # said again, it is the last word: also over globs in between
        ratios[glob] = fraction(ratio, of=f"{of} {glob}=")
    return tuple(ratios.items())


def _word(value: object, of: str, words: Iterable[str]) -> str:
    if isinstance(value, str) and value in words:
        return value
    raise OnnxpruneError(f"{stated(of, value)} is not known", hint=suggest(str(value), words))


def _backend(value: object, of: str) -> str:
    """A backend, or a provider of onnxruntime by its own name."""
    text = _text(value, of)
    first, comma, _ = text.partition(",")
    if comma:
        raise OnnxpruneError(
            f"{stated(of, text)} names several backends",
            hint=f"name one, as in {example(of, first.strip() or 'cpu')}",
        )
    with blame(of):
        return backend_name(text)


def _target(value: object, of: str) -> str:
    """A runtime that models are quantized for: a backend, or `openvino-sparse`."""
    text = _text(value, of)
    if text.lower() in FORMATS:
        return text.lower()
    try:
        return _backend(text, of)
    except OnnxpruneError as error:
        hint = suggest(text, [*BACKENDS, *FORMATS], "`onnxprune help backend` lists all")
        raise OnnxpruneError(error.message, hint=hint) from error


def _limit(value: object, of: str) -> Budget:
    """A budget; that of a latency names a backend that exists."""
    limit = budget(value, of=of)
    if limit.backend:
        _backend(limit.backend, f"{of} {value}")
    return limit


def _metric(value: object, of: str) -> str | Callable[..., float]:
    if callable(value):
        return value
    text = _text(value, of)
    with blame(of):
        return metric_name(text)


def _parts(value: object, of: str) -> list[object]:
    """What is between commas, or the members of a list."""
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Real):
        return [value]
    if isinstance(value, Iterable) and not isinstance(value, Mapping | bytes):
        return list(value)
    raise OnnxpruneError(
        f"{stated(of, value)} is not a list", hint="write one value or a list of values"
    )


def _listed(value: object) -> Sequence[object]:
    return [value] if isinstance(value, str) or not isinstance(value, Sequence) else value


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) or (isinstance(value, str) and value.isdecimal())


def _is(value: object, word: str) -> bool:
    return isinstance(value, str) and value == word


def _path(value: object, of: str) -> str | os.PathLike[str]:
    if isinstance(value, os.PathLike):
        return value
    if isinstance(value, str) and value:
        return value
    raise OnnxpruneError(f"{stated(of, value)} is not a path", hint="write the path of a file")


def _compute_capabilities(value: object, of: str) -> tuple[tuple[int, int], ...]:
    return tuple(each for part in _listed(value) for each in _levels(part, of))


def _levels(value: object, of: str) -> list[tuple[int, int]]:
    if isinstance(value, tuple):  # as they are kept
        return [(int(value[0]), int(value[1]))]
    return [_level(each, of) for each in _parts(value, of)]


def _smallest(value: object, of: str) -> str:
    """A kind of budget, as in ``macs``, ``bytes`` or ``latency@cpu``."""
    kind, at, backend = _text(value, of).partition("@")
    if kind not in COST_KINDS or bool(at) != COST_KINDS[kind].timed or (at and not backend):
        known = [f"{name}@cpu" if each.timed else name for name, each in COST_KINDS.items()]
        raise OnnxpruneError(f"{stated(of, value)} is not known", hint=suggest(kind, known))
    if backend:
        _backend(backend, stated(of, value))
    return f"{kind}{at}{backend}"


def _level(value: object, of: str) -> tuple[int, int]:
    """A compute capability, as in ``8.6``."""
    major, dot, minor = str(value).partition(".")
    if not (dot and major.isdecimal() and minor.isdecimal() and len(minor) == 1):
        raise OnnxpruneError(
            f"{stated(of, value)} is none that NVIDIA has",
            hint="write it as NVIDIA does, as in 8.6",
        )
    return int(major), int(minor)


def one_of(choices: object, metavar: str = "NAME") -> Reader:
    """One word of a ``Literal``."""
    words = get_args(choices)
    quoted = ", ".join(f'"{word}"' for word in words)
    return Reader(
        lambda value, of: _word(value, of, words),
        metavar,
        f"Literal[{quoted}]",
        {"enum": list(words)},
        words,
    )


def some_of(choices: object, metavar: str, example: str) -> Reader:
    """Some words of a ``Literal``, in its order."""
    words = get_args(choices)

    def read(value: object, of: str) -> tuple[str, ...]:
        wanted = [_word(each, of, words) for each in _parts(value, of)]
        return tuple(each for each in words if each in wanted)

    return Reader(read, metavar, "str | Sequence[str]", _STRINGS, words, example=example)


def at_least(least: int) -> Reader:
    """A whole number."""
    return Reader(
        lambda value, of: count(value, of=of, least=least),
        "N",
        "int | str",
        {"type": "integer", "minimum": least},
    )


FRACTION = Reader(
    lambda value, of: fraction(value, of=of), "R", "float | str", _NUMBER_OR_TEXT, example="0.3"
)
COUNT, POSITIVE = at_least(0), at_least(1)
BLANK = Reader(
    lambda value, of: "last" if _is(value, "last") else count(value, of=of, least=0),
    "N",
    "int | str",
    {"type": ["integer", "string"]},
    example="last",
)
DETECTOR = Reader(
    lambda value, of: _word(value, of, DETECTORS),
    "NAME",
    "str",
    {"enum": list(DETECTORS)},
    tuple(DETECTORS),
    example="yolov8",
)
COUNTS = Reader(
    lambda value, of: tuple(
        dict.fromkeys(count(each, of=of, least=1) for each in _parts(value, of))
    ),
    "N,N",
    "int | str | Sequence[int]",
    {"type": ["integer", "string", "array"], "items": _INTEGER},
    example="1,8",
)
FRACTIONS = Reader(
    lambda value, of: tuple(sorted({fraction(each, of=of) for each in _parts(value, of)})),
    "R,R",
    "str | Sequence[float]",
    {"type": ["string", "array"], "items": _NUMBER_OR_TEXT},
    example="0.1,0.5,0.9",
)
SWITCH = Reader(_switch, "", "bool", {"type": "boolean"}, ("true", "false"))
TEXT = Reader(_text, "NAME", "str", _STRING)
TOKEN = Reader(
    lambda value, of: count(value, of=of) if _is_whole(value) else _text(value, of),
    "ID",
    "int | str",
    {"type": ["integer", "string"]},
    example="100",
)
GLOBS = Reader(_texts, "GLOB", "str | Sequence[str]", _STRINGS, repeats=True, example="layer1*")
NAMES = Reader(
    lambda value, of: tuple(dict.fromkeys(_backend(each, of) for each in _parts(value, of))),
    "NAMES",
    "str | Sequence[str]",
    _STRINGS,
    BACKENDS,
    example="cpu,openvino",
)
RATIOS = Reader(
    _ratios,
    "GLOB=R",
    "str | Sequence[str] | Mapping[str, float | str]",
    {"type": ["object", "string", "array"], "additionalProperties": _NUMBER_OR_TEXT},
    repeats=True,
    example="layer1*=0.3",
)
KEPT_IDS = Reader(
    lambda value, of: kept_ids(value, of=of),
    "IDS",
    "str | Sequence[str] | Sequence[int]",
    {"type": ["string", "array"], "items": {"type": ["string", "integer"]}},
    repeats=True,
    example="calib",
)
KEPT_INDICES = Reader(
    lambda value, of: kept_indices(value, of=of),
    "NAME=LIST",
    "str | Sequence[str] | Sequence[int] | Mapping[str, Sequence[int | str]]",
    {
        "type": ["object", "string", "array"],
        "additionalProperties": {"type": ["string", "array"]},
        "items": {"type": ["string", "integer"]},
    },
    repeats=True,
    example="logits=0,2,7",
)
SHAPES = Reader(
    lambda value, of: shapes(value, of=of),
    "NAME=SIZES",
    "str | Sequence[str] | Mapping[str, Sequence[int]]",
    {
        "type": ["object", "string", "array"],
        "additionalProperties": {"type": ["string", "array"], "items": _INTEGER},
    },
    repeats=True,
    example="input=1x3x224x224",
)
BUDGET = Reader(_limit, "BUDGET", "str | Budget", _STRING, example="macs=50%")
SPARSITY = Reader(
    lambda value, of: sparsity(value, of=of),
    "S",
    "float | str | Sparsity",
    _NUMBER_OR_TEXT,
    example="50%",
)
SMALLEST = Reader(_smallest, "COST", "str", _STRING, example="params")
BYTES = Reader(
    lambda value, of: byte_count(value, of=of),
    "BYTES",
    "int | str",
    _NUMBER_OR_TEXT,
    example="4GiB",
)
ROUND_TO = Reader(
    lambda value, of: "auto" if _is(value, "auto") else count(value, of=of, least=1),
    "N",
    "int | str",
    {"type": ["integer", "string"]},
)
PATH = Reader(
    _path,
    "FILE",
    "str | PathLike[str]",
    _STRING,
)
BACKEND = Reader(_backend, "NAME", "str", _STRING, BACKENDS, example="cpu")
ANYTHING = Reader(lambda value, _of: value, "SPEC", "object", _STRING)
TARGET = Reader(_target, "NAME", "str", _STRING, (*BACKENDS, "openvino-sparse"), example="cpu")
METRIC = Reader(_metric, "NAME", "str | Callable[..., float]", _STRING, example="accuracy")
WORKERS = Reader(
    lambda value, of: None if _is(value, "auto") else count(value, of=of, least=1),
    "N",
    "int | str",
    {"type": ["integer", "string"]},
)
_RUNTIMES = ("tensorrt", "tensorrt-rtx")
RUNTIME = Reader(
    lambda value, of: _word(str(value).replace("_", "-"), of, _RUNTIMES).replace("-", "_"),
    "NAME",
    'Literal["tensorrt", "tensorrt-rtx"]',
    {"enum": list(_RUNTIMES)},
    _RUNTIMES,
    example="tensorrt",
)
CAPABILITIES = Reader(
    _compute_capabilities,
    "X.Y",
    "str | Sequence[str]",
    _STRINGS,
    several=True,
    example="8.6",
)


# --- values as they are printed ----------------------------------------------------------------

_WIDE = 1.96
"""Half of the 95 % interval of a normal distribution, in standard errors."""
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


def unit_of(measure: str) -> Unit:
    """The unit of what a result is judged by: a metric, agreement, cosine or an error.

    Example:
        >>> unit_of("accuracy"), unit_of("agreement"), unit_of("nats")
        ('fraction', 'fraction', 'number')
    """
    return "fraction" if measure == "agreement" or is_fraction(measure) else "number"


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
            return _seconds(value)
        case "number":
            return f"{value:.4g}"


def figure(value: float) -> str:
    """A number of unknown unit: a large one as a quantity, any other to three figures."""
    if math.isfinite(value) and abs(value) >= 1000:
        return quantity(value)
    return f"{value + 0.0:.3g}"  # so that a negative zero has no sign


def times(value: float) -> str:
    """A ratio of an amount to another: ``0.498x``."""
    return f"{value:.3f}x" if math.isfinite(value) else str(value)


def interval(low: float, high: float) -> str:
    """Between what a ratio lies: ``0.490 to 0.510``."""
    return f"{low:.3f} to {high:.3f}"


def signed(value: float, unit: Unit) -> str:
    """A difference, new minus old, with its sign: points (without the word) of a fraction."""
    if not math.isfinite(value):
        return f"{value:+}"
    if unit == "fraction":
        points = round(value * 100, 2)
        return f"{points:+.2f}" if points else "0.00"
    return f"{value:+.4g}" if value else "0"


def difference(value: float, unit: Unit) -> str:
    """A difference, new minus old, in words: ``-0.70 points``, ``+0.0123``."""
    return f"{signed(value, unit)} points" if unit == "fraction" else signed(value, unit)


def half_interval(error: float | None) -> float | None:
    """Half of the 95 % interval of a value with a standard error: what every ``±`` shows."""
    return None if error is None else _WIDE * error


def spread(value: float, unit: Unit) -> str:
    """Half of an interval around a value or a difference: ``0.42 points``, ``0.012``."""
    if unit == "fraction":
        return f"{round(value * 100, 2) + 0.0:.2f} points"  # a negative zero has no sign
    return f"{value + 0.0:.2g}"


def change(dense: float | None, pruned: float | None, unit: Unit) -> str:
    """From before to after: points for fractions, a ratio for amounts, a difference otherwise."""
    if dense is None or pruned is None or not (math.isfinite(dense) and math.isfinite(pruned)):
        return ""
    if unit in ("fraction", "number"):
        return difference(pruned - dense, unit)
    return times(pruned / dense) if dense else ""


def example_of(names: Collection[str], what: str) -> str:
    """How many names there are, and the first of them.

    Example:
        >>> example_of(["conv1", "conv2"], "node")
        "the model has 2 nodes, such as 'conv1'"
    """
    first = next(iter(names), None)
    return f"the model has {plural(len(names), what)}" + (f", such as {first!r}" if first else "")


def plural(number: int, word: str) -> str:
    """``1 group``, ``13 groups``."""
    if number == 1:
        return f"1 {word}"
    return f"{number:,} {word[:-2]}ices" if word.endswith("ex") else f"{number:,} {word}s"


def _seconds(value: float) -> str:
    """Three figures in the unit that leaves no zeros before them: ``70 µs``, ``1.08 ms``."""
    if not value:
        return "0 s"
    for factor, unit in ((1.0, "s"), (1e3, "ms"), (1e6, "µs")):
        text = f"{value * factor:.3g}"
        if float(text) >= 1 or unit == "µs":
            return f"{text if 'e' not in text else f'{value * factor:.0f}'} {unit}"
    raise AssertionError(value)


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
