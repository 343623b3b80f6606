"""What a sweep is asked to look at, and with how many hands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast, get_args

from onnxprune.errors import OnnxpruneError, suggest
from onnxprune.quantities import count, fraction

Kind = Literal["groups", "blocks", "weights"]
KINDS: tuple[str, ...] = get_args(Kind)
RATIOS = (0.1, 0.25, 0.5, 0.75, 0.9)


@dataclass(frozen=True)
class Request:
    """What is swept.

    Attributes:
        ratios: fractions of the units of a group, or of the entries of a weight, that go;
            ascending, each in [0, 1). A block goes whole or not at all.
        kinds: what they are applied to.
        drop: the loss of the metric that recommended ratios may cost together; None recommends
            nothing.
        workers: processes on this machine; None takes all cores where the work is worth it.
        dask: address of a Dask scheduler that is used instead; empty for none.
    """

    ratios: tuple[float, ...] = RATIOS
    kinds: tuple[Kind, ...] = ("groups", "blocks", "weights")
    drop: float | None = None
    workers: int | None = 1
    dask: str = ""

    def __post_init__(self) -> None:
        if not self.ratios:
            raise OnnxpruneError("--ratios is empty", hint="write some, as in 0.1,0.5,0.9")
        whole = [ratio for ratio in self.ratios if not 0 <= ratio < 1]
        if whole:
            raise OnnxpruneError(
                f"--ratios {whole[0]:g} would leave nothing", hint="write ratios below 1"
            )
        if self.dask and self.workers not in (None, 1):
            raise OnnxpruneError(
                "--workers and --dask both say who does the work", hint="give one of them"
            )


def from_words(given: Mapping[str, object]) -> Request:
    """Read a request as users write it.

    Args:
        given: ``ratios`` and ``kinds`` as lists or as text with commas, ``drop``, ``workers``,
            ``dask``; what is absent or None is at its default. ``workers`` may be ``auto``.

    Raises:
        OnnxpruneError: a value cannot be read.
    """
    read: dict[str, object] = {}
    for name, value in given.items():
        if value is not None:
            read[name] = _READERS[name](value)
    return Request(**read)  # type: ignore[arg-type]


def _parts(value: object, of: str) -> list[object]:
    if isinstance(value, str):
        return [part.strip() for part in value.split(",") if part.strip()]
    if isinstance(value, Sequence):
        return list(value)
    raise OnnxpruneError(f"{of} {value} is not a list", hint="write it with commas between")


def _ratios(value: object) -> tuple[float, ...]:
    return tuple(sorted({fraction(each, of="--ratios") for each in _parts(value, "--ratios")}))


def _kinds(value: object) -> tuple[Kind, ...]:
    asked = [str(each) for each in _parts(value, "--kinds")]
    for each in asked:
        if each not in KINDS:
            raise OnnxpruneError(f"--kinds {each} is not known", hint=suggest(each, KINDS))
    return tuple(cast(Kind, each) for each in KINDS if each in asked)


_READERS: dict[str, Callable[[object], object]] = {
    "ratios": _ratios,
    "kinds": _kinds,
    "drop": lambda value: fraction(value, of="--drop"),
    "workers": lambda value: None if value == "auto" else count(value, of="--workers", least=1),
    "dask": str,
}
"""How each field is read."""
