"""What a backend is: something that opens a model and runs it, wherever that may be."""

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
        """What ``run`` needs, in the model's order."""

    @property
    def outputs(self) -> Signature:
        """What ``run`` returns, in the model's order; values that are tapped come last."""

    @property
    def precision(self) -> str:
        """What it computes in: ``f32``, ``tf32``, ``bf16``, ``f16``, ``int8+f32``, ..."""

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run once, from arrays of numpy to arrays of numpy.

        Args:
            feeds: an array per input.
            outputs: names of those wanted; all by default. Only asked of backends that tap.

        Raises:
            OnnxpruneError: the feeds do not fit, or the runtime fails.
        """

    def close(self) -> None:
        """Let go of the model; closing twice does nothing, running afterwards is refused."""


@runtime_checkable
class Loaded(Protocol):
    """A session that knows how long the runtime itself took to load the model."""

    load_s: float
    """Seconds from the file to something that runs, building of engines left out."""


@runtime_checkable
class Timed(Protocol):
    """A session that measures itself better than a clock around ``run`` could."""

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
    """A session that can tell where it spends its time; opened with ``profile`` it has to."""

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
        outputs: values to return besides the model's outputs.
    """

    threads: int | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    optimise: bool = True
    shapes: tuple[Shapes, ...] = ()
    profile: bool = False
    outputs: tuple[str, ...] = ()


Capability: TypeAlias = Literal["taps", "profile", "references", "unoptimised"]
"""What not every backend can.

* ``taps``: return values inside the model, and only those outputs that are wanted.
* ``profile``: tell where the time goes; its sessions are :class:`Profiled`.
* ``references``: take the weights of a loaded model, of any size, where they are.
* ``unoptimised``: run the graph as it is.
"""

_REFUSALS: Mapping[Capability, tuple[str, str]] = {
    "taps": ("{} does not return values inside a model", "take `cpu`, which does"),
    "profile": ("{} does not tell where it spends its time", "take `cpu`, which does"),
    "unoptimised": (
        "the optimisation of {} cannot be turned off",
        "compare with `cpu`, whose can",
    ),
}
"""What is said where something is wanted that a backend cannot, and what to do."""


@dataclass(frozen=True)
class Backend:
    """Something that runs models.

    Attributes:
        name: what users type.
        summary: a few words on what it is.
        install: the one line that installs it.
        probe: finds out whether it can be used here.
        opener: opens a model as requested.
        capabilities: what it can that others cannot.
    """

    name: str
    summary: str
    install: str
    probe: Callable[[], Availability] = field(repr=False)
    opener: Callable[[Source, Request], Session] = field(repr=False)
    capabilities: frozenset[Capability] = frozenset()

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
        outputs: Sequence[str] = (),
    ) -> Session:
        """Open a model.

        Args:
            model: a loaded model, or the path of one, which is opened as a user would.
            threads: that the runtime may use; None leaves it the choice.
            options: of the runtime, as it calls them itself.
            optimise: whether it may rewrite the graph.
            shapes: of the inputs it will be run with, the usual ones first; see :class:`Request`.
            profile: whether it is to be profiled, which may make it slower.
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
        fits = len(array.shape) == len(spec.shape) and all(
            not isinstance(wanted, int) or wanted == text
            for wanted, text in zip(spec.shape, array.shape, strict=True)
        )
        if array.dtype != spec.dtype or not fits:
            text = f"{array.dtype.name} {list(array.shape)}"
            raise OnnxpruneError(f"the model failed to run: '{name}' is fed {text}", hint=hint)


def closed() -> OnnxpruneError:
    """What a session raises that was closed before."""
    return OnnxpruneError("the model is closed", hint="open it again")


class CompiledSession(ABC):
    """What sessions of runtimes share that compile a model and take arrays of numpy.

    Attributes:
        inputs, outputs: as the model has them.
        handle: what the runtime made; None once the session is closed.
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
    """Remember what ``read`` finds in a model for as long as that lives.

    It must be something that nobody changes in a model that is open: its nodes, or the element
    types of its weights.
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
    """``word``, the float type a runtime was told to compute in, with ``int8+`` if quantized."""
    return f"int8+{word}" if stored_precision(source).startswith("int8+") else word
