"""Measuring models: alone, against a dense model, with every form of labels."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import onnxprune
from onnxprune import model as models
from onnxprune.cli import main
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.runtime.engines.precision import convert

Array = npt.NDArray[Any]


@pytest.fixture(scope="module")
def entry() -> zoo.Entry:
    return zoo.get("digits_mlp")


@pytest.fixture(scope="module")
def small(entry: zoo.Entry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    result = onnxprune.prune(entry.model, ratio=0.25, calib=entry.calibration, calib_samples=200)
    return result.save(tmp_path_factory.mktemp("eval") / "small.onnx")


@pytest.fixture(scope="module")
def shuffled(entry: zoo.Entry, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A destroyed model: the weights of every layer in another order."""
    model, rng = onnx.load(entry.model), np.random.default_rng(0)
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor).copy()
        if array.ndim > 1:
            rng.shuffle(array.reshape(-1))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    path = tmp_path_factory.mktemp("eval") / "shuffled.onnx"
    onnx.save(model, path)
    return path


def test_a_model_alone_has_a_metric_and_its_error(entry: zoo.Entry) -> None:
    result = onnxprune.eval(entry.model, data=entry.evaluation, labels=entry.evaluation)
    assert result.value == pytest.approx(entry.measured, abs=1e-4)
    assert result.error is not None
    count = result.evaluation.samples
    spread = (entry.measured * (1 - entry.measured) / count) ** 0.5
    assert result.error == pytest.approx(spread, rel=0.2)
    assert result.quality.status == "not measured"
    assert result.ok
    some = onnxprune.eval(entry.model, data=entry.evaluation, labels=entry.evaluation, samples=100)
    assert some.evaluation.samples == 100
    assert some.error is not None
    assert some.error > result.error


def test_both_verdicts_against_the_dense_model(entry: zoo.Entry, small: Path) -> None:
    data = entry.evaluation
    result = onnxprune.eval(small, entry.model, data=data, labels=data)
    assert result.structure.status == "verified"
    assert result.quality.status == "good"
    assert result.evaluation.before == pytest.approx(entry.measured, abs=1e-4)
    unlabelled = onnxprune.eval(small, entry.model, data=data)
    assert unlabelled.value is None
    assert unlabelled.quality.measure == "agreement"
    same = onnxprune.eval(entry.model, entry.model, data=data)
    assert same.structure.status == "nothing cut"
    assert same.quality.status == "good"


@pytest.mark.parametrize("metric", ["accuracy", "top3", "nats", "perplexity", "f1-macro"])
def test_a_destroyed_model_is_broken(entry: zoo.Entry, shuffled: Path, metric: str) -> None:
    data = entry.evaluation
    result = onnxprune.eval(shuffled, entry.model, data=data, labels=data, metric=metric)
    assert result.quality.status == "broken"
    assert not result.ok


def test_chance_is_seen_without_a_dense_model(entry: zoo.Entry, shuffled: Path) -> None:
    result = onnxprune.eval(shuffled, data=entry.evaluation, labels=entry.evaluation)
    assert result.quality.status == "broken"
    assert "chance" in result.quality.reasons[0]


def retyped(path: Path, kind: int) -> onnx.ModelProto:
    """The same network computing in another floating type."""
    model, dtype = onnx.load(path), helper.tensor_dtype_to_np_dtype(kind)
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            array = numpy_helper.to_array(tensor).astype(dtype)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for value in [*model.graph.input, *model.graph.output, *model.graph.value_info]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.DOUBLE])
@pytest.mark.parametrize("twin_is_dense", [False, True])
def test_a_twin_in_another_float_type_is_fed_its_own(
    entry: zoo.Entry, kind: int, twin_is_dense: bool
) -> None:
    pair = [retyped(entry.model, kind), entry.model]
    model, dense = pair[::-1] if twin_is_dense else pair
    data = entry.evaluation
    result = onnxprune.eval(model, dense, data=data, labels=data, samples=300)
    assert result.quality.status == "good"
    assert result.evaluation.main.top1 == pytest.approx(1, abs=0.01)
    assert abs(result.evaluation.drop) < 0.01
    assert result.structure.status == "nothing cut"
    assert result.structure.reasons[0].startswith("its weights are float")


def test_a_pruned_model_that_computes_in_half_has_its_structure(
    entry: zoo.Entry, small: Path
) -> None:
    """With inputs and outputs in float32 behind a Cast, as converters leave them."""
    data = entry.evaluation
    half = convert(models.load(small), "fp16")
    result = onnxprune.eval(half, entry.model, data=data, samples=100)
    assert result.structure.status == "verified"
    assert "144 of 576 units are removed (25 %)" in result.structure.reasons
    assert "its weights are float16" in result.structure.reasons


def test_a_certificate_says_what_was_removed(entry: zoo.Entry, tmp_path: Path) -> None:
    """Where a narrow layer resembles its dense one too little to tell by comparing."""
    encoder = zoo.get("digits_encoder")
    small = onnxprune.prune(
        encoder.model, ratio=0.5, calib=encoder.calibration, calib_samples=64
    ).save(tmp_path / "small.onnx", force=True)
    structure = onnxprune.eval(small, encoder.model, data=encoder.evaluation).structure
    assert structure is not None
    assert structure.status == "verified"
    assert any("units are removed" in reason for reason in structure.reasons)
    integers = onnxprune.quantize(entry.model, calib=entry.calibration, calib_samples=64)
    path = integers.save(tmp_path / "int8.onnx")
    structure = onnxprune.eval(path, entry.model, data=entry.evaluation).structure
    assert structure is not None
    assert (structure.status, structure.reasons) == ("verified", ("its weights are int8",))


@pytest.mark.parametrize("against", [True, False])
def test_the_page_shows_both_models_verdicts_and_classes(
    entry: zoo.Entry, small: Path, against: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    page, again = tmp_path / "page.html", tmp_path / "again.html"
    words = ["eval", str(small), "--data", str(entry.evaluation), "--labels", str(entry.evaluation)]
    words += ["--against", str(entry.model)] * against + ["--json", "--report", str(page)]
    assert main(words) == 0
    (tmp_path / "eval.json").write_text(capfd.readouterr().out)
    text = page.read_text(encoding="utf-8")
    said = ["small.onnx", "Quality: ", "10 classes by label", "class 9", "onnxprune eval"]
    said += ["digits_mlp.onnx", "Structure: verified", '<th scope="col" class="n">dense<'] * against
    assert [each for each in said if each not in text] == []
    assert "original" not in text[text.index("<article") : text.index("</article>")]
    assert main(["report", str(tmp_path / "eval.json"), "-o", str(again)]) == 0
    assert again.read_text(encoding="utf-8") == text


def test_the_page_is_no_other_file_of_the_run(
    entry: zoo.Entry, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(entry.model), "--data", str(entry.evaluation)]
    assert main([*words, "--labels", str(entry.evaluation), "--report", "page.pdf"]) == 2
    assert "does not end in .html" in capsys.readouterr().err


def test_another_model_has_no_structure_in_common(entry: zoo.Entry) -> None:
    other = zoo.get("digits_rescnn")
    data = entry.evaluation
    result = onnxprune.eval(other.model, entry.model, data=data, labels=data)
    assert result.structure.status == "not checked"
    assert result.structure.reasons


def test_exit_codes_follow_the_verdicts(
    entry: zoo.Entry, small: Path, shuffled: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(entry.evaluation), "--labels", str(entry.evaluation)]
    against = ["--against", str(entry.model)]
    assert main(["eval", str(entry.model), *data]) == 0
    assert "accuracy 9" in capsys.readouterr().out
    assert main(["eval", str(small), *against, *data, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == "onnxprune.eval"
    assert document["ok"]
    assert document["metric"]["change_error"] > 0
    assert document["structure"]["status"] == "verified"
    assert main(["eval", str(small), *against, *data, "--max-drop", "0.01%"]) == 1
    assert "the loss is" in capsys.readouterr().err
    assert main(["eval", str(shuffled), *against, *data]) == 1
    assert "the model is broken" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ([], "nothing to compare the outputs with"),
        (["--labels", "{data}"], "nothing to measure the model on"),
        (["--data", "nope.npz", "--labels", "{data}"], "--data: there is no evaluation data"),
        (["--data", "random", "--labels", "{data}"], "random inputs cannot judge"),
        (["--data", "{data}", "--labels", "nope.npy"], "--labels: there is no file"),
        (["--data", "{data}", "--labels", "{data}", "--metric", "map"], "--labels: the boxes"),
        (["--data", "{data}", "--labels", "{data}", "--metric", "mop"], "there is no metric"),
        (
            ["--data", "{data}", "--labels", "{data}", "--detector", "yolo"],
            "--detector yolo is not",
        ),
        (["--data", "{data}", "--labels", "{data}", "--blank", "x"], "--blank x"),
    ],
)
def test_wrong_input_is_one_error(
    entry: zoo.Entry, arguments: list[str], problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [word.format(data=entry.evaluation) for word in arguments]
    if not words:
        words = ["--data", str(entry.evaluation)]
    assert main(["eval", str(entry.model), *words]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert problem in err
    assert err.count("error:") == err.count("hint:") == 1


# --- built graphs ----------------------------------------------------------------------------


def test_pairs_of_samples_are_ranked(tmp_path: Path) -> None:
    from scipy.stats import spearmanr

    weight = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["embedding"])],
        "embed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 6])],
        [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    rng = np.random.default_rng(1)
    x, labels = rng.normal(size=(80, 6)).astype(np.float32), rng.random(40)
    result = onnxprune.eval(model, data=x, labels=labels, metric="spearman-pairs", batch=7)
    rows = x @ weight
    a, b = rows[::2], rows[1::2]
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert result.value == pytest.approx(spearmanr(cosine, labels).statistic, abs=1e-6)
    half = onnxprune.eval(model, data=x, labels=labels, metric="spearman-pairs", samples=40)
    assert half.evaluation.samples == 40


def reader(vocabulary: int) -> onnx.ModelProto:
    """A model whose CTC scores ``[steps, batch, classes]`` are its inputs, steps first."""
    graph = helper.make_graph(
        [helper.make_node("Transpose", ["x"], ["scores"], perm=[1, 0, 2])],
        "read",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 9, vocabulary])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [9, "batch", vocabulary])],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_texts_are_read_from_files(tmp_path: Path) -> None:
    texts, tokens = ["ab ba", "b"], " ab"
    paths = np.zeros((2, 9), int)
    paths[0, :7] = [2, 2, 3, 0, 1, 3, 2]
    paths[1, :3] = [3, 0, 3]
    np.savez(tmp_path / "x.npz", x=np.eye(4, dtype=np.float32)[paths])
    (tmp_path / "texts.txt").write_text("\n".join(texts))
    (tmp_path / "vocabulary.txt").write_text("\n".join(tokens))
    rates = {"cer": 1 / 6, "wer": 1 / 3}
    for metric, rate in rates.items():
        result = onnxprune.eval(
            reader(4),
            data=tmp_path / "x.npz",
            labels=tmp_path / "texts.txt",
            vocabulary=tmp_path / "vocabulary.txt",
            metric=metric,
        )
        assert result.value == pytest.approx(rate)


def detector(path: Path) -> Path:
    """A YOLOv8-like detector of bright squares on black: one class, three grids of fixed boxes.

    The score of an anchor is the brightness of its cell of 8, 16 or 32 pixels, if all of it is
    bright; boxes are the cells.
    """
    size, nodes, scores, boxes = 64, [], [], []
    for stride in (8, 16, 32):
        nodes += [
            helper.make_node("AveragePool", ["x"], [f"p{stride}"], kernel_shape=[stride] * 2,
                             strides=[stride] * 2),
            helper.make_node("ReduceMean", [f"p{stride}"], [f"m{stride}"], axes=[1], keepdims=1),
            helper.make_node("Reshape", [f"m{stride}", "flat"], [f"s{stride}"]),
        ]  # fmt: skip
        cells = size // stride
        ys, xs = np.mgrid[:cells, :cells]
        centres = (np.stack([xs.ravel(), ys.ravel()]) + 0.5) * stride
        boxes.append(np.concatenate([centres, np.full((2, cells * cells), stride)]))
        scores.append(f"s{stride}")
    fixed = np.concatenate(boxes, 1)[None].astype(np.float32)
    nodes += [
        helper.make_node("Concat", scores, ["scores"], axis=2),
        helper.make_node("Mul", ["scores", "zero"], ["nothing"]),
        helper.make_node("Add", ["nothing", "boxes"], ["placed"]),
        helper.make_node("Concat", ["placed", "scores"], ["output0"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "detect",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, size, size])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, ["batch", 5, 84])],
        [
            numpy_helper.from_array(np.array([0, 1, -1]), "flat"),
            numpy_helper.from_array(np.zeros(1, np.float32), "zero"),
            numpy_helper.from_array(fixed, "boxes"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path)
    return path


def test_a_detector_is_measured_on_pictures(tmp_path: Path) -> None:
    """Pictures of twice the size, letterboxed; boxes in pixels of the pictures."""
    folder, labels = tmp_path / "pictures", tmp_path / "labels"
    folder.mkdir()
    labels.mkdir()
    rng, images, annotations = np.random.default_rng(0), [], []
    for number in range(6):
        pixels = np.zeros((64, 128, 3), np.uint8)
        lines = []
        for cell in rng.permutation(8)[: rng.integers(0, 4)]:
            x, y = 32 * (cell % 4), 32 * (cell // 4)
            pixels[y : y + 32, x : x + 32] = 255
            lines.append(f"0 {(x + 16) / 128} {(y + 16) / 64} {32 / 128} {32 / 64}")
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": 4,
                    "bbox": [int(x), int(y), 32, 32],
                }
            )
        Image.fromarray(pixels).save(folder / f"{number}.png")
        (labels / f"{number}.txt").write_text("\n".join(lines))
        images.append({"id": number, "file_name": f"{number}.png", "width": 128, "height": 64})
    document = {"images": images, "annotations": annotations, "categories": [{"id": 4}]}
    (tmp_path / "boxes.json").write_text(json.dumps(document))
    model = detector(tmp_path / "detector.onnx")
    settings: dict[str, Any] = {
        "data": folder,
        "preprocess": "letterbox=0,scale=255",
        "metric": "map50",
    }
    for spec in (labels, tmp_path / "boxes.json"):
        result = onnxprune.eval(model, labels=spec, **settings)
        tails = result.evaluation.tails
        assert tails is not None
        # Squares of 32 pixels are small and medium at once, as COCO has it.
        assert [each.name for each in tails.sizes] == ["small", "medium"]
        assert [each.samples for each in tails.classes] == [len(annotations)]
        assert tails.classes[0].after == pytest.approx(result.value)
        assert result.value is not None
        assert result.value > 0.3  # smaller cells inside the squares are false alarms
        named = onnxprune.eval(model, labels=spec, detector="yolov8", **settings)
        assert named.value == result.value
    against = onnxprune.eval(model, model, labels=labels, **settings)
    assert against.evaluation.before == against.value
    assert against.quality.status == "good"
    moved = onnxprune.eval(
        model, labels=labels, data=folder, preprocess="scale=255", metric="map50"
    )
    assert moved.value != result.value


def test_boxes_without_objects_do_not_break_a_detector(tmp_path: Path) -> None:
    """What a detector computes where it finds nothing may change as it likes."""
    rng, count = np.random.default_rng(0), 60
    cells, x = rng.integers(0, 8, (count, 2)), np.zeros((count, 3, 64, 64), np.float32)
    boxes = np.zeros((count, 1, 5))
    for picture, box, (column, row) in zip(x, boxes, cells, strict=True):
        picture[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 1
        box[0, :4] = 8 * column, 8 * row, 8 * column + 8, 8 * row + 8
    dense = onnx.load(detector(tmp_path / "dense.onnx"))
    nodes = dense.graph.node
    place = next(k for k, node in enumerate(nodes) if node.output[0] == "placed")
    other = onnx.ModelProto.FromString(dense.SerializeToString())
    moved = [  # boxes of empty places move by their brightness of nothing
        helper.make_node("Less", ["scores", "half"], ["empty"]),
        helper.make_node("Cast", ["empty"], ["shift"], to=TensorProto.FLOAT),
        helper.make_node("RandomNormalLike", ["boxes"], ["noise"], seed=1.0, scale=20.0),
        helper.make_node("Mul", ["shift", "noise"], ["moved"]),
        helper.make_node("Add", ["nothing", "boxes"], ["kept"]),
        helper.make_node("Add", ["kept", "moved"], ["placed"]),
    ]
    other.graph.node.pop(place)
    for offset, node in enumerate(moved):
        other.graph.node.insert(place + offset, node)
    other.graph.initializer.append(numpy_helper.from_array(np.array([0.5], np.float32), "half"))
    result = onnxprune.eval(other, dense, data=x, labels=boxes, metric="map50")
    assert result.value == result.evaluation.before == 1.0
    assert not result.quality.broken
    assert onnxprune.eval(other, dense, data=x).quality.broken


def test_the_command_runs_as_documented(entry: zoo.Entry) -> None:
    command = [sys.executable, "-m", "onnxprune", "eval", str(entry.model)]
    data = ["--data", str(entry.evaluation), "--labels", str(entry.evaluation)]
    done = subprocess.run([*command, *data], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("Quality: not measured")


def test_neither_labels_nor_a_dense_model_is_refused(entry: zoo.Entry) -> None:
    with pytest.raises(OnnxpruneError, match="nothing to compare the outputs with"):
        onnxprune.eval(entry.model, data=entry.evaluation)


def test_models_with_other_outputs_are_refused_by_name() -> None:
    entry = zoo.get("digits_mlp")
    other = onnx.load(entry.model)
    for node in other.graph.node:
        node.output[:] = ["renamed" if name == zoo.OUTPUT else name for name in node.output]
    other.graph.output[0].name = "renamed"
    with pytest.raises(OnnxpruneError, match="outputs of the models differ: renamed"):
        onnxprune.eval(other, against=entry.model, data=entry.evaluation)


@pytest.mark.parametrize("against", [False, True])
def test_the_page_and_the_notebook_show_what_was_measured(against: bool, tmp_path: Path) -> None:
    entry = zoo.get("digits_mlp")
    small = onnxprune.prune(entry.model, ratio=0.3).save(tmp_path / "small.onnx")
    data = entry.evaluation
    result = onnxprune.eval(
        small, entry.model if against else None, data=data, labels=data, samples=200
    )
    shown = " ".join(re.sub(r"<[^>]*>", " ", result._repr_html_()).split())
    page = result.report(tmp_path / "page.html")
    text = " ".join(re.sub(r"<[^>]*>", " ", page.read_text()).split())
    for words in (shown, text):
        assert "small.onnx" in words
        assert f"Quality: {result.quality.status}" in words or "Quality" in words
        assert "accuracy" in words
        assert ("Structure" in words) == against or words is text
    with pytest.raises(OnnxpruneError, match=r"page\.onnx"):
        result.report(tmp_path / "page.onnx")
    memory = onnxprune.eval(models.load(small).ir, data=data, labels=data, samples=64)
    assert "the model passed in" in memory._repr_html_()
