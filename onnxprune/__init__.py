"""onnxprune: a pruner for exported ONNX graphs.

``onnxprune.prune("model.onnx", ratio=0.3, calib=batches)`` does the whole job. The steps behind it
are plain functions over printable values: ``load``, ``analyse``, ``cut``, ``save``.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from itertools import chain
from typing import Any

from onnxprune import config as _config  # noqa: F401  errors name options as it declares them

_HOMES = {
    "config": ("Options",),
    "errors": ("OnnxpruneError",),
    "graph.analysis": ("Analysis", "analyse"),
    "graph.cost": ("Cost",),
    "graph.interface": ("Interface",),
    "graph.plan": ("Plan", "load_plan"),
    "graph.surgery": ("cut",),
    "jobs.advise.job": ("advise",),
    "jobs.bench.job": ("bench",),
    "jobs.bench.schema": ("Bench",),
    "jobs.eval": ("Assessment", "eval"),
    "jobs.prune": ("apply", "prune"),
    "jobs.quantize": ("Quantized", "quantize"),
    "jobs.recover": ("recover",),
    "jobs.result": ("Result",),
    "jobs.sensitivity.run": ("sensitivity",),
    "jobs.store": ("Stored", "store"),
    "jobs.verify": ("Verification", "verify"),
    "model": ("Model", "load", "save"),
    "select.sensitivity": ("Sensitivity", "load_sensitivity"),
}
"""Where each name lives; imported when first used, so that ``--help`` does not wait for onnx."""

_FORMER = {"recover_model": "recover", "replay": "apply"}
"""Names of the last version, and what they are called now."""

__all__ = sorted(["__version__", *chain(*_HOMES.values())])  # noqa: PLE0605  the stub spells it


def __dir__() -> list[str]:
    return __all__


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever the name stands for
    if name == "__version__":
        return importlib.metadata.version("onnxprune")
    name = _FORMER.get(name, name)
    for home, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"onnxprune.{home}"), name)
    raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")
