"""OpenVINO itself, without onnxruntime.

On recent CPUs it computes in bfloat16 by default, so the precision is always set
(except, on purpose, for ``openvino:default``) and read back from the compiled model.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.files import ScratchFolder
from onnxprune.runtime.interface import (
    Availability,
    Backend,
    CompiledSession,
    Feeds,
    NodeTime,
    Request,
    Source,
    computing_precision,
)

_WORDS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16", "f32": "f32"}
_INSTALL = "pip install 'onnxprune[openvino]'"


class OpenvinoSession(CompiledSession):
    """A compiled model with one inference request; one caller at a time, as for latency."""

    def __init__(self, source: Source, settings: Mapping[str, Any], device: str) -> None:
        from onnxprune import model as models

        super().__init__(models.load(source))
        self.compiled, self.load_s = _compiled(source, settings, device)
        hint = str(self.compiled.get_property("INFERENCE_PRECISION_HINT").to_string())
        self.precision = computing_precision(source, _WORDS.get(hint, hint))
        self.handle = self.compiled.create_infer_request()

    def infer(self, feeds: Feeds) -> Mapping[str, npt.NDArray[Any]]:
        """Run once; outputs are copied by OpenVINO."""
        try:
            values = self.handle.infer(feeds)
        except RuntimeError as error:
            raise OnnxpruneError(f"the model failed to run: {plain(error)}") from error
        return {
            spec.name: np.asarray(values[index]).astype(spec.dtype, copy=False)
            for index, spec in enumerate(self.outputs)
        }

    def profiled(self, feeds: Feeds, runs: int) -> list[list[NodeTime]]:
        """The nodes of each run, without their starts, which OpenVINO does not report."""
        self.run(feeds)
        result = []
        for _ in range(runs):
            self.run(feeds)
            nodes = self.handle.get_profiling_info()
            times = ((each, each.real_time.total_seconds()) for each in nodes)
            result.append(
                [NodeTime(each.node_name, each.node_type, time) for each, time in times if time]
            )
        return result

    def close(self) -> None:
        """Free the compiled model."""
        self.handle = self.compiled = None


def _compiled(source: Source, settings: Mapping[str, Any], device: str) -> tuple[Any, float]:
    """The compiled model, and the seconds that reading and compiling it took.

    Raises:
        OnnxpruneError: OpenVINO cannot take the model.
    """
    import openvino as ov

    from onnxprune import model as models

    core = ov.Core()
    where = source if isinstance(source, Path) else source.path
    name = where.name if where else "the model"
    with ScratchFolder() as folder:
        if isinstance(source, Path):
            path = source
            _refuse_sparse(path)
        else:
            path = models.save(source, Path(folder) / "model.onnx")
        try:
            # Compiled before the folder goes; the plug-in keeps its own copy of the weights.
            started = time.perf_counter()
            compiled = core.compile_model(core.read_model(str(path)), device, dict(settings))
        except RuntimeError as error:
            raise OnnxpruneError(
                f"OpenVINO cannot take {name}: {plain(error)}",
                hint="`onnxprune bench --backend cpu` shows whether onnxruntime takes it",
            ) from error
    return compiled, time.perf_counter() - started


def _refuse_sparse(path: Path) -> None:
    """OpenVINO may read a sparse initializer as an input of unknown value, without a word."""
    from onnxprune.model import sparse

    names = sparse.names(path)
    if names:
        raise OnnxpruneError(
            f"OpenVINO reads no sparse initializers, and {path.name} has {len(names)}",
            hint=f"onnxprune densify {path} -o dense.onnx",
        )


def plain(error: object) -> str:
    """OpenVINO's message, without source lines."""
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith("Exception from"))


def _backend(name: str, hint: str) -> Backend:
    def opener(model: Source, request: Request) -> OpenvinoSession:
        settings: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if hint != "default":
            settings["INFERENCE_PRECISION_HINT"] = hint
        if request.threads is not None:
            settings["INFERENCE_NUM_THREADS"] = request.threads
        if request.profile:
            settings["PERF_COUNT"] = "YES"
        settings |= request.options
        device = str(settings.pop("device", "CPU"))
        return OpenvinoSession(model, settings, device)

    suffix = "in the precision it chooses" if hint == "default" else f"in {hint}"
    return Backend(
        name, f"OpenVINO on CPU, {suffix}", _INSTALL, _probe(hint), opener, frozenset({"profile"})
    )


def _probe(hint: str) -> Callable[[], Availability]:
    def probe() -> Availability:
        try:
            import openvino as ov
        except ImportError as error:
            return Availability(ok=False, reason=f"openvino cannot be imported: {error}")
        version = str(ov.__version__).partition("-")[0]
        core = ov.Core()
        if "CPU" not in core.available_devices:
            return Availability(ok=False, version=version, reason="OpenVINO finds no CPU device")
        can = {str(each).upper() for each in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")}
        wanted = {"f16": "FP16", "bf16": "BF16"}.get(hint, "FP32")
        if wanted not in can:
            reason = f"this CPU does not compute in {hint} ({', '.join(sorted(can))})"
            return Availability(ok=False, version=version, reason=reason)
        return Availability(ok=True, version=version)

    return probe


BACKENDS = (
    _backend("openvino", "f32"),
    *(_backend(f"openvino:{hint}", hint) for hint in ("f16", "bf16", "default")),
)
