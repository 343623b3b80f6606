"""The first run of a graph that nobody here has run before.

A runtime may crash, hang or take all memory on a graph that it accepts. Where that is likely, the
first run happens in a process of its own, which costs half a second: for int8 arithmetic, for
operators of other domains than ONNX's, and for those that repeat or multiply what they are given.
Plain networks run right away.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.files import ScratchFolder
from onnxprune.runtime.ort import may_saturate, open_session
from onnxprune.runtime.process import Worker, WorkerError, free_bytes, serve

if TYPE_CHECKING:
    import onnx

    from onnxprune.model import Model

Feeds = Mapping[str, npt.NDArray[Any]]

LIMIT_S = 600.0
"""Seconds that a runtime may take for one batch before it counts as hung."""
_LOCATE_S = 60.0
_PROCESS = "onnxprune.runtime.first_run"
_LARGEST = 1 << 30
"""Bytes of weights from which a model is not written to disk for a trial."""
_RESERVE = 256 << 20
"""Free memory that a trial leaves to others."""
_LOOPS = frozenset({"Loop", "Scan"})
_RISKY = frozenset({"Tile", "DynamicQuantizeLinear", "ConvInteger", "MatMulInteger", *_LOOPS})
"""Operators that repeat, multiply or compute in integers."""


class RuntimeDiedError(OnnxpruneError):
    """The process of a runtime died or hung.

    Attributes:
        node: the name of the node that it was at; empty if unknown.
    """

    node: str = ""


def may_crash(model: Model) -> bool:
    """Whether a graph has operators that runtimes are known to crash or hang in."""
    from onnxprune import model as models

    return any(
        node.domain not in ("", "ai.onnx")
        or node.op_type in _RISKY
        or node.op_type.startswith(("QLinear", "QuantizeLinear"))
        for graph in models.graphs(model)
        for node in graph
    )


def first_run(
    model: Model,
    batches: Iterable[Feeds],
    *,
    provider: str = "cpu",
    what: str = "the model",
    hint: str = "",
    limit_s: float = LIMIT_S,
    apart: bool | None = None,
) -> None:
    """Run a model once on each of some batches, so that later runs are safe.

    Args:
        model: of any origin.
        batches: feeds.
        provider: execution provider.
        what: the model, in messages.
        hint: for a runtime that dies.
        limit_s: seconds that a batch may take, where the run has its own process.
        apart: whether the run has its own process; by default where `may_crash` says so, and the
            model is not too large to be written to disk for it.

    Raises:
        RuntimeDiedError: the runtime crashed or hung; names the node if it can be found.
        OnnxpruneError: the model does not run.
    """
    from onnxprune import model as models

    if apart is None:
        apart = may_crash(model)
    if not apart or models.size_bytes(model) > _LARGEST:
        session = open_session(model, provider=provider, prepack=False, arena=False)
        for feeds in batches:
            session.run(feeds)
        return
    with ScratchFolder() as folder:
        path = models.save(model, Path(folder) / "model.onnx", external=False)
        settings = {"provider": provider, "saturate": may_saturate(model)}
        batch: Feeds | None = None
        try:
            with Worker(_PROCESS, patience_s=limit_s) as worker:
                worker.ask("open", path=str(path), **settings)
                for batch in batches:
                    worker.ask("run", feeds=dict(batch))
        except OnnxpruneError as error:  # which knows the model by its place on disk
            message, hint = error.written
            raise OnnxpruneError(message.replace(str(path), what), hint=hint) from error
        except WorkerError as error:
            node = _locate(model, path, batch, error, settings)
            raise _died(error, node, what, hint, limit_s) from error


def observed_types(
    model: Model, batches: Iterable[Feeds], names: Sequence[str], *, provider: str = "cpu"
) -> list[dict[str, tuple[str, tuple[int, ...]]]]:
    """Element types and shapes of values inside a model, one mapping by name for each batch.

    The run has a process of its own, like a first run, where `may_crash` says so.

    Args:
        model: of any origin, too small to need external data.
        batches: feeds.
        names: outputs of nodes of the main graph; those that are no tensors are left out.
        provider: execution provider.

    Raises:
        RuntimeDiedError: the runtime crashed or hung.
        OnnxpruneError: the model does not run.
    """
    from onnxprune import model as models

    wanted = list(names)
    if models.size_bytes(model) > _LARGEST:
        return []
    if not may_crash(model):
        session = open_session(model, provider=provider, prepack=False, arena=False, outputs=wanted)
        return [types_of(session.run(feeds, wanted)) for feeds in batches]
    with ScratchFolder() as folder:
        path = models.save(model, Path(folder) / "model.onnx", external=False)
        settings = {"provider": provider, "saturate": may_saturate(model)}
        try:
            with Worker(_PROCESS, patience_s=LIMIT_S) as worker:
                worker.ask("open", path=str(path), outputs=wanted, **settings)
                return [worker.ask("types", feeds=dict(feeds), names=wanted) for feeds in batches]
        except WorkerError as error:
            raise _died(error, ("", ""), "the model", "", LIMIT_S) from error


def types_of(values: Mapping[str, Any]) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Element types and shapes of the arrays among some values."""
    arrays = {name: value for name, value in values.items() if hasattr(value, "dtype")}
    return {name: (array.dtype.name, array.shape) for name, array in arrays.items()}


def _died(
    error: WorkerError, node: tuple[str, str], what: str, hint: str, limit_s: float
) -> RuntimeDiedError:
    op, name = node
    at = f", at the {op} node '{name}'" if op else ""
    if error.hung:
        message = f"onnxruntime did not finish one run of {what} within {limit_s:.0f} s{at}"
    elif error.signal == "SIGKILL":
        message = f"onnxruntime was killed while it ran {what}{at}, as when memory runs out"
    else:
        message = f"onnxruntime crashed while it ran {what}{at}: {error}"
    result = RuntimeDiedError(message, hint=hint or "try another version of onnxruntime")
    result.node = name
    return result


# Finding the node ------------------------------------------------------------------------------


def _locate(
    model: Model,
    path: Path,
    feeds: Feeds | None,
    error: WorkerError,
    settings: Mapping[str, Any],
) -> tuple[str, str]:
    """Operator and name of the node that a runtime died at; empty where that cannot be found."""
    from onnxprune import model as models

    if error.hung:  # another trial would hang as well
        loops = [n for g in models.graphs(model) for n in g if n.op_type in _LOOPS]
        return (loops[0].op_type, loops[0].name or "") if len(loops) == 1 else ("", "")
    if feeds is None:
        return "", ""
    import onnx

    optimised = path.with_name("optimised.onnx")
    try:
        with Worker(_PROCESS, patience_s=_LOCATE_S) as worker:
            worker.ask("open", path=str(path), optimised=str(optimised), **settings)
        proto = onnx.load(optimised)
    except (OnnxpruneError, WorkerError, OSError):
        return "", ""
    count = len(proto.graph.node)

    def dies(upto: int) -> bool:
        part = path.with_name("part.onnx")
        onnx.save(prefix(proto, upto), part)
        try:
            with Worker(_PROCESS, patience_s=_LOCATE_S) as worker:
                worker.ask("open", path=str(part), optimise=False, **settings)
                worker.ask("run", feeds=dict(feeds))
        except WorkerError:
            return True
        except OnnxpruneError:
            return False
        return False

    last = first_true(dies, count)
    if last is None:
        return "", ""
    node = proto.graph.node[last - 1]
    return node.op_type, node.name or node.output[0]


def prefix(proto: onnx.ModelProto, count: int) -> onnx.ModelProto:
    """The first nodes of a model, in the order of its graph; outputs are those of the last."""
    import onnx

    part = onnx.ModelProto()
    part.CopyFrom(proto)
    del part.graph.node[count:]
    del part.graph.output[:]
    names = [name for name in part.graph.node[-1].output if name]
    part.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return part


def first_true(holds: Callable[[int], bool], count: int) -> int | None:
    """The first of ``1 .. count`` where ``holds`` is true, which it is for all after it too.

    None where it is not true of ``count``.
    """
    low, high = 0, count
    if not count or not holds(count):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


# The process -----------------------------------------------------------------------------------


class _Trial:
    """The requests that the process of a first run answers; every public method is a verb."""

    def open(
        self,
        path: str,
        *,
        provider: str,
        saturate: bool,
        optimise: bool = True,
        optimised: str = "",
        outputs: Sequence[str] = (),
    ) -> None:
        """Open a model, as it will be opened later; or write what optimisation makes of it."""
        _limit_memory()
        if optimised:
            write_optimised(Path(path), Path(optimised))
            return
        self._session = open_session(
            path,
            provider=provider,
            optimise=optimise,
            spin=False,
            arena=False,
            saturate=saturate,
            outputs=outputs,
        )

    def run(self, feeds: Feeds) -> None:
        """Run once."""
        self._session.run(self._known(feeds))

    def types(self, feeds: Feeds, names: Sequence[str]) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Run once; the types and shapes of some values."""
        return types_of(self._session.run(self._known(feeds), names))

    def _known(self, feeds: Feeds) -> Feeds:
        known = {spec.name for spec in self._session.inputs}
        return {name: array for name, array in feeds.items() if name in known}


def write_optimised(path: Path, target: Path) -> None:
    """Write the graph that onnxruntime runs in place of a model."""
    import onnxruntime as ort

    settings = ort.SessionOptions()
    settings.log_severity_level = 4
    settings.optimized_model_filepath = str(target)
    ort.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])


def _limit_memory() -> None:
    """Have allocations beyond free memory refused, before the system ends some process."""
    try:
        import resource  # not on Windows
    except ImportError:
        return
    free = free_bytes()
    if free is not None and free > 2 * _RESERVE:
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (free - _RESERVE, hard))


def main() -> None:
    """Serve on stdin and stdout."""
    serve(_Trial())
