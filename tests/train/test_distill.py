"""What zeros leave is trained as a whole: better on inputs nobody saw, and zeros stay zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.batches import InputFormat, collate
from onnxprune.data.memory import MemoryBudget
from onnxprune.evaluate.output_comparison import compare
from onnxprune.quantities import sparsity
from onnxprune.runtime import open_session
from onnxprune.sparse.sparsify import Sparse, sparsify
from onnxprune.train.distill import Settings, distil
from onnxprune.train.variants import Variants

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]


def thinned(name: str, asked: str, samples: int = 96) -> tuple[models.Model, Sparse, list[Feeds]]:
    """A network of the zoo, thinned and refitted layer by layer on some batches of 32."""
    entry = zoo.get(name)
    model = models.load(entry.model)
    with np.load(entry.calibration) as z:
        feeds = [{k: z[k][i : i + 32] for k in z.files} for i in range(0, samples, 32)]
    return model, sparsify(model, sparsity(asked), feeds), feeds


def divergence(dense: models.Model, other: models.Model, feeds: Feeds) -> float:
    found = compare(open_session(dense).run(feeds), open_session(other).run(feeds))
    (one,) = found.values()
    assert one.kl is not None
    return one.kl


def stored(model: models.Model, name: str) -> Array:
    tensor = models.constant(models.constants(model)[name])
    assert tensor is not None
    return tensor.numpy()


@pytest.mark.parametrize(
    ("name", "asked", "samples"),
    [
        ("digits_rescnn", "92%", 256),
        pytest.param("chars_decoder", "2:4", 48, marks=pytest.mark.heavy),
    ],
)
def test_training_helps_on_inputs_nobody_saw(name: str, asked: str, samples: int) -> None:
    dense, made, feeds = thinned(name, asked, samples)
    keep = {weight: mask.unpack() for weight, mask in made.masks.items()}
    before = {weight: stored(made.model, weight).tobytes() for weight in keep}
    done = distil(dense, made.model, keep, feeds, Settings(steps=30))
    assert not done.reason
    assert done.steps
    assert done.after < done.before
    with np.load(zoo.get(name).evaluation) as z:
        unseen = {key: z[key][:128] for key in z.files if key != zoo.LABEL}
    assert divergence(dense, done.model, unseen) < divergence(dense, made.model, unseen)
    changed = 0
    for weight, mask in keep.items():
        assert (stored(done.model, weight)[~mask] == 0).all()
        assert stored(made.model, weight).tobytes() == before[weight]  # the one given is as it was
        changed += stored(done.model, weight).tobytes() != before[weight]
    assert changed == len(keep)
    assert done.after < 0.95  # a smaller gain is not believed


def test_what_is_right_already_is_left_alone() -> None:
    dense, made, feeds = thinned("digits_mlp", "50%")
    keep = {weight: np.ones(mask.shape, dtype=bool) for weight, mask in made.masks.items()}
    same = distil(dense, dense, keep, feeds)
    assert same.model is dense
    assert same.reason == "its outputs are those of the dense model"
    few = distil(dense, made.model, keep, [{k: v[:3] for k, v in feeds[0].items()}])
    assert few.model is made.model
    assert few.reason == "too few samples to hold any out"
    small = distil(dense, made.model, keep, feeds, Settings(memory=MemoryBudget(1000)))
    assert small.model is made.model
    assert "memory" in small.reason
    large = distil(dense, made.model, keep, feeds, Settings(work=1.0))
    assert large.model is made.model
    assert large.reason == "it is too large for that"


def test_the_same_seed_trains_the_same_weights() -> None:
    dense, made, feeds = thinned("digits_mlp", "98%", 512)
    keep = {weight: mask.unpack() for weight, mask in made.masks.items()}
    one, two, other = (
        distil(dense, made.model, keep, feeds, Settings(steps=60, seed=seed, threads=1))
        for seed in (0, 0, 1)
    )
    name = next(iter(keep))
    assert one.steps == two.steps
    np.testing.assert_array_equal(stored(one.model, name), stored(two.model, name))
    assert (stored(one.model, name) != stored(other.model, name)).any()


def test_steps_that_lead_astray_are_taken_back() -> None:
    dense, made, feeds = thinned("digits_mlp", "50%")
    keep = {weight: mask.unpack() for weight, mask in made.masks.items()}
    done = distil(dense, made.model, keep, feeds, Settings(steps=60, rate=3.0))
    assert done.after <= 1.0
    held = feeds[0]
    assert divergence(dense, done.model, held) < 2 * divergence(dense, made.model, held)


def test_variants_are_made_of_what_occurs() -> None:
    rng = np.random.default_rng(0)
    tokens = rng.integers(100, 120, (6, 10))
    mask = (np.arange(10) < rng.integers(5, 11, (6, 1))).astype(np.int64)
    places = np.tile(np.arange(10), (6, 1))
    feeds = {"input_ids": tokens, "attention_mask": mask, "position_ids": places}
    vary = Variants([feeds])
    made = [vary(feeds, rng) for _ in range(20)]
    assert all(set(m["input_ids"].ravel()) <= set(tokens.ravel()) for m in made)
    assert any((m["input_ids"] != tokens).any() for m in made)
    for each in made:
        np.testing.assert_array_equal(each["position_ids"], places)
        assert set(each["attention_mask"].ravel()) <= {0, 1}
        assert [a.dtype for a in each.values()] == [a.dtype for a in feeds.values()]
    pictures = {"image": rng.random((8, 3, 4, 4)).astype(np.float32), "scale": np.ones(8, np.int64)}
    made = [Variants([pictures])(pictures, rng) for _ in range(5)]
    for each in made:
        assert each["image"].dtype == np.float32
        assert each["image"].min() >= 0  # means of pictures are within their range
        assert each["image"].max() <= 1
        np.testing.assert_array_equal(each["scale"], pictures["scale"])
    assert any((m["image"] != pictures["image"]).any() for m in made)


def test_samples_are_joined_along_the_axis_that_counts_them() -> None:
    def inputs(**axes: int | None) -> InputFormat:
        return InputFormat((), {"x": 0, **axes})

    def sample(**extra: Any) -> dict[str, Any]:
        return {"x": np.zeros((1, 3)), **extra}

    alike = collate([sample(m=np.zeros((1, 2))) for _ in range(5)], inputs(m=0), 2)
    assert [each["m"].shape for each in alike] == [(2, 2), (2, 2), (1, 2)]
    states = collate([sample(state=np.zeros((2, 1, 4))) for _ in range(3)], inputs(state=1), 2)
    assert [each["state"].shape for each in states] == [(2, 2, 4), (2, 1, 4)]
    rates = [sample(rate=np.array(rate)) for rate in (16000, 8000, 16000)]
    shared = collate(rates, inputs(rate=None), 2)
    assert [(len(each["x"]), int(each["rate"])) for each in shared] == [(2, 16000), (1, 8000)]
