"""``--recover``: each word changes what it says and no more, and nothing gets worse by it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.skeletons.net import Net
from onnxprune import model as models
from onnxprune.config import Options, Recover, from_flags
from onnxprune.data import zoo
from onnxprune.graph.analysis import analyse
from onnxprune.graph.surgery import cut
from onnxprune.jobs import recipe
from onnxprune.jobs.prune import apply, prune
from onnxprune.jobs.result import Result
from onnxprune.runtime import open_session
from onnxprune.solve.moments import moments
from onnxprune.solve.support import affordable, conjugate_gradients, refit_support, solve_columns

Array = np.ndarray[Any, Any]
WORDS: tuple[Recover, ...] = ("none", "bias", "lstsq", "pcg", "auto")


def stored(model: models.Model) -> dict[str, Array]:
    found = {}
    for name, value in models.constants(model).items():
        tensor = models.constant(value)
        assert tensor is not None
        found[name] = tensor.numpy()
    return found


def feeds_of(name: str, count: int) -> dict[str, Array]:
    with np.load(zoo.get(name).calibration) as z:
        return {key: z[key][:count] for key in z.files}


def batches(name: str, count: int = 160, size: int = 16) -> list[dict[str, Array]]:
    arrays = feeds_of(name, count)
    return [{k: v[i : i + size] for k, v in arrays.items()} for i in range(0, count, size)]


def run(name: str, recover: Recover, **asked: Any) -> Result:
    return prune(
        zoo.get(name).model, from_flags({"calib": batches(name), "recover": recover, **asked})
    )


def distance(made: Result) -> float:
    error = made.evaluation.main.relative_error
    assert error is not None
    return error


@pytest.fixture(scope="module")
def mlp() -> dict[Recover, Result]:
    """One plan, recovered in every way."""
    first = run("digits_mlp", "none", ratio=0.5, calib=batches("digits_mlp", 512))
    made: dict[Recover, Result] = {"none": first}
    for word in WORDS[1:]:
        asked = from_flags({"calib": batches("digits_mlp", 512), "recover": word})
        made[word] = apply(zoo.get("digits_mlp").model, first.plan, asked)
    return made


def test_none_leaves_what_surgery_made(mlp: dict[Recover, Result]) -> None:
    made = mlp["none"]
    raw = cut(made.analysis, made.plan.removed, made.plan.bypassed)
    assert not made.outcomes.get("refit", ())
    before, after = stored(raw), stored(made.model)
    assert before.keys() == after.keys()
    assert all(before[name].tobytes() == after[name].tobytes() for name in before)


def test_bias_touches_biases_alone_and_restores_means(mlp: dict[Recover, Result]) -> None:
    before, made = stored(mlp["none"].model), mlp["bias"]
    after = stored(made.model)
    changed = [n for n in after if n not in before or before[n].tobytes() != after[n].tobytes()]
    assert changed
    assert all(after[name].ndim == 1 for name in changed)
    with np.load(zoo.get("digits_mlp").evaluation) as z:
        unseen = {key: z[key] for key in z.files if key != zoo.LABEL}
    means = {
        word: open_session(m).run(unseen)["logits"].mean(axis=0)
        for word, m in (("dense", made.analysis.model), ("bias", made.model))
    }
    raw = open_session(mlp["none"].model).run(unseen)["logits"].mean(axis=0)
    gap = np.linalg.norm(raw - means["dense"])
    assert np.linalg.norm(means["bias"] - means["dense"]) < 0.3 * gap


def test_more_freedom_comes_closer(mlp: dict[Recover, Result]) -> None:
    far = {word: distance(made) for word, made in mlp.items()}
    assert far["bias"] < far["none"]
    assert far["lstsq"] < far["bias"]
    assert far["pcg"] == pytest.approx(far["lstsq"])
    assert far["auto"] < 1.05 * far["lstsq"]


def test_outcomes_say_what_was_done(mlp: dict[Recover, Result]) -> None:
    allowed = {"bias": {"none", "bias"}, "lstsq": {"none", "bias", "scale", "lstsq"}}
    allowed["pcg"] = allowed["lstsq"]
    allowed["auto"] = allowed["lstsq"] | {"pair"}
    for word, methods in allowed.items():
        outcomes = mlp[word].outcomes.get("refit", ())  # type: ignore[index]
        assert outcomes
        assert {o.method for o in outcomes} <= methods
        assert all(o.after <= o.before for o in outcomes if not o.reason)  # type: ignore[operator]


@pytest.mark.parametrize("word", WORDS)
def test_single_weights(word: Recover) -> None:
    made = run("digits_mlp", word, sparsity="60%", sparse_method="wanda")
    dense, after = stored(made.analysis.model), stored(made.model)
    for name, packed in made.plan.zeroed.items():
        keep = packed.unpack()
        assert (after[name][~keep] == 0).all()
        same = np.array_equal(after[name][keep], dense[name][keep])
        assert same == (word in ("none", "bias"))
    changed = {n for n in after if n not in dense or dense[n].tobytes() != after[n].tobytes()}
    others = changed - made.plan.zeroed.keys()
    assert bool(others) == (word != "none")
    assert all(after[name].ndim == 1 for name in others)
    used = {each.refit for each in made.outcomes.get("zeros", ()) if each.method}
    assert {"none": "none", "bias": "bias", "lstsq": "lstsq"}.get(word, "pcg") in used
    tried = [e for e in made.outcomes["zeros"] if e.before is not None]
    assert all(e.after <= e.before for e in tried)  # type: ignore[operator]


FEW = [("none", 1), ("bias", 2), ("auto", 1), ("auto", 5)]
ZEROS = {"sparsity": "50%"}


@pytest.mark.parametrize(
    ("name", "asked", "word", "count"),
    [
        *(("digits_rescnn", {"target": "macs=70%"}, *each) for each in FEW),
        *(("digits_encoder", ZEROS, *each) for each in FEW[1:3]),
        *(
            pytest.param("digits_encoder", ZEROS, *each, marks=pytest.mark.heavy)
            for each in (FEW[0], FEW[3])
        ),
    ],
)
def test_a_few_samples_are_enough_to_try(
    asked: dict[str, Any], name: str, word: Recover, count: int
) -> None:
    few = batches(name, count)
    made = prune(zoo.get(name).model, from_flags({"calib": few, "recover": word, **asked}))
    assert all(check.ok for check in made.checks)  # too few to keep every model good
    every = [o for outcomes in made.outcomes.values() for o in outcomes]
    errors = [e for o in every for e in (o.before, o.after)]
    assert all(e is None or np.isfinite(e) for e in errors)


def test_sparse_updates_of_a_sweep_are_undone_where_nothing_may_change() -> None:
    made = run("digits_mlp", "none", sparsity="2:4", sparse_method="sparsegpt")
    dense, after = stored(made.analysis.model), stored(made.model)
    for name, packed in made.plan.zeroed.items():
        np.testing.assert_array_equal(after[name], np.where(packed.unpack(), dense[name], 0))


def test_repairs_of_single_weights_compare_as_they_should() -> None:
    made = {w: run("digits_mlp", w, sparsity="70%") for w in WORDS}
    far = {w: distance(one) for w, one in made.items()}
    kl = {w: one.evaluation.main.kl for w, one in made.items()}
    assert kl["auto"] is not None
    assert kl["pcg"] is not None
    assert kl["auto"] < 1.05 * kl["pcg"]  # it is trained to answer alike, not to be near
    assert far["pcg"] < far["none"]
    assert far["lstsq"] < far["none"]


@pytest.mark.parametrize("count", [2, 40])
def test_a_layer_behind_a_channel_shuffle_is_refitted_from_few_samples_and_from_many(
    count: int,
) -> None:
    net = Net(0)
    x = net.conv(net.input("x", ("batch", 3, 8, 8), width=3), 16)
    y = net.node("Relu", x)
    y = net.node("Reshape", y, net.constant([0, 2, 8, 8, 8]))
    y = net.node("Transpose", y, perm=[0, 2, 1, 3, 4])
    y = net.node("Reshape", y, net.constant([0, 16, 8, 8]), width=16)
    model = models.load(net.build(net.conv(y, 6), ("batch", 6, 8, 8)))
    rng = np.random.default_rng(0)
    feeds = [{"x": rng.standard_normal((16, 3, 8, 8), dtype=np.float32)} for _ in range(count)]
    made = prune(model, from_flags({"calib": feeds, "calib_samples": 16 * count, "ratio": 0.5}))
    assert any(node.op_type == "Gather" for node in made.model.ir.graph)  # what a cut shuffle is
    assert made.ok
    assert any(o.method != "none" for o in made.outcomes.get("refit", ()))


# -- widths under a normalisation ------------------------------------------------------------


def mixer(seed: int = 0) -> models.Model:
    """Two residual blocks over a normalised width, and a readout."""
    net = Net(seed)
    x = net.dense(net.input("x", ("batch", 6, 10), width=10), 24)
    for _ in range(2):
        y = net.node("Relu", net.dense(net.layer_norm(x), 32))
        x = net.node("Add", x, net.dense(y, 24))
    return models.load(net.build(net.dense(net.layer_norm(x), 5), ("batch", 6, 5)))


def correlated(count: int, seed: int = 0) -> list[dict[str, Array]]:
    rng = np.random.default_rng(seed)
    mix = np.random.default_rng(1).standard_normal((10, 10)).astype(np.float32)
    return [
        {"x": rng.standard_normal((16, 6, 10), dtype=np.float32) @ mix + 0.2} for _ in range(count)
    ]


def test_a_normalised_width_goes_by_a_ratio_of_its_own_and_is_recovered() -> None:
    model = mixer()
    width = next(g.name for g in analyse(model).groups if g.kind == "width")
    asked = {"ratios": {width: 0.25}, "allow_inexact": True, "calib": correlated(12)}
    made = {w: prune(model, from_flags({**asked, "recover": w})) for w in WORDS}
    for word, each in made.items():
        assert len(each.plan.removed[width]) == 6
        assert each.ok
        assert any("not the masked original" in note for note in each.notes)
        assert any(" as cut and " in note for note in each.notes) == (word != "none")
    far = {word: distance(each) for word, each in made.items()}
    assert far["bias"] < far["none"]
    assert far["lstsq"] < far["bias"]
    norms = [o for o in made["bias"].outcomes.get("refit", ()) if o.method in ("scale", "affine")]
    assert len(norms) == 3


def test_a_normalised_width_competes_for_a_budget_only_where_it_is_allowed_to() -> None:
    model = mixer()
    width = next(g.name for g in analyse(model).groups if g.kind == "width")
    asked = {"target": "macs=45%", "calib": correlated(12), "round_to": 1}
    free = prune(model, from_flags({**asked, "allow_inexact": True}))
    bound = prune(model, from_flags(asked))
    assert free.plan.removed.get(width)
    assert not bound.plan.removed.get(width)
    assert free.remaining.macs <= 0.45 * free.dense.macs
    assert not any("not the masked original" in note for note in bound.notes)


# -- the command line ------------------------------------------------------------------------


@pytest.mark.parametrize("word", WORDS)
def test_every_word_is_an_option_and_comes_back_from_a_recipe(
    word: Recover, tmp_path: Path
) -> None:
    asked = from_flags({"ratio": 0.3, "recover": word})
    assert asked.recover == word
    recipe.write(asked, tmp_path / "recipe.yaml")
    assert from_flags(recipe.read(tmp_path / "recipe.yaml").values) == asked
    assert Options().recover == "auto"


def test_other_words_are_refused_and_help_names_these(cli: Callable[..., Any]) -> None:
    ran = cli("prune", zoo.get("digits_mlp").model, "--ratio", "0.3", "--recover", "lsq")
    assert ran.code == 2
    assert "--recover lsq" in ran.err
    assert "lstsq" in ran.err
    shown = cli("prune", "--help").out
    assert all(word in shown for word in WORDS)


# -- single weights by least squares ---------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.booleans())
def test_columns_are_least_squares_on_their_support(seed: int, free: bool) -> None:
    rng = np.random.default_rng(seed)
    x, W = rng.standard_normal((80, 7)) + 0.4, rng.standard_normal((7, 3))
    y = x @ W + 0.5 + 0.1 * rng.standard_normal((80, 3))
    keep = rng.random((1, 7, 3)) < 0.6
    bias = rng.standard_normal((1, 3))
    rows = moments(x[None], y[None])
    found = refit_support(
        rows, rows, W[None], keep, bias, ridges=(0.0,), exact=True, free_bias=free
    )
    for n in np.flatnonzero(keep[0].any(axis=0)):
        chosen = np.flatnonzero(keep[0][:, n])
        A = np.hstack([x[:, chosen], np.ones((80, 1 if free else 0))])
        wanted = np.linalg.lstsq(A, y[:, n] - (0 if free else bias[0, n]))[0]
        np.testing.assert_allclose(found.weight[0, chosen, n], wanted[: len(chosen)], atol=1e-6)
    assert (found.weight[~keep] == 0).all()
    assert found.after <= found.before


def test_columns_are_where_conjugate_gradients_end() -> None:
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 12)) @ rng.standard_normal((12, 12))
    W, keep = rng.standard_normal((12, 5)), rng.random((12, 5)) < 0.5
    xx, xy = x.T @ x / 200, x.T @ (x @ W) / 200
    solved = solve_columns(xx, xy, keep, W, ridge=0.03)
    walked = conjugate_gradients(xx, xy, keep, W, ridge=0.03, iterations=200)
    np.testing.assert_allclose(solved, walked, atol=1e-6)


def test_inputs_that_are_always_zero_keep_their_weights() -> None:
    xx, W = np.diag([1.0, 0.0, 2.0]), np.ones((3, 2))
    solved = solve_columns(xx, xx @ W, np.ones((3, 2), bool), W, ridge=0.0)
    np.testing.assert_allclose(solved, W)


def test_only_small_layers_are_solved_by_columns() -> None:
    assert affordable(np.ones((1, 256, 256), bool))
    assert not affordable(np.ones((1, 1024, 1024), bool))
