"""The commuting square: cutting an operator's inputs and running it is running it and cutting.

``f'(x|R) = f(x masked by R)|R`` for every set R of removed atoms. One harness for all operators:
it labels the inputs, asks the rule, removes at random, and runs the node both ways in onnxruntime.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto, helper, numpy_helper

from onnxprune.graph.axes import Axis, Space
from onnxprune.graph.ops import Call, apply_rule

MS, ML = "com.microsoft", "ai.onnx.ml"


@dataclass(frozen=True)
class Case:
    """One node: its operator, inputs (arrays; None where absent) and attributes."""

    op: str
    inputs: tuple[np.ndarray | None, ...]
    attributes: dict[str, Any] = field(default_factory=dict)
    outputs: int = 1
    opset: int = 17
    domain: str = ""
    tolerance: float = 2e-5

    def __str__(self) -> str:
        shapes = "x".join(str(list(i.shape)) if i is not None else "-" for i in self.inputs)
        return f"{self.op}-{self.opset}-{shapes}-{self.attributes}".replace(" ", "")


def _fixed(array: np.ndarray) -> bool:
    """Inputs that hold sizes, positions or truths: constants of the node, never cut."""
    return array.dtype in (np.int64, np.bool_)


def run(case: Case, inputs: list[np.ndarray | None], attributes: dict[str, Any]) -> list[Any]:
    """Run the node alone in onnxruntime, integers as initializers."""
    names, graph_inputs, initializers, feeds = [], [], [], {}
    for k, array in enumerate(inputs):
        name = "" if array is None else f"i{k}"
        names.append(name)
        if array is None:
            continue
        if _fixed(array):
            initializers.append(numpy_helper.from_array(array, name))
        else:
            kind = helper.np_dtype_to_tensor_dtype(array.dtype)
            graph_inputs.append(helper.make_tensor_value_info(name, kind, list(array.shape)))
            feeds[name] = array
    outs = [f"o{k}" for k in range(case.outputs)]
    node = helper.make_node(case.op, names, outs, domain=case.domain, **attributes)
    values = [helper.make_empty_tensor_value_info(o) for o in outs]
    graph = helper.make_graph([node], "square", graph_inputs, values, initializers)
    imports = [helper.make_opsetid(*o) for o in (("", case.opset), (MS, 1), (ML, 3))]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8 if case.opset < 21 else 10)
    settings = ort.SessionOptions()
    settings.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.log_severity_level = 4
    settings.intra_op_num_threads = 1
    session = ort.InferenceSession(
        model.SerializeToString(), settings, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def label(case: Case, outputs: list[np.ndarray]) -> Call:
    """A call whose float inputs have an atom per index, before its rule has spoken."""
    space = Space()
    axes = [
        None
        if a is None
        else tuple(Axis(n) if _fixed(a) or n == 1 else space.fresh(n) for n in a.shape)
        for a in case.inputs
    ]
    return Call(
        op=case.op,
        domain=case.domain,
        version=case.opset if not case.domain else 1,
        attributes=case.attributes,
        inputs=axes,
        values=[a if a is not None and _fixed(a) else None for a in case.inputs],
        literal=[a is not None and _fixed(a) for a in case.inputs],
        static=[a is not None and _fixed(a) for a in case.inputs],
        out_shapes=[tuple(o.shape) for o in outputs],
        space=space,
        name="node",
    )


def free_atoms(call: Call) -> np.ndarray:
    """Atoms that can go without changing what a normalisation sees."""
    tensors = [t for t in (*call.inputs, *call.outputs) if t is not None]
    columns = [c for t in tensors for a in t for c in call.space.columns(a)]
    if not columns:
        return np.zeros(0, np.int64)
    atoms = np.unique(np.concatenate([call.space.labels(c) for c in columns]))
    return np.array([a for a in atoms if a > 0 and not call.space.why_inexact(int(a))], np.int64)


def removal(call: Call, rng: np.random.Generator) -> np.ndarray:
    """A random set of free atoms that empties no axis."""
    gone = np.zeros(len(call.space), np.bool_)
    tensors = [t for t in (*call.inputs, *call.outputs) if t is not None]
    for atom in rng.permutation(free_atoms(call)):
        if rng.random() < 0.5:
            gone[atom] = True
            if any(a.columns and call.space.removed(a, gone).all() for t in tensors for a in t):
                gone[atom] = False
    return gone


def check(case: Case, seed: int) -> int:
    """Assert the square for one random removal; returns how many atoms could be removed."""
    outputs = run(case, list(case.inputs), case.attributes)
    call = label(case, outputs)
    _, why = apply_rule(call)
    assert not why, why
    for tensor in call.outputs:
        call.space.repair_widths(tensor)
    for tensor in call.inputs:
        call.space.repair_widths(tensor or ())
    rng = np.random.default_rng(seed)
    gone = removal(call, rng)

    def keep(axis: Axis) -> np.ndarray:
        return ~call.space.removed(axis, gone)

    masked = [None if a is None else np.array(a) for a in case.inputs]
    for contraction in call.contractions:
        i, k = rng.choice(contraction.slots)
        zero = 0 if contraction.fill is None else case.inputs[contraction.fill].ravel()[0]
        np.moveaxis(masked[i], k, 0)[~keep(call.inputs[i][k])] = zero
    cut = [
        None if a is None else slice_(a, [keep(x) for x in t]) if not _fixed(a) else a
        for a, t in zip(case.inputs, call.inputs, strict=True)
    ]
    for i, size in call.sizes.items():
        while len(cut) <= i:
            cut.append(None)
        new, old = np.asarray(size(keep)), np.asarray(size(lambda a: np.ones(a.size, np.bool_)))
        if cut[i] is None or not np.array_equal(new, old):
            cut[i] = new.astype(np.int64)
    attributes = dict(case.attributes)
    for name, setting in call.settings.items():
        value = setting(keep)
        if value is not None:
            attributes[name] = value
    attributes.pop("num_outputs", None)
    wanted = run(case, masked, case.attributes)
    got = run(case, cut, attributes)
    for tensor, a, whole in zip(call.outputs, got, wanted, strict=True):
        b = slice_(whole, [keep(x) for x in tensor])
        assert a.shape == b.shape, f"{case}: {a.shape} and {b.shape}"
        if a.dtype.kind == "f":
            scale = np.abs(b[np.isfinite(b)]).max(initial=1e-6)
            np.testing.assert_allclose(
                a.astype(np.float64), b.astype(np.float64), rtol=0, atol=case.tolerance * scale
            )
        else:
            np.testing.assert_array_equal(a, b)
    return len(free_atoms(call))


def slice_(array: np.ndarray, keeps: list[np.ndarray]) -> np.ndarray:
    """The kept rows along every axis."""
    for axis, keep in enumerate(keeps):
        array = np.compress(keep, array, axis)
    return array


__all__ = ["ML", "MS", "Case", "TensorProto", "check", "onnx", "run"]
