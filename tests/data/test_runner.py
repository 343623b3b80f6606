"""A model run in pieces computes what it computes in one, however little may be held."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from onnx import TensorProto, helper, numpy_helper

from onnxprune import model as models
from onnxprune.data.activations.runner import Segments
from onnxprune.runtime import open_session

WIDTHS = (4, 16, 3, 16, 4)
NODES = [f"{kind}{at}" for at in range(len(WIDTHS) - 1) for kind in ("m", "r")]


def chain() -> onnx.ModelProto:
    """Narrow and wide layers in turn, with a sum over the first two."""
    rng = np.random.default_rng(0)
    nodes, last, stored = [], "x", []
    for at, (size, made) in enumerate(itertools.pairwise(WIDTHS)):
        weight = rng.standard_normal((size, made)).astype(np.float32)
        stored.append(numpy_helper.from_array(weight, f"w{at}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{at}"], [f"m{at}"]))
        nodes.append(helper.make_node("Relu", [f"m{at}"], [f"r{at}"]))
        last = f"r{at}"
    nodes.append(helper.make_node("Add", [last, "x"], ["y"]))
    return helper.make_model(
        helper.make_graph(
            nodes,
            "chain",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4])],
            stored,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def batches() -> list[dict[str, np.ndarray]]:  # type: ignore[type-arg]
    rng = np.random.default_rng(1)
    return [{"x": rng.standard_normal((n, 4)).astype(np.float32)} for n in (8, 8, 5)]


@pytest.mark.parametrize("most", [0, 8 * 4 * 4 * 3, 8 * 10 * 4 * 3, 1 << 30])
def test_values_do_not_depend_on_what_may_be_held(most: int) -> None:
    model, feeds = models.load(chain()), batches()
    whole = open_session(model, outputs=[*NODES, "y"])
    run = Segments(model, feeds, most=most)
    for wanted in ("m0", "r0", "m1", "m2", "r2", "r3", "y"):
        run.advance([wanted, "x"])
        for at, each in enumerate(feeds):
            np.testing.assert_allclose(run.value(wanted, at), whole.run(each)[wanted], atol=1e-5)
            np.testing.assert_array_equal(run.value("x", at), each["x"])
            assert run.value(wanted, 0).shape[0] == 8


def test_little_is_held_where_little_may_be() -> None:
    """Wide values stay outside, narrow ones are the border from which they are computed again."""
    model, feeds = models.load(chain()), batches()
    ran = {}
    for most in (0, 8 * (4 + 4) * 4 * 3, 1 << 30):
        run = Segments(model, feeds, most=most)
        for wanted in ("r0", "r1"):
            run.advance([wanted])
            ran[most, wanted] = run.ran
    assert ran[0, "r1"] == 0
    assert (ran[8 * (4 + 4) * 4 * 3, "r0"], ran[8 * (4 + 4) * 4 * 3, "r1"]) == (0, 4)
    assert ran[1 << 30, "r0"] == 2


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_what_was_rewound_runs_again_with_the_new_weights(most: int) -> None:
    model, feeds = models.load(chain()), batches()
    run = Segments(model, feeds, kept=["r0"], most=most)
    run.advance(["r2"])
    before = run.value("r2", 1)
    weight = model.ir.graph.initializers["w1"]
    assert weight.const_value is not None
    weight.const_value = ir.tensor(2 * weight.const_value.numpy(), name="w1")
    assert run.rewind("r0", "r2")
    run.advance(["r2"])
    np.testing.assert_allclose(run.value("r2", 1), 2 * before, rtol=1e-5)
    run.release("r0")
    run.advance(["y"])
    wanted = open_session(model).run(feeds[2])["y"]
    np.testing.assert_allclose(run.value("y", 2), wanted, rtol=1e-5)


def test_what_is_gone_cannot_be_rewound() -> None:
    run = Segments(models.load(chain()), batches(), kept=["r0"])
    run.advance(["y"])
    assert not run.rewind("r0", "y")  # the sum also needs x, which nobody kept


@pytest.mark.parametrize("most", [0, 8 * 10 * 4 * 3, 1 << 30])
def test_values_that_were_let_go_of_are_computed_again(most: int) -> None:
    model, feeds = models.load(chain()), batches()
    whole = open_session(model, outputs=[*NODES, "y"])
    run = Segments(model, feeds, most=most)
    for wanted in ("y", "m0", "r2", "r0", "y", "m3"):
        run.advance([wanted])
        for at, each in enumerate(feeds):
            np.testing.assert_allclose(run.value(wanted, at), whole.run(each)[wanted], atol=1e-5)


def test_a_value_is_kept_for_as_many_uses_as_were_announced() -> None:
    run = Segments(models.load(chain()), batches(), kept=["r0", "r0", "x"])
    run.advance(["y"])
    run.release("r0")
    run.advance(["y"])
    assert run.has("r0")
    run.release("r0")
    run.advance(["y"])
    assert not run.has("r0")
    assert run.has("x")


@pytest.mark.parametrize("most", [0, 1 << 30])
def test_what_lies_behind_a_changed_weight_runs_again(most: int) -> None:
    model, feeds = models.load(chain()), batches()
    run = Segments(model, feeds, most=most)
    run.advance(["m0", "r2"])
    run.rerun(["m0"])  # the inputs of what lies behind it are no longer held
    value = next(v for v in model.ir.graph.initializers.values() if v.name == "w0")
    models.set_constant(value, models.array_of(value) * 2)
    whole = open_session(model, outputs=["m1", "r2", "y"])
    for wanted in ("m1", "r2", "y"):
        run.advance([wanted])
        for at, each in enumerate(feeds):
            np.testing.assert_allclose(run.value(wanted, at), whole.run(each)[wanted], atol=1e-5)
