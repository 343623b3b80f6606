"""The contract of a backend: something that opens a model and runs it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeAlias, TypeVar, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Signature, describe

if TYPE_CHECKING:
    import onnx_ir as ir

    from onnxprune.model import Model

T = TypeVar("T")

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


class Session(Protocol):
    """A model that is open on a backend; plug-ins bring their own class."""

    @property
    def inputs(self) -> Signature:
        """The inputs of ``run``, in the model's order."""

    @property
    def outputs(self) -> Signature:
        """The outputs of ``run``, in the model's order; tapped values last."""

    @property
    def precision(self) -> str:
        """The precision it computes in: ``f32``, ``tf32``, ``bf16``, ``f16``, ``int8+f32``, ..."""

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once, from numpy arrays to numpy arrays.

        Args:
            feeds: an array per input.
            outputs: names of the outputs to return; all by default. Only for backends that tap.

        Raises:
            OnnxpruneError: the feeds do not fit, or the runtime fails.
        """

    def close(self) -> None:
        """Free the model; closing twice does nothing, running afterwards is refused."""


@runtime_checkable
class Loaded(Protocol):
    """A session that reports how long the runtime took to load the model."""

    load_s: float
    """Seconds from the file to a model that runs, without building engines."""


@runtime_checkable
class Timed(Protocol):
    """A session that measures itself better than a clock around ``run`` could."""

    def time(self, feeds: Feeds, runs: int) -> Sequence[float]:
        """Seconds of each of about ``runs`` runs."""


COMPILED = "(compiled)"
"""The kind of a node that stands for a part of the model that the runtime compiled as a whole."""


@dataclass(frozen=True)
class NodeTime:
    """The time of one node in one run.

    Attributes:
        name: of the node, as the runtime has it.
        op: its kind, as the runtime calls it.
        seconds: spent in it.
        start_s: seconds from the start of the run; None if unknown.
    """

    name: str
    op: str
    seconds: float
    start_s: float | None = None


@runtime_checkable
class Profiled(Protocol):
    """A session that profiles; required of one opened with ``profile``."""

    def profiled(self, feeds: Feeds, runs: int) -> list[list[NodeTime]]:
        """The nodes of each of some runs, in the order they ran; to be called once."""


@dataclass(frozen=True)
class Request:
    """Settings for opening a model.

    Attributes:
        threads: number of threads; None leaves the choice to the runtime.
        options: of the runtime, under its own names.
        optimise: whether the runtime may rewrite the graph.
        shapes: of the inputs to come, the usual ones first. Runtimes that compile for sizes need
            them where the model leaves sizes open; others ignore them.
        profile: whether to open for profiling; see :class:`Profiled`.
        outputs: values to return besides the model's outputs.
    """

    threads: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    optimise: bool = True
    shapes: tuple[Shapes, ...] = ()
    profile: bool = False
    outputs: tuple[str, ...] = ()


Capability: TypeAlias = Literal["taps", "profile", "references", "unoptimised"]
"""Abilities that not every backend has.

* ``taps``: return values inside the model, and only the outputs asked for.
* ``profile``: report the time of every node; its sessions are :class:`Profiled`.
* ``references``: read the weights of a loaded model in place, whatever their size.
* ``unoptimised``: run the graph as it is.
"""

_REFUSALS: Mapping[Capability, tuple[str, str]] = {
    "taps": ("{} does not return values inside a model", "use `cpu`, which does"),
    "profile": ("{} does not report where it spends its time", "use `cpu`, which does"),
    "unoptimised": (
        "the optimisation of {} cannot be turned off",
        "compare with `cpu`, where it can",
    ),
}
"""Messages and hints for what a backend cannot do."""


@dataclass(frozen=True)
class Backend:
    """Something that runs models.

    Attributes:
        name: as users type it.
        summary: a few words of description.
        install: the command that installs it.
        probe: checks whether it can be used here.
        opener: opens a model as requested.
        capabilities: abilities beyond those that all backends have.
    """

    name: str
    summary: str
    install: str
    probe: Callable[[], Availability] = field(repr=False)
    opener: Callable[[Source, Request], Session] = field(repr=False)
    capabilities: frozenset[Capability] = frozenset()

    def available(self) -> Availability:
        """Whether it can be used here; the reason if not."""
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
        outputs: Sequence[str] = (),
    ) -> Session:
        """Open a model.

        Args:
            model: a loaded model, or the path of one, which is opened as a user would.
            threads: number of threads; None leaves the choice to the runtime.
            options: of the runtime, under its own names.
            optimise: whether the runtime may rewrite the graph.
            shapes: of the inputs to come, the usual ones first; see :class:`Request`.
            profile: whether to open for profiling, which may be slower.
            outputs: values to return besides the model's outputs.

        Raises:
            OnnxpruneError: the backend is not available here, it does not take the model, or it
                lacks a capability.
        """
        wanted: dict[Capability, bool] = {
            "unoptimised": not optimise, "profile": profile, "taps": bool(outputs)
        }  # fmt: skip
        for capability, needed in wanted.items():
            if needed and capability not in self.capabilities:
                problem, hint = _REFUSALS[capability]
                raise OnnxpruneError(problem.format(self.name), hint=hint)
        state = self.available()
        if not state.ok:
            raise OnnxpruneError(
                f"the backend {self.name} is not available here: {state.reason}",
                hint=f"to install it: {self.install}",
            )
        if isinstance(model, Path) and not model.is_file():
            raise OnnxpruneError(f"there is no model file {model}", hint="check the path")
        settings = dict(options or {})
        request = Request(threads, settings, optimise, tuple(shapes), profile, tuple(outputs))
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
        fits = not spec.ranked or (
            len(array.shape) == len(spec.shape)
            and all(
                not isinstance(size, int) or size == actual
                for size, actual in zip(spec.shape, array.shape, strict=True)
            )
        )
        if array.dtype != spec.dtype or not fits:
            text = f"{array.dtype.name} {list(array.shape)}"
            raise OnnxpruneError(f"the model failed to run: '{name}' is fed {text}", hint=hint)


def closed() -> OnnxpruneError:
    """The error of a session that was closed before."""
    return OnnxpruneError("the model is closed", hint="open it again")


class CompiledSession(ABC):
    """What the sessions of compiling runtimes share.

    Attributes:
        inputs, outputs: as the model has them.
        handle: the runtime's own object; None once the session is closed.
    """

    handle: Any = None

    def __init__(self, loaded: Model) -> None:
        from onnxprune.model.signature import outputs_of, signature_of

        self.inputs: Signature = signature_of(loaded)
        self.outputs: Signature = outputs_of(loaded)

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once."""
        self.check(feeds)
        values = self.infer({name: np.ascontiguousarray(feeds[name]) for name in feeds})
        names = [spec.name for spec in self.outputs] if outputs is None else outputs
        return {name: values[name] for name in names}

    def check(self, feeds: Feeds) -> None:
        """Refuse feeds that do not fit, and any once the session is closed.

        Raises:
            OnnxpruneError: they do not fit, or the session is closed.
        """
        if self.handle is None:
            raise closed()
        check_feeds(self.inputs, feeds)

    @abstractmethod
    def infer(self, feeds: Feeds) -> Mapping[str, npt.NDArray[Any]]:
        """All outputs, from feeds that fit; arrays that no later run changes.

        Raises:
            OnnxpruneError: the runtime fails.
        """


def per_model(read: Callable[[Model], T]) -> Callable[[Model], T]:
    """Remember the result of ``read`` for as long as the model lives.

    It may depend on nodes and element types only, which do not change in a model that is open.
    """
    known: WeakKeyDictionary[ir.Model, T] = WeakKeyDictionary()

    @wraps(read)
    def once(model: Model) -> T:
        if model.ir not in known:
            known[model.ir] = read(model)
        return known[model.ir]

    return once


_WORDS = {"FLOAT": "f32", "FLOAT16": "f16", "BFLOAT16": "bf16", "DOUBLE": "f64"}
_INT8 = {"QuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger"}


def stored_precision(source: Source) -> str:
    """The float type that most of a model's stored weights have; ``int8+`` before it if quantized.

    ``f32`` where there are no float weights.
    """
    if isinstance(source, Path):
        return _of_file(source, source.stat().st_mtime_ns)
    return _stored_precision(source)


@per_model
def _stored_precision(model: Model) -> str:
    from onnxprune import model as models

    sizes: Counter[str] = Counter()
    for value in models.constants(model).values():
        tensor = models.constant(value)
        if tensor is not None and tensor.dtype.name in _WORDS:
            sizes[_WORDS[tensor.dtype.name]] += tensor.nbytes
    word = sizes.most_common(1)[0][0] if sizes else "f32"
    quantized = any(node.op_type in _INT8 for graph in models.graphs(model) for node in graph)
    return f"int8+{word}" if quantized else word


@cache
def _of_file(path: Path, _changed: int) -> str:
    from onnxprune import model as models

    return stored_precision(models.load(path))


def computing_precision(source: Source, word: str) -> str:
    """``word``, the float type a runtime computes in, with ``int8+`` before it if quantized."""
    return f"int8+{word}" if stored_precision(source).startswith("int8+") else word
