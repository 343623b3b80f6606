"""The commands that build such an engine with NVIDIA's own tools."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path

from onnxprune.config import BuildOptions
from onnxprune.runtime.engines.runtime import Runtime

Shapes = Mapping[str, tuple[int, ...]]


def equivalents(
    runtime: Runtime, model: Path, engine: Path, request: BuildOptions
) -> dict[str, str]:
    """Commands by tool; only those that are known to be able to do it."""
    found = {"polygraphy": polygraphy(runtime, model, engine, request)}
    if not request.compute_capability:
        found["trtexec"] = trtexec(runtime, model, engine, request)
    return found


def polygraphy(runtime: Runtime, model: Path, engine: Path, request: BuildOptions) -> str:
    """``polygraphy convert``, with the variable that makes it take TensorRT-RTX where needed."""
    words = ["polygraphy", "convert", str(model), "-o", str(engine)]
    if request.sparse_weights:
        words.append("--sparse-weights")
    if request.compute_capability:
        words += ["--compute-capabilities", *(f"{a}.{b}" for a, b in request.compute_capability)]
    elif not runtime.ahead_of_time:
        words.append("--strongly-typed")
    for flag, shapes in _profile(request).items():
        if shapes:
            words.append(f"--trt-{flag}-shapes")
            words += [f"{name}:[{','.join(map(str, s))}]" for name, s in shapes.items()]
    line = shlex.join(words)
    return f"POLYGRAPHY_USE_TENSORRT_RTX=1 {line}" if runtime.ahead_of_time else line


def trtexec(runtime: Runtime, model: Path, engine: Path, request: BuildOptions) -> str:
    """``trtexec``, or ``tensorrt_rtx`` as it is called there."""
    words = ["tensorrt_rtx" if runtime.ahead_of_time else "trtexec"]
    words += [f"--onnx={model}", f"--saveEngine={engine}", "--skipInference"]
    if not runtime.ahead_of_time:
        words += ["--stronglyTyped", "--verbose", "--profilingVerbosity=detailed"]
        words.append(f"--sparsity={'enable' if request.sparse_weights else 'disable'}")
        words.append(f"--exportLayerInfo={engine}.json")
    for flag, shapes in _profile(request).items():
        if shapes:
            each = (f"{name}:{'x'.join(map(str, s))}" for name, s in shapes.items())
            words.append(f"--{flag}Shapes={','.join(each)}")
    return shlex.join(words)


def _profile(request: BuildOptions) -> dict[str, Shapes]:
    return {
        "min": {**request.shapes, **request.min_shapes} if request.shapes else {},
        "opt": dict(request.shapes),
        "max": {**request.shapes, **request.max_shapes} if request.shapes else {},
    }
