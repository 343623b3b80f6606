"""Building a TensorRT engine: typed graph, parser, profile, builder; errors named by node."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from onnxprune import model as models
from onnxprune.config import BuildOptions
from onnxprune.errors import OnnxpruneError
from onnxprune.model.decode import densify
from onnxprune.model.files import ScratchFolder
from onnxprune.model.signature import signature_of
from onnxprune.runtime.engines import precision, sparsity
from onnxprune.runtime.engines.runtime import Runtime, find

Progress = Callable[[str], None]
Shapes = Mapping[str, tuple[int, ...]]

_SHOWN = 5
"""Parser errors that are printed; the rest are counted."""


@dataclass(frozen=True, eq=False)
class Built:
    """An engine and the messages of its build.

    Attributes:
        plan: the serialised engine.
        model: the graph that was parsed.
        runtime: that built it.
        seconds: wall time of parsing and building.
        layers: TensorRT's choices for sparse weights, layer by layer.
        messages: of its log, at most as many as there were warnings and sparsity lines.
        notes: sentences for the user.
    """

    plan: bytes = field(repr=False)
    model: models.Model
    runtime: Runtime
    seconds: float
    layers: tuple[sparsity.Layer, ...]
    messages: tuple[str, ...]
    notes: tuple[str, ...]


def build(
    source: models.ModelLike,
    request: BuildOptions | None = None,
    *,
    progress: Progress = lambda _: None,
) -> Built:
    """Build an engine.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
            Sparse and packed weights are written dense and local functions inlined: TensorRT
            reads no sparse initializers, and decodes packed ones at every run.
        request: what to build.
        progress: told what is being done.

    Raises:
        OnnxpruneError: no TensorRT is installed, the parser does not know an operator (the node is
            named), sizes are missing, or the builder fails.
    """
    request = request or BuildOptions()
    runtime = find(request.runtime)
    progress("reading the model")
    model, unpacked = densify(models.load(source))
    if request.precision != "asis":
        progress(f"converting to {request.precision}")
        model = precision.convert(model, request.precision)
    if any(value.dtype is None for value in model.ir.graph.outputs):
        model = precision.with_types(model)  # the parser wants them declared
    _check_shapes(model, request)
    started = time.perf_counter()
    log = _logger(runtime.module)
    with ScratchFolder() as folder:
        path = Path(folder) / "model.onnx"
        models.save(model, path)
        progress(f"parsing with {runtime.title} {runtime.version}")
        builder = _builder(runtime, log)
        network = _parse(runtime, builder, log, path)
        config = _config(runtime, builder, network, request)
        progress(f"building with {runtime.title} {runtime.version}")
        plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise OnnxpruneError(f"{runtime.title} cannot build the engine: {_last_error(log)}")
    seconds = time.perf_counter() - started
    notes = []
    if unpacked:
        notes.append(
            f"{len(unpacked)} packed weights were made dense: TensorRT would not fold them"
        )
    if request.sparse_weights and runtime.ahead_of_time:
        notes.append(
            f"{runtime.title} chooses kernels on the device, so nothing is known yet about which "
            "layers run sparsely; with and without --sparse-weights the plan is the same"
        )
    messages = tuple(f"{level}: {text}" for level, text in log.messages if _matters(level, text))
    layers = sparsity.from_log(text for _, text in log.messages)
    return Built(bytes(plan), model, runtime, seconds, layers, messages, tuple(notes))


def _check_shapes(model: models.Model, request: BuildOptions) -> None:
    """Refuse shapes that would fail later, naming the flag that helps."""
    specs = {spec.name: spec for spec in signature_of(model)}
    for flag, shapes in (
        ("--shapes", request.shapes),
        ("--min-shapes", request.min_shapes),
        ("--max-shapes", request.max_shapes),
    ):
        for name, shape in shapes.items():
            if name not in specs or len(shape) != len(specs[name].shape):
                has = ", ".join(map(str, specs.values()))
                raise OnnxpruneError(
                    f"{flag} {name}={'x'.join(map(str, shape))} fits no input",
                    hint=f"the inputs are {has}",
                )
    for name, spec in specs.items():
        if not all(isinstance(d, int) for d in spec.shape) and name not in request.shapes:
            example = "x".join(str(d) if isinstance(d, int) else "1" for d in spec.shape)
            raise OnnxpruneError(
                f"the input '{name}' has open sizes, and an engine is tuned for known ones",
                hint=f"give them, as in --shapes {name}={example}; --min-shapes and --max-shapes "
                "span a range",
            )


def _logger(trt: Any) -> Any:  # noqa: ANN401  # classes of TensorRT's
    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keeps the messages."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.messages: list[tuple[str, str]] = []

        def log(self, severity: Any, message: str) -> None:  # noqa: ANN401
            self.messages.append((str(severity).rsplit(".", 1)[-1].lower(), message))

    return Logger()


def _builder(runtime: Runtime, log: Any) -> Any:  # noqa: ANN401
    try:
        builder = runtime.module.Builder(log)
    except (RuntimeError, TypeError) as error:
        raise OnnxpruneError(
            f"{runtime.title} cannot start: {_last_error(log) or error}",
            hint="it needs an NVIDIA GPU and driver; TensorRT-RTX builds without",
        ) from error
    return builder


def _parse(runtime: Runtime, builder: Any, log: Any, path: Path) -> Any:  # noqa: ANN401
    trt = runtime.module
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    # TensorRT 11 and TensorRT-RTX know no other kind of network, and some no flag for it.
    network = builder.create_network(0 if flag is None else 1 << int(flag))
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(path)):
        errors = [parser.get_error(k) for k in range(parser.num_errors)]
        raise _unparsed(runtime, [_problem(each) for each in errors])
    return network


def _problem(error: Any) -> str:  # noqa: ANN401
    name, op = error.node_name(), error.node_operator()
    where = f"{op} '{name}'" if name or op else f"node {error.node()}"
    stack = error.local_function_stack() if hasattr(error, "local_function_stack") else []
    inside = f" (in function {' > '.join(map(str, stack))})" if stack else ""
    return f"{where}{inside}: {' '.join(str(error.desc()).split())}"


def _unparsed(runtime: Runtime, problems: Sequence[str]) -> OnnxpruneError:
    more = len(problems) - _SHOWN
    listed = "; ".join(problems[:_SHOWN]) + (f"; and {more} more" if more > 0 else "")
    return OnnxpruneError(
        f"{runtime.title} {runtime.version} cannot parse the model: {listed}",
        hint="replace these operators, or fold constants first (onnxsim, polygraphy surgeon)",
    )


def _config(runtime: Runtime, builder: Any, network: Any, request: BuildOptions) -> Any:  # noqa: ANN401
    trt = runtime.module
    config = builder.create_builder_config()
    if request.sparse_weights:
        config.set_flag(trt.BuilderFlag.SPARSE_WEIGHTS)
    if hasattr(config, "profiling_verbosity"):
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if request.compute_capability:
        _set_capabilities(runtime, config, request.compute_capability)
    if request.shapes:
        profile = builder.create_optimization_profile()
        for index in range(network.num_inputs):
            name = network.get_input(index).name
            if name in request.shapes:
                best = request.shapes[name]
                least, most = request.min_shapes.get(name, best), request.max_shapes.get(name, best)
                profile.set_shape(name, least, best, most)
        if config.add_optimization_profile(profile) < 0:
            raise OnnxpruneError(
                "the sizes given do not make a profile",
                hint="--min-shapes <= --shapes <= --max-shapes must hold for every size",
            )
    return config


def _set_capabilities(
    runtime: Runtime,
    config: Any,  # noqa: ANN401
    wanted: Sequence[tuple[int, int]],
) -> None:
    if not runtime.ahead_of_time:
        raise OnnxpruneError(
            f"{runtime.title} builds for the GPU it runs on, not for compute capabilities",
            hint="leave out --compute-capability, or take --runtime tensorrt-rtx",
        )
    known = runtime.module.ComputeCapability
    config.num_compute_capabilities = len(wanted)
    for index, (major, minor) in enumerate(wanted):
        capability = getattr(known, f"SM{major}{minor}", None)
        if capability is None:
            names = sorted(n for n in dir(known) if n.startswith("SM"))
            raise OnnxpruneError(
                f"{runtime.title} {runtime.version} knows no compute capability {major}.{minor}",
                hint=f"there are {', '.join(f'{n[2:-1]}.{n[-1]}' for n in names)}",
            )
        config.set_compute_capability(capability, index)


def _matters(level: str, text: str) -> bool:
    return level in ("warning", "error", "internal_error") or "(Sparsity)" in text


def _last_error(log: Any) -> str:  # noqa: ANN401
    errors = [text for level, text in log.messages if level in ("error", "internal_error")]
    return " ".join(errors[-1].split()) if errors else ""
