"""Values inside a model while data go through it, within a memory limit."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from typing import Any

import numpy.typing as npt
from rich.console import Console
from rich.progress import Progress

from onnxprune.errors import OnnxpruneError
from onnxprune.model import Model
from onnxprune.runtime import Session, open_session
from onnxprune.runtime.embed import with_sizes

Feeds = Mapping[str, npt.NDArray[Any]]

LIMIT = 1 << 30
"""Bytes of observed values held at once, by default."""


def observe(
    model: Model,
    data: Iterable[Feeds],
    names: Sequence[str],
    *,
    provider: str = "cpu",
    threads: int | None = None,
    limit: int = LIMIT,
    progress: bool = True,
) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Run ``data`` through ``model`` and yield what the named values hold, feed by feed.

    Nothing is kept. Where all values of one feed take more than ``limit`` bytes together (judged
    by the first feed), the data are gone through several times, each time for a part of the names:
    every value still comes once per feed, in order, but not every name in every dict.

    Args:
        model: what runs.
        data: feeds; restartable where several passes are needed (a `Calibration` or a list).
        names: values of the main graph.
        provider: as for `onnxprune.runtime.open_session`.
        threads: likewise.
        limit: bytes; a single larger value has a pass of its own.
        progress: show a bar if stderr is a terminal.

    Raises:
        OnnxpruneError: a value cannot be observed, or a feed does not run.
    """
    names = list(dict.fromkeys(names))
    session = open_session(model, provider=provider, threads=threads, outputs=names)
    passes = _passes(model, data, session, names, limit, provider)
    shown = progress and sys.stderr.isatty()
    feeds = _length(data)
    with Progress(console=Console(stderr=True), transient=True, disable=not shown) as bar:
        total = None if feeds is None else feeds * len(passes)
        task = bar.add_task("Observing", total=total)
        for wanted in passes:
            for fed in data:
                yield session.run(fed, wanted)
                bar.advance(task)


def _passes(
    model: Model,
    data: Iterable[Feeds],
    session: Session,
    names: list[str],
    limit: int,
    provider: str,
) -> list[list[str]]:
    """The names in parts whose values fit into ``limit`` together, in order."""
    if len(names) < 2:
        return [names]
    if iter(data) is data:
        raise OnnxpruneError(
            "data that can only be gone through once cannot be observed within a memory limit",
            hint="pass a list, or open them with open_calibration",
        )
    first = next(iter(data), None)
    if first is None:
        return [names]
    sized, outputs = with_sizes(model, names)
    counter = open_session(sized, provider=provider)
    counts = counter.run(first, list(outputs.values()))
    width = {spec.name: spec.dtype.itemsize for spec in session.outputs}
    parts: list[list[str]] = [[]]
    held = 0
    for name in names:
        size = int(counts[outputs[name]]) * width[name]
        if parts[-1] and held + size > limit:
            parts.append([])
            held = 0
        parts[-1].append(name)
        held += size
    return parts


def _length(data: Iterable[Feeds]) -> int | None:
    if not isinstance(data, Sized):
        return None
    try:
        return len(data)
    except TypeError:  # a Calibration that must be read to be counted
        return None
