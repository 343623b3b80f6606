"""onnxprune: a pruner for exported ONNX graphs.

``onnxprune.prune("model.onnx", ratio=0.3, calib=batches)`` does the whole job. The steps behind it
are plain functions over printable values: ``load``, ``analyse``, ``cut``, ``save``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from onnxprune.analysis import Analysis, analyse
    from onnxprune.carry_out import Pruned
    from onnxprune.cost import Cost
    from onnxprune.model import Model, load, save
    from onnxprune.pipeline import prune, replay
    from onnxprune.plan import Plan, load_plan
    from onnxprune.repair import Recovered, recover_model
    from onnxprune.surgery import cut
    from onnxprune.sweep.found import Sensitivity, load_sensitivity
    from onnxprune.sweep.run import sensitivity

from onnxprune.errors import OnnxpruneError

_HOME = {
    "Analysis": "analysis",
    "Cost": "cost",
    "Model": "model",
    "Plan": "plan",
    "Pruned": "carry_out",
    "Recovered": "repair",
    "Sensitivity": "sweep.found",
    "analyse": "analysis",
    "cut": "surgery",
    "load": "model",
    "load_plan": "plan",
    "load_sensitivity": "sweep.found",
    "prune": "pipeline",
    "recover_model": "repair",
    "replay": "pipeline",
    "save": "model",
    "sensitivity": "sweep.run",
}
"""Where each name lives; imported when first used, so that ``--help`` does not wait for onnx."""

__all__ = [
    "Analysis",
    "Cost",
    "Model",
    "OnnxpruneError",
    "Plan",
    "Pruned",
    "Recovered",
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
