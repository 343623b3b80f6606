"""What a backend is: something that opens a model and runs it, wherever that may be."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias, runtime_checkable

import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Signature, describe

if TYPE_CHECKING:
    from onnxprune.model import Model

Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]
Source: TypeAlias = "Model | Path"


@dataclass(frozen=True)
class Availability:
    """Whether a backend can be used here.

    Attributes:
        ok: whether it can.
        version: of the runtime behind it; empty where it is not installed.
        reason: why it cannot be used; empty if it can.
    """

    ok: bool
    version: str = ""
    reason: str = ""


class Runner(Protocol):
    """A model that is open on a backend; plug-ins bring their own class."""

    @property
    def inputs(self) -> Signature:
        """What ``run`` needs, in the model's order."""

    @property
    def outputs(self) -> Signature:
        """What ``run`` returns, in the model's order."""

    @property
    def precision(self) -> str:
        """What it computes in: ``f32``, ``tf32``, ``bf16``, ``f16``, ``int8+f32``, ..."""

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """Run once, from arrays of numpy to arrays of numpy.

        Raises:
            OnnxpruneError: the feeds do not fit, or the runtime fails.
        """

    def close(self) -> None:
        """Let go of the model; closing twice does nothing, running afterwards is refused."""


@runtime_checkable
class Loaded(Protocol):
    """A runner that knows how long the runtime itself took to load the model."""

    load_s: float
    """Seconds from the file to something that runs, building of engines left out."""


@runtime_checkable
class Timed(Protocol):
    """A runner that measures itself better than a clock around ``run`` could."""

    def time(self, feeds: Feeds, runs: int) -> Sequence[float]:
        """Seconds of each of about ``runs`` runs."""


COMPILED = "(compiled)"
"""The kind of a node that stands for a part of the model whose inside the runtime does not show."""


@dataclass(frozen=True)
class NodeTime:
    """What one node took in one run.

    Attributes:
        name: of the node, as the runtime has it.
        op: its kind, as the runtime calls it.
        seconds: spent in it.
        start_s: seconds from the start of the run; None where the runtime does not tell.
    """

    name: str
    op: str
    seconds: float
    start_s: float | None = None


@runtime_checkable
class Profiled(Protocol):
    """A runner that can tell where it spends its time, if it was opened with ``profile``."""

    def profiled(self, feeds: Feeds, runs: int) -> list[list[NodeTime]]:
        """The nodes of each of some runs, in the order they ran; to be asked for once."""


@dataclass(frozen=True)
class Request:
    """How a model is to be opened.

    Attributes:
        threads: that the runtime may use; None leaves it the choice.
        options: of the runtime, as it calls them itself.
        optimise: whether it may rewrite the graph.
        shapes: of the inputs it will be run with, the usual ones first. Runtimes that compile for
            sizes need them where the model leaves sizes open; the others do not look.
        profile: whether it is to be profiled; see :class:`Profiled`.
    """

    threads: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    optimise: bool = True
    shapes: tuple[Shapes, ...] = ()
    profile: bool = False


@dataclass(frozen=True)
class Backend:
    """Something that runs models.

    Attributes:
        name: what users type.
        summary: a few words on what it is.
        install: the one line that installs it.
        probe: finds out whether it can be used here.
        opener: opens a model as requested.
        switch: whether its optimisation can be turned off.
    """

    name: str
    summary: str
    install: str
    probe: Callable[[], Availability] = field(repr=False)
    opener: Callable[[Source, Request], Runner] = field(repr=False)
    switch: bool = False

    def available(self) -> Availability:
        """Whether it can be used here, and if not, why."""
        return self.probe()

    def open(
        self,
        model: Source,
        *,
        threads: int | None = None,
        options: Mapping[str, str] | None = None,
        optimise: bool = True,
        shapes: Sequence[Shapes] = (),
        profile: bool = False,
    ) -> Runner:
        """Open a model.

        Args:
            model: a loaded model, or the path of one, which is opened as a user would.
            threads: that the runtime may use; None leaves it the choice.
            options: of the runtime, as it calls them itself.
            optimise: whether it may rewrite the graph.
            shapes: of the inputs it will be run with, the usual ones first; see :class:`Request`.
            profile: whether it is to be profiled, which may make it slower.

        Raises:
            OnnxpruneError: the backend is not available here, it does not take the model, or its
                optimisation cannot be turned off.
        """
        if not optimise and not self.switch:
            raise OnnxpruneError(
                f"the optimisation of {self.name} cannot be turned off",
                hint="compare with `cpu`, whose can",
            )
        found = self.available()
        if not found.ok:
            raise OnnxpruneError(
                f"the backend {self.name} is not available here: {found.reason}",
                hint=f"to install it: {self.install}",
            )
        if isinstance(model, Path) and not model.is_file():
            raise OnnxpruneError(f"there is no model file {model}", hint="check the path")
        request = Request(threads, dict(options or {}), optimise, tuple(shapes), profile)
        return self.opener(model, request)


def check_feeds(inputs: Signature, feeds: Feeds) -> None:
    """Refuse feeds that do not fit a signature in name, element type, rank or a fixed size.

    Runtimes that would convert or ignore them call this first.

    Raises:
        OnnxpruneError: they do not fit.
    """
    hint = f"its inputs are {describe(inputs)}"
    specs = {spec.name: spec for spec in inputs}
    strange = sorted(set(feeds) - set(specs))
    missing = [name for name in specs if name not in feeds]
    if strange or missing:
        what = f"nothing is fed to '{missing[0]}'" if missing else f"it has no input '{strange[0]}'"
        raise OnnxpruneError(f"the model failed to run: {what}", hint=hint)
    for name, spec in specs.items():
        array = feeds[name]
        fits = len(array.shape) == len(spec.shape) and all(
            not isinstance(wanted, int) or wanted == given
            for wanted, given in zip(spec.shape, array.shape, strict=True)
        )
        if array.dtype != spec.dtype or not fits:
            given = f"{array.dtype.name} {list(array.shape)}"
            raise OnnxpruneError(f"the model failed to run: '{name}' is fed {given}", hint=hint)


def closed() -> OnnxpruneError:
    """What a runner raises that was closed before."""
    return OnnxpruneError("the model is closed", hint="open it again")
