"""The zeros of a model as a plan: they can be applied to any other checkpoint of its graph."""

from __future__ import annotations

from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError, stated, suggest_glob
from onnxprune.graph.plan import ComputedMask, Origin, PackedMask, Plan, versions
from onnxprune.model.decode import densify
from onnxprune.quantities import example_of
from onnxprune.sparse.encodings.sparsity_stats import nonzero
from onnxprune.sparse.encodings.weights import FLOATS, SMALLEST

LEAST = 0.01
"""The share of zeros from which on a weight counts as pruned: trained weights have few."""


def of(plan: Plan) -> Plan:
    """The zeros of a plan, for other checkpoints of its result.

    Unlike the plan itself it neither cuts nor reorders. It fits any graph that has weights of the
    same names and shapes.
    """
    return Plan(zeroed=plan.zeroed, origin=replace(plan.origin, structure=""))


def extract(source: models.ModelLike, *, skip: tuple[str, ...] = ()) -> Plan:
    """A plan that zeroes what is zero in a model, whoever pruned it and however it is stored.

    It fits any graph that has weights of the same names and shapes.

    Weights count that have two axes or more, are not small, and of which 1 % or more is zero:
    vectors and trained weights hold single zeros that mean nothing.

    Args:
        source: anything that `models.load` takes.
        skip: globs over names of weights that are left out.

    Raises:
        OnnxpruneError: the model cannot be loaded, nothing in it is pruned, or a glob matches
            nothing.
    """
    model, _ = densify(models.load(source))
    zeroed: dict[str, PackedMask] = {}
    constants = models.constants(model)
    for glob in skip:
        if not any(fnmatchcase(name, glob) for name in constants):
            raise OnnxpruneError(
                f"{stated('--skip', glob)} matches no weight",
                hint=suggest_glob(glob, constants, example_of(constants, "weight")),
            )
    for name, value in constants.items():
        tensor = models.constant(value)
        if tensor is None or tensor.dtype not in FLOATS or len(tensor.shape) < 2:
            continue
        if tensor.size < SMALLEST or any(fnmatchcase(name, glob) for glob in skip):
            continue
        kept = int(np.count_nonzero(nonzero(tensor.numpy())))
        if tensor.size - kept >= LEAST * tensor.size:
            shape = tuple(int(size) for size in tensor.shape.numpy())
            zeroed[name] = ComputedMask(shape, kept, partial(_nonzero, tensor))
    if not zeroed:
        raise OnnxpruneError(
            "no weight of the model has enough zeros for a mask",
            hint="prune it first, as in `onnxprune prune --sparsity 50%`",
        )
    origin = Origin(criterion="zeros of a model", seed=None, versions=versions())
    return Plan(zeroed=zeroed, origin=origin)


def _nonzero(tensor: ir.TensorProtocol) -> npt.NDArray[np.bool_]:
    return nonzero(tensor.numpy())
