"""What the trained graphs do, on real data: calibration inputs and a score.

The data files are described in INDEX.md beside them; scores reproduce the ones measured there.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Run = Callable[[dict[str, Array]], list[Array]]


@dataclass(frozen=True)
class Task:
    """A score in `unit` and unlabelled calibration inputs, both read from the data folder.

    `score(run, folder, batch)` feeds `run` with batches of at most `batch`;
    `calibration(folder, count, batch)` yields `count` batches (fewer where data run out).
    """

    unit: str
    higher_is_better: bool
    score: Callable[[Run, Path, int], float]
    calibration: Callable[[Path, int, int], Iterator[dict[str, Array]]]


def task_of(stem: str) -> Task | None:
    """The task of a graph, by the beginning of its file name; None where there is none."""
    return next((task for prefix, task in _TASKS if stem.startswith(prefix)), None)


def _pictures(
    name: str,
    test: Callable[[Path], tuple[Array, Array]],
    calibration: Callable[[Path], Array],
    prepare: Callable[[Array], Array],
) -> Task:
    """Top-1 accuracy of a classifier; `test` and `calibration` give uint8 [n, c, h, w]."""

    def score(run: Run, folder: Path, batch: int) -> float:
        x, y = test(folder)
        hits = 0
        for i in range(0, len(x), batch):
            logits = run({name: prepare(x[i : i + batch])})[0].reshape(len(x[i : i + batch]), -1)
            hits += int((logits.argmax(1) == y[i : i + batch]).sum())
        return 100.0 * hits / len(x)

    def batches(folder: Path, count: int, batch: int) -> Iterator[dict[str, Array]]:
        x = calibration(folder)[: count * batch]
        for i in range(0, len(x), batch):
            yield {name: prepare(x[i : i + batch])}

    return Task("top-1 %", higher_is_better=True, score=score, calibration=batches)


def _standardise(mean: object, std: object) -> Callable[[Array], Array]:
    m, s = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (mean, std))
    return lambda x: ((x.astype(np.float32) / 255 - m) / s).astype(np.float32)


def _cifar(name: str, prepare: Callable[[Array], Array]) -> Task:
    def test(folder: Path) -> tuple[Array, Array]:
        with np.load(folder / "cifar10_test.npz") as z:
            return z["x"], z["y"]

    def calibration(folder: Path) -> Array:
        with np.load(folder / "cifar10_calib.npz") as z:
            x: Array = z["x"]
        return x

    return _pictures(name, test, calibration, prepare)


def _mnist(name: str, prepare: Callable[[Array], Array]) -> Task:
    def test(folder: Path) -> tuple[Array, Array]:
        with np.load(folder / "mnist_test3000.npz") as z:
            return z["x"][:1000], z["y"][:1000]

    def calibration(folder: Path) -> Array:
        with np.load(folder / "mnist_test3000.npz") as z:
            x: Array = z["calib_x"]
        return x

    return _pictures(name, test, calibration, prepare)


def imagenet(name: str, *, scored: int = 0) -> Task:
    """The sample pictures: even ones (odd ones with `scored=1`) are scored, others calibrate."""

    def decoded(folder: Path, first: int) -> tuple[Array, Array]:
        from PIL import Image

        with np.load(folder / "imagenet_sample1000_224_jpeg.npz") as z:
            packed, offsets, labels = z["jpeg"], z["offsets"], z["y"]
        pictures = [
            np.asarray(Image.open(io.BytesIO(packed[offsets[i] : offsets[i + 1]].tobytes())))
            for i in range(first, len(labels), 2)
        ]
        return np.stack(pictures).transpose(0, 3, 1, 2), labels[first::2]

    return _pictures(
        name,
        lambda folder: decoded(folder, scored),
        lambda folder: decoded(folder, 1 - scored)[0],
        lambda x: (x / 127.5 - 1).astype(np.float32),
    )


def sentiment(run: Run, folder: Path, batch: int) -> float:
    """The second task of the sentence encoder: accuracy on the SST-2 test sentences, in percent."""
    with np.load(folder / "minilm_stsb_sst2_tokens.npz") as z:
        ids, lengths, y = z["sst2_test_ids"], z["sst2_test_len"], z["sst2_test_y"]
    order, hits = np.argsort(lengths, kind="stable"), 0
    for i in range(0, len(ids), batch):
        rows = order[i : i + batch]
        logits = run(_padded(ids, lengths, rows))[1]
        hits += int((logits.argmax(1) == y[rows]).sum())
    return 100.0 * hits / len(ids)


def _padded(ids: Array, lengths: Array, rows: Array) -> dict[str, Array]:
    """A batch of sentences as the encoder takes them."""
    longest = int(lengths[rows].max())
    mask = np.arange(longest) < lengths[rows, None]
    return {
        "input_ids": np.where(mask, ids[rows, :longest], 0).astype(np.int64),
        "attention_mask": mask.astype(np.int64),
    }


def _sentences() -> Task:
    """Spearman correlation on STS-B test (the SST-2 head is fed the same encoder)."""

    def embed(run: Run, ids: Array, lengths: Array, batch: int) -> Array:
        order = np.argsort(lengths, kind="stable")
        rows = [
            run(_padded(ids, lengths, order[i : i + batch]))[0] for i in range(0, len(order), batch)
        ]
        result = np.empty((len(order), rows[0].shape[1]), np.float32)
        result[order] = np.concatenate(rows)
        return result

    def score(run: Run, folder: Path, batch: int) -> float:
        from scipy.stats import spearmanr

        with np.load(folder / "minilm_stsb_sst2_tokens.npz") as z:
            a = embed(run, z["stsb_a_ids"], z["stsb_a_len"], batch)
            b = embed(run, z["stsb_b_ids"], z["stsb_b_len"], batch)
            truth = z["stsb_score"]
        cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        return 100.0 * float(spearmanr(cosine, truth).statistic)

    def calibration(folder: Path, count: int, batch: int) -> Iterator[dict[str, Array]]:
        with np.load(folder / "minilm_stsb_sst2_tokens.npz") as z:
            ids, lengths = z["calib_ids"], z["calib_len"]
        for i in range(0, min(len(ids), count * batch), batch):
            yield _padded(ids, lengths, np.arange(i, min(i + batch, len(ids))))

    return Task("STS-B Spearman", higher_is_better=True, score=score, calibration=calibration)


def _stories() -> Task:
    """Mean next-token loss in nats over 100 stories of 256 predictions."""

    def score(run: Run, folder: Path, batch: int) -> float:
        with np.load(folder / "tinystories_tok512.npz") as z:
            ids: Array = z["test_ids"].astype(np.int64)
        total = 0.0
        for i in range(0, len(ids), batch):
            rows = ids[i : i + batch]
            logits = run({"input_ids": rows[:, :-1]})[0].astype(np.float64)
            logits -= logits.max(-1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
            total -= float(np.take_along_axis(logits, rows[:, 1:, None], -1).sum())
        return total / float(len(ids) * (ids.shape[1] - 1))

    def calibration(folder: Path, count: int, batch: int) -> Iterator[dict[str, Array]]:
        with np.load(folder / "tinystories_tok512.npz") as z:
            ids = z["calib_ids"].astype(np.int64)[:, :-1]
        for i in range(0, min(len(ids), count * batch), batch):
            yield {"input_ids": ids[i : i + batch]}

    return Task("nats", higher_is_better=False, score=score, calibration=calibration)


_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_CIFAR_MEAN, _CIFAR_STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
_TASKS: tuple[tuple[str, Task], ...] = (
    (
        "resnet20_cifar10_optA",
        _cifar("input", _standardise(_IMAGENET_MEAN, (0.229, 0.224, 0.225))),
    ),
    ("resnet20_cifar10_proj", _cifar("input", _standardise(_CIFAR_MEAN, _CIFAR_STD))),
    ("shufflenetv2_x0_5_cifar10", _cifar("input", _standardise(_CIFAR_MEAN, _CIFAR_STD))),
    ("resnet8_cifar10_mlperftiny", _cifar("input", lambda x: x.astype(np.float32))),
    ("mobilenetv1_0.75_imagenet", imagenet("input")),
    ("minilm_l6_sts_sst2", _sentences()),
    ("stories260k_llama", _stories()),
    ("cntk_mnist", _mnist("Input3", lambda x: x.astype(np.float32))),
    ("wonnx_opt_mnist", _mnist("Input3", lambda x: x.astype(np.float32))),
    ("vnn_cifar10_resnet_2b", _cifar("input.1", _standardise(_IMAGENET_MEAN, 0.225))),
    ("vnn_oval_cifar_deep_kw", _cifar("input.1", _standardise(_IMAGENET_MEAN, 0.225))),
    (
        "vnn_marabou_cifar10_large",
        _cifar("x:0", lambda x: (x.transpose(0, 2, 3, 1) / 255).astype(np.float32)),
    ),
    ("vnn_eran_ffnn_sigmoid", _mnist("input", _standardise(0.1307, 0.3081))),
    ("vnn_verivital_convnet_maxpool", _mnist("input", _standardise(0.0, 1.0))),
)
