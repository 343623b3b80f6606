"""Options as users write them: on the command line, in a recipe or as keywords."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast, get_args

from onnxprune.amounts import BUDGET_KINDS, budget, count, fraction, shapes
from onnxprune.errors import OnnxpruneError
from onnxprune.options import Allocation, Options, Recover, Schedule
from onnxprune.sparse.amount import Method, Spread, sparsity
from onnxprune.storage.forms import Store


def from_flags(given: Mapping[str, object]) -> Options:
    """Read options as a user writes them, on the command line, in a recipe or as keywords.

    Args:
        given: values by flag name (``max-ratio`` or ``max_ratio``): text or the final type.

    Raises:
        OnnxpruneError: a name is unknown (the message suggests one) or a value cannot be read.
    """
    read: dict[str, object] = {}
    for name, value in given.items():
        key = name.replace("-", "_")
        if key not in _READERS:
            known = [flag(each) for each in _READERS]
            raise OnnxpruneError(f"there is no option {name!r}", hint=suggest(name, known))
        read[key] = None if value is None else _READERS[key](value, f"--{flag(key)}")
    return Options(**cast(dict[str, Any], read))


def flag(name: str) -> str:
    """The name of an option as users write it: ``max_ratio`` is ``max-ratio``."""
    return name.replace("_", "-")


def suggest(word: str, known: Iterable[str]) -> str:
    """A hint for a word that is not among the known ones: the closest of them, or all."""
    words = list(known)
    close = difflib.get_close_matches(word, words, n=1)
    return f"did you mean {close[0]!r}?" if close else f"there are {', '.join(words)}"


def _text(value: object, of: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise OnnxpruneError(f"{of} {value} is not text", hint=f"write a word after {of}")


def _texts(value: object, of: str) -> tuple[str, ...]:
    given = [value] if isinstance(value, str) else value
    if not isinstance(given, Sequence):
        raise OnnxpruneError(f"{of} {value} is not a list", hint="write one text or a list")
    return tuple(_text(each, of) for each in given)


def _anything(value: object, _of: str) -> object:
    return value


def _switch(value: object, of: str) -> bool:
    if isinstance(value, bool):
        return value
    raise OnnxpruneError(f"{of} {value} is neither true nor false", hint="write true or false")


def _ratios(value: object, of: str) -> tuple[tuple[str, float], ...]:
    pairs: list[tuple[str, object]] = []
    if isinstance(value, Mapping):
        pairs += [(str(glob), ratio) for glob, ratio in value.items()]
    else:
        for text in _texts(value, of):
            glob, equals, amount = text.rpartition("=")
            if not (glob and equals):
                raise OnnxpruneError(
                    f"{of} {text} does not say how much",
                    hint=f"write it as in {of} 'layer1*=0.3'",
                )
            pairs.append((glob, amount))
    read: dict[str, float] = {}
    for glob, ratio in pairs:
        read.pop(glob, None)  # said again, it is the last word: also over globs in between
        read[glob] = fraction(ratio, of=f"{of} {glob}=")
    return tuple(read.items())


def _one_of(known: tuple[str, ...]) -> Callable[[object, str], str]:
    def read(value: object, of: str) -> str:
        if isinstance(value, str) and value in known:
            return value
        raise OnnxpruneError(f"{of} {value} is not known", hint=suggest(str(value), known))

    return read


def _round_to(value: object, of: str) -> int | Literal["auto"]:
    return "auto" if value == "auto" else count(value, of=of, least=1)


def _path(value: object, of: str) -> object:
    return value if isinstance(value, os.PathLike) else _text(value, of)


def _smallest(value: object, of: str) -> str:
    """A kind of budget, as in ``macs``, ``bytes`` or ``latency@cpu``."""
    kind, at, backend = _text(value, of).partition("@")
    if kind not in BUDGET_KINDS or bool(at) != (kind == "latency") or (at and not backend):
        known = [k if k != "latency" else "latency@cpu" for k in BUDGET_KINDS]
        raise OnnxpruneError(f"{of} {value} is not known", hint=suggest(kind, known))
    return f"{kind}{at}{backend}"


def _metric(value: object, of: str) -> object:
    return value if callable(value) else _text(value, of)


def _ratio(value: object, of: str) -> float:
    return fraction(value, of=of)


def _count(value: object, of: str) -> int:
    return count(value, of=of)


def _positive(value: object, of: str) -> int:
    return count(value, of=of, least=1)


_READERS: dict[str, Callable[[object, str], object]] = {
    "ratio": _ratio,
    "target": lambda value, of: budget(value, of=of),
    "heads": _ratio,
    "blocks": _count,
    "max_blocks": _count,
    "sparsity": lambda value, of: sparsity(value, of=of),
    "ratios": _ratios,
    "skip": _texts,
    "skip_small": _positive,
    "skip_first": _count,
    "skip_last": _count,
    "tied": _switch,
    "sparse_method": _one_of(get_args(Method)),
    "sparse_allocation": _one_of(get_args(Spread)),
    "permute": _switch,
    "criterion": _text,
    "allocation": _one_of(get_args(Allocation)),
    "max_ratio": _ratio,
    "steps": _positive,
    "schedule": _one_of(get_args(Schedule)),
    "round_to": _round_to,
    "provider": _text,
    "calib": _anything,
    "calib_samples": _positive,
    "batch": _positive,
    "labels": _anything,
    "metric": _metric,
    "preprocess": _anything,
    "recover": _one_of(get_args(Recover)),
    "allow_inexact": _switch,
    "seed": _count,
    "cache": _switch,
    "max_drop": _ratio,
    "shapes": lambda value, of: shapes(value, of=of),
    "store": _one_of(get_args(Store)),
    "sensitivity": _path,
    "smallest": _smallest,
}
"""How each option is read; its keys are exactly the fields of `Options`."""
