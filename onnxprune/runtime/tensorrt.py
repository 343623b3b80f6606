"""TensorRT and TensorRT-RTX engines, built by `runtime.engines` and run through Polygraphy.

Arrays are numpy's on the host, so a run includes the copies to the device and back.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Signature
from onnxprune.runtime import precision
from onnxprune.runtime.gpu import gpu_problem
from onnxprune.runtime.interface import (
    Availability,
    Backend,
    Feeds,
    Request,
    Shapes,
    Source,
    check_feeds,
    closed,
)

if TYPE_CHECKING:
    from onnxprune.runtime.engines import Request as EngineRequest
    from onnxprune.runtime.engines.runtime import Name

Half = Literal["asis", "fp16", "bf16"]

_INSTALL: dict[Name, str] = {
    "tensorrt": "pip install tensorrt polygraphy",
    "tensorrt_rtx": "pip install 'onnxprune[tensorrt-rtx]'",
}


class EngineRunner:
    """An engine on the GPU."""

    def __init__(self, source: Source, request: Request, runtime: Name, half: Half) -> None:
        from onnxprune import model as models
        from onnxprune.model.signature import signature_of
        from onnxprune.runtime.engines import build
        from onnxprune.runtime.openvino import outputs_of

        loaded = models.load(source) if isinstance(source, Path) else source
        self.inputs: Signature = signature_of(loaded)
        self.outputs: Signature = outputs_of(loaded)
        word = precision.stored(loaded)
        words = {"fp16": "f16", "bf16": "bf16", "asis": word.replace("f32", "tf32")}
        self.precision = words[half]
        made = build(loaded, engine_request(request, runtime, half))
        # Polygraphy reads this when it is first imported, so a process keeps one TensorRT.
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if runtime == "tensorrt_rtx" else "0"
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        self._runner: Any = TrtRunner(EngineFromBytes(made.plan))
        started = time.perf_counter()
        try:
            self._runner.activate()
        except Exception as error:  # Polygraphy's own exceptions, and CUDA's
            raise OnnxpruneError(
                f"{made.runtime.title} cannot load the engine on this GPU: {error}"
            ) from error
        self.load_s = time.perf_counter() - started

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """Run once."""
        if self._runner is None:
            raise closed()
        check_feeds(self.inputs, feeds)
        try:
            found = self._runner.infer({k: np.ascontiguousarray(v) for k, v in feeds.items()})
        except Exception as error:  # Polygraphy's own exceptions, and CUDA's
            raise OnnxpruneError(f"the model failed to run: {error}") from error
        # The runner overwrites its buffers at the next run.
        return {spec.name: np.array(found[spec.name]) for spec in self.outputs}

    def close(self) -> None:
        """Free the engine."""
        if self._runner is not None:
            self._runner.deactivate()
            self._runner = None


def engine_request(request: Request, runtime: Name, half: Half) -> EngineRequest:
    """What to build: an engine that takes all the shapes asked for and is tuned for the first."""
    from onnxprune.runtime.engines import Request as EngineRequest

    best: Shapes = request.shapes[0] if request.shapes else {}
    return EngineRequest(
        sparse=request.options.get("sparse", "0") not in ("0", "false"),
        precision=half,
        runtime=runtime,
        shapes=best,
        least=_extreme(request.shapes, min),
        most=_extreme(request.shapes, max),
    )


def _extreme(
    shapes: tuple[Shapes, ...], choose: Callable[..., int]
) -> Mapping[str, tuple[int, ...]]:
    names = shapes[0] if shapes else {}
    return {
        name: tuple(choose(sizes) for sizes in zip(*(each[name] for each in shapes), strict=True))
        for name in names
    }


def _backend(name: str, runtime: Name, half: Half) -> Backend:
    def probe() -> Availability:
        from onnxprune.runtime.engines.runtime import find

        try:
            found = find(runtime)
        except OnnxpruneError as error:
            return Availability(ok=False, reason=error.message)
        problem = gpu_problem() or _without_polygraphy()
        return Availability(ok=not problem, version=found.version, reason=problem)

    def opener(model: Source, request: Request) -> EngineRunner:
        return EngineRunner(model, request, runtime, half)

    title = "TensorRT-RTX" if runtime == "tensorrt_rtx" else "TensorRT"
    said = "" if half == "asis" else f", in {half}"
    return Backend(name, f"{title} engine{said}", _INSTALL[runtime], probe, opener)


def _without_polygraphy() -> str:
    try:
        import polygraphy  # noqa: F401
    except ImportError:
        return "polygraphy, which runs the engine, is not installed"
    return ""


_NAMES: dict[str, Name] = {"tensorrt": "tensorrt", "tensorrt-rtx": "tensorrt_rtx"}
_VARIANTS: dict[str, Half] = {"": "asis", ":f16": "fp16", ":bf16": "bf16"}

BACKENDS = tuple(
    _backend(name + suffix, runtime, half)
    for name, runtime in _NAMES.items()
    for suffix, half in _VARIANTS.items()
)
