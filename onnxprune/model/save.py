"""Writing a model."""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from onnxprune.errors import OnnxpruneError
from onnxprune.model.core import Model

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs


def save(
    model: Model,
    path: str | Path,
    *,
    external: bool | None = None,
    overwrite: Collection[str | Path] = (),
) -> Path:
    """Write ``model`` to ``path`` through a temporary file."""
    target = Path(path)
    if model.path is not None and target.exists() and target.samefile(model.path):
        raise OnnxpruneError(f"{target} is the model being read", hint="Choose another name.")
    temporary = target.with_name(f".{target.name}.tmp")
    ir.save(model.ir, temporary, external_data=f"{target.name}.data" if external else None)
    os.replace(temporary, target)
    return target


def to_proto(model: Model) -> onnx.ModelProto:
    """The model as one ``ModelProto`` with all weights inside."""
    return ir.to_proto(model.ir)


def to_graphsurgeon(model: Model) -> gs.Graph:
    """The model as an onnx-graphsurgeon graph."""
    import onnx_graphsurgeon as gs

    return gs.import_onnx(to_proto(model))
