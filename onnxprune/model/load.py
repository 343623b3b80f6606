"""Reading a model from wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import onnx
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from onnxprune.errors import OnnxpruneError
from onnxprune.model.core import Model, Source, adopt, clone
from onnxprune.model.names import uniquify

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

    ModelLike: TypeAlias = str | Path | onnx.ModelProto | gs.Graph | ir.Model | Model


def load(source: ModelLike) -> Model:
    """Load a model from a path, a ``ModelProto``, a graphsurgeon graph or an onnx-ir model."""
    if isinstance(source, Model):
        return source
    path: Path | None = None
    if isinstance(source, ir.Model):
        made = clone(Model(source)).ir
    elif isinstance(source, onnx.ModelProto):
        copied = onnx.ModelProto()
        copied.CopyFrom(source)
        made = ir.from_proto(copied)
    elif isinstance(source, str | Path):
        path = Path(source)
        if not path.is_file():
            raise OnnxpruneError(f"{path} is not a file", hint="Check the path.")
        made = ir.load(path)
    else:
        import onnx_graphsurgeon as gs

        made = ir.from_proto(gs.export_onnx(source))
    if made.functions:
        InlinePass()(made)
    uniquify(made)
    adopt(made, Source())
    return Model(made, path)
