"""Comparing outputs and measuring tasks: against formulas written out, in any batching."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.data import open_calibration
from onnxprune.data.labels import open_labels
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.metrics import evaluate, find_metric
from onnxprune.evaluate.output_comparison import Comparison, compare, stacked
from onnxprune.runtime import open_session

Array = npt.NDArray[Any]


def softmax(x: Array) -> Array:
    e = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    return np.asarray(e / e.sum(-1, keepdims=True))


def pieces(array: Array, cuts: list[int]) -> list[dict[str, Array]]:
    return [
        {"y": part}
        for part in np.split(array, sorted(cut % len(array) for cut in cuts))
        if len(part)
    ]


@given(
    rows=st.integers(1, 30),
    classes=st.integers(2, 8),
    noise=st.floats(0.01, 2),
    cuts=st.lists(st.integers(0, 100), max_size=4),
    seed=st.integers(0, 1000),
)
def test_any_batching_gives_the_written_out_formulas(
    rows: int, classes: int, noise: float, cuts: list[int], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    a = rng.standard_normal((rows, classes)).astype(np.float32)
    b = (a + noise * rng.standard_normal(a.shape)).astype(np.float32)
    found = compare(pieces(a, cuts), pieces(b, cuts))["y"]
    x, y = a.astype(np.float64), b.astype(np.float64)
    relative = np.linalg.norm(y - x) / np.linalg.norm(x)
    assert found.count == a.size
    assert found.relative_error == pytest.approx(relative, rel=1e-9)
    assert found.max_abs_error == pytest.approx(np.abs(y - x).max())
    assert found.cosine == pytest.approx((x * y).sum() / np.linalg.norm(x) / np.linalg.norm(y))
    assert found.snr_db == pytest.approx(-20 * math.log10(relative))
    assert found.top1 == np.mean(x.argmax(1) == y.argmax(1))
    p, q = softmax(a), softmax(b)
    if found.kl is not None:
        assert found.kl == pytest.approx((p * np.log(p / q)).sum(1).mean(), abs=1e-9)
    else:  # they look like independent probabilities
        assert a.min() >= 0
        assert a.max() <= 1
    assert found.equal == np.mean(a == b)
    assert found.broken == 0


def test_equal_outputs_are_perfect() -> None:
    a = {"y": np.random.default_rng(0).standard_normal((4, 5)).astype(np.float32)}
    found = compare(a, a)["y"]
    assert found.cosine == pytest.approx(1)
    assert found.relative_error == found.max_abs_error == found.kl == 0
    assert found.equal == found.top1 == 1
    assert found.snr_db == math.inf


def test_logits_probabilities_and_their_logarithms_diverge_alike() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 40, 6))
    want = compare({"y": a}, {"y": b})["y"].kl
    assert want is not None
    assert want > 0.1
    for form in (softmax, lambda x: np.log(softmax(x)), lambda x: softmax(x).astype(np.float16)):
        found = compare({"y": form(a)}, {"y": form(b)})["y"]
        assert found.kl == pytest.approx(want, rel=1e-2)
        assert found.top1 == compare({"y": a}, {"y": b})["y"].top1


def test_only_class_scores_have_top1_and_divergence() -> None:
    rng = np.random.default_rng(0)
    shapes = {
        "scores": (3, 5),
        "tokens": (2, 4, 7),
        "maps": (2, 3, 4, 4),
        "one": (3, 1),
        "flat": (6,),
    }
    outputs: dict[str, Array] = {name: rng.standard_normal(shape) for name, shape in shapes.items()}
    outputs["ids"] = np.arange(6).reshape(3, 2)
    outputs["none"] = np.array(3, np.float32)
    found = compare(outputs, outputs)
    assert {name for name, one in found.items() if one.top1 is not None} == {"scores", "tokens"}
    assert all((one.kl is None) == (one.top1 is None) for one in found.values())
    assert all(one.equal == 1 for one in found.values())


def test_classes_that_do_not_exclude_each_other_have_no_divergence() -> None:
    """Outputs of sigmoids: taken for logits they would be nearly alike whatever they are."""
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((8, 5)).astype(np.float32)
    one, other = (1 / (1 + np.exp(-each)) for each in (logits, -logits))
    found = compare({"y": one}, {"y": other})["y"]
    assert found.kl is None
    assert found.top1 is not None
    assert compare({"y": logits}, {"y": -logits})["y"].kl is not None


def test_masked_classes_do_not_spoil_the_divergence() -> None:
    a = np.random.default_rng(0).standard_normal((5, 4))
    a[:, 1] = -np.inf
    b = a + np.array([0.1, 0, 0, 0])
    found = compare({"y": a}, {"y": b})["y"]
    p, q = softmax(a[:, [0, 2, 3]]), softmax(b[:, [0, 2, 3]])
    assert found.kl == pytest.approx((p * np.log(p / q)).sum(1).mean())
    assert found.broken == 0
    assert found.relative_error is not None
    assert math.isfinite(found.relative_error)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_broken_model_is_seen(value: float) -> None:
    a = np.random.default_rng(0).standard_normal((5, 4))
    b = a.copy()
    b[2, 1] = value
    found = compare({"y": a}, {"y": b})["y"]
    assert found.broken == 1
    assert found.relative_error == found.max_abs_error == math.inf
    assert found.snr_db == -math.inf
    assert found.kl == math.inf


def test_zeros_have_no_direction() -> None:
    zero, one = np.zeros(4), np.ones(4)
    both = compare({"y": zero}, {"y": zero})["y"]
    assert (both.cosine, both.relative_error) == (1, 0)
    lost = compare({"y": one}, {"y": zero})["y"]
    assert (lost.cosine, lost.relative_error) == (0, 1)
    assert lost.snr_db == pytest.approx(0)
    gained = compare({"y": zero}, {"y": one})["y"]
    assert (gained.cosine, gained.relative_error, gained.snr_db) == (0, math.inf, -math.inf)


def test_large_outputs_are_compared_in_pieces() -> None:
    a = np.random.default_rng(0).standard_normal((3, 700_001)).astype(np.float32)
    b = a * np.float32(1.001)
    found = compare({"y": a}, {"y": b})["y"]
    assert found.count == a.size
    assert found.relative_error == pytest.approx(1e-3, rel=1e-3)
    assert found.top1 == 1


def test_what_cannot_be_compared_says_why() -> None:
    a = np.ones((3, 2))
    found = compare(
        {"boxes": a, "words": np.array(["a"], object), "empty": np.ones((0, 4))},
        {"boxes": a[:2], "words": np.array(["a"], object), "empty": np.ones((0, 4))},
    )
    assert found["boxes"].reason == "its shape is [2, 2] where the reference has [3, 2]"
    assert found["words"].reason == "it holds no numbers"
    assert found["empty"].reason == "it was always empty"
    assert all(one.cosine is None and one.count == 0 for one in found.values())


def test_mismatched_runs_are_refused() -> None:
    a = {"y": np.ones(3)}
    with pytest.raises(OnnxpruneError, match="more batches than the other"):
        compare([a, a], [a])
    with pytest.raises(OnnxpruneError, match="more batches than the other"):
        compare([a], iter([a, a]))
    with pytest.raises(OnnxpruneError, match="differ in name: y, z"):
        compare(a, {"z": np.ones(3)})
    with pytest.raises(OnnxpruneError, match="no outputs"):
        compare([], [])
    with pytest.raises(OnnxpruneError, match="no outputs"):
        Comparison().result()


# Tasks ----------------------------------------------------------------------------------------


@given(
    rows=st.integers(1, 40),
    classes=st.integers(2, 9),
    top=st.integers(1, 9),
    cuts=st.lists(st.integers(0, 100), max_size=4),
    seed=st.integers(0, 1000),
    form=st.sampled_from(["logits", "probabilities", "logarithms"]),
)
def test_metrics_equal_the_written_out_formulas(
    rows: int, classes: int, top: int, cuts: list[int], seed: int, form: str
) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((rows, classes))
    labels = rng.integers(0, classes, rows)
    p = softmax(logits)
    y = {"logits": logits, "probabilities": p, "logarithms": np.log(p)}[form]
    batches = pieces(y, cuts)
    best = np.argsort(-logits, 1)[:, :top]
    assert evaluate(find_metric("accuracy"), batches, labels) == np.mean(best[:, 0] == labels)
    want = np.mean([label in row for label, row in zip(labels, best, strict=True)])
    assert evaluate(find_metric(f"top{top}"), batches, labels) == pytest.approx(want)
    nats = -np.log(p[np.arange(rows), labels]).mean()
    assert evaluate(find_metric("nats"), batches, labels) == pytest.approx(nats, rel=1e-6)
    perplexity = evaluate(find_metric("perplexity"), batches, labels)
    assert perplexity == pytest.approx(math.exp(nats), rel=1e-6)
    target = rng.standard_normal((rows, classes))
    squares = np.mean((y - target) ** 2)
    assert evaluate(find_metric("mse"), batches, target) == pytest.approx(squares)


def test_equal_scores_are_ranked_once() -> None:
    ties = [{"y": np.zeros((4, 4), np.float32)}]
    labels = np.arange(4)
    found = [evaluate(find_metric(f"top{k}"), ties, labels) for k in (1, 2, 3, 4)]
    assert found == [0.25, 0.5, 0.75, 1.0]
    broken = [{"y": np.full((4, 4), np.nan, np.float32)}]
    assert evaluate(find_metric("accuracy"), broken, labels) == 0
    assert evaluate(find_metric("nats"), broken, labels) == math.inf
    assert evaluate(find_metric("perplexity"), broken, labels) == math.inf


def test_tokens_and_pixels_have_labels_of_their_own() -> None:
    rng = np.random.default_rng(0)
    logits = rng.standard_normal((3, 5, 7))
    labels = rng.integers(0, 7, (3, 5))
    p = np.take_along_axis(softmax(logits), labels[..., None], -1)
    found = evaluate(find_metric("nats"), [{"y": logits[:2]}, {"y": logits[2:]}], labels)
    assert found == pytest.approx(-np.log(p).mean())
    maps = [{"y": logits.transpose(0, 2, 1)}]
    assert evaluate(find_metric("nats"), maps, labels) == pytest.approx(found)
    labels[0, :4] = -100
    kept = -np.log(p[..., 0])[labels >= 0].mean()
    assert evaluate(find_metric("nats"), [{"y": logits}], labels) == pytest.approx(kept)
    column = rng.integers(0, 7, (3, 1))
    one = evaluate(find_metric("accuracy"), [{"y": logits[:, 0]}], column)
    assert one == np.mean(logits[:, 0].argmax(1) == column[:, 0])


def test_the_output_is_found_or_asked_for() -> None:
    rng = np.random.default_rng(0)
    batch = {"hidden": rng.standard_normal((4, 6, 8)), "scores": rng.standard_normal((4, 3))}
    labels = batch["scores"].argmax(1)
    assert evaluate(find_metric("accuracy"), [batch], labels) == 1
    batch["features"] = rng.standard_normal((4, 9))
    with pytest.raises(OnnxpruneError, match="several outputs fit") as caught:
        evaluate(find_metric("accuracy"), [batch], labels)
    assert caught.value.hint == "write accuracy@OUTPUT"
    assert evaluate(find_metric("accuracy@scores"), [batch], labels) == 1
    with pytest.raises(OnnxpruneError, match="no output 'score'"):
        evaluate(find_metric("accuracy@score"), [batch], labels)
    with pytest.raises(OnnxpruneError, match=r"no output fits labels of shape \[4\]: 'hidden'"):
        evaluate(find_metric("accuracy@hidden"), [batch], labels)


@pytest.mark.parametrize("metric", ["accuracy", "mse", "nats"])
@pytest.mark.parametrize("count", [0, 3, 5, 9])
def test_labels_must_be_as_many_as_samples(metric: str, count: int) -> None:
    batches = [{"y": np.ones((2, 1 + (metric != "mse")))}] * 2
    with pytest.raises(OnnxpruneError, match=f"number of labels, {count}, is not"):
        evaluate(find_metric(metric), batches, np.zeros(count, np.int64))
    with pytest.raises(OnnxpruneError, match="nothing to measure"):
        evaluate(find_metric(metric), [], np.zeros(0))


def test_unfit_labels_are_refused() -> None:
    batches = [{"y": np.ones((3, 4))}]
    with pytest.raises(OnnxpruneError, match="a label 4, but only 4 classes"):
        evaluate(find_metric("accuracy"), batches, np.array([0, 4, 1]))
    with pytest.raises(OnnxpruneError, match="not class numbers"):
        evaluate(find_metric("accuracy"), batches, np.array([0, 0.5, 1]))
    nearest = {
        "acuracy": ("accuracy",),
        "top": ("top5",),
        "top0": ("top5",),
        "nope": ("help metric",),
    }
    for name, names in nearest.items():
        with pytest.raises(OnnxpruneError, match=f"no metric '{name}'") as caught:
            find_metric(name)
        assert all(known in caught.value.hint for known in names)


def test_users_metrics_see_everything_at_once(tmp_path: Path) -> None:
    scores, labels = np.arange(12.0).reshape(6, 2), np.arange(6)
    batches = [{"y": scores[:4]}, {"y": scores[4:]}]

    def spearman(outputs: dict[str, Array], given: Array) -> float:
        np.testing.assert_array_equal(outputs["y"], scores)
        np.testing.assert_array_equal(given, labels)
        return 0.75

    assert evaluate(find_metric(spearman), batches, labels) == 0.75
    (tmp_path / "score.py").write_text(
        "def best(outputs, labels):\n    return outputs['y'].max() + labels.sum()\nnumber = 3\n"
    )
    metric = find_metric(f"{tmp_path / 'score.py'}:best")
    assert evaluate(metric, batches, labels) == 26
    assert metric.higher_is_better
    with pytest.raises(OnnxpruneError, match="is not a function"):
        find_metric(f"{tmp_path / 'score.py'}:number")
    with pytest.raises(OnnxpruneError, match="defines no 'worst'"):
        find_metric(f"{tmp_path / 'score.py'}:worst")

    def broken(outputs: dict[str, Array], given: Array) -> float:
        raise KeyError("no such thing")

    with pytest.raises(OnnxpruneError, match="metric broken failed: KeyError"):
        evaluate(find_metric(broken), batches, labels)
    ragged = [{"y": np.ones((2, 3))}, {"y": np.ones((4, 5))}]
    with pytest.raises(OnnxpruneError, match="shapes differ from batch to batch"):
        evaluate(find_metric(spearman), ragged, labels)


# Labels ---------------------------------------------------------------------------------------


def test_labels_are_read_from_every_kind_of_file(tmp_path: Path) -> None:
    want = np.array([3, 1, 4, 1, 5])
    np.save(tmp_path / "a.npy", want)
    np.savez(tmp_path / "b.npz", x=np.ones((5, 2)), y=want)
    np.savez(tmp_path / "c.npz", anything=want)
    (tmp_path / "d.txt").write_text("3\n1\n4\n1\n5\n")
    (tmp_path / "e.csv").write_text("file,label,weight\n" + "".join(f"a,{y},9\n" for y in want))
    (tmp_path / "f.csv").write_text("".join(f"a.png,{y}\n" for y in want))
    (tmp_path / "g.csv").write_text("file,class\n" + "".join(f"a.png,{y}\n" for y in want))
    for path in sorted(tmp_path.iterdir()):
        found = open_labels(path)
        assert found.dtype.kind == "i"
        np.testing.assert_array_equal(found, want)
        np.testing.assert_array_equal(open_labels(str(path), np.array([0, 4])), [3, 5])
    np.testing.assert_array_equal(open_labels([3, 1, 4, 1, 5]), want)
    (tmp_path / "h.txt").write_text("0.5 1\n")
    np.testing.assert_array_equal(open_labels(tmp_path / "h.txt"), [0.5, 1])


def test_unreadable_labels_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", u=np.ones(2), v=np.ones(2))
    np.save(tmp_path / "b.npy", np.array(["cat", "dog"]))
    (tmp_path / "c.txt").write_text("cat\n")
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "e.txt").write_text("nan\n")
    (tmp_path / "f.csv").write_text("a,label\nx,1\ny\n")
    (tmp_path / "g.bin").write_text("")
    (tmp_path / "h.npy").write_bytes(b"no array")
    cases = {
        "a.npz": "no labels among u, v",
        "b.npy": "not numbers",
        "c.txt": "cannot be read as labels",
        "d.txt": "holds no labels",
        "e.txt": "NaN",
        "f.csv": "rows without a label",
        "g.bin": "not a label file",
        "h.npy": "is not an .npy file of numbers",
        "none.npy": "no file",
    }
    for name, match in cases.items():
        with pytest.raises(OnnxpruneError, match=match):
            open_labels(tmp_path / name)
    with pytest.raises(OnnxpruneError, match="holds 3 labels, but sample 3 is used"):
        open_labels([0, 1, 2], np.array([0, 3]))


def test_a_real_language_model_scores_as_published(shared: Path) -> None:
    tokens = np.load(shared / "data" / "tinystories_tok512.npz")["test_ids"].astype(np.int64)
    session = open_session(shared / "models" / "stories260k_llama_legacy.onnx", threads=1)
    calibration = open_calibration(tokens[:, :256], session.inputs, samples=20, batch=5)
    labels = open_labels(tokens[:, 1:], calibration.indices)
    outputs = [session.run(feeds) for feeds in calibration]
    nats = evaluate(find_metric("nats"), outputs, labels)
    assert nats == pytest.approx(1.754, abs=0.1)  # on all 100 texts
    same = compare(outputs, [session.run(feeds) for feeds in calibration])
    assert all(one.top1 == 1 for one in same.values())


def test_sequences_and_maps_are_compared_by_what_is_in_them() -> None:
    rows = [{"cat": 0.25, "dog": 0.75}, {"dog": 0.5, "cat": 0.5}]
    np.testing.assert_array_equal(stacked(rows), [[0.25, 0.75], [0.5, 0.5]])
    assert stacked([np.zeros((2, 3)), np.zeros((1, 3))]).shape == (9,)
    assert stacked([]).size == stacked(None).size == 0
    same = compare({"y": rows}, {"y": [dict(reversed(row.items())) for row in rows]})["y"]
    assert (same.equal, same.top1) == (1.0, 1.0)
    other = compare({"y": rows}, {"y": rows[:1]})["y"]
    assert "shape" in other.reason
