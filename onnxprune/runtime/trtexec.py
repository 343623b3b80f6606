"""TensorRT's own program as a backend: it builds, runs and times in processes of its own.

Its times are those it exports itself: copy to the device, compute, copy back, for each run.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.errors import OnnxpruneError
from onnxprune.model.files import ScratchFolder
from onnxprune.model.signature import TensorSpec
from onnxprune.runtime.interface import (
    Availability,
    Backend,
    CompiledSession,
    Feeds,
    Request,
    Source,
    stored_precision,
)
from onnxprune.runtime.providers import gpu_problem

PROGRAMS = ("trtexec", "tensorrt_rtx")
"""What it is called in TensorRT and in TensorRT-RTX."""

_WARM_UP_MS = 200
_VERSION = re.compile(r"TensorRT v(\d+)")
_ERROR = re.compile(r"\[E\] (.*)")


class TrtexecSession(CompiledSession):
    """An engine file, and the program that runs it."""

    def __init__(self, program: str, source: Source, request: Request) -> None:
        from onnxprune import model as models
        from onnxprune.runtime.engines.commands import trtexec as building
        from onnxprune.runtime.engines.runtime import Runtime
        from onnxprune.runtime.tensorrt import engine_request

        loaded = models.load(source)
        super().__init__(loaded)
        self.precision = stored_precision(loaded).replace("f32", "tf32")
        self._program = program
        self.handle = ScratchFolder()
        folder = Path(self.handle.name)
        self._engine = folder / "model.engine"
        graph = models.save(loaded, folder / "model.onnx")
        rtx = Path(program).stem == "tensorrt_rtx"
        runtime = Runtime("tensorrt_rtx" if rtx else "tensorrt", "", None)
        settings = engine_request(request, runtime.name, "asis")
        self._call(shlex.split(building(runtime, graph, self._engine, settings))[1:])

    def infer(self, feeds: Feeds) -> Mapping[str, npt.NDArray[Any]]:
        """Run once, through files."""
        return read_outputs(self._exported(feeds, "Output", ["--iterations=1"]), self.outputs)

    def time(self, feeds: Feeds, runs: int) -> Sequence[float]:
        """Seconds of each run, as the program exports them."""
        self.check(feeds)
        words = [f"--iterations={runs}", f"--warmUp={_WARM_UP_MS}"]
        return read_times(self._exported(feeds, "Times", words))

    def close(self) -> None:
        """Delete the engine."""
        if self.handle is not None:
            self.handle.cleanup()
            self.handle = None

    def _exported(self, feeds: Feeds, what: str, words: list[str]) -> str:
        """What the program writes about runs on some feeds: ``Output`` or ``Times``."""
        with ScratchFolder() as folder:
            out = Path(folder) / "exported.json"
            files, shapes = [], []
            for index, spec in enumerate(self.inputs):
                file = Path(folder) / f"input{index}.bin"
                np.ascontiguousarray(feeds[spec.name]).tofile(file)
                files.append(f"{spec.name}:{file}")
                if not all(isinstance(size, int) for size in spec.shape):
                    shapes.append(f"{spec.name}:{'x'.join(map(str, feeds[spec.name].shape))}")
            words = [f"--export{what}={out}", *words, "--duration=0"]
            words += [f"--shapes={','.join(shapes)}"] if shapes else []
            self._call([f"--loadEngine={self._engine}", f"--loadInputs={','.join(files)}", *words])
            return out.read_text(encoding="utf-8")

    def _call(self, words: list[str]) -> None:
        done = subprocess.run(  # noqa: S603  # the program the user put on PATH
            [self._program, *words], capture_output=True, text=True, check=False
        )
        if done.returncode:
            errors = _ERROR.findall(done.stdout + done.stderr)
            raise OnnxpruneError(
                f"{Path(self._program).name} failed: {errors[0] if errors else 'no message'}",
                hint=f"its command was {shlex.join([Path(self._program).name, *words])}",
            )


def read_times(text: str) -> tuple[float, ...]:
    """Seconds of each run from what ``--exportTimes`` wrote (``latencyMs`` of every entry).

    Raises:
        OnnxpruneError: it is not such a file, or empty.
    """
    try:
        times = tuple(float(each["latencyMs"]) / 1e3 for each in json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise OnnxpruneError("these are not times exported by trtexec") from error
    if not times:
        raise OnnxpruneError("trtexec exported no times")
    return times


def read_outputs(text: str, signature: Sequence[TensorSpec]) -> dict[str, npt.NDArray[Any]]:
    """Arrays from what ``--exportOutput`` wrote: name, ``dimensions`` as in 1x10, ``values``.

    Raises:
        OnnxpruneError: it is not such a file, or an output is missing.
    """
    try:
        outputs = {
            str(each["name"]): (
                tuple(int(size) for size in str(each["dimensions"]).split("x") if size),
                each["values"],
            )
            for each in json.loads(text)
        }
        return {
            spec.name: np.array(outputs[spec.name][1], spec.dtype).reshape(outputs[spec.name][0])
            for spec in signature
        }
    except (ValueError, KeyError, TypeError) as error:
        raise OnnxpruneError("these are not outputs exported by trtexec") from error


def _probe() -> Availability:
    program = _program()
    if program is None:
        return Availability(ok=False, reason=f"{' or '.join(PROGRAMS)} is not on PATH")
    problem = gpu_problem()
    return Availability(ok=not problem, version=_version(program), reason=problem)


def _program() -> str | None:
    return next((path for name in PROGRAMS if (path := shutil.which(name))), None)


def _version(program: str) -> str:
    done = subprocess.run(  # noqa: S603  # the program the user put on PATH
        [program, "--help"], capture_output=True, text=True, check=False
    )
    match = _VERSION.search(done.stdout)
    return match[1] if match else "unknown version"


def _open(model: Source, request: Request) -> TrtexecSession:
    program = _program()
    assert program is not None  # the probe looked before
    return TrtexecSession(program, model, request)


BACKENDS = (
    Backend(
        "trtexec",
        "TensorRT's own program",
        "install TensorRT with its samples (the NVIDIA container nvcr.io/nvidia/tensorrt has it)",
        _probe,
        _open,
    ),
)
