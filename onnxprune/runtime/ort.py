"""Running models with onnxruntime, on any of its execution providers."""

from __future__ import annotations

import bisect
import ctypes
import functools
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.files import ScratchFolder
from onnxprune.model.signature import Signature, TensorSpec, describe, parse_type
from onnxprune.runtime.complaints import extensions_library, load_error, plain
from onnxprune.runtime.interface import (
    COMPILED,
    Feeds,
    NodeTime,
    closed,
    computing_precision,
    per_model,
    stored_precision,
)
from onnxprune.runtime.providers import Provider, available, named, runtime, use

if TYPE_CHECKING:
    from onnxprune import model as models
    from onnxprune.runtime.embed import Embedded, ExternalWeight
    from onnxprune.runtime.interface import Source

__all__ = ["Feeds", "OrtSession", "available", "open_session"]

_KERNEL = "_kernel_time"
_PIECE = "ExecutionProvider_"  # what a provider compiled is called after it
_NOTHING: Mapping[str, Any] = {"optional": None, "sequence": []}
"""What inputs are fed that are no tensors, where a feed leaves them out."""
_READ_TWICE = "Attempt to replace the existing tensor"
"""onnxruntime (as of 1.32) makes an int8 weight unsigned once for each of its readers."""
FIXED_THREADS = 8
"""Threads of a session whose values are computed with: fixed, so that results hang on no machine.

More than a small machine has cores cost nothing measurable, since they sleep when idle."""
_FATAL_ONLY = 4  # of verbose, info, warning, error, fatal; errors are raised and need no log


class OrtSession:
    """A model opened on an execution provider.

    Attributes:
        inputs: what `run` needs.
        outputs: what `run` returns, tapped values last.
        provider: short name of the provider.
        handle: the ``onnxruntime.InferenceSession``, for what this class does not cover; None once
            the session is closed.
        load_s: seconds that opening took.
    """

    def __init__(
        self,
        handle: Any,  # noqa: ANN401
        provider: str,
        precision: Callable[[], str],
        load_s: float,
        echoed: Sequence[str] = (),
        weights: tuple[object, ...] = (),
        folder: ScratchFolder | None = None,
    ) -> None:
        self.handle, self.provider, self.load_s = handle, provider, load_s
        self.inputs = _signature(handle.get_inputs())
        copied = tuple(spec for spec in self.inputs if spec.name in echoed)
        self.outputs = _signature(handle.get_outputs()) + copied
        self._nothing = {s.name: _NOTHING[s.kind] for s in self.inputs if s.kind in _NOTHING}
        self._precision, self._echoed = precision, tuple(echoed)
        self._held = weights  # weights onnxruntime only refers to
        self._folder = folder  # of a profile

    @functools.cached_property
    def precision(self) -> str:
        """The precision it computes in."""
        return self._precision()

    def run(self, feeds: Feeds, outputs: Sequence[str] | None = None) -> dict[str, Any]:
        """Run the model once.

        Args:
            feeds: an array per input, of that input's dtype. bfloat16, float8 and 4-bit arrays are
                those of ``ml_dtypes``. An optional may be left out, a sequence is then empty.
            outputs: names of the outputs to return; all by default. Others are never kept.

        Returns:
            an array per output (strings as object arrays, sequences as lists).

        Raises:
            OnnxpruneError: the feeds do not fit, or a node failed.
        """
        if self.handle is None:
            raise closed()
        names = [spec.name for spec in self.outputs] if outputs is None else list(outputs)
        computed = [name for name in names if name not in self._echoed]
        missing = [name for name in names if name in self._echoed and name not in feeds]
        if missing:
            raise OnnxpruneError(
                f"the model failed to run: nothing is fed to '{missing[0]}'",
                hint=f"its inputs are {describe(self.inputs)}",
            )
        try:
            values = self._run(feeds, computed) if computed else {}
        except OnnxpruneError:
            raise
        except Exception as error:  # onnxruntime raises bare Exception subclasses
            raise OnnxpruneError(
                f"the model failed to run: {plain(error)}",
                hint=f"its inputs are {describe(self.inputs)}",
            ) from error
        echoed = self._echoed
        return {n: np.asarray(feeds[n]) if n in echoed else values[n] for n in names}

    def profiled(self, feeds: Feeds, runs: int) -> list[list[NodeTime]]:
        """The nodes of each run; the first one of all, which allocates, is left out."""
        for _ in range(runs + 1):
            self.run(feeds)
        file = Path(self.handle.end_profiling())
        return read_profile(file.read_text(encoding="utf-8"))[-runs:]

    def close(self) -> None:
        """Let onnxruntime free the session."""
        self.handle, self._held = None, ()
        if self._folder is not None:
            self._folder.cleanup()

    def _run(self, feeds: Feeds, names: list[str]) -> dict[str, Any]:
        feeds = {**self._nothing, **feeds}
        specs = {spec.name: spec for spec in (*self.inputs, *self.outputs)}
        touched = [specs[name] for name in (*feeds, *names) if name in specs]
        ort = runtime()
        if not any(foreign(spec.dtype) for spec in touched):
            return dict(zip(names, self.handle.run(names, dict(feeds)), strict=True))
        inputs = {name: to_ort(ort, array) for name, array in feeds.items()}
        values = self.handle.run_with_ort_values(names, inputs)
        return {
            name: from_ort(value, specs[name].dtype)
            for name, value in zip(names, values, strict=True)
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
    saturate: bool | None = None,
    outputs: Sequence[str] = (),
    options: Mapping[str, str] | None = None,
    custom_ops: Sequence[str | Path] = (),
    profile: bool = False,
) -> OrtSession:
    """Open a model for running.

    A path (or bytes) without ``outputs`` is opened exactly as a user of onnxruntime would. A
    `Model` may be of any size: its weights are handed over where they are, be that a mapped file,
    and not copied (an onnxruntime older than its direct buffers copies them once).

    Args:
        model: a loaded model, the path of one, or a serialised ``ModelProto``.
        provider: short name (``cpu``, ``cuda``, ``tensorrt``, ``openvino``, ...) or onnxruntime's.
        threads: threads within an operator. By default a path or bytes get onnxruntime's choice
            (all cores), and a `Model` always the same number, since the last bits of a product
            hang on how it is divided.
        optimise: whether onnxruntime may rewrite the graph; ``extended``: but not its layouts.
        prepack: whether it may keep copies of weights in the layout its kernels like best; without,
            it takes half the memory and runs slower.
        spin: whether threads that have nothing to do wait busily, which answers sooner and takes
            the cores from other work between the runs. By default a path or bytes are opened
            as onnxruntime would, and a `Model` so that they sleep.
        arena: whether memory that a run took stays with the session, for the next one. What it
            returns lies in that memory and keeps all of it for as long as it lives.
        saturate: whether products of uint8 and int8 may saturate in 16 bits, as they do by default
            on x86 without VNNI: what a model computes then hangs on the machine. By default they
            may for a path or bytes, and may not for a `Model`.
        outputs: values to return besides the model's outputs: node outputs, graph inputs or
            stored tensors of the main graph. Whatever is returned is not fused away.
        options: options of the provider, as onnxruntime names them. OpenVINO computes in bfloat16
            on recent CPUs unless given ``{"load_config": '{"CPU": {"INFERENCE_PRECISION_HINT":
            "f32"}}'}``. ``device_type`` selects the device of a plug-in provider.
        custom_ops: shared libraries that implement custom operators.
        profile: whether to open for profiling (`OrtSession.profiled`).

    Raises:
        OnnxpruneError: onnxruntime or the provider is missing, the model does not load (naming
            the operator, where one is to blame), or a value in ``outputs`` cannot be observed.
    """
    started = time.perf_counter()
    ort = runtime()
    chosen = named(provider)
    source = _source(model, outputs)
    where = str(model) if isinstance(model, str | Path) else "the model"
    embedded = None if isinstance(source, str | bytes) else source
    weights = embedded.weights if embedded else ()
    libraries = [str(one) for one in custom_ops]
    if isinstance(model, str | Path | bytes):  # as its users open it
        narrow, busily = saturate is not False, spin is not False
    else:
        threads = FIXED_THREADS if threads is None else threads
        narrow, busily = may_saturate(model) if saturate is None else saturate, bool(spin)
    folder = ScratchFolder() if profile else None
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
                saturate=narrow,
            )
            if folder is not None:
                settings.enable_profiling = True
                settings.profile_file_prefix = str(Path(folder.name) / "profile")
            buffers = _pass_weights(ort, settings, weights)
            chosen_providers = use(settings, chosen, options or {})
            graph = embedded.graph if embedded else source
            handle = ort.InferenceSession(graph, settings, **chosen_providers)
        except OnnxpruneError:
            raise
        except Exception as error:  # onnxruntime raises bare Exception subclasses
            extensions = extensions_library(str(error))
            if extensions and extensions not in libraries:
                libraries.append(extensions)
                continue
            if not narrow and _READ_TWICE in str(error):
                narrow = True
                continue
            raise load_error(where, str(error)) from error
        break
    if chosen.full not in handle.get_providers():
        raise OnnxpruneError(
            f"onnxruntime fell back from '{chosen.name}' to {', '.join(handle.get_providers())}",
            hint="a library of that provider did not load: its versions must match onnxruntime's",
        )
    echoed = embedded.echoed if embedded else ()
    precision = _precision(model, chosen, options or {})
    spent = time.perf_counter() - started
    return OrtSession(handle, chosen.name, precision, spent, echoed, buffers, folder)


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

    source = onnx.load_model_from_string(model) if isinstance(model, bytes) else model
    return embed(models.load(source), outputs)


@per_model
def may_saturate(model: models.Model) -> bool:
    """Whether integer products may saturate, as they do by default in onnxruntime.

    It cannot make int8 weights unsigned (as of 1.31) whose many scales have no zero points beside
    them.
    """
    import onnx_ir as ir

    from onnxprune import model as models

    def stored(node: ir.Node, slot: int) -> ir.TensorProtocol | None:
        value = node.inputs[slot] if len(node.inputs) > slot else None
        return None if value is None else models.constant(value)

    for graph in models.graphs(model):
        for node in graph:
            if node.op_type != "DequantizeLinear" or (len(node.inputs) > 2 and node.inputs[2]):
                continue
            codes, scales = stored(node, 0), stored(node, 1)
            if codes is None or scales is None or scales.size < 2:
                continue
            if codes.dtype is ir.DataType.INT8:
                return True
    return False


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


def _pass_weights(ort: Any, settings: Any, weights: Sequence[ExternalWeight]) -> tuple[object, ...]:  # noqa: ANN401
    """Hand the weights to a new session; returns objects that must live as long as that."""
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
                hint="pip install -U onnxruntime (1.24 or later)",
            )
    values = [
        to_ort(ort, one.data.view(one.dtype.numpy()).reshape(one.shape), int(one.dtype))
        for one in weights
    ]
    settings.add_external_initializers([one.name for one in weights], values)
    return tuple(values)


def _signature(arguments: Sequence[Any]) -> Signature:
    specs = []
    for one in arguments:
        kind, dtype = parse_type(one.type)
        shape = tuple(one.shape) if kind == "tensor" else ()
        specs.append(TensorSpec(one.name, dtype, shape, kind))
    return tuple(specs)


def _precision(
    model: models.Model | str | Path | bytes, provider: Provider, options: Mapping[str, str]
) -> Callable[[], str]:
    """A function that returns the precision of a session; it keeps no loaded model alive."""
    if isinstance(model, str | Path):
        source = Path(model)
        return lambda: _computing(source, provider, options)
    if not isinstance(model, bytes):
        word = _computing(model, provider, options)
        return lambda: word

    def read() -> str:
        import onnx

        from onnxprune import model as models

        return _computing(models.load(onnx.load_model_from_string(model)), provider, options)

    return read


def _computing(source: Source, provider: Provider, options: Mapping[str, str]) -> str:
    if provider.name == "openvino":
        config = json.loads(options.get("load_config", "{}"))
        config = config.get(options.get("device_type", "CPU"), {})
        return computing_precision(source, config.get("INFERENCE_PRECISION_HINT", "default"))
    word = stored_precision(source)
    tf32 = provider.name == "cuda" and options.get("use_tf32", "1") != "0"
    if tf32 or provider.name in ("tensorrt", "tensorrt-rtx"):
        return word.replace("f32", "tf32")  # both allow it by default
    return word


def read_profile(text: str) -> list[list[NodeTime]]:
    """The nodes of each run, from the profile that onnxruntime writes."""
    events = json.loads(text)
    starts = sorted(each["ts"] for each in events if each.get("name") == "model_run")
    runs: list[list[NodeTime]] = [[] for _ in starts]
    kernels = (e for e in events if e.get("cat") == "Node" and e["name"].endswith(_KERNEL))
    for event in sorted(kernels, key=lambda each: each["ts"]):
        run = bisect.bisect_right(starts, event["ts"]) - 1
        name, kind = event["name"].removesuffix(_KERNEL), event["args"].get("op_name", "?")
        if _PIECE in kind:
            kind = COMPILED
        start = (event["ts"] - starts[run]) * 1e-6
        runs[run].append(NodeTime(name, kind, event["dur"] * 1e-6, start))
    return runs


def foreign(dtype: np.dtype[Any]) -> bool:
    """Whether numpy itself has no such type, so that onnxruntime cannot convert it."""
    return dtype.kind == "V" or dtype.name.startswith(("bfloat", "float8", "int4", "uint4"))


def to_ort(ort: Any, array: npt.NDArray[Any], number: int | None = None) -> Any:  # noqa: ANN401
    """Wrap an array as an ``OrtValue`` that refers to the array's own memory.

    Args:
        ort: the onnxruntime module.
        array: of any numpy or whole-byte ``ml_dtypes`` type. It must outlive the value.
        number: the ONNX element type; taken from the dtype by default.
    """
    array = np.asarray(array, order="C")
    if not foreign(array.dtype):
        return ort.OrtValue.ortvalue_from_numpy(array)
    if number is None:
        import onnx  # slow to import, and seldom needed

        number = int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))
    bits = array.view(np.uint16 if array.itemsize == 2 else np.uint8)
    return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, number)


def from_ort(value: Any, dtype: np.dtype[Any]) -> npt.NDArray[Any]:  # noqa: ANN401
    """Copy an ``OrtValue`` on the CPU into an array of ``dtype``."""
    if not foreign(dtype):
        return np.asarray(value.numpy())
    shape = value.shape()
    count = int(np.prod(shape))
    size = (count + 1) // 2 if dtype.name in ("int4", "uint4") else count * dtype.itemsize
    raw = np.empty(size, np.uint8)
    ctypes.memmove(raw.ctypes.data, value.data_ptr(), size)
    if dtype.name in ("int4", "uint4"):  # two to a byte, the first in the low half
        nibbles = np.stack([raw & 15, raw >> 4], axis=1).ravel()[:count]
        if dtype.name == "int4":
            nibbles = (nibbles ^ 8).astype(np.int8) - np.int8(8)
        return nibbles.astype(dtype).reshape(shape)
    return raw.view(dtype).reshape(shape)
