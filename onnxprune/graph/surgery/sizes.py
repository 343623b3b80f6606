"""Sizes that the graph stores or computes: Reshape targets, Split sizes, Slice bounds, indices.

A stored size is replaced. A computed one (Shape, Gather, Concat with literals mixed in) is
*predicted* for the cut graph at two sets of input shapes; what follows the cut by itself is left
alone, literal parts are replaced, and what is still wrong by a constant factor is scaled.
"""

from __future__ import annotations

from collections.abc import Iterable
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.analysis import Analysis, identity
from onnxprune.graph.ops import Call, Keep
from onnxprune.graph.shapes import Fact
from onnxprune.graph.surgery.edit import Editor, everything
from onnxprune.graph.surgery.predict import Prediction

Value = npt.NDArray[Any]


def rewrite_sizes(editor: Editor, analysis: Analysis, keep: Keep) -> None:
    """Make every size of the clone agree with what is kept.

    Raises:
        OnnxpruneError: a computed size cannot be made to follow.
    """
    shuffled = {identity(n) for s in analysis.walk.shuffles for n in s.nodes}
    computed: list[tuple[str, int, Value | None, Value | None]] = []
    for node, call in analysis.walk.calls:
        name = identity(node)
        if name in shuffled:
            continue
        for position, rule in call.sizes.items():
            new, old = np.asarray(rule(keep)), np.asarray(rule(everything))
            static = position < len(call.static) and call.static[position]
            if static or not call.has(position):
                if not np.array_equal(new, old):
                    _write(editor, call, name, position, new, old, keep)
            else:
                computed.append((name, position, new, old))
    wanted = {(name, position) for name, position, _, _ in computed}
    computed += [(*r, None, None) for r in _readers_of_sizes(analysis) if r not in wanted]
    if not computed:
        return
    second = analysis.walk.second()
    probes = [Prediction(editor, analysis, facts, keep) for facts in (analysis.facts, second)]
    for name, position, wanted_new, wanted_old in computed:
        _follow(editor, probes, name, position, wanted_new, wanted_old)


def _write(
    editor: Editor, call: Call, name: str, position: int, new: Value, old: Value, keep: Keep
) -> None:
    """Replace a size that depends on stored tensors only."""
    node = editor.nodes[name]
    raw = call.values[position] if call.has(position) else None
    if raw is None:  # Split into equal parts
        if len(set(new.tolist())) == 1:
            return
        raw = np.zeros(0, np.int64)
        node.attributes.pop("num_outputs", None)
        while len(node.inputs) <= position:
            node.resize_inputs(position + 1)
    elif call.op == "Reshape":  # 0 copies and -1 infers: both follow by themselves
        flat = raw.ravel()
        follows = (flat == -1) | ((flat == 0) & _copied(call, new, old, keep))
        new = np.where(follows, flat, new)
    near = node.outputs[0]
    stored = editor.store(near, f"{near.name}/sizes", new.astype(raw.dtype))
    node.replace_input_with(position, stored)


def _copied(call: Call, new: Value, old: Value, keep: Keep) -> npt.NDArray[np.bool_]:
    """Which entries of a Reshape target equal the input's size at the same place, both times."""
    x = call.tensor(0)
    before = [k < len(x) and x[k].size == old[k] for k in range(len(old))]
    after = [int(keep(a).sum()) if a.columns else a.size for a in x[: len(old)]]
    return np.array([b and after[k] == new[k] for k, b in enumerate(before)])


def _readers_of_sizes(analysis: Analysis) -> Iterable[tuple[str, int]]:
    """Inputs that take a computed integer for something else than size arithmetic."""
    for node, call in analysis.walk.calls:
        if any(_is_arithmetic(analysis.facts.get(v.name or "")) for v in node.outputs):
            continue
        if call.op == "Shape":
            continue
        for position, value in enumerate(node.inputs):
            fact = analysis.facts.get(value.name or "") if value is not None else None
            if _is_arithmetic(fact) and not call.static[position]:
                yield identity(node), position


def _is_arithmetic(fact: Fact | None) -> bool:
    """Whether a value is a known integer or boolean, the material of size arithmetic."""
    if fact is None or fact.value is None or fact.dtype is None:
        return False
    return fact.dtype in (ir.DataType.INT64, ir.DataType.INT32, ir.DataType.BOOL)


def _follow(
    editor: Editor,
    probes: list[Prediction],
    name: str,
    position: int,
    new: Value | None,
    old: Value | None,
) -> None:
    """Make one computed input hold what the cut graph needs, at both probes."""
    node = editor.nodes[name]
    value = node.inputs[position]
    if value is None:
        return
    wanted = [_wanted(p.dense(value), new, old) for p in probes]
    computed = [p.value(value) for p in probes]
    if _agree(wanted, computed):
        return
    replaced = _replace_parts(editor, probes, node, value, wanted)
    if replaced is not None:
        value = replaced
        node.replace_input_with(position, value)
        computed = [p.value(value) for p in probes]
        if _agree(wanted, computed):
            return
    factor = _common_factor(wanted, computed)
    if factor is None:
        raise OnnxpruneError(
            f"the size that '{name}' computes for its input {position} cannot follow the cut",
            hint="skip the groups around it with --skip, or export with fixed sizes",
        )
    up, down = factor
    dtype = wanted[0].dtype if wanted[0] is not None else np.int64
    near = node.outputs[0]
    for op, numbers in (("Mul", up), ("Div", down)):
        if not (numbers == 1).all():
            constant = editor.store(near, f"{near.name}/{op}", numbers.astype(dtype))
            value = editor.insert(node, op, [value, constant])
    node.replace_input_with(position, value)


def _wanted(dense: Value | None, new: Value | None, old: Value | None) -> Value | None:
    """The content that the input must have: the dense one, scaled where the rule shrinks it."""
    if dense is None or new is None or old is None:
        return dense
    if np.array_equal(dense, old):  # the very numbers that the rule speaks of
        return new.astype(dense.dtype)
    if dense.shape != new.shape:
        return None
    ratio = [
        Fraction(int(n), int(o)) if o else Fraction(1)
        for n, o in zip(new.ravel(), old.ravel(), strict=True)
    ]
    flat = [int(v) if v <= 0 else v * r for v, r in zip(dense.ravel().tolist(), ratio, strict=True)]
    return np.array([int(v) for v in flat], dense.dtype).reshape(dense.shape)


def _agree(wanted: list[Value | None], computed: list[Value | None]) -> bool:
    return all(
        w is not None and g is not None and np.array_equal(w, g)
        for w, g in zip(wanted, computed, strict=True)
    )


def _replace_parts(
    editor: Editor,
    probes: list[Prediction],
    node: ir.Node,
    value: ir.Value,
    wanted: list[Value | None],
) -> ir.Value | None:
    """Where a Concat put the vector together: replace the pieces that are wrong and constant."""
    if wanted[0] is None or wanted[1] is None:
        return None
    producer = value.producer()
    if producer is None or producer.op_type != "Concat":
        if np.array_equal(wanted[0], wanted[1]):
            return editor.store(node.outputs[0], f"{value.name}/sizes", wanted[0])
        return None
    pieces: list[ir.Value | None] = []
    at = 0
    for piece in producer.inputs:
        contents = [p.value(piece) for p in probes] if piece is not None else [None, None]
        if contents[0] is None or contents[1] is None:
            return None
        part = [w[at : at + contents[0].size] for w in wanted if w is not None]
        at += contents[0].size
        right = all(
            b is not None and np.array_equal(a, b.ravel())
            for a, b in zip(part, contents, strict=True)
        )
        replace = not right and np.array_equal(part[0], part[1])
        size = f"{value.name}/size"
        pieces.append(editor.store(node.outputs[0], size, part[0]) if replace else piece)
    return editor.insert(node, "Concat", pieces, axis=0)


def _common_factor(
    wanted: list[Value | None], computed: list[Value | None]
) -> tuple[Value, Value] | None:
    """Numerators and denominators that turn what is computed into what is needed."""
    factors = []
    for w, g in zip(wanted, computed, strict=True):
        if w is None or g is None or w.shape != g.shape:
            return None
        pairs = zip(w.ravel().tolist(), g.ravel().tolist(), strict=True)
        factors.append([Fraction(a, b) if b else Fraction(1) for a, b in pairs])
        if any(b == 0 and a != 0 for a, b in zip(w.ravel(), g.ravel(), strict=True)):
            return None
    if factors[0] != factors[1] or wanted[0] is None:
        return None
    shape = wanted[0].shape
    return (
        np.array([f.numerator for f in factors[0]]).reshape(shape),
        np.array([f.denominator for f in factors[0]]).reshape(shape),
    )


__all__ = ["models", "rewrite_sizes"]
