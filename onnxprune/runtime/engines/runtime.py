"""Which TensorRT is installed: ``tensorrt``, or ``tensorrt_rtx``, which has the same interface.

TensorRT builds for the GPU it runs on. TensorRT-RTX compiles ahead of time for named compute
capabilities on any machine, without a GPU, and leaves the choice of kernels to the device.
"""

from __future__ import annotations

import importlib
import importlib.util
from dataclasses import dataclass, field
from typing import Any, Literal

from onnxprune.errors import OnnxpruneError

Name = Literal["tensorrt", "tensorrt_rtx"]

_TITLES: dict[Name, str] = {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}


@dataclass(frozen=True)
class Runtime:
    """An installed TensorRT.

    Attributes:
        name: of the Python module.
        version: of the module.
        module: it.
    """

    name: Name
    version: str
    module: Any = field(repr=False)

    @property
    def title(self) -> str:
        """The product name."""
        return _TITLES[self.name]

    @property
    def ahead_of_time(self) -> bool:
        """Whether it builds without a GPU, for compute capabilities that are named."""
        return self.name == "tensorrt_rtx"


def find(wanted: Name | None = None) -> Runtime:
    """The TensorRT to use: ``wanted``, else ``tensorrt`` before ``tensorrt_rtx``.

    Raises:
        OnnxpruneError: there is none, or it cannot be imported.
    """
    names: tuple[Name, ...] = (wanted,) if wanted else ("tensorrt", "tensorrt_rtx")
    problem = ""
    for name in names:
        if importlib.util.find_spec(name) is None:
            continue
        try:
            module = importlib.import_module(name)
        except (ImportError, OSError) as error:
            problem = f": {name} cannot be imported ({' '.join(str(error).split())})"
            continue
        if hasattr(module, "Builder") and hasattr(module, "OnnxParser"):
            return Runtime(name, str(module.__version__), module)
        problem = f": this {name} has no builder (a lean or dispatch runtime)"
    raise OnnxpruneError(
        f"no TensorRT that builds engines is installed{problem}",
        hint="pip install 'onnxprune[tensorrt-rtx]' (no GPU needed to build), or tensorrt",
    )
