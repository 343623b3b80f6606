"""Whatever is wrong with what the user gives: one sentence, one hint, exit 2, and no file."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from conftest import Ran
from onnxprune.data import zoo

Cli = Callable[..., Ran]
Fault = Callable[[Path], Path]
MODEL = zoo.get("digits_mlp").model


def _files(folder: Path) -> dict[str, str]:
    return {
        str(path): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def assert_refused(ran: Ran, *words: str, hinted: bool = True) -> None:
    """It says what is wrong, naming ``words``, and what to do, and nothing else."""
    assert ran.code == 2, ran
    assert ran.out == ""
    lines = ran.err.splitlines()
    said = [line.partition(":")[0] for line in lines]
    assert said == ["error", "hint"] or (said == ["error"] and not hinted), ran.err
    assert "bug in onnxprune" not in lines[0]
    for word in words:
        assert word in lines[0], ran.err


def missing(folder: Path) -> Path:
    return folder / "missing.onnx"


def truncated(folder: Path) -> Path:
    content = MODEL.read_bytes()
    path = folder / "truncated.onnx"
    path.write_bytes(content[: len(content) // 2])
    return path


def text(folder: Path) -> Path:
    path = folder / "text.onnx"
    path.write_text("ratio: 0.3\nthis is no model\n")
    return path


def noise(folder: Path) -> Path:
    path = folder / "noise.onnx"
    path.write_bytes(np.random.default_rng(0).bytes(5000))
    return path


def empty(folder: Path) -> Path:
    path = folder / "empty.onnx"
    path.touch()
    return path


def directory(folder: Path) -> Path:
    path = folder / "directory.onnx"
    path.mkdir()
    return path


def without_its_data(folder: Path) -> Path:
    path = folder / "external.onnx"
    model = onnx.load(MODEL)
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (folder / "weights.bin").unlink()
    return path


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (missing, "missing.onnx"),
        (truncated, "truncated.onnx"),
        (text, "text.onnx"),
        (noise, "noise.onnx"),
        (empty, "empty.onnx"),
        (directory, "directory.onnx"),
        (without_its_data, "weights.bin"),
    ],
)
@pytest.mark.parametrize("command", [("inspect",), ("prune", "--ratio", "0.3")])
def test_what_is_no_model_is_refused_by_name(
    cli: Cli, tmp_path: Path, fault: Fault, name: str, command: tuple[str, ...]
) -> None:
    path = fault(tmp_path)
    before = _files(tmp_path)
    writing = ("-o", tmp_path / "out.onnx") if command[0] == "prune" else ()
    assert_refused(cli(*command, path, *writing), name)
    assert _files(tmp_path) == before


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--ratio", "0.3", "--skip", "nowhere*"), ("nowhere*",)),
        (("--ratio", "0.3", "--ratios", "nowhere*=0.1"), ("nowhere*",)),
        (("--target", "macs=1%"), ("macs=1%",)),
        (("--target", "bytes=10"), ("bytes=10",)),
        (("--blocks", "99"), ("99",)),
        (("--heads", "0.5"), ("head",)),
        (("--ratio", "0.3", "--criterion", "wandda"), ("wandda",)),
        (("--ratio", "0.3", "--criterion", "wanda"), ("wanda",)),  # needs --calib
        (("--ratio", "0.3", "--backend", "abacus"), ("abacus",)),
        (("--ratio", "0.3", "--shapes", "nowhere=1x16"), ("nowhere",)),
        (("--ratio", "0.3", "--calib", "nowhere.npz"), ("nowhere.npz",)),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    cli: Cli, tmp_path: Path, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    assert_refused(cli("prune", MODEL, "-o", tmp_path / "out.onnx", *flags), *words)
    assert _files(tmp_path) == {}


@pytest.mark.parametrize(
    ("flags", "words", "hint"),
    [
        (("--target", "macs=0"), ("--target", "macs=0 leaves nothing"), "macs=50%"),
        (("--target", "macs=0%"), ("--target", "macs=0% leaves nothing"), "macs=50%"),
        (("--target", "macs=500%"), ("--target", "macs=500% is more"), "macs=0.5x"),
        (("--target", "macs=50"), ("--target macs=50", "macs cannot go below"), "--max-ratio"),
        (("--sparsity", "2:4:5"), ("--sparsity 2:4:5", "pattern"), "--sparsity 2:4"),
        (("--ratio", "0.3", "--backend", "openvino,cpu"), ("several backends",), "openvino"),
        (("--ratio", "0.3", "--report", "model.png"), ("--report", ".html"), "model.html"),
        (("--ratio", "0.3", "--report", "model"), ("--report", ".html"), "model.html"),
    ],
)
def test_a_refusal_names_the_flag_as_it_was_typed(
    cli: Cli, flags: tuple[str, ...], words: tuple[str, ...], hint: str
) -> None:
    ran = cli("prune", MODEL, *flags)
    assert_refused(ran, *words)
    assert hint in ran.err.splitlines()[1]


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("bench", MODEL, "--preprocess", "clip"), ("--preprocess",)),
        (("advise", MODEL, "--preprocess", "clip"), ("--preprocess",)),
        (("store", MODEL, "-o", "out.onnx", "--shapes", "image=3x3"), ("--shapes", "3x3")),
        (("store", MODEL, "-o", "out.onnx", "--shapes", "nowhere=3x3"), ("--shapes", "nowhere")),
        (("apply", "nowhere.json", MODEL, "-o", "out.onnx"), ("the plan nowhere.json",)),
        (("prune", MODEL, "--ratio", "0.3", "--backend", "rocm"), ("--backend", "'rocm'")),
        (("quantize", MODEL, "--dynamic", "--max-drop", "1%"), ("--max-drop is judged on inputs",)),
    ],
)
def test_every_command_refuses_what_it_cannot_use(
    cli: Cli,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str | Path, ...],
    words: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert_refused(cli(*command), *words)
    assert _files(tmp_path) == {}


@pytest.mark.parametrize("word", ["-o", "--recipe", "--save-plan", "--report", "--save-recipe"])
def test_an_empty_file_name_is_refused_in_a_sentence(cli: Cli, word: str) -> None:
    ran = cli("prune", MODEL, "--ratio", "0.3", word, "")
    assert_refused(ran, f"{word} is empty")
    assert "hint: write" not in ran.err  # the help of a flag is no noun phrase


@pytest.mark.parametrize(
    "text",
    [
        "target: macs=50",
        "target: macs=500%",
        "ratio: 0.3\nskip: nowhere*",
        "ratios: {nowhere: 0.2}",
    ],
)
def test_a_recipe_is_named_by_its_line_where_the_model_refuses_it(
    cli: Cli, tmp_path: Path, text: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(f"# a comment\n{text}\n")
    line = f"recipe.yaml, line {len(text.splitlines()) + 1}: {text.splitlines()[-1].split(':')[0]}"
    assert_refused(cli("prune", MODEL, "--recipe", recipe), line)
    assert_refused(cli("quantize", MODEL, "--dynamic", "--prune", recipe), line)


def wrong_name(folder: Path) -> Path:
    path = folder / "name.npz"
    pixels = np.zeros((4, 1, 16, 16), np.float32)
    np.savez(path, pixels=pixels, more=pixels)
    return path


def wrong_shape(folder: Path) -> Path:
    path = folder / "shape.npz"
    np.savez(path, image=np.zeros((4, 3, 7), np.float32))
    return path


def words_not_numbers(folder: Path) -> Path:
    path = folder / "words.npz"
    np.savez(path, image=np.array(["a", "b"]))
    return path


def no_samples(folder: Path) -> Path:
    path = folder / "none.npz"
    np.savez(path, image=np.zeros((0, 1, 16, 16), np.float32))
    return path


def no_archive(folder: Path) -> Path:
    path = folder / "text.npz"
    path.write_text("no archive")
    return path


@pytest.mark.parametrize(
    "fault", [wrong_name, wrong_shape, words_not_numbers, no_samples, no_archive]
)
def test_calibration_that_does_not_fit_is_refused(cli: Cli, tmp_path: Path, fault: Fault) -> None:
    path = fault(tmp_path)
    before = _files(tmp_path)
    out = tmp_path / "out.onnx"
    assert_refused(cli("prune", MODEL, "--ratio", "0.3", "--calib", path, "-o", out))
    assert _files(tmp_path) == before


@pytest.mark.parametrize("place", ["nowhere/out.onnx", "file/out.onnx", "folder", "/proc/out.onnx"])
def test_where_nothing_can_be_written_is_refused_before_any_work(
    cli: Cli, tmp_path: Path, place: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    before = _files(tmp_path)
    # The model does not exist either, so whichever is named was asked first.
    ran = cli("prune", tmp_path / "missing.onnx", "--ratio", "0.3", "-o", tmp_path / place)
    assert_refused(ran, place)
    assert _files(tmp_path) == before


@pytest.mark.parametrize("flag", ["-o", "--save-plan", "--save-recipe"])
@pytest.mark.parametrize("way", ["same", "symlink", "hardlink", "roundabout"])
def test_the_model_that_is_read_is_never_the_one_written(
    cli: Cli, tmp_path: Path, flag: str, way: str
) -> None:
    model, other = tmp_path / "model.onnx", tmp_path / "other.onnx"
    model.write_bytes(MODEL.read_bytes())
    match way:
        case "same":
            other = model
        case "symlink":
            other.symlink_to(model)
        case "hardlink":
            other.hardlink_to(model)
        case "roundabout":
            (tmp_path / "folder").mkdir()
            other = tmp_path / "folder" / ".." / "model.onnx"
    before = _files(tmp_path)
    assert_refused(cli("prune", model, "--ratio", "0.3", flag, other, "--force"), flag)
    assert _files(tmp_path) == before


def test_two_results_never_go_to_one_file(cli: Cli, tmp_path: Path) -> None:
    for first, second, name in (
        ("--save-plan", "--save-recipe", "out"),
        ("-o", "--save-plan", "out.onnx"),
    ):
        same, around = tmp_path / name, tmp_path / "." / ".." / tmp_path.name / name
        ran = cli("prune", MODEL, "--ratio", "0.3", first, same, second, around)
        assert_refused(ran, second, first)
    assert_refused(cli("prune", MODEL, "--ratio", "0.3", "--calib", same, "-o", same), "--calib")
    assert _files(tmp_path) == {}


def not_json(folder: Path) -> Path:
    path = folder / "plan.json"
    path.write_text("not json")
    return path


def other_json(folder: Path) -> Path:
    path = folder / "plan.json"
    path.write_text('{"removed": 3}')
    return path


def no_plan(folder: Path) -> Path:
    return folder / "plan.json"


@pytest.mark.parametrize("fault", [not_json, other_json, no_plan])
def test_what_is_no_plan_is_refused_by_name(cli: Cli, tmp_path: Path, fault: Fault) -> None:
    path = fault(tmp_path)
    before = _files(tmp_path)
    ran = cli("apply", path, MODEL, "-o", tmp_path / "out.onnx")
    assert_refused(ran, "plan.json", hinted=False)
    assert _files(tmp_path) == before


def test_a_plan_of_another_graph_is_refused(cli: Cli, tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    assert cli("prune", MODEL, "--ratio", "0.3", "--save-plan", plan).code == 0
    before = _files(tmp_path)
    other = zoo.get("digits_rescnn").model
    assert_refused(cli("apply", plan, other, "-o", tmp_path / "out.onnx"))
    assert _files(tmp_path) == before


@pytest.mark.parametrize("spec", ["f.py:fails", "f.py:absent", "no_such_module:f"])
def test_a_function_that_gives_no_inputs_is_refused_with_a_hint(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str
) -> None:
    (tmp_path / "f.py").write_text("def fails():\n    raise ValueError('on purpose')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.dont_write_bytecode", True)
    before = _files(tmp_path)
    assert_refused(cli("prune", MODEL, "--ratio", "0.3", "--calib", spec, "-o", "out.onnx"))
    assert _files(tmp_path) == before


def test_labels_of_another_task_are_refused_with_a_hint(cli: Cli, tmp_path: Path) -> None:
    labels = tmp_path / "labels.npy"
    np.save(labels, np.full(len(zoo.calibration(zoo.get("digits_mlp"))["image"]), 77))
    before = _files(tmp_path)
    data = MODEL.with_name("digits_calibration.npz")
    words = ("--calib", data, "--labels", labels, "-o", tmp_path / "out.onnx")
    assert_refused(cli("prune", MODEL, "--ratio", "0.3", *words), "77", "10 classes")
    assert _files(tmp_path) == before


def test_a_log_that_is_not_there_is_refused_with_a_hint(cli: Cli, tmp_path: Path) -> None:
    assert_refused(cli("eligible", MODEL, "--log", tmp_path / "no.log"), "no.log")


def test_an_amount_of_bytes_is_asked_for_as_one(cli: Cli, tmp_path: Path) -> None:
    ran = cli("store", MODEL, "--ram-limit", "much", "-o", tmp_path / "out.onnx")
    assert_refused(ran, "--ram-limit much")
    assert "4GiB" in ran.err


def test_a_model_without_a_weight_to_thin_is_refused_with_a_hint(cli: Cli, tmp_path: Path) -> None:
    words = ("--sparsity", "2:4", "--skip-first", "99", "-o", tmp_path / "out.onnx")
    assert_refused(cli("prune", MODEL, *words), "--skip-first")
    assert _files(tmp_path) == {}


@pytest.mark.parametrize(
    ("text", "error", "hint"),
    [
        ("", "recipe.yaml is empty", "target: macs=50%"),
        ("calib: data.npz\n", "does not say how much to remove", "target: macs=50%"),
        ("output: small.onnx\n", "recipe.yaml, line 1", "-o OUT"),
        ("model: model.onnx\n", "recipe.yaml, line 1", "onnxprune prune MODEL"),
        ("ratoi: 0.3\n", "recipe.yaml, line 1", "did you mean 'ratio'?"),
        ("zzz: 0.3\n", "recipe.yaml, line 1", "--help-all"),
        ("ratio: ''\n", "recipe.yaml, line 1: ratio is empty", "ratio: 0.3"),
    ],
)
def test_a_recipe_that_asks_for_nothing_says_what_to_add(
    cli: Cli, tmp_path: Path, text: str, error: str, hint: str
) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(text)
    ran = cli("prune", MODEL, "--recipe", recipe)
    assert_refused(ran, error)
    assert hint in ran.err.splitlines()[1]
    if not text:
        assert cli("prune", MODEL, "--recipe", recipe, "--ratio", "0.1").code == 0
        assert_refused(cli("quantize", MODEL, "--dynamic", "--prune", recipe), error)


def test_a_model_in_int8_is_not_quantized_again(cli: Cli, tmp_path: Path) -> None:
    whole = tmp_path / "int8.onnx"
    assert cli("quantize", MODEL, "--dynamic", "-o", whole).code == 0
    ran = cli("quantize", whole, "--dynamic")
    assert_refused(ran, "the weights of the model are already quantized")
    assert "float model" in ran.err
