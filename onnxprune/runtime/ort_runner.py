"""Every execution provider of onnxruntime as a backend.

The names of providers that are also runtimes of their own get ``ort-`` before them here, so that
``openvino`` is OpenVINO itself and ``ort-openvino`` is onnxruntime with the OpenVINO plug-in.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import json
import tempfile
import time
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.signature import Signature
from onnxprune.runtime import precision
from onnxprune.runtime.gpu import gpu_problem
from onnxprune.runtime.interface import (
    COMPILED,
    Availability,
    Backend,
    Feeds,
    NodeTime,
    Request,
    Source,
    closed,
)
from onnxprune.runtime.ort import Session, open_session
from onnxprune.runtime.providers import PROVIDERS, Provider, device_problem, runtime

_RUNTIMES = ("openvino", "tensorrt", "tensorrt-rtx")
"""Providers whose name means the runtime itself when it stands alone."""
_KERNEL = "_kernel_time"
_PIECE = "ExecutionProvider_"  # what a provider compiled is called after it
_ON_GPU = ("cuda", "tensorrt", "tensorrt-rtx")


class OrtRunner:
    """A session, and the precision it computes in."""

    def __init__(
        self,
        session: Session,
        load_s: float,
        said: Callable[[], str],
        folder: tempfile.TemporaryDirectory[str] | None = None,
    ) -> None:
        self._session: Session | None = session
        self.inputs: Signature = session.inputs
        self.outputs: Signature = session.outputs
        self.load_s = load_s
        self._said = said
        self._folder = folder  # of a profile

    @functools.cached_property
    def precision(self) -> str:
        """Found when asked for: it means looking into the model once more."""
        return self._said()

    def run(self, feeds: Feeds) -> dict[str, npt.NDArray[Any]]:
        """Run once."""
        if self._session is None:
            raise closed()
        return self._session.run(feeds)

    def profiled(self, feeds: Feeds, runs: int) -> list[list[NodeTime]]:
        """The nodes of each run; the first one of all, which allocates, is left out."""
        assert self._session is not None
        for _ in range(runs + 1):
            self._session.run(feeds)
        file = Path(self._session.handle.end_profiling())
        return read_profile(file.read_text(encoding="utf-8"))[-runs:]

    def close(self) -> None:
        """Let onnxruntime free the session."""
        self._session = None
        if self._folder is not None:
            self._folder.cleanup()


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


def _backend(one: Provider, name: str, hint: str = "") -> Backend:
    def opener(model: Source, request: Request) -> OrtRunner:
        options = dict(request.options)
        if hint:
            options = _hinted(options, hint)
        folder = tempfile.TemporaryDirectory(prefix="onnxprune.") if request.profile else None
        started = time.perf_counter()
        session = open_session(
            model,
            provider=one.name,
            threads=request.threads,
            optimise=request.optimise,
            spin=True,
            saturate=True,  # as it ships
            options=options,
            profile=Path(folder.name) / "profile" if folder else None,
        )
        spent = time.perf_counter() - started
        said = functools.partial(_precision, one, hint, model, request.options)
        return OrtRunner(session, spent, said, folder)

    said = "in the precision it chooses" if hint == "default" else f"in {hint}" if hint else ""
    summary = f"onnxruntime, {one.full}" + (f", {said}" if said else "")
    return Backend(name, summary, one.install, _probe(one), opener, switch=True)


def name_of(one: Provider) -> str:
    """What the backend is called that is onnxruntime with a provider."""
    return f"ort-{one.name}" if one.name in _RUNTIMES else one.name


def _hinted(options: Mapping[str, str], hint: str) -> dict[str, str]:
    """The plug-in's options with a precision, unless they name one themselves.

    It takes properties of OpenVINO only as JSON under ``load_config``; plain keys are ignored.
    """
    given = json.loads(options.get("load_config", "{}"))
    device = options.get("device_type", "CPU")
    if hint != "default":
        given.setdefault(device, {}).setdefault("INFERENCE_PRECISION_HINT", hint)
    return {**options, **({"load_config": json.dumps(given)} if given else {})}


def _precision(one: Provider, hint: str, model: Source, options: Mapping[str, str]) -> str:
    if hint:
        return precision.computing(model, hint)
    word = precision.stored(model)
    if one.name in ("tensorrt", "tensorrt-rtx") or (
        one.name == "cuda" and options.get("use_tf32", "1") != "0"
    ):
        return word.replace("f32", "tf32")  # both allow it unless told otherwise
    return word


def _probe(one: Provider) -> Callable[[], Availability]:
    def probe() -> Availability:
        try:
            found = str(runtime().__version__)
        except OnnxpruneError as error:
            return Availability(ok=False, reason=error.message)
        problem = device_problem(one)
        if not problem and one.name in _ON_GPU:
            problem = gpu_problem()
        if one.plugin and not problem:
            with contextlib.suppress(PackageNotFoundError):
                found += f" with {one.wheel} {version(one.wheel)}"
        return Availability(ok=not problem, version=found, reason=problem)

    return probe


def _all() -> tuple[Backend, ...]:
    made = []
    for one in PROVIDERS:
        name = name_of(one)
        if one.name != "openvino":
            made.append(_backend(one, name))
            continue
        made.append(_backend(one, name, "f32"))
        made += [_backend(one, f"{name}:{hint}", hint) for hint in ("f16", "bf16", "default")]
    return tuple(made)


BACKENDS = _all()
