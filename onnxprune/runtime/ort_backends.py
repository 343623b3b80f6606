"""Every execution provider of onnxruntime as a backend.

The names of providers that are also runtimes of their own get ``ort-`` before them here, so that
``openvino`` is OpenVINO itself and ``ort-openvino`` is onnxruntime with the OpenVINO plug-in.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version

from onnxprune.errors import OnnxpruneError
from onnxprune.runtime.interface import Availability, Backend, Capability, Request, Source
from onnxprune.runtime.ort import OrtSession, open_session
from onnxprune.runtime.providers import PROVIDERS, Provider, device_problem, gpu_problem, runtime
from onnxprune.types import RUNTIMES

_ON_GPU = ("cuda", "tensorrt", "tensorrt-rtx")
_CAPABILITIES: frozenset[Capability] = frozenset({"taps", "profile", "references", "unoptimised"})


def _backend(one: Provider, name: str, hint: str = "") -> Backend:
    def opener(model: Source, request: Request) -> OrtSession:
        return open_session(
            model,
            provider=one.name,
            threads=request.threads,
            optimise=request.optimise,
            spin=True,
            saturate=True,  # as it ships
            outputs=request.outputs,
            options=_hinted(request.options, hint) if hint else request.options,
            profile=request.profile,
        )

    precision = "in the precision it chooses" if hint == "default" else f"in {hint}" if hint else ""
    summary = f"onnxruntime, {one.full}" + (f", {precision}" if precision else "")
    return Backend(name, summary, one.install, _probe(one), opener, _CAPABILITIES)


def name_of(one: Provider) -> str:
    """The name of the backend that is onnxruntime with a provider."""
    return f"ort-{one.name}" if one.name in RUNTIMES else one.name


def _hinted(options: Mapping[str, str], hint: str) -> dict[str, str]:
    """The plug-in's options with a precision, unless they name one themselves.

    It takes properties of OpenVINO only as JSON under ``load_config``; plain keys are ignored.
    """
    config = json.loads(options.get("load_config", "{}"))
    device = options.get("device_type", "CPU")
    if hint != "default":
        config.setdefault(device, {}).setdefault("INFERENCE_PRECISION_HINT", hint)
    return {**options, **({"load_config": json.dumps(config)} if config else {})}


def _probe(one: Provider) -> Callable[[], Availability]:
    def probe() -> Availability:
        try:
            installed = str(runtime().__version__)
        except OnnxpruneError as error:
            return Availability(ok=False, reason=error.message)
        problem = device_problem(one)
        if not problem and one.name in _ON_GPU:
            problem = gpu_problem()
        if one.plugin and not problem:
            with contextlib.suppress(PackageNotFoundError):
                installed += f" with {one.wheel} {version(one.wheel)}"
        return Availability(ok=not problem, version=installed, reason=problem)

    return probe


def _all() -> tuple[Backend, ...]:
    result = []
    for one in PROVIDERS:
        name = name_of(one)
        if one.name != "openvino":
            result.append(_backend(one, name))
            continue
        result.append(_backend(one, name, "f32"))
        result += [_backend(one, f"{name}:{hint}", hint) for hint in ("f16", "bf16", "default")]
    return tuple(result)


BACKENDS = _all()
