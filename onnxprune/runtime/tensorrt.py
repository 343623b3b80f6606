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

from onnxprune.config import BuildOptions
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime.interface import (
    Availability,
    Backend,
    CompiledSession,
    Feeds,
    Request,
    Shapes,
    Source,
    stored_precision,
)
from onnxprune.runtime.providers import gpu_problem

if TYPE_CHECKING:
    from onnxprune.runtime.engines.runtime import Name

Half = Literal["asis", "fp16", "bf16"]

_INSTALL: dict[Name, str] = {
    "tensorrt": "pip install tensorrt polygraphy",
    "tensorrt_rtx": "pip install 'onnxprune[tensorrt-rtx]'",
}


class EngineSession(CompiledSession):
    """An engine on the GPU."""

    def __init__(self, source: Source, request: Request, runtime: Name, half: Half) -> None:
        from onnxprune import model as models
        from onnxprune.runtime.engines import build

        loaded = models.load(source) if isinstance(source, Path) else source
        super().__init__(loaded)
        word = stored_precision(loaded)
        words = {"fp16": "f16", "bf16": "bf16", "asis": word.replace("f32", "tf32")}
        self.precision = words[half]
        engine = build(loaded, engine_request(request, runtime, half))
        # Polygraphy reads this when it is first imported, so a process keeps one TensorRT.
        os.environ["POLYGRAPHY_USE_TENSORRT_RTX"] = "1" if runtime == "tensorrt_rtx" else "0"
        from polygraphy.backend.trt import EngineFromBytes, TrtRunner

        self.handle = TrtRunner(EngineFromBytes(engine.plan))
        started = time.perf_counter()
        try:
            self.handle.activate()
        except Exception as error:  # Polygraphy's own exceptions, and CUDA's
            raise OnnxpruneError(
                f"{engine.runtime.title} cannot load the engine on this GPU: {error}"
            ) from error
        self.load_s = time.perf_counter() - started

    def infer(self, feeds: Feeds) -> Mapping[str, npt.NDArray[Any]]:
        """Run once."""
        try:
            values = self.handle.infer(feeds)
        except Exception as error:  # Polygraphy's own exceptions, and CUDA's
            raise OnnxpruneError(f"the model failed to run: {error}") from error
        # The runner overwrites its buffers at the next run.
        return {spec.name: np.array(values[spec.name]) for spec in self.outputs}

    def close(self) -> None:
        """Free the engine."""
        if self.handle is not None:
            self.handle.deactivate()
            self.handle = None


def engine_request(request: Request, runtime: Name, half: Half) -> BuildOptions:
    """What to build: an engine that takes all the shapes asked for and is tuned for the first."""
    best: Shapes = request.shapes[0] if request.shapes else {}
    return BuildOptions(
        sparse_weights=request.options.get("sparse", "0") not in ("0", "false"),
        precision=half,
        runtime=runtime,
        shapes=best,
        min_shapes=_extreme(request.shapes, min),
        max_shapes=_extreme(request.shapes, max),
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

    def opener(model: Source, request: Request) -> EngineSession:
        return EngineSession(model, request, runtime, half)

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
