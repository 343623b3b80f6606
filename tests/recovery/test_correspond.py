"""What somebody else removed is found again: whatever it is called, and even if it has changed."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models import skeletons
from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.surgery import cut
from onnxprune.recovery.correspond.alignment import align, ordered_assignment
from onnxprune.recovery.correspond.folding import fold_normalisations, normalisations
from onnxprune.recovery.correspond.kept_units import correspond
from onnxprune.recovery.correspond.twin import carry_back, in_dense_words, make_twin
from onnxprune.runtime import open_session

NAMES = [*zoo.names(), *skeletons.SMALL]
FLOATS = (ir.DataType.FLOAT, ir.DataType.DOUBLE, ir.DataType.FLOAT16)


@cache
def analysed(name: str) -> Analysis:
    source = str(zoo.get(name).model) if name in zoo.names() else skeletons.SMALL[name]()
    return analyse(models.load(source))


def random_removal(
    analysis: Analysis, rng: np.random.Generator, share: float = 0.4
) -> dict[str, tuple[int, ...]]:
    """Some units of some groups, so that every axis keeps something and the cut exists."""
    removed: dict[str, tuple[int, ...]] = {}
    for group in analysis.groups:
        count = int(rng.integers(0, int(len(group) * share) + 1))
        if count:
            units = rng.permutation(len(group))[:count]
            removed[group.name] = tuple(sorted(int(u) for u in units))
            if analysis.emptied(removed):
                del removed[group.name]
    return removed


def renamed(model: models.Model, rng: np.random.Generator, *, anew: bool = False) -> models.Model:
    """The same graph with every inner name given to something else, initializers included.

    With ``anew`` names are ones that nobody had before.
    """
    made = models.clone(model)
    border = {*made.ir.graph.inputs, *made.ir.graph.outputs}
    values = [v for g in models.graphs(made) for v in models.values(g) if v.name]
    inner = [v for v in dict.fromkeys(values) if v not in border]
    names = [inner[k].name for k in rng.permutation(len(inner))]
    for k, value in enumerate(inner):
        value.name = f"moved/{k}"
    for value, name in zip(inner, names, strict=True) if not anew else ():
        value.name = name
    for graph in models.graphs(made):
        for node in graph:
            node.name = f"node/{rng.integers(1 << 30)}"
    return made


def noised(model: models.Model, rng: np.random.Generator, share: float) -> models.Model:
    """Every matrix and kernel changed by a share of its spread, as if it had been fine-tuned."""
    made = models.clone(model)
    for value in models.constants(made).values():
        tensor = models.constant(value)
        assert tensor is not None
        if tensor.dtype not in FLOATS or sum(n > 1 for n in tensor.shape.numpy()) < 2:
            continue
        array = tensor.numpy()
        noise = rng.standard_normal(array.shape) * array.std() * share
        models.set_constant(value, (array + noise).astype(array.dtype))
    return made


@given(name=st.sampled_from(NAMES), seed=st.integers(0, 1 << 20))
def test_a_cut_is_found_again(name: str, seed: int) -> None:
    analysis = analysed(name)
    removed = random_removal(analysis, np.random.default_rng(seed))
    found = correspond(analysis, cut(analysis, removed))
    assert dict(found.removed) == removed
    assert found.bypassed == ()
    assert found.likeness == pytest.approx(1.0)


@given(name=st.sampled_from(NAMES), seed=st.integers(0, 1 << 20))
def test_names_do_not_matter(name: str, seed: int) -> None:
    analysis, rng = analysed(name), np.random.default_rng(seed)
    removed = random_removal(analysis, rng)
    found = correspond(analysis, renamed(cut(analysis, removed), rng))
    assert dict(found.removed) == removed


@pytest.mark.parametrize("name", zoo.names())
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_changed_weights_are_still_recognised(name: str, share: float) -> None:
    analysis, rng = analysed(name), np.random.default_rng(7)
    removed = random_removal(analysis, rng)
    pruned = renamed(noised(cut(analysis, removed), rng, share), rng)
    found = correspond(analysis, pruned)
    assert dict(found.removed) == removed
    assert found.likeness < 1


@cache
def blocky() -> list[str]:
    """Networks with branches; a function, since every worker imports this file."""
    return [name for name in NAMES if analysed(name).blocks]


@settings(max_examples=20)
@given(
    name=st.deferred(lambda: st.sampled_from(blocky())),
    seed=st.integers(0, 1 << 20),
    names=st.sampled_from(["as they were", "shuffled", "new"]),
)
def test_dropped_branches_are_found(name: str, seed: int, names: str) -> None:
    analysis, rng = analysed(name), np.random.default_rng(seed)
    block = analysis.blocks[int(rng.integers(len(analysis.blocks)))]
    pruned = cut(analysis, {}, [block.name])
    if names != "as they were":
        pruned = renamed(pruned, rng, anew=names == "new")
    assert correspond(analysis, pruned).bypassed == (block.name,)


def test_a_branch_that_nothing_tells_is_not_guessed() -> None:
    analysis, rng = analysed("digits_encoder"), np.random.default_rng(2)
    pruned = cut(analysis, {}, [analysis.blocks[2].name])
    kept_names = noised(pruned, rng, 0.1)
    assert correspond(analysis, kept_names).bypassed == (analysis.blocks[2].name,)
    with pytest.raises(OnnxpruneError, match="cannot tell"):
        correspond(analysis, renamed(kept_names, rng, anew=True))


def test_a_dropped_branch_and_dropped_channels_together() -> None:
    analysis, rng = analysed("digits_rescnn"), np.random.default_rng(3)
    block = analysis.blocks[1]
    removed = random_removal(analysis, rng)
    pruned = cut(analysis, removed, [block.name])
    found = correspond(analysis, renamed(pruned, rng))
    assert found.bypassed == (block.name,)
    # What was cut inside the branch has left with it and cannot be known.
    alive = {s.tensor for g in analysis.groups for s in g.slices} & set(models.constants(pruned))
    seen = {g.name for g in analysis.groups if {s.tensor for s in g.slices} & alive}
    assert dict(found.removed) == {g: u for g, u in removed.items() if g in seen}


@pytest.mark.parametrize("name", [n for n in NAMES if n not in zoo.names()])
def test_other_weights_are_refused(name: str) -> None:
    """The same architecture with weights of its own is no pruned version of the first."""
    analysis, rng = analysed(name), np.random.default_rng(5)
    other = models.clone(analysis.model)
    for value in models.constants(other).values():
        tensor = models.constant(value)
        assert tensor is not None
        spread = sum(n > 1 for n in tensor.shape.numpy()) > 1
        if tensor.dtype in (*FLOATS, ir.DataType.INT8, ir.DataType.UINT8) and spread:
            array = tensor.numpy()
            models.set_constant(value, rng.permutation(array.ravel()).reshape(array.shape))
    pruned = cut(analyse(other), random_removal(analysis, rng))
    with pytest.raises(OnnxpruneError) as refused:
        correspond(analysis, pruned)
    assert refused.value.hint
    assert refused.value.exit_code == 2


@pytest.mark.parametrize(("one", "other"), [("digits_mlp", "digits_rescnn"), ("vgg", "resnet")])
def test_another_network_is_refused(one: str, other: str) -> None:
    with pytest.raises(OnnxpruneError, match="correspond"):
        correspond(analysed(one), analysed(other).model)


def test_what_onnxprune_cannot_cut_is_named() -> None:
    """A class less: the axis reaches a graph output."""
    analysis = analysed("digits_mlp")
    pruned = models.clone(analysis.model)
    node = pruned.ir.graph.outputs[0].producer()
    assert node is not None
    for value, axis in ((node.inputs[1], 0), (node.inputs[2], 0)):
        assert value is not None
        tensor = models.constant(value)
        assert tensor is not None
        models.set_constant(value, np.delete(tensor.numpy(), 3, axis))
    with pytest.raises(OnnxpruneError, match="9 of 10") as refused:
        correspond(analysis, pruned)
    assert "graph output" in refused.value.message


def test_two_cuts_that_contradict_each_other_are_refused() -> None:
    """Rows 0-9 went from the layer, but columns 10-19 from its reader."""
    analysis = analysed("digits_mlp")
    group = analysis.groups[0]
    first = cut(analysis, {group.name: range(10)})
    second = models.constants(cut(analysis, {group.name: range(10, 20)}))
    reader = next(s.tensor for s in group.slices if s.role == "reads")
    held = models.constant(second[reader])
    assert held is not None
    models.set_constant(models.constants(first)[reader], held)
    with pytest.raises(OnnxpruneError, match=r"cannot tell|no choice"):
        correspond(analysis, first)


# -- the twin ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_the_twin_computes_what_the_pruned_model_does(name: str) -> None:
    analysis, rng = analysed(name), np.random.default_rng(11)
    pruned = renamed(noised(cut(analysis, random_removal(analysis, rng)), rng, 0.01), rng)
    found = correspond(analysis, pruned)
    twin = make_twin(analysis, found, pruned)
    check = check_equivalence(
        twin.model, in_dense_words(found.matching, pruned), synthetic_inputs(analysis)
    )
    assert check.ok, check


@pytest.mark.parametrize("name", NAMES)
def test_changes_are_carried_back_under_the_names_of_the_pruned_model(name: str) -> None:
    analysis, rng = analysed(name), np.random.default_rng(12)
    pruned = renamed(cut(analysis, random_removal(analysis, rng)), rng)
    found = correspond(analysis, pruned)
    twin = make_twin(analysis, found, pruned)
    changed = noised(twin.model, rng, 0.3)
    made = carry_back(analysis.model, twin.model, changed, found.matching, pruned)
    nodes = [[n.op_type for n in m.ir.graph] for m in (made, pruned)]
    assert nodes[0] == nodes[1]
    assert set(models.constants(pruned)) <= set(models.constants(made))
    check = check_equivalence(
        in_dense_words(found.matching, made), changed, synthetic_inputs(analysis)
    )
    assert check.ok, check


def test_inputs_and_outputs_may_be_called_otherwise() -> None:
    analysis = analysed("digits_rescnn")
    pruned = cut(analysis, random_removal(analysis, np.random.default_rng(1)))
    graph = pruned.ir.graph
    # A name that is another value's in the dense model must not confuse anybody.
    graph.inputs[0].name, graph.outputs[0].name = "x", "image"
    found = correspond(analysis, pruned)
    assert found.matching.inputs == {"image": "x"}
    assert found.matching.outputs == {"logits": "image"}
    named = in_dense_words(found.matching, pruned)
    assert [v.name for v in named.ir.graph.inputs] == ["image"]
    assert [v.name for v in named.ir.graph.outputs] == ["logits"]
    feeds = {"image": np.random.default_rng(0).random((2, 1, 16, 16), np.float32)}
    wanted = open_session(pruned).run({"x": feeds["image"]})["image"]
    np.testing.assert_array_equal(open_session(named).run(feeds)["logits"], wanted)
    onnx.checker.check_model(models.to_proto(named))


# -- rows ----------------------------------------------------------------------------------------


@given(n=st.integers(1, 7), m=st.integers(1, 7), seed=st.integers(0, 1 << 20))
def test_the_assignment_in_order_is_the_cheapest(n: int, m: int, seed: int) -> None:
    from itertools import combinations

    n, m = max(n, m), min(n, m)
    cost = np.random.default_rng(seed).random((n, m))
    chosen = ordered_assignment(cost)
    assert (np.diff(chosen) > 0).all()
    best = min(sum(cost[r, j] for j, r in enumerate(rows)) for rows in combinations(range(n), m))
    assert cost[chosen, np.arange(m)].sum() == pytest.approx(best)


@given(seed=st.integers(0, 1 << 20), features=st.integers(1, 40), rows=st.integers(2, 60))
def test_rows_that_have_not_changed_are_found(seed: int, features: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, features)).astype(np.float32)
    kept = np.sort(rng.permutation(rows)[: int(rng.integers(1, rows + 1))])
    found = align([x], [x[kept]], np.ones(rows, np.bool_))
    assert np.flatnonzero(found.kept).tolist() == kept.tolist()
    assert found.certainty == "equal"


def test_equal_rows_are_said_to_be() -> None:
    x = np.array([[1.0, 2.0], [3.0, 4.0], [3.0, 4.0], [5.0, 6.0]])
    found = align([x], [x[[0, 2, 3]]], np.ones(4, np.bool_))
    assert found.certainty == "equal to several"
    assert found.kept.sum() == 3


def test_another_order_is_said_to_be_one() -> None:
    x = np.random.default_rng(0).standard_normal((9, 4))
    assert align([x], [x[[3, 1, 7]]], np.ones(9, np.bool_)).certainty == "out of order"


@pytest.mark.parametrize(("features", "noise", "wanted"), [(1, 0.3, "unclear"), (40, 0.3, "close")])
def test_a_choice_is_clear_or_said_not_to_be(features: int, noise: float, wanted: str) -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((60, features))
    y = x[::2] + noise * rng.standard_normal((30, features))
    found = align([x], [y], np.ones(60, np.bool_))
    assert found.certainty == wanted


def test_unrelated_rows_are_unlike() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.standard_normal((60, 50)), rng.standard_normal((30, 50))
    assert align([x], [y], np.ones(60, np.bool_)).certainty == "unlike"


# -- folding -------------------------------------------------------------------------------------

NORMED = [n for n in NAMES if normalisations(analysed(n).model)]


@pytest.mark.parametrize("name", NORMED)
def test_a_folded_model_computes_the_same(name: str) -> None:
    analysis = analysed(name)
    before = normalisations(analysis.model)
    folded = fold_normalisations(analysis.model)
    assert normalisations(folded) < before == normalisations(analysis.model)
    check = check_equivalence(folded, analysis.model, synthetic_inputs(analysis))
    assert check.ok, check
