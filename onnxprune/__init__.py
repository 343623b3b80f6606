"""onnxprune: a pruner for exported ONNX graphs.

``onnxprune.prune("model.onnx", ratio=0.3, calib=batches)`` does the whole job. The steps behind it
are plain functions over printable values: ``load``, ``analyse``, ``cut``, ``save``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.graph.analysis import Analysis, analyse
    from onnxprune.graph.cost import Cost
    from onnxprune.graph.plan import Plan, load_plan
    from onnxprune.graph.surgery import cut
    from onnxprune.jobs.prune import prune, replay
    from onnxprune.jobs.recover import recover_model
    from onnxprune.jobs.result import Result
    from onnxprune.jobs.sensitivity.run import sensitivity
    from onnxprune.model import Model, load, save
    from onnxprune.select.sensitivity import Sensitivity, load_sensitivity

from onnxprune.errors import OnnxpruneError

_HOME = {
    "Analysis": "graph.analysis",
    "Cost": "graph.cost",
    "Model": "model",
    "Plan": "graph.plan",
    "Result": "jobs.result",
    "Sensitivity": "select.sensitivity",
    "analyse": "graph.analysis",
    "cut": "graph.surgery",
    "load": "model",
    "load_plan": "graph.plan",
    "load_sensitivity": "select.sensitivity",
    "prune": "jobs.prune",
    "recover_model": "jobs.recover",
    "replay": "jobs.prune",
    "save": "model",
    "sensitivity": "jobs.sensitivity.run",
}
"""Where each name lives; imported when first used, so that ``--help`` does not wait for onnx."""

__all__ = [
    "Analysis",
    "Cost",
    "Model",
    "OnnxpruneError",
    "Plan",
    "Result",
    "Sensitivity",
    "analyse",
    "cut",
    "load",
    "load_plan",
    "load_sensitivity",
    "prune",
    "recover_model",
    "replay",
    "save",
    "sensitivity",
]


def __getattr__(name: str) -> Any:  # noqa: ANN401  # whatever the name stands for
    import importlib

    if name in _HOME:
        return getattr(importlib.import_module(f"onnxprune.{_HOME[name]}"), name)
    raise AttributeError(f"module 'onnxprune' has no attribute '{name}'")
