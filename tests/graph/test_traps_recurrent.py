"""Recurrent layers and bodies: hidden units, both directions, loop-carried states, captures."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from models.skeletons.net import BOOL, FLOAT, INT64, Net
from onnxprune import model as models
from verified_cuts import VerifiedCut, verified_cut

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
HIDDEN = 10
STEPS = ("length", "batch", 8)
INT32 = TensorProto.INT32


def weight(net: Net, *shape: int) -> str:
    return net.constant((net.rng.standard_normal(shape) / 3).astype(np.float32))


def recurrent(
    cell: str,
    *,
    directions: int = 1,
    output: int = 0,
    states: bool = False,
    peepholes: bool = False,
    bias: bool = True,
    lengths: bool = False,
    **attributes: object,
) -> onnx.ModelProto:
    """One layer between two matrices, of which output 0 (every step) or 1 (the last) is read."""
    net = Net(41)
    x = net.dense(net.input("x", STEPS, width=8), 12)
    rows = GATES[cell] * HIDDEN
    inputs = [x, weight(net, directions, rows, 12), weight(net, directions, rows, HIDDEN)]
    inputs.append(weight(net, directions, 2 * rows) if bias else "")
    inputs.append(net.input("steps_mask", ("batch",), INT32) if lengths else "")
    if states:
        count = 1 + (cell == "LSTM")
        size = net.node("Slice", net.node("Shape", x), net.constant([1]), net.constant([2]))
        full = net.node("Concat", net.constant([directions]), size, net.constant([HIDDEN]), axis=0)
        inputs += [net.node("Expand", weight(net, directions, 1, HIDDEN), full)] * count
    if peepholes:
        inputs += [""] * (7 - len(inputs)) + [weight(net, directions, 3 * HIDDEN)]
    way = {"direction": "bidirectional"} if directions == 2 else {}
    names = ["every", "last"] if output == 0 else ["", "last"]
    node = helper.make_node(cell, inputs, names, hidden_size=HIDDEN, **way, **attributes)
    net.nodes.append(node)
    wide = directions * HIDDEN
    if output == 0:
        y = net.node("Transpose", "every", perm=[0, 2, 1, 3])
        y = net.node("Reshape", y, net.constant([0, 0, wide]), width=wide)
        return net.build(net.dense(y, 5), ("length", "batch", 5))
    y = net.node(
        "Reshape",
        net.node("Transpose", "last", perm=[1, 0, 2]),
        net.constant([0, wide]),
        width=wide,
    )
    return net.build(net.gemm(y, 5), ("batch", 5))


def hidden_units_went(result: VerifiedCut, cell: str, directions: int) -> None:
    assert result.kinds == {"ffn": 4, "hidden-unit": 4}
    (node,) = result.nodes(cell)
    assert node.attributes["hidden_size"].as_int() == 6
    rows = GATES[cell] * 6
    assert result.stored(node, 1).shape == (directions, rows, 8)
    assert result.stored(node, 2).shape == (directions, rows, 6)


@pytest.mark.parametrize("directions", [1, 2])
@pytest.mark.parametrize("output", [0, 1])
@pytest.mark.parametrize("cell", GATES)
def test_hidden_units_leave_with_all_their_gates(cell: str, directions: int, output: int) -> None:
    result = verified_cut(recurrent(cell, directions=directions, output=output))
    hidden_units_went(result, cell, directions)
    assert result.stored(result.nodes(cell)[0], 3).shape == (directions, 2 * GATES[cell] * 6)


@pytest.mark.parametrize("cell", GATES)
def test_initial_states_follow(cell: str) -> None:
    hidden_units_went(verified_cut(recurrent(cell, states=True)), cell, 1)


def test_peepholes_follow() -> None:
    result = verified_cut(recurrent("LSTM", peepholes=True, directions=2))
    hidden_units_went(result, "LSTM", 2)
    assert result.stored(result.nodes("LSTM")[0], 7).shape == (2, 18)


def test_sequence_lengths_and_a_missing_bias() -> None:
    result = verified_cut(recurrent("GRU", bias=False, lengths=True, linear_before_reset=1))
    hidden_units_went(result, "GRU", 1)


def test_a_backward_layer_with_clipping() -> None:
    result = verified_cut(recurrent("LSTM", direction="reverse", clip=0.5))
    hidden_units_went(result, "LSTM", 1)


def test_stacked_bidirectional_layers() -> None:
    """The second layer reads [forward, backward] halves: a unit's two columns leave together."""
    net = Net(42)
    x = net.input("x", STEPS, width=8)
    for _ in range(2):
        inputs = [x, weight(net, 2, 40, net.width[x]), weight(net, 2, 40, 10), weight(net, 2, 80)]
        y = net.nodes_with("LSTM", inputs, 3, hidden_size=10, direction="bidirectional")[0]
        y = net.node("Transpose", y, perm=[0, 2, 1, 3])
        x = net.node("Reshape", y, net.constant([0, 0, -1]), width=20)
    result = verified_cut(net.build(net.dense(x, 5), ("length", "batch", 5)))
    assert result.kinds == {"hidden-unit": 4 + 4}
    assert [result.stored(n, 1).shape[2] for n in result.nodes("LSTM")] == [8, 12]


# -- bodies ----------------------------------------------------------------------------------------


def value(name: str, shape: tuple[int | str, ...], kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def array(name: str, *shape: int, seed: int = 0) -> onnx.TensorProto:
    rng = np.random.default_rng([seed, *shape])
    return numpy_helper.from_array((rng.standard_normal(shape) / 3).astype(np.float32), name)


def ends(net: Net, y: str, width: int) -> onnx.ModelProto:
    net.width[y] = width
    return net.build(net.gemm(y, 5), ("batch", 5))


def rows(seed: int = 43) -> tuple[Net, str]:
    net = Net(seed)
    x = net.node("Relu", net.gemm(net.input("x", ("batch", 8), width=8), 12))
    return net, x


def test_branches_of_an_if_agree_on_what_leaves() -> None:
    """Both captured outer values, inner weights, and the output that either branch may give."""
    net, x = rows()
    flag = net.input("flag", (), BOOL)
    bodies = {}
    for k, name in enumerate(("then_branch", "else_branch")):
        nodes = [
            helper.make_node("MatMul", [x, f"w{k}"], [f"y{k}"]),
            helper.make_node("Tanh" if k else "Relu", [f"y{k}"], [f"z{k}"]),
        ]
        bodies[name] = helper.make_graph(
            nodes, name, [], [value(f"z{k}", ("batch", 10))], [array(f"w{k}", 12, 10, seed=k)]
        )
    net.nodes.append(helper.make_node("If", [flag], ["chosen"], **bodies))
    result = verified_cut(ends(net, "chosen", 10))
    assert result.kinds == {"ffn": 4 + 4}
    inner = [models.constant(n.inputs[1]).shape.numpy() for n in result.nodes("MatMul")]
    assert inner == [(8, 6), (8, 6)]


def test_a_branch_that_hands_on_an_outer_value() -> None:
    net, x = rows()
    flag = net.input("flag", (), BOOL)
    give = helper.make_graph(
        [helper.make_node("Identity", [x], ["same"])], "same", [], [value("same", ("batch", 12))]
    )
    work = helper.make_graph(
        [helper.make_node("MatMul", [x, "w"], ["y"])],
        "work",
        [],
        [value("y", ("batch", 12))],
        [array("w", 12, 12)],
    )
    net.nodes.append(helper.make_node("If", [flag], ["z"], then_branch=give, else_branch=work))
    result = verified_cut(ends(net, "z", 12))
    assert result.kinds == {"ffn": 4}
    assert result.stored(result.nodes("MatMul")[0], 1).shape == (8, 8)


def test_a_squeeze_that_only_happens_for_a_single_step() -> None:
    """TorchScript's ``squeeze(-1)`` of an open axis: an If of the size, one branch as it was."""
    net, x = rows()
    net.width[x] = 12
    column = net.node("Unsqueeze", x, net.constant([2]))
    size = net.node("Gather", net.node("Shape", column), net.constant(np.array(2, np.int64)))
    single = net.node("Equal", size, net.constant(np.array(1, np.int64)))
    last = helper.make_tensor("last", TensorProto.INT64, [1], [-1])
    squeeze = helper.make_graph(
        [helper.make_node("Squeeze", [column, "last"], ["s"])],
        "squeeze",
        [],
        [value("s", ("batch", 12))],
        [last],
    )
    same = helper.make_graph(
        [helper.make_node("Identity", [column], ["i"])],
        "same",
        [],
        [value("i", ("batch", 12, 1))],
    )
    net.nodes.append(helper.make_node("If", [single], ["z"], then_branch=squeeze, else_branch=same))
    assert verified_cut(ends(net, "z", 12)).kinds == {"ffn": 4}


def test_a_branch_that_gives_a_stored_tensor_keeps_what_it_meets() -> None:
    """The tensor is read inside the branch too, along an axis that could go."""
    net, x = rows()
    flag = net.input("flag", (), BOOL)
    nodes = [helper.make_node("MatMul", [x, "w"], ["y"]), helper.make_node("Tanh", ["w"], ["t"])]
    nodes.append(helper.make_node("MatMul", ["y", "t"], ["z"]))
    fixed = helper.make_graph(nodes, "fixed", [], [value("w", (12, 12))], [array("w", 12, 12)])
    copy = helper.make_node("Add", ["v", "v"], ["double"])
    other = helper.make_graph(
        [copy], "other", [], [value("double", (12, 12))], [array("v", 12, 12)]
    )
    net.nodes.append(helper.make_node("If", [flag], ["m"], then_branch=fixed, else_branch=other))
    y = net.node("MatMul", net.node("Relu", net.gemm(x, 9)), weight(net, 9, 12))
    result = verified_cut(ends(net, net.node("MatMul", y, "m"), 12))
    assert result.kinds == {"ffn": 3 + 4}
    assert [p.axis for p in result.analysis.pinned if p.tensor == "v"] == [0, 1]


def test_branches_of_different_widths_stay() -> None:
    net, x = rows()
    flag = net.input("flag", (), BOOL)
    bodies = {}
    for k, name in enumerate(("then_branch", "else_branch")):
        node = helper.make_node("MatMul", [x, f"w{k}"], [f"y{k}"])
        out = [value(f"y{k}", ("batch", 10 + k))]
        bodies[name] = helper.make_graph([node], name, [], out, [array(f"w{k}", 12, 10 + k)])
    net.nodes.append(helper.make_node("If", [flag], ["chosen"], **bodies))
    total = net.node("ReduceSum", "chosen", net.constant([1]), width=1)
    result = verified_cut(ends(net, total, 1))
    assert result.kinds == {"ffn": 4}
    stay = [p.reason for p in result.analysis.pinned if p.tensor in ("w0", "w1")]
    assert stay
    assert all("If" in why for why in stay)


def loop(net: Net, x: str, scanned: bool = False) -> onnx.ModelProto:
    """Three rounds of x := tanh(x w + captured bias)."""
    net.nodes.append(helper.make_node("Identity", [net.vector(12, -1, 1)], ["outer_bias"]))
    nodes = [
        helper.make_node("MatMul", ["state", "w"], ["a"]),
        helper.make_node("Add", ["a", "outer_bias"], ["b"]),
        helper.make_node("Tanh", ["b"], ["next"]),
        helper.make_node("Identity", ["go"], ["go_on"]),
    ]
    outs = [value("go_on", (), BOOL), value("next", ("batch", 12))]
    if scanned:
        nodes.append(helper.make_node("Relu", ["a"], ["kept"]))
        outs.append(value("kept", ("batch", 12)))
    inputs = [value("i", (), INT64), value("go", (), BOOL), value("state", ("batch", 12))]
    body = helper.make_graph(nodes, "body", inputs, outs, [array("w", 12, 12)])
    count, yes = net.constant(np.array(3, np.int64)), net.constant(np.array(True))
    names = ["final", "every"] if scanned else ["final"]
    net.nodes.append(helper.make_node("Loop", [count, yes, x], names, body=body))
    y = "final"
    if scanned:
        net.width["every"] = 12
        total = net.node("ReduceSum", "every", net.constant([0]), keepdims=0)
        y = net.node("Add", "final", total)
    return ends(net, y, 12)


def test_a_loop_carried_state_reaches_a_fixed_point() -> None:
    result = verified_cut(loop(*rows()))
    assert result.kinds == {"ffn": 4}
    assert result.stored(result.nodes("MatMul")[0], 1).shape == (8, 8)


def test_what_a_loop_collects_follows_its_rounds() -> None:
    result = verified_cut(loop(*rows(), scanned=True))
    assert result.kinds == {"ffn": 4}
    assert result.stored(result.nodes("MatMul")[0], 1).shape == (8, 8)


@pytest.mark.parametrize("opset", [9, 17])
def test_the_state_of_a_scan_and_what_it_reads_and_gives_per_step(opset: int) -> None:
    """A recurrence over the first axis: h := tanh(h w + x_t); every h is given."""
    net = Net(44)
    x = net.input("x", ("length", 4, 8), width=8)
    y = net.node("Relu", net.dense(x, 12))
    nodes = [
        helper.make_node("MatMul", ["h", "w"], ["a"]),
        helper.make_node("Add", ["a", "x_t"], ["b"]),
        helper.make_node("Tanh", ["b"], ["next"]),
        helper.make_node("Identity", ["next"], ["out_t"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [value("h", (4, 12)), value("x_t", (4, 12))],
        [value("next", (4, 12)), value("out_t", (4, 12))],
        [array("w", 12, 12)],
    )
    start = net.constant(net.rng.standard_normal((4, 12)).astype(np.float32))
    net.nodes.append(
        helper.make_node("Scan", [start, y], ["last", "every"], body=body, num_scan_inputs=1)
    )
    net.width["every"] = 12
    net.width["last"] = 12
    z = net.node("Add", net.dense("every", 5), net.dense("last", 5))
    model = net.build(z, ("length", 4, 5))
    model.opset_import[0].version = opset
    result = verified_cut(model)
    assert result.kinds == {"ffn": 4}
    *_, inner = result.nodes("MatMul")
    assert result.stored(inner, 1).shape == (8, 8)


def test_a_scan_along_another_axis_stays_and_says_so() -> None:
    net = Net(45)
    y = net.node("Relu", net.dense(net.input("x", (4, 6, 8), width=8), 12))
    body = helper.make_graph(
        [helper.make_node("Tanh", ["x_t"], ["out_t"])],
        "body",
        [value("x_t", (4, 12))],
        [value("out_t", (4, 12))],
    )
    net.nodes.append(
        helper.make_node(
            "Scan",
            [y],
            ["every"],
            body=body,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[1],
        )
    )
    net.width["every"] = 12
    z = net.dense(net.node("Relu", net.dense("every", 10)), 5)
    result = verified_cut(net.build(z, (4, 6, 5)))
    assert result.kinds["ffn"] >= 4


def test_a_condition_that_depends_on_units_keeps_them() -> None:
    """What decides how the model runs is not looked through."""
    net, x = rows()
    total = net.node("ReduceMax", x, axes=[0, 1], keepdims=0)
    flag = net.node("Greater", total, net.scalar(0.5))
    bodies = {
        name: helper.make_graph(
            [helper.make_node(op, [x], [f"{op}_out"])],
            name,
            [],
            [value(f"{op}_out", ("batch", 12))],
        )
        for name, op in (("then_branch", "Tanh"), ("else_branch", "Neg"))
    }
    net.nodes.append(helper.make_node("If", [flag], ["chosen"], **bodies))
    result = verified_cut(ends(net, net.node("Relu", "chosen"), 12))
    assert result.units == 0
