"""Running models with onnxruntime, on any of its execution providers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Signature, TensorSpec, describe, parse_type
from onnxprune.runtime.borders import foreign, from_ort, to_ort
from onnxprune.runtime.complaints import extensions_library, load_error, plain
from onnxprune.runtime.providers import available, named, runtime, use

if TYPE_CHECKING:
    from onnxprune import model as models
    from onnxprune.runtime.embed import Embedded, Passed

__all__ = ["Feeds", "Session", "available", "open_session"]

Feeds: TypeAlias = Mapping[str, npt.NDArray[Any]]
"""One array per model input."""

_FATAL_ONLY = 4  # of verbose, info, warning, error, fatal; errors are raised and need no log


@dataclass(frozen=True, eq=False)
class Session:
    """A model opened on an execution provider.

    Attributes:
        inputs: what `run` needs.
        outputs: what `run` returns, tapped values last.
        provider: short name of the provider.
        handle: the ``onnxruntime.InferenceSession``, for what this class does not cover.
    """

    inputs: Signature
    outputs: Signature
    provider: str
    handle: Any = field(repr=False)
    _echoed: tuple[str, ...] = field(default=(), repr=False)
    _held: tuple[object, ...] = field(default=(), repr=False)  # weights onnxruntime only refers to

    def run(self, feeds: Feeds, only: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Run the model once.

        Args:
            feeds: an array per input, of that input's dtype. bfloat16, float8 and 4-bit arrays are
                those of ``ml_dtypes``.
            only: names of the outputs wanted; all by default. The others are never kept.

        Returns:
            an array per output (strings as object arrays, sequences as lists).

        Raises:
            OnnxpruneError: the feeds do not fit, or a node failed.
        """
        names = [spec.name for spec in self.outputs] if only is None else list(only)
        computed = [name for name in names if name not in self._echoed]
        missing = [name for name in names if name in self._echoed and name not in feeds]
        if missing:
            raise OnnxpruneError(
                f"the model failed to run: nothing is fed to '{missing[0]}'",
                hint=f"its inputs are {describe(self.inputs)}",
            )
        try:
            found = self._run(feeds, computed) if computed else {}
        except OnnxpruneError:
            raise
        except Exception as error:  # onnxruntime raises bare Exception subclasses
            raise OnnxpruneError(
                f"the model failed to run: {plain(error)}",
                hint=f"its inputs are {describe(self.inputs)}",
            ) from error
        return {
            name: np.asarray(feeds[name]) if name in self._echoed else found[name] for name in names
        }

    def _run(self, feeds: Feeds, names: list[str]) -> dict[str, Any]:
        specs = {spec.name: spec for spec in (*self.inputs, *self.outputs)}
        touched = [specs[name] for name in (*feeds, *names) if name in specs]
        ort = runtime()
        if not any(foreign(spec.dtype) for spec in touched):
            return dict(zip(names, self.handle.run(names, dict(feeds)), strict=True))
        given = {name: to_ort(ort, array) for name, array in feeds.items()}
        found = self.handle.run_with_ort_values(names, given)
        return {
            name: from_ort(value, specs[name].dtype)
            for name, value in zip(names, found, strict=True)
        }


def open_session(
    model: models.Model | str | Path | bytes,
    *,
    provider: str = "cpu",
    threads: int | None = None,
    optimise: bool | Literal["extended"] = True,
    prepack: bool = True,
    spin: bool | None = None,
    arena: bool = True,
    saturate: bool = False,
    outputs: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    custom_ops: Sequence[str | Path] = (),
    profile: Path | None = None,
) -> Session:
    """Open a model for running.

    A path (or bytes) without ``outputs`` is opened exactly as a user of onnxruntime would. A
    `Model` may be of any size: its weights are handed over where they are, be that a mapped file,
    and not copied (an onnxruntime older than its direct buffers copies them once).

    Args:
        model: a loaded model, the path of one, or a serialised ``ModelProto``.
        provider: short name (``cpu``, ``cuda``, ``tensorrt``, ``openvino``, ...) or onnxruntime's.
        threads: threads within an operator; onnxruntime's choice (all cores) by default.
        optimise: whether onnxruntime may rewrite the graph; ``extended``: but not its layouts.
        prepack: whether it may keep copies of weights in the layout its kernels like best; without,
            it takes half the memory and runs slower.
        spin: whether threads that have nothing to do wait busily, which answers sooner and takes
            the cores from whoever computes between the runs. By default a path or bytes are opened
            as onnxruntime would, and a `Model` so that they sleep.
        arena: whether memory that a run took stays with the session, for the next one. What it
            returns lies in that memory and keeps all of it for as long as it lives.
        saturate: whether products of uint8 and int8 may saturate in 16 bits, as they do by default
            on x86 without VNNI: what a model computes then hangs on the machine.
        outputs: values to return besides the model's outputs: node outputs, graph inputs or
            stored tensors of the main graph. Whatever is returned is not fused away.
        options: options of the provider, as onnxruntime names them. OpenVINO computes in bfloat16
            on recent CPUs unless told ``{"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT":
            "f32"}}'}``. ``device_type`` selects the device of a plug-in provider.
        custom_ops: shared libraries that implement custom operators.
        profile: where onnxruntime's profile begins; ``handle.end_profiling()`` names the file.

    Raises:
        OnnxpruneError: onnxruntime or the provider is missing, the model does not load (naming
            the operator, where one is to blame), or a value in ``outputs`` cannot be observed.
    """
    ort = runtime()
    chosen = named(provider)
    source = _source(model, outputs)
    where = str(model) if isinstance(model, str | Path) else "the model"
    embedded = None if isinstance(source, str | bytes) else source
    weights = embedded.weights if embedded else ()
    libraries = [str(one) for one in custom_ops]
    busily = isinstance(model, str | Path | bytes) if spin is None else spin
    while True:
        try:
            settings = _settings(
                ort,
                threads,
                libraries,
                optimise=optimise,
                prepack=prepack,
                spin=busily,
                arena=arena,
                saturate=saturate,
            )
            if profile is not None:
                settings.enable_profiling = True
                settings.profile_file_prefix = str(profile)
            held = _pass_weights(ort, settings, weights)
            how = use(settings, chosen, options or {})
            graph = embedded.graph if embedded else source
            handle = ort.InferenceSession(graph, settings, **how)
        except OnnxpruneError:
            raise
        except Exception as error:  # onnxruntime raises bare Exception subclasses
            extensions = extensions_library(str(error))
            if extensions and extensions not in libraries:
                libraries.append(extensions)
                continue
            raise load_error(where, str(error)) from error
        break
    if chosen.full not in handle.get_providers():
        raise OnnxpruneError(
            f"onnxruntime fell back from '{chosen.name}' to {', '.join(handle.get_providers())}",
            hint="A library of that provider did not load: its versions must match onnxruntime's.",
        )
    echoed = embedded.echoed if embedded else ()
    inputs = _signature(handle.get_inputs())
    copied = tuple(spec for spec in inputs if spec.name in echoed)
    made = _signature(handle.get_outputs()) + copied
    return Session(inputs, made, chosen.name, handle, echoed, held)


def _source(
    model: models.Model | str | Path | bytes, outputs: Sequence[str]
) -> Embedded | str | bytes:
    if isinstance(model, str | Path):
        path = Path(model)
        if not path.is_file():
            raise OnnxpruneError(f"there is no model file {path}", hint="check the path")
        if not outputs:
            return str(path)
    elif isinstance(model, bytes) and not outputs:
        return model
    import onnx  # a process that only runs files does without

    from onnxprune import model as models
    from onnxprune.runtime.embed import embed

    if isinstance(model, str | Path):
        return embed(models.load(model), outputs)
    if isinstance(model, bytes):
        return embed(models.load(onnx.load_model_from_string(model)), outputs)
    return embed(model, outputs)


def _settings(
    ort: Any,  # noqa: ANN401
    threads: int | None,
    libraries: Sequence[str],
    *,
    optimise: bool | Literal["extended"],
    prepack: bool,
    spin: bool,
    arena: bool,
    saturate: bool,
) -> Any:  # noqa: ANN401
    settings = ort.SessionOptions()
    settings.log_severity_level = _FATAL_ONLY
    levels = ort.GraphOptimizationLevel
    settings.graph_optimization_level = {
        True: levels.ORT_ENABLE_ALL,
        False: levels.ORT_DISABLE_ALL,
        "extended": levels.ORT_ENABLE_EXTENDED,
    }[optimise]
    settings.enable_cpu_mem_arena = arena
    if not prepack:
        settings.add_session_config_entry("session.disable_prepacking", "1")
    if not saturate:  # takes extended optimisations
        settings.add_session_config_entry("session.x64quantprecision", "1")
    if not spin:
        settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
        settings.add_session_config_entry("session.inter_op.allow_spinning", "0")
    if threads is not None:
        settings.intra_op_num_threads = threads
        settings.inter_op_num_threads = 1
    for library in libraries:
        settings.register_custom_ops_library(library)
    return settings


def _pass_weights(ort: Any, settings: Any, weights: Sequence[Passed]) -> tuple[object, ...]:  # noqa: ANN401
    """Give the weights to the session to be; returns what must live as long as the session."""
    if not weights:
        return ()
    if hasattr(settings, "add_external_initializers_from_files_in_memory"):  # since 1.24
        # Without this entry, which older versions ignore, onnxruntime copies the buffers.
        settings.add_session_config_entry(
            "session.use_external_initializer_file_buffers_directly", "1"
        )
        settings.add_external_initializers_from_files_in_memory(
            [one.file for one in weights],
            [one.data for one in weights],
            [one.data.nbytes for one in weights],
        )
        return tuple(one.data for one in weights)
    for one in weights:
        if one.dtype.bitwidth < 8:
            raise OnnxpruneError(
                f"onnxruntime {ort.__version__} cannot be handed the 4-bit weight '{one.name}'",
                hint="pip install -U onnxruntime (1.24 or later).",
            )
    values = [
        to_ort(ort, one.data.view(one.dtype.numpy()).reshape(one.shape), int(one.dtype))
        for one in weights
    ]
    settings.add_external_initializers([one.name for one in weights], values)
    return tuple(values)


def _signature(arguments: Sequence[Any]) -> Signature:
    made = []
    for one in arguments:
        kind, dtype = parse_type(one.type)
        shape = tuple(one.shape) if kind == "tensor" else ()
        made.append(TensorSpec(one.name, dtype, shape, kind))
    return tuple(made)
