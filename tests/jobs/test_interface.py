"""Runs that keep some ids or classes only: prune, apply, verify, eval, recover, bench."""

import json
import string
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

import onnxprune
from interface_cases import CASES, FLOAT, embed, feeds, finish
from models.skeletons.net import INT64, Net
from onnxprune import Interface, apply, prune, recover, verify
from onnxprune.config import from_flags
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.interface import AxisMap
from onnxprune.graph.plan import load_plan, save_plan
from onnxprune.graph.surgery import interface_of
from onnxprune.jobs.recipe import as_mapping
from onnxprune.jobs.result import Result
from onnxprune.jobs.results.gather import inspection
from onnxprune.jobs.results.schema import to_json

Text = tuple[onnx.ModelProto, dict[str, np.ndarray]]
Files = tuple[Path, dict[str, np.ndarray], Result]


def run(model: Any, inputs: Any) -> dict[str, Any]:
    proto = model if isinstance(model, onnx.ModelProto) else model.to_proto()
    session = ort.InferenceSession(proto.SerializeToString())
    names = {value.name for value in session.get_inputs()}
    outputs = session.run(None, {k: v for k, v in inputs.items() if k in names})
    return dict(zip([value.name for value in session.get_outputs()], outputs, strict=True))


def same_as_kept(result: Result, model: Any, inputs: Any) -> bool:
    """Whether a result gives what remains of the original's outputs, its ids renumbered."""
    interface = result.interface
    inputs = interface.project(inputs)
    expected = interface.cut_outputs(run(model, inputs))
    actual = run(result.model, interface.cut_inputs(inputs))
    actual = Interface((), tuple(a for a in interface.outputs if a.inside)).cut_outputs(actual)
    return all(np.allclose(actual[name], expected[name], atol=1e-5) for name in expected)


def encoder() -> onnx.ModelProto:
    """A sentence encoder with a hidden layer."""
    net = Net(3)
    x = embed(net, net.input("ids", ("batch", "length"), width=0, dtype=INT64))
    x = net.dense(net.node("Relu", net.dense(x, 32), width=32), 8)
    y = net.node("ReduceMean", x, axes=[1], keepdims=0)
    return finish(net, {"y": (y, ("batch", 8), FLOAT)})


@pytest.fixture
def text() -> Text:
    case = CASES["tied"]()
    ids = np.random.default_rng(0).integers(0, 40, (24, 7))
    return case.model, {"ids": ids.astype(np.int64)}


@pytest.fixture
def files(text: Text, tmp_path: Path) -> Files:
    model, data = text
    onnx.save(model, tmp_path / "dense.onnx")
    result = prune(tmp_path / "dense.onnx", vocab="calib", calib=data, calib_samples=24)
    result.save(tmp_path / "small.onnx")
    return tmp_path, data, result


# --- ids -------------------------------------------------------------------------------------


@pytest.mark.parametrize("head", ["tied", "untied"])
@pytest.mark.parametrize("keep_ids", [False, True])
def test_a_smaller_vocabulary_is_exact_for_what_is_kept(head: str, keep_ids: bool) -> None:
    case = CASES[head]()
    options = {"keep_ids": True, "unknown": 3} if keep_ids else {}
    result = prune(case.model, vocab=range(40), **options)
    assert result.ok
    assert result.structure.status == "verified"
    assert same_as_kept(result, case.model, feeds(case))
    assert result.remaining.params < result.dense.params
    sizes = {a.axis: (a.size, len(a.kept), a.inside) for a in result.interface.outputs}
    assert sizes == {2: (70, 40, keep_ids)}


def test_a_model_that_keeps_ids_takes_and_gives_the_old_ones() -> None:
    case = CASES["tied"]()
    result = prune(case.model, vocab=range(40), keep_ids=True, unknown=3)
    inputs = feeds(case)
    name = next(v.name for v in case.model.graph.output)
    logits = run(result.model, inputs)[name]
    assert logits.shape == run(case.model, inputs)[name].shape
    assert (logits[..., 40:] == np.finfo(np.float32).min).all()
    unknown = {k: np.where(v < 40, v, 3) for k, v in inputs.items()}
    assert np.allclose(logits, run(result.model, unknown)[name])


def test_calibration_decides_which_ids_stay(text: Text) -> None:
    model, data = text
    result = prune(model, vocab="calib", calib=data)
    assert result.interface.inputs[0].kept == tuple(np.unique(data["ids"]))
    few = prune(model, vocab="ids=top=5", calib=data)
    counts = np.bincount(data["ids"].ravel(), minlength=70)
    assert few.interface.inputs[0].kept == tuple(sorted(np.argsort(-counts, kind="stable")[:5]))
    assert any("lose an id" in note for note in few.notes)
    assert not any("lose an id" in note for note in result.notes)


def test_lost_ids_count_in_the_verdict(text: Text) -> None:
    model, data = text
    whole = prune(model, vocab="calib", calib=data)
    few = prune(model, vocab="top=5", calib=data, unknown=0)
    assert whole.evaluation.main.relative_error == pytest.approx(0, abs=1e-5)
    assert few.evaluation.main.relative_error > 0.01


def test_more_is_removed_from_what_remains(text: Text) -> None:
    result = prune(encoder(), vocab="calib", calib=text[1], ratio=0.5, recover="none")
    assert result.ok
    assert any(result.plan.removed.values())
    assert {c.name for c in result.checks} >= {"what remains = masked original"}


def test_ids_of_one_sample_alone_show_what_other_texts_lose() -> None:
    ids = np.tile(np.arange(8), (20, 1))
    ids[3, 2], ids[5, 2], ids[6, :2], ids[7:9, 4] = 30, 31, (32, 33), 34
    result = prune(encoder(), vocab="calib", calib={"ids": ids})
    assert any("3 of 20 samples (15 %) hold an id that no other has" in n for n in result.notes)
    ids[3:7] = ids[0]
    result = prune(encoder(), vocab="calib", calib={"ids": ids})
    assert not any("no other has" in note for note in result.notes)


def test_ids_are_counted_in_all_calibration_samples() -> None:
    ids = np.arange(60)[:, None] + np.zeros((60, 4), np.int64)
    result = prune(encoder(), vocab="calib", calib={"ids": ids}, calib_samples=10)
    assert len(result.interface.inputs[0].kept) == 60


# --- classes ---------------------------------------------------------------------------------


def test_a_target_is_a_share_of_the_original() -> None:
    entry = zoo.get("digits_mlp")
    result = prune(entry.model, keep_outputs=[0, 2, 7], target="params=50%")
    assert result.ok
    assert result.remaining.params <= 0.5 * result.dense.params
    assert result.dense.params == prune(entry.model, ratio=0.25).dense.params


def test_labels_of_classes_that_left_do_not_count() -> None:
    entry = zoo.get("digits_mlp")
    result = prune(
        entry.model, keep_outputs="logits=0,2,7", calib=entry.calibration,
        labels=entry.calibration, eval=entry.evaluation, eval_labels=entry.evaluation,
    )  # fmt: skip
    assert result.evaluation.after == result.evaluation.before > 0.9
    assert any("of classes that left" in note for note in result.notes)


def test_labels_of_metadata_name_classes_and_follow(tmp_path: Path) -> None:
    model = onnxprune.load(zoo.get("digits_mlp").model).to_proto()
    names = "zero one two three four five six seven eight nine".split()
    onnx.helper.set_model_props(model, {"names": repr(dict(enumerate(names)))})
    result = prune(model, keep_outputs="two,Seven")
    assert result.interface.outputs[0].kept == (2, 7)
    assert result.model.ir.metadata_props["names"] == "{0: 'two', 1: 'seven'}"
    file = tmp_path / "labels.txt"
    file.write_text("\n".join("abcdefghij"))
    again = prune(model, keep_outputs=f"logits=@{file}:j,a")
    assert again.interface.outputs[0].kept == (0, 9)


def detector(form: str, classes: int = 8) -> onnx.ModelProto:
    """A detector for pictures of 64 x 64 with grids of 8, 16 and 32 pixels."""
    net, rows, boxes = Net(5), [], []
    x = net.input("x", ("batch", 3, 64, 64), width=3)
    x = net.conv_norm(net.conv_norm(x, 8, 3, stride=2), 8, 3, stride=2)
    for _ in range(3):
        x = net.conv_norm(x, 8, 3, stride=2)
        scores = net.node("Sigmoid", net.conv(x, classes + (form == "yolox"), 1))
        if form == "ssd":
            scores = net.conv(x, classes + 1, 1)
        corner = net.node("Softplus", net.conv(x, 4, 1))
        scale = net.node("Mul", corner, net.constant(np.full((1, 4, 1, 1), 9, np.float32)))
        parts = [scores] if form == "ssd" else [scale, scores]
        both = net.node("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
        size = classes + {"yolov8": 4, "yolox": 5, "ssd": 1}[form]
        rows.append(net.node("Reshape", both, net.constant([0, size, -1])))
        boxes.append(net.node("Reshape", scale, net.constant([0, 4, -1])))
    y = net.node("Concat", *rows, axis=2)
    if form == "yolov8":
        return finish(net, {"y": (y, ("batch", 4 + classes, 84), FLOAT)})
    y = net.node("Transpose", y, perm=[0, 2, 1])
    if form == "yolox":
        return finish(net, {"y": (y, ("batch", 84, 5 + classes), FLOAT)})
    ends = net.node("Transpose", net.node("Concat", *boxes, axis=2), perm=[0, 2, 1])
    y = net.node("Softmax", y, axis=2)
    outputs = {"boxes": (ends, ("batch", 84, 4), FLOAT), "y": (y, ("batch", 84, 9), FLOAT)}
    return finish(net, outputs)


@pytest.mark.parametrize(
    ("form", "axis", "kept"),
    [
        ("yolov8", 1, (0, 1, 2, 3, 5, 6, 11)),
        ("yolox", 2, (0, 1, 2, 3, 4, 6, 7, 12)),
        ("ssd", 2, (0, 1, 2, 7)),
    ],
)
def test_classes_of_detectors_are_counted_without_coordinates(
    form: str, axis: int, kept: tuple[int, ...]
) -> None:
    model = detector(form)
    result = prune(model, keep_outputs={"y": [1, 2, 7]}, target="macs=60%", recover="none")
    assert result.ok
    (own,) = result.interface.outputs
    assert (own.value, own.axis, own.kept) == ("y", axis, kept)
    assert result.remaining.macs <= 0.6 * result.dense.macs
    alone = prune(model, keep_outputs={"y": [1, 2, 7]})
    x = {"x": np.random.default_rng(1).random((2, 3, 64, 64), np.float32)}
    expected, actual = run(model, x), run(alone.model, x)
    sliced = np.take(expected["y"], kept, axis)
    if form == "ssd":
        sliced /= sliced.sum(-1, keepdims=True)
        assert any("renormalised" in note for note in alone.notes)
        assert np.allclose(actual["boxes"], expected["boxes"], atol=1e-5)
    assert np.allclose(actual["y"], sliced, atol=1e-5)


def test_the_blank_of_ctc_outputs_stays() -> None:
    model = CASES["characters"]().model
    with pytest.raises(OnnxpruneError, match="blank"):
        prune(model, keep_outputs="1-5", blank=0)
    assert prune(model, keep_outputs="0-5", blank=0).ok


def test_steps_of_a_text_are_no_boxes() -> None:
    net = Net(6)
    x = net.conv_norm(net.input("x", ("batch", 3, 16, 24), width=3), 8, 3, stride=2)
    x = net.node("ReduceMean", x, axes=[2], keepdims=0)
    x = net.dense(net.node("Transpose", x, perm=[0, 2, 1], width=8), 40)
    model = finish(net, {"y": (x, ("batch", 12, 40), FLOAT)})
    onnx.helper.set_model_props(model, {"character": "\n".join(string.printable[:38])})
    result = prune(model, keep_outputs="0-3,39")
    assert result.ok
    assert result.interface.outputs[0].kept == (0, 1, 2, 3, 39)
    assert result.model.ir.metadata_props["character"] == "0\n1\n2"
    with pytest.raises(OnnxpruneError, match="38 labels for 40 classes"):
        prune(model, keep_outputs="a,b")


# --- files -----------------------------------------------------------------------------------


def test_the_map_lies_beside_the_model_and_inside_it(files: Files) -> None:
    folder, _, result = files
    beside = Interface.load(folder / "small.interface.json")
    assert beside == interface_of(onnxprune.load(folder / "small.onnx")) == result.interface
    certificate = json.loads((folder / "small.certificate.json").read_text())
    assert certificate["plan"]["interface"]["inputs"][0]["size"] == 70
    assert result.to_json()["interface"]["inputs"][0]["value"] == "ids"
    prune(folder / "dense.onnx", ratio=0.5).save(folder / "small.onnx")
    assert not (folder / "small.interface.json").exists()


def test_a_file_of_somebody_else_is_no_map_to_replace(files: Files) -> None:
    folder, _, result = files
    (folder / "other.interface.json").write_text("{}")
    with pytest.raises(OnnxpruneError, match="no map"):
        result.save(folder / "other.onnx")
    assert (folder / "other.interface.json").read_text() == "{}"
    assert not (folder / "other.onnx").exists()


def test_verify_derives_what_left(files: Files) -> None:
    folder, data, _ = files
    result = verify(folder / "small.onnx", folder / "dense.onnx", calib=data)
    assert result.ok
    assert result.structure == "verified"
    assert result.interface.inputs[0].size == 70
    for other in (folder / "small.certificate.json", folder / "small.interface.json"):
        other.unlink()
    assert verify(folder / "small.onnx", folder / "dense.onnx").ok


def test_verify_shows_a_map_beside_a_model_that_is_not_its_own(files: Files) -> None:
    folder, _, result = files
    place = folder / "small.interface.json"
    place.write_text(Interface(result.interface.inputs[:1]).with_unknown(None).to_json())
    if Interface.load(place) == result.interface:
        place.write_text(Interface().to_json())
    checked = verify(folder / "small.onnx", folder / "dense.onnx")
    assert [check.name for check in checked.checks if not check.ok] == [
        "small.interface.json = map of the model"
    ]


def test_verify_shows_a_map_that_names_other_rows(files: Files) -> None:
    folder, _, result = files
    small = onnx.load(folder / "small.onnx")
    kept = tuple(range(30, 30 + len(result.interface.inputs[0].kept)))
    ways = (result.interface.inputs, result.interface.outputs)
    maps = [tuple(replace(axis, kept=kept) for axis in way) for way in ways]
    del small.metadata_props[:]
    onnx.helper.set_model_props(small, {"onnxprune.interface": Interface(*maps).to_json()})
    onnx.save(small, folder / "forged.onnx")
    assert not verify(folder / "forged.onnx", folder / "dense.onnx").ok


def test_eval_compares_what_remains(files: Files) -> None:
    folder, data, _ = files
    result = onnxprune.eval(folder / "small.onnx", folder / "dense.onnx", data=data)
    assert result.structure.status == "verified"
    assert result.quality.status == "good"
    assert result.evaluation.main.relative_error == pytest.approx(0, abs=1e-5)


def test_a_plan_keeps_the_map(tmp_path: Path, text: Text) -> None:
    folder, model, data = tmp_path, encoder(), text[1]
    first = prune(model, vocab="calib", calib=data, ratio=0.5, recover="none")
    save_plan(first.plan, folder / "plan.json")
    assert load_plan(folder / "plan.json") == first.plan
    again = apply(model, folder / "plan.json")
    assert again.ok
    assert again.interface == first.interface
    assert again.dense == first.dense
    for inputs in (first.interface.cut_inputs(data),):
        one, two = run(first.model, inputs), run(again.model, inputs)
        assert all(np.allclose(one[name], two[name], atol=1e-5) for name in one)


def test_recover_refits_a_narrowed_model(tmp_path: Path, text: Text) -> None:
    data = text[1]
    onnx.save(encoder(), tmp_path / "dense.onnx")
    small = prune(tmp_path / "dense.onnx", vocab="calib", calib=data, ratio=0.5, recover="none")
    result = recover(tmp_path / "dense.onnx", small.model, calib=data)
    assert result.ok
    assert result.interface == small.interface
    result.save(tmp_path / "refitted.onnx")
    assert verify(tmp_path / "refitted.onnx", tmp_path / "dense.onnx").ok


@pytest.mark.parametrize("keep_ids", [False, True])
def test_quantized_and_stored_models_keep_the_map(files: Files, keep_ids: bool) -> None:
    folder, data, _ = files
    options = {"keep_ids": True, "unknown": 0} if keep_ids else {}
    small = prune(folder / "dense.onnx", vocab="calib", calib=data, **options)
    small.save(folder / "small.onnx")
    onnxprune.quantize(folder / "small.onnx", dynamic=True).save(folder / "int8.onnx")
    onnxprune.store(folder / "small.onnx").save(folder / "stored.onnx")
    for name in ("int8", "stored"):
        assert Interface.load(folder / f"{name}.interface.json") == small.interface
    assert verify(folder / "int8.onnx", folder / "small.onnx").ok
    assert verify(folder / "small.onnx", folder / "dense.onnx").ok


# --- refusals --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"vocab": [70]}, "holds the id 70"),
        ({"vocab": range(70)}, "keeps all"),
        ({"vocab": "x=calib"}, "'x' is no input"),
        ({"vocab": "top=9", "keep_ids": True}, "unknown token"),
        ({"vocab": "top=9", "unknown": 70}, "no such id"),
        ({"vocab": "top"}, "does not say which ids"),
        ({"vocab": "ids:"}, "names no file"),
        ({"vocab": "tokens:x.txt"}, "nothing says which ids they have"),
        ({"vocab": "ids:nowhere.txt"}, "nowhere.txt"),
        ({"keep_ids": True, "ratio": 0.5}, "none is asked for"),
        ({"tokenizer": "x", "ratio": 0.5}, "none is asked for"),
        ({"keep_outputs": "y=1"}, "no output 'y'"),
        ({"keep_outputs": "1,99"}, "no class 99"),
        ({"keep_outputs": "cat"}, "hold no labels"),
        ({"keep_outputs": "5-2"}, "no range"),
        ({"keep_outputs": "0-69"}, "keeps all"),
        ({"keep_outputs": {}}, "keeps nothing"),
    ],
)
def test_wishes_that_cannot_be_met_are_refused(
    text: Text, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(OnnxpruneError, match=message) as error:
        prune(text[0], calib=text[1], **options)
    assert error.value.hint


def test_random_ids_are_not_counted(text: Text) -> None:
    with pytest.raises(OnnxpruneError, match="random inputs"):
        prune(text[0], calib="random", vocab="calib")


def test_models_without_ids_have_no_vocabulary() -> None:
    with pytest.raises(OnnxpruneError, match="no input of the model holds ids"):
        prune(zoo.get("digits_mlp").model, vocab=[1, 2])


def test_maps_of_other_models_are_refused(files: Files) -> None:
    folder, data, _ = files
    other = onnxprune.load(folder / "small.onnx").to_proto()
    axis = AxisMap("nothing", None, 70, (1, 2), "vocabulary")
    for entry in other.metadata_props:
        if entry.key == "onnxprune.interface":
            entry.value = Interface((axis,)).to_json()
    with pytest.raises(OnnxpruneError, match="'nothing'"):
        onnxprune.eval(other, folder / "dense.onnx", data=data)


def test_a_model_is_narrowed_and_quantized_in_one_run(tmp_path: Path, text: Text) -> None:
    onnx.save(encoder(), tmp_path / "dense.onnx")
    first = onnxprune.Options(vocab="calib", calib=text[1], ratio=0.5, recover="none")
    result = onnxprune.quantize(tmp_path / "dense.onnx", calib=text[1], first=first)
    assert result.ok
    result.save(tmp_path / "int8.onnx")
    assert Interface.load(tmp_path / "int8.interface.json").inputs
    assert verify(tmp_path / "int8.onnx", tmp_path / "dense.onnx").ok


# --- units that importance chooses -------------------------------------------------------------


@pytest.mark.parametrize("name", ["features", "detr", "scores"])
def test_an_opened_interface_loses_what_matters_least(name: str, tmp_path: Path) -> None:
    case = CASES[name]()
    onnx.save(case.model, tmp_path / "dense.onnx")
    result = prune(tmp_path / "dense.onnx", interface=True, ratio=0.3, round_to=1)
    assert result.ok
    assert {axis.kind for axis in result.interface.inputs} == {"input-feature"}
    assert not any(axis.kind == "class" for axis in result.interface.outputs)
    assert any("only keep_outputs=" in note for note in result.notes)
    closed = prune(tmp_path / "dense.onnx", ratio=0.3, round_to=1)
    assert result.remaining.params < closed.remaining.params
    run(result.model, result.interface.cut_inputs(feeds(case)))
    result.save(tmp_path / "small.onnx")
    assert verify(tmp_path / "small.onnx", tmp_path / "dense.onnx").ok


def test_an_opened_interface_and_named_ids_are_two_runs(text: Text) -> None:
    with pytest.raises(OnnxpruneError, match="chooses units once"):
        prune(text[0], interface=True, vocab=[1, 2], ratio=0.5)


# --- options ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"vocab": "ids=top=9", "calib": "x.npz", "keep_ids": True, "unknown": 3},
        {"vocab": [3, 1, 2]},
        {"vocab": ["ids:a.txt", "tokens:b.txt"], "tokenizer": "folder"},
        {"keep_outputs": "logits=0,2,5-7"},
        {"keep_outputs": {"logits": [0, "cat"], "boxes": [1]}},
        {"keep_outputs": "logits=@labels.txt:cat,dog"},
    ],
)
def test_recipes_keep_what_stays(options: dict[str, Any]) -> None:
    config = onnxprune.Options(**options)
    assert from_flags(as_mapping(config)) == config
    assert not config.asks_for_nothing


def test_inspect_says_what_would_open(tmp_path: Path) -> None:
    onnx.save(CASES["tied"]().model, tmp_path / "model.onnx")
    analysis = onnxprune.analyse(tmp_path / "model.onnx", interface=True)
    report = inspection(analysis, closed=onnxprune.analyse(tmp_path / "model.onnx"))
    document = to_json(report)
    kinds = {row["kind"]: row["interface"] for row in document["groups"]}  # type: ignore[attr-defined]
    assert "ids" in kinds["vocabulary"]
    assert report.closed is not None
    assert report.closed.exact < report.reachable.exact
    assert any("by vocab=" in note for note in report.notes)


def test_without_inputs_the_verdict_speaks_of_what_was_done() -> None:
    quality = prune(zoo.get("digits_mlp").model, keep_outputs=[0, 2]).quality
    assert quality.status == "not measured"
    assert "what remains computes what it did" in quality.reasons[0]


def test_what_stands_for_removed_scores_is_not_compared(text: Text) -> None:
    options = {"vocab": "calib", "calib": text[1], "keep_ids": True, "unknown": 0}
    first = onnxprune.Options(**options)
    result = onnxprune.quantize(text[0], calib=text[1], first=first)
    assert result.evaluation.main.relative_error is not None
    small = prune(text[0], **options).model
    again = prune(small, ratio=0.01, calib=text[1], recover="none")
    assert again.evaluation.main.relative_error == pytest.approx(0, abs=1e-5)


def _scores(last: str) -> onnx.ModelProto:
    """Ten scores, and what follows from them."""
    net = Net(3)
    x = net.dense(net.node("Relu", net.dense(net.input("x", ("batch", 6), width=6), 8)), 10)
    outputs = {"logits": (x, ("batch", 10), FLOAT)}
    if last == "ArgMax":
        outputs["best"] = (net.node("ArgMax", x, axis=1, keepdims=0), ("batch",), INT64)
    elif last == "Softmax":
        outputs["p"] = (net.node("Softmax", x, axis=1), ("batch", 10), FLOAT)
    else:
        outputs = {"logits": (net.layer_norm(x), ("batch", 10), FLOAT)}
    return finish(net, outputs)


def test_an_inexact_removal_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    onnx.save(_scores("LayerNormalization"), tmp_path / "dense.onnx")
    with pytest.raises(OnnxpruneError, match="would not be the original's: Layer") as error:
        prune(tmp_path / "dense.onnx", keep_outputs="1,4,7")
    assert "allow_inexact" in error.value.hint
    small = prune(tmp_path / "dense.onnx", keep_outputs="1,4,7", allow_inexact=True)
    small.save(tmp_path / "small.onnx", force=True)
    checked = verify(tmp_path / "small.onnx", tmp_path / "dense.onnx")
    assert any(note.startswith("inexact") for note in checked.notes)


def test_outputs_that_follow_are_named_and_mapped() -> None:
    result = prune(_scores("ArgMax"), keep_outputs="logits=1,4,7")
    assert "'best' numbers the classes that stay, 3 of 10, too" in result.notes
    outputs = {"logits": np.zeros((3, 10), np.float32), "best": np.array([4, 0, 7])}
    cut = result.interface.cut_outputs(outputs)
    assert cut["best"].tolist() == [1, -1, 2]
    assert cut["logits"].shape == (3, 3)


def test_only_what_is_normalised_is_said_to_be() -> None:
    notes = prune(_scores("Softmax"), keep_outputs="logits=1,4,7").notes
    (note,) = [note for note in notes if "renormalised" in note]
    assert note.startswith("Softmax normalises what remains of the classes of 'p': ")
    assert "3 of 10 indices of axis 1 of 'p' stay, too" in notes
