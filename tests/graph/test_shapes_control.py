"""Shapes in and around If, Loop and Scan."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from onnxprune.graph.shapes import Fact, propagate
from onnxprune.model import load
from shape_oracle import Oracle, contradictions


def facts_that_run(text: str, shapes: dict[str, tuple[int, ...]], **feeds: Any) -> dict[str, Fact]:
    """Propagate, and hold the main graph's values against onnxruntime."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 13]> {text}')
    facts = propagate(load(proto), shapes)
    oracle = Oracle(proto)
    given = dict(oracle.feeds(shapes)) | {name: np.asarray(v) for name, v in feeds.items()}
    assert contradictions(facts, oracle.run(given)) == []
    return facts


IF = """
g (float[n, 4] x, bool c) => (float[a, b] y) {
    y = If (c) <
        then_branch = t () => (float[p, q] yt) { yt = Relu(x) },
        else_branch = e () => (float[r, s] ye) {
            wide = Constant<value = int64[2] {1, 2}>()
            ye = Tile(x, wide)
        }>
}"""


@pytest.mark.parametrize("taken", [True, False])
def test_branches_see_what_they_capture_and_their_results_meet(taken: bool) -> None:
    facts = facts_that_run(IF, {"x": (3, 4), "c": ()}, c=taken)
    assert facts["yt"].shape == (3, 4)
    assert facts["ye"].shape == (3, 8)
    assert facts["y"].shape == (3, None)


@pytest.mark.parametrize("rows", [1, 3])
def test_a_known_condition_decides(rows: int) -> None:
    facts = facts_that_run(
        """
        g (float[n, 4] x) => (float[a] y) {
            zero = Constant<value = int64[1] {0}>()
            one = Constant<value = int64[1] {1}>()
            size = Shape(x)
            rows = Gather(size, zero)
            alone = Equal(rows, one)
            y = If (alone) <
                then_branch = t () => (float[q] yt) { yt = Squeeze(x, zero) },
                else_branch = e () => (float[p, q] ye) { ye = Identity(x) }>
        }""",
        {"x": (rows, 4)},
    )
    assert facts["y"].shape == ((4,) if rows == 1 else (3, 4))


LOOP = """
g (float[n, 4] x, int64 m) => (float[a, b] y, float[s, p, q] steps) {
    go = Constant<value = bool {1}>()
    trips = Identity(COUNT)
    y, steps = Loop(trips, go, x) <body = b (int64 i, bool cin, float[c, d] acc)
        => (bool cout, float[e, f] out, float[p, q] step) {
        cout = Identity(go)
        step = Mul(x, x)
        out = BODY
    }>
}"""


def test_a_carried_shape_that_stays_is_known() -> None:
    text = LOOP.replace("COUNT", "m").replace("BODY", "Add(acc, step)")
    facts = facts_that_run(text, {"x": (3, 4), "m": ()}, m=np.int64(2))
    assert facts["acc"].shape == facts["out"].shape == facts["y"].shape == (3, 4)
    assert facts["i"].shape == ()
    assert facts["steps"].shape == (None, 3, 4)


def test_a_carried_shape_that_grows_is_not_known_where_it_grows() -> None:
    text = LOOP.replace("COUNT", "m").replace("BODY", "Concat<axis = 0>(acc, step)")
    facts = facts_that_run(text, {"x": (3, 4), "m": ()}, m=np.int64(2))
    assert facts["acc"].shape == facts["y"].shape == (None, 4)
    assert facts["y"].reason
    assert facts["step"].shape == (3, 4)


def test_a_known_number_of_trips_is_the_length_of_what_they_give() -> None:
    text = LOOP.replace("Identity(COUNT)", "Constant<value = int64 {5}>()")
    facts = facts_that_run(
        text.replace("BODY", "Add(acc, step)"), {"x": (3, 4), "m": ()}, m=np.int64(2)
    )
    assert facts["steps"].shape == (5, 3, 4)


@pytest.mark.parametrize("trips", [0, 1])
def test_no_trip_at_all_leaves_what_was_carried_in(trips: int) -> None:
    facts = facts_that_run(
        """
        g (float[n, 4] x, float[k, 4] start, int64 m) => (float[a, b] y) {
            go = Constant<value = bool {1}>()
            y = Loop(m, go, start) <body = b (int64 i, bool cin, float[c, d] acc)
                => (bool cout, float[e, f] out) {
                cout = Identity(go)
                out = Neg(x)
            }>
        }""",
        {"x": (3, 4), "start": (5, 4), "m": ()},
        m=np.int64(trips),
    )
    assert facts["out"].shape == (3, 4)
    assert facts["y"].shape == (None, 4)


def test_a_loop_that_may_stop_early_gives_no_known_number_of_results() -> None:
    facts = facts_that_run(
        """
        g (float[n] x) => (float[a] y, float[s, b] steps) {
            go = Constant<value = bool {1}>()
            five = Constant<value = int64 {5}>()
            two = Constant<value = int64 {2}>()
            y, steps = Loop(five, go, x) <body = b (int64 i, bool cin, float[c] acc)
                => (bool cout, float[d] out, float[e] step) {
                cout = Less(i, two)
                out = Neg(acc)
                step = Identity(out)
            }>
        }""",
        {"x": (3,)},
    )
    assert facts["steps"].shape == (None, 3)


def test_a_carried_content_is_not_mistaken_for_a_constant() -> None:
    facts = facts_that_run(
        """
        g (int64 m) => (int64 y) {
            go = Constant<value = bool {1}>()
            one = Constant<value = int64 {1}>()
            y = Loop(m, go, one) <body = b (int64 i, bool cin, int64 acc)
                => (bool cout, int64 out) {
                cout = Identity(cin)
                out = Add(acc, one)
            }>
        }""",
        {"m": ()},
        m=np.int64(3),
    )
    assert facts["out"].value is None
    assert facts["y"].value is None


def test_scan_takes_slices_and_stacks_results_along_its_axes() -> None:
    facts = facts_that_run(
        """
        g (float[n, 4] x) => (float[q] total, float[q, s] sums) {
            zero = Constant<value = float[1] {0}>()
            size = Constant<value = int64[1] {3}>()
            start = Expand(zero, size)
            total, sums = Scan <num_scan_inputs = 1, scan_input_axes = [1],
                scan_output_axes = [1], body = b (float[k] state, float[k] row)
                => (float[k] next, float[k] sum) {
                next = Add(state, row)
                sum = Identity(next)
            }> (start, x)
        }""",
        {"x": (3, 4)},
    )
    assert facts["row"].shape == facts["next"].shape == (3,)
    assert facts["sums"].shape == (3, 4)


def test_scan_of_opset_8_has_a_batch() -> None:
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Add", ["state", "row"], ["next"]),
            helper.make_node("Neg", ["next"], ["out"]),
        ],
        "body",
        [value("state", TensorProto.FLOAT, [4]), value("row", TensorProto.FLOAT, [4])],
        [value("next", TensorProto.FLOAT, [4]), value("out", TensorProto.FLOAT, [4])],
    )
    node = helper.make_node(
        "Scan", ["", "start", "x"], ["last", "all"], num_scan_inputs=1, body=body
    )
    graph = helper.make_graph(
        [node],
        "g",
        [value("start", 1, ["b", 4]), value("x", 1, ["b", "s", 4])],
        [value("last", 1, None), value("all", 1, None)],
    )
    proto = helper.make_model(graph, ir_version=4, opset_imports=[helper.make_opsetid("", 8)])
    shapes = {"start": (2, 4), "x": (2, 7, 4)}
    facts = propagate(load(proto), shapes)
    oracle = Oracle(proto)
    assert contradictions(facts, oracle.run(oracle.feeds(shapes))) == []
    assert facts["row"].shape == facts["next"].shape == (4,)
    assert facts["last"].shape == (2, 4)
    assert facts["all"].shape == (2, 7, 4)


def test_sequences_pass_through() -> None:
    facts = facts_that_run(
        """
        g (float[n, 4] x) => (float[a, b] y) {
            pair = SequenceConstruct(x, x)
            y = ConcatFromSequence<axis = 0>(pair)
        }""",
        {"x": (3, 4)},
    )
    assert "sequence" in facts["pair"].reason
    assert facts["y"].shape in (None, (None, 4))


def test_loops_in_loops_see_what_is_outside_both() -> None:
    facts = facts_that_run(
        """
        g (float[n, 4] x, int64 m) => (float[a, b] y) {
            go = Constant<value = bool {1}>()
            y = Loop(m, go, x) <body = outer (int64 i, bool cin, float[c, d] acc)
                => (bool cout, float[e, f] out) {
                cout = Identity(go)
                out = Loop(m, go, acc) <body = inner (int64 j, bool din, float[c, d] sum)
                    => (bool dout, float[e, f] res) {
                    dout = Identity(go)
                    res = Add(sum, x)
                }>
            }>
        }""",
        {"x": (3, 4), "m": ()},
        m=np.int64(2),
    )
    assert facts["res"].shape == facts["y"].shape == (3, 4)
