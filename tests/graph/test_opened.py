"""An interface that may change: what leaves with an index, and what remains is the original's."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import pytest

from interface_cases import (
    CASES,
    DROPPED,
    FLOAT,
    PAD,
    Case,
    feeds,
    finish,
    language_model,
    yolo8,
)
from models.skeletons.net import Net
from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.interface import AxisMap, Interface
from onnxprune.graph.opened import units_at, vocabularies, vocabulary_units
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import Narrowed, adapt, interface_of, narrow, release, select_outputs
from onnxprune.runtime import open_session

Arrays = Mapping[str, Any]


def outputs(model: models.Model, inputs: Arrays) -> dict[str, np.ndarray]:
    return open_session(model).run(inputs)


def narrowed(case: Case) -> tuple[Analysis, dict[str, tuple[int, ...]], Narrowed]:
    analysis = analyse(case.model, interface=True)
    if case.axis is None:
        removed = vocabulary_units(analysis, vocabularies(analysis)[0], case.leaving)
    else:
        removed = units_at(analysis, case.value, case.axis, case.leaving)
    return analysis, removed, narrow(analysis, removed, unknown=0 if case.axis is None else None)


@pytest.fixture(params=list(CASES))
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]()


def test_what_remains_is_the_masked_original(case: Case) -> None:
    analysis, removed, small = narrowed(case)
    reference = select_outputs(mask_model(analysis, removed), small.interface)
    batches = [small.interface.project(feeds(case, seed)) for seed in (1, 2)]
    check = check_equivalence(small.model, reference, batches)
    assert check.ok, check


def test_what_remains_is_the_original(case: Case) -> None:
    analysis, _, small = narrowed(case)
    inputs = small.interface.project(feeds(case))
    before, after = outputs(analysis.model, inputs), outputs(small.model, inputs)
    for name, kept in small.interface.cut_outputs(before).items():
        if name not in case.changed:
            np.testing.assert_allclose(after[name], kept, rtol=1e-5, atol=1e-6)


_NORMALISERS = {"Softmax", "LogSoftmax", "ReduceMax"}


@pytest.mark.parametrize(
    "name", ["softmax", "softmax of opset 11", "softmax written out", "ssd", "characters"]
)
def test_normalised_scores_are_renormalised(name: str) -> None:
    """What remains of a sample sums to one again, in the same proportions; the group says so."""
    case = CASES[name]()
    analysis, removed, small = narrowed(case)
    assert {analysis.group(group).renormalised for group in removed} <= _NORMALISERS
    inputs = feeds(case)
    before = small.interface.cut_outputs(outputs(analysis.model, inputs))[case.value]
    after = outputs(small.model, inputs)[case.value]
    before, after = (np.exp(a) if name == "characters" else a for a in (before, after))
    np.testing.assert_allclose(after, before / before.sum(-1, keepdims=True), rtol=1e-4)


def test_the_written_file_takes_new_ids_and_sizes(case: Case) -> None:
    _, _, small = narrowed(case)
    model, interface = release(small.model, small.interface)
    inputs = small.interface.project(feeds(case))
    after, written = outputs(small.model, inputs), outputs(model, interface.cut_inputs(inputs))
    for name, array in after.items():
        np.testing.assert_array_equal(written[name], array)
    onnx.checker.check_model(model.to_proto(), full_check=True)
    assert interface_of(model) == interface == small.interface
    assert weights(model) < weights(models.load(case.model))
    for value in model.ir.graph.outputs:
        declared = list(value.shape or ())
        sizes = written[value.name or ""].shape
        assert all(d == s for d, s in zip(declared, sizes, strict=True) if isinstance(d, int))


def weights(model: models.Model) -> int:
    """Elements of stored tensors that are no positions."""
    tensors = [models.constant(v) for v in models.constants(model).values()]
    return sum(t.size for t in tensors if t is not None and t.dtype.name != "INT64")


def test_a_written_file_can_be_adapted_again(case: Case) -> None:
    _, _, small = narrowed(case)
    model, interface = release(small.model, small.interface)
    inputs = small.interface.project(feeds(case))
    after, again = outputs(small.model, inputs), outputs(adapt(model, interface), inputs)
    for name, array in after.items():
        np.testing.assert_array_equal(again[name], array)


def test_a_file_that_keeps_ids_has_the_old_interface() -> None:
    for name in ("tied", "untied", "mask of ids", "views of float", "greedy"):
        case = CASES[name]()
        analysis, _, small = narrowed(case)
        model, interface = release(small.model, small.interface, keep_ids=True)
        inputs = feeds(case)
        written, unknown = outputs(model, inputs), small.interface
        for before, after in zip(
            analysis.model.ir.graph.outputs, model.ir.graph.outputs, strict=True
        ):
            assert str(before.shape) == str(after.shape)
        places = unknown.with_unknown(0)
        read = {k: v.copy() for k, v in inputs.items()}
        for array in read.values():
            array[np.isin(array, DROPPED)] = 0  # removed ids read as the unknown one
        after = outputs(small.model, read)
        for key, array in places.cut_outputs(written).items():
            np.testing.assert_array_equal(array, after[key])
        for axis in interface.outputs:
            assert axis.inside
            if axis.axis is not None:
                lost = written[axis.value].take(DROPPED, axis.axis)
                assert (lost == np.finfo(np.float32).min).all()


def test_ids_are_followed_to_all_who_read_them() -> None:
    """Padding is compared with its old id."""
    case = CASES["mask of ids"]()
    _, _, small = narrowed(case)
    model, interface = release(small.model, small.interface)
    inputs = {"ids": np.array([[PAD, 5, PAD], [8, 9, 10]])}
    renumbered = interface.cut_inputs(inputs)
    assert renumbered["ids"].max() < 10
    np.testing.assert_array_equal(
        outputs(model, renumbered)["y"], outputs(small.model, inputs)["y"]
    )


def test_the_model_of_the_caller_is_not_changed(case: Case) -> None:
    before = case.model.SerializeToString()
    _, _, small = narrowed(case)
    release(small.model, small.interface, keep_ids=case.axis is None)
    assert case.model.SerializeToString() == before


def test_nothing_of_the_interface_leaves_unless_asked(case: Case) -> None:
    kinds = {"vocabulary", "class", "embedding-dim", "input-feature"}
    closed = analyse(case.model)
    assert not kinds & {group.kind for group in closed.groups}
    assert not any(group.interface for group in closed.groups)
    assert analyse(case.model, interface=True).reachable >= closed.reachable


def test_groups_say_what_they_reach() -> None:
    analysis = analyse(language_model(tied=True).model, interface=True)
    (vocabulary,) = vocabularies(analysis)
    assert vocabulary.inputs == ("ids",)
    assert vocabulary.outputs == ("logits",)
    assert analysis.group(vocabulary.group).interface == ("ids", "logits")


def test_an_untied_head_follows_its_vocabulary() -> None:
    _, removed, small = narrowed(language_model(tied=False))
    assert len(removed) == 2
    assert {axis.kind for axis in small.interface.outputs} == {"vocabulary"}


def test_heads_with_a_cache_lose_it_too() -> None:
    """Keys of the past are an input and an output: both lose the head."""
    net = Net(20)
    width, heads, size = 8, 4, 2
    x = net.input("x", ("batch", "length", width), width=width)
    past = net.input("past", ("batch", heads, "old", size), width=size)

    def split(y: str) -> str:
        y = net.node("Reshape", y, net.constant([0, 0, heads, size]))
        return net.node("Transpose", y, perm=[0, 2, 1, 3])

    q, k, v = (split(net.dense(x, width)) for _ in range(3))
    keys = net.node("Concat", past, k, axis=2)
    scores = net.node("MatMul", q, net.node("Transpose", keys, perm=[0, 1, 3, 2]))
    values = net.node("Concat", past, v, axis=2)
    y = net.node("MatMul", net.node("Softmax", scores, axis=-1), values)
    y = net.node(
        "Reshape", net.node("Transpose", y, perm=[0, 2, 1, 3]), net.constant([0, 0, width])
    )
    net.width[y] = width
    model = finish(
        net,
        {
            "y": (net.dense(y, width), ("batch", "length", width), FLOAT),
            "present": (keys, ("batch", heads, "all", size), FLOAT),
        },
    )
    assert not [g for g in analyse(model).groups if g.kind == "head"]
    analysis = analyse(model, interface=True)
    (group,) = [g for g in analysis.groups if g.kind == "head"]
    assert set(group.interface) == {"past", "present"}
    (dim,) = [g for g in analysis.groups if g.kind == "head-dim" and "present" in g.interface]
    removed = {group.name: (1,), dim.name: (0,)}
    small = narrow(analysis, removed)
    rng = np.random.default_rng(0)
    inputs = {
        "x": rng.standard_normal((2, 3, width)).astype(np.float32),
        "past": rng.standard_normal((2, heads, 5, size)).astype(np.float32),
    }
    reference = select_outputs(mask_model(analysis, removed), small.interface)
    assert check_equivalence(small.model, reference, [inputs]).ok
    released, interface = release(small.model, small.interface)
    assert interface.cut_inputs(inputs)["past"].shape == (2, 3, 5, 1)
    written = outputs(released, interface.cut_inputs(inputs))
    assert written["present"].shape == (2, 3, 8, 1)
    np.testing.assert_array_equal(written["y"], outputs(small.model, inputs)["y"])


@pytest.mark.parametrize(
    ("value", "axis", "indices", "words"),
    [
        ("z", 1, [0], "no input or output 'z'"),
        ("y", 9, [0], "has no axis 9"),
        ("y", 1, [12], "has no index 12"),
        ("y", 1, range(12), "would keep nothing"),
        ("y", 0, [0], "cannot lose indices"),
        ("x", None, [0], "not looked up"),
    ],
)
def test_what_cannot_leave_says_why(
    value: str, axis: int | None, indices: list[int], words: str
) -> None:
    with pytest.raises(OnnxpruneError, match=words) as error:
        units_at(analyse(yolo8().model, interface=True), value, axis, indices)
    assert error.value.hint


def test_removed_ids_are_refused_without_an_unknown_one() -> None:
    axis = AxisMap("ids", None, 10, (0, 3, 4), "vocabulary")
    with pytest.raises(OnnxpruneError, match="removed, such as 5"):
        Interface((axis,)).cut_inputs({"ids": np.array([[3, 5]])})
    assert Interface((axis,)).loses({"ids": np.array([[3, 4], [3, 5]])}).tolist() == [False, True]


def test_a_map_is_read_as_it_was_written() -> None:
    axes = (
        AxisMap("ids", None, 10, (0, 3, 4), "vocabulary", 3),
        AxisMap("y", 2, 5, (1, 2), fill="zero"),
    )
    interface = Interface(axes[:1], axes[1:])
    assert Interface.from_json(interface.to_json()) == interface


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"size": 10', '"size": 10.5'),
        ('"size": 10', '"size": -1'),
        ('"size": 10', '"size": 99999999999999'),
        ("[3, 4]", "[3, 40]"),
        ("[3, 4]", "[0, 4]"),
        ("[3, 4]", '["a", "b"]'),
        ('"unknown": 3', '"unknown": 9'),
        ('"vocabulary"', '"nonsense"'),
        ('"version": 1', '"version": 7'),
        ('"inputs"', '"imports"'),
        ("{", "["),
    ],
)
def test_a_damaged_map_is_refused(old: str, new: str) -> None:
    text = Interface((AxisMap("ids", None, 10, (0, 3, 4), "vocabulary", 3),)).to_json()
    assert old in text
    with pytest.raises(OnnxpruneError, match="not well-formed"):
        Interface.from_json(text.replace(old, new, 1))


def test_arrays_are_mapped_both_ways() -> None:
    axis = AxisMap("y", 1, 4, (1, 3))
    interface = Interface((AxisMap("ids", None, 9, (2, 5, 8), "vocabulary"),), (axis,))
    whole = np.arange(8.0).reshape(2, 4)
    cut = interface.cut_outputs({"y": whole, "other": whole})
    assert cut["y"].tolist() == [[1, 3], [5, 7]]
    assert cut["other"].shape == (2, 4)
    back = interface.restore_outputs(cut)["y"]
    assert np.array_equal(back[:, [1, 3]], cut["y"])
    assert (back[:, [0, 2]] == np.finfo(back.dtype).min).all()
    ids = {"ids": np.array([[2, 8, -1]], np.int32)}
    new = interface.cut_inputs(ids)
    assert new["ids"].tolist() == [[0, 2, 2]]
    assert new["ids"].dtype == np.int32
    assert interface.restore_inputs(new)["ids"].tolist() == [[2, 8, 8]]


def test_an_output_may_be_declared_of_a_wrong_rank() -> None:
    """The runtime warns of it at most, as long as nothing else reads the output."""
    case = language_model(tied=False)
    shape = case.model.graph.output[0].type.tensor_type.shape
    del shape.dim[1]
    analysis, removed, small = narrowed(case)
    reference = select_outputs(mask_model(analysis, removed), small.interface)
    assert check_equivalence(small.model, reference, [small.interface.project(feeds(case))]).ok


@pytest.mark.parametrize(("name", "kind"), [("embedding", "embedding-dim"), ("scores", "class")])
def test_what_is_brought_to_length_one_is_an_embedding(name: str, kind: str) -> None:
    groups = analyse(CASES[name]().model, interface=True).groups
    assert [g.kind for g in groups if {"y", "scores"} & {*g.interface}] == [kind]
