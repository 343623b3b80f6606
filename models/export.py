"""From a trained torch module to a checked .onnx file with a dynamic batch axis."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import torch
from torch import Tensor, nn

from onnxprune.data.zoo import OUTPUT

TOLERANCE = 1e-4  # largest |onnxruntime - torch| that an export may show
BULKY = ("stack_trace", "fx_node")  # keys of metadata that only exporters read


def export(
    net: nn.Module,
    path: Path,
    name: str,
    *,
    example: Tensor | None = None,
    axes: tuple[str, ...] = ("batch",),
    fold: bool = True,
    dynamo: bool = False,
    opset: int = 17,
) -> None:
    """Write ``net`` as ONNX, and check that onnxruntime agrees with torch at another batch size.

    Args:
        net: a module with one input and one output.
        path: the file to write.
        name: what to call the input.
        example: an input; a picture [2, 1, 16, 16] when not given.
        axes: names of the leading axes of the input that stay dynamic.
        fold: fold constants, and batch normalisation into convolutions; the TorchScript exporter
            can do without.
        dynamo: use the torch.export based exporter instead of the TorchScript one.
        opset: the version of the operator set.

    Raises:
        RuntimeError: the file does not compute what the module does.
    """
    example = torch.rand(2, 1, 16, 16) if example is None else example
    dynamic = dict(enumerate(axes))
    net.eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            shapes = ({axis: torch.export.Dim(name) for axis, name in dynamic.items()},)
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                input_names=[name],
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                opset_version=opset,
                verbose=False,
            )
            assert program is not None  # torch types it so for dynamo=False
            proto = program.model_proto
        else:
            modes = torch.onnx.TrainingMode
            torch.onnx.export(
                net,
                (example,),
                path,
                dynamo=False,
                training=modes.EVAL if fold else modes.PRESERVE,
                do_constant_folding=fold,
                input_names=[name],
                output_names=[OUTPUT],
                dynamic_axes={name: dynamic, OUTPUT: dynamic},
                opset_version=opset,
            )
            proto = onnx.load(path)
    _forget_paths(proto.graph)
    onnx.save(proto, path)
    onnx.checker.check_model(str(path), full_check=True)
    other = torch.cat([example, example.flip(0)[:1]])
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    with torch.no_grad():
        error = np.abs(session.run(None, {name: other.numpy()})[0] - net(other).numpy()).max()
    if error > TOLERANCE:
        raise RuntimeError(f"{path.name} differs from torch by {error:.2e}")


def _forget_paths(graph: onnx.GraphProto) -> None:
    """Drop the traces that exporters leave: they name files of the machine that exported."""
    for node in graph.node:
        node.doc_string = ""
        kept = [entry for entry in node.metadata_props if not entry.key.endswith(BULKY)]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
