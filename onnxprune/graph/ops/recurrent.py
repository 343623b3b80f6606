"""LSTM, GRU and RNN: hidden units, with all their gates, recurrences and peepholes."""

from __future__ import annotations

from onnxprune.graph.facts import Fact
from onnxprune.graph.notation import MismatchError, Tensor
from onnxprune.graph.ops.call import HIDDEN, MICROSOFT, Call, Contraction, count, linear, rule
from onnxprune.graph.ops.shape_call import ShapeCall, require, shape_rule

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
"""How often the hidden size is in the rows of a weight."""
LINEAR_GATES = ("LSTM", "RNN")
"""Layers whose gates are linear in what they read. (A GRU multiplies its reset gate with what its
candidate reads.)"""


@rule("LSTM", "GRU", "RNN")
def recurrent(call: Call) -> list[Tensor]:
    """``X [_ _ i], W [_ (gates h) i], R [_ (gates h) h], B [_ (2 gates h)], ...``.

    A hidden unit leaves both directions at once, because they share the axes. Source: ONNX
    operator specification (gate orders iofc and zrh do not matter: gates are a factor).
    """
    gates = GATES[call.op]
    h = int(call.attr("hidden_size", call.shape(2)[-1]))
    ins = ["_ _ i", f"_ ({gates} h) i", f"_ ({gates} h) h!", f"_ ({2 * gates} h)", "*"]
    ins += ["_ _ h"] * (1 + (call.op == "LSTM"))
    ins += ["_ (3 h)"] if call.op == "LSTM" else []
    for i in range(len(call.inputs), len(ins)):
        ins[i] = ""
    line = f"{', '.join(i for i in ins if i)} -> _ _ _ h, _ _ h, _ _ h"
    # absent optional outputs keep their place in the line, so all of them are produced
    if call.attr("clip") is not None and call.attr("input_forget", 0):
        raise MismatchError("couples its gates")
    out = call.einsum(line, {"h": h}, tags=HIDDEN)
    hidden = call.tensor(2)[2]
    call.settings["hidden_size"] = count(hidden)
    time, batch, inner = call.tensor(0)
    rows = call.tensor(1)[1]
    call.work = [[time, batch, rows, inner], [time, batch, rows, hidden]]
    call.roles[2, 1] = "writes"
    return out[: len(call.out_shapes)]


@rule("DynamicQuantizeLSTM", domain=MICROSOFT)
def quantized_recurrent(call: Call) -> list[Tensor]:
    """Weights are transposed, ``[_ i (4 h)]``; inputs and states are quantized with one scale."""
    ins = "_ _ i~, _ i (4 h), _ h!~ (4 h), _ (8 h), *, _ _ h, _ _ h, _ (3 h)".split(", ")
    for i in (8, 9, 10, 11):  # scales and zero points: one per direction, or per column
        ins.append("_ (4 h)" if call.has(i) and len(call.tensor(i)) == 2 else "*")
    h = int(call.attr("hidden_size", call.shape(2)[1]))
    out = call.einsum(f"{', '.join(ins)} -> _ _ _ h, _ _ h, _ _ h", {"h": h}, tags=HIDDEN)
    call.contractions = [Contraction(((k, 1),), fill=7 + 2 * k) for k in (1, 2)]
    rows = [*call.tensor(0)[:2], call.tensor(1)[2]]
    call.work = [[*rows, call.tensor(i)[1]] for i in (1, 2)]
    call.settings["hidden_size"] = count(call.tensor(2)[1])
    return out[: len(call.out_shapes)]


linear(
    "LSTM", "GRU", "RNN", line="_ _ i, _ r i, _ r h! -> _ _ _ r h", weights=(1, 2), kind="recurrent"
)


@shape_rule("LSTM", "GRU", "RNN")
def _recurrent_shape(call: ShapeCall) -> Fact:
    """Features meet weights, initial states meet the batch."""
    x, weight = call.sizes(0), call.sizes(1)
    if x is None or len(x) != 3:
        return call.result
    if weight is not None and len(weight) == 3:
        require(x[2], weight[2], "features")
    batch = 0 if call.integer("layout") else 1
    for index in (5, 6):
        state = call.sizes(index)
        if state is not None and len(state) == 3:
            require(x[batch], state[batch], "sequences")
    return call.result


@shape_rule("DynamicQuantizeLSTM", domain=MICROSOFT)
def _quantized_recurrent_shape(call: ShapeCall) -> list[Fact]:
    """[steps, directions, batch, hidden], and the last states."""
    x, weight = call.shape(0, 3), call.shape(2, 3)
    steps, batch = (None, None) if x is None else x[:2]
    directions, hidden = (None, None) if weight is None else weight[:2]
    state = Fact((directions, batch, hidden), call.fact(0).dtype)
    return [Fact((steps, *(state.shape or ())), state.dtype), state, state]
