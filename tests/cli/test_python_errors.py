"""Python functions refuse wrong arguments in a sentence that speaks of keywords, not of flags."""

from __future__ import annotations

import inspect
import pickle
import re
import warnings
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.config import COMMANDS, Options, declared, from_flags, option_of
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError, in_python, kind_of, spelled, stated, typed_flags
from onnxprune.jobs import recipe

ENTRY = zoo.get("digits_mlp")
FUNCTIONS = [name for name in onnxprune.__all__ if inspect.isfunction(getattr(onnxprune, name))]
WRONG = (object(), -1, float("nan"), {3: [1]}, np.zeros(3), "nonsense", "", "a\0b")
NO_FLAG = re.compile(r"`[^`]*`|(--[a-z]\S*)")


def arguments(name: str, folder: Path) -> dict[str, Any]:
    """What a function can be called with; one of them is then replaced."""
    model = onnxprune.load(ENTRY.model)
    inputs = {"calib": ENTRY.calibration, "calib_samples": 8}
    return {
        "advise": {"model": ENTRY.model},
        "analyse": {"model": model},
        "apply": {"model": model, "plan": onnxprune.Plan()},
        "bench": {"files": [ENTRY.model], "processes": 1, "rounds": 1},
        "cut": {"analysis": onnxprune.analyse(model), "removed": {}},
        "eval": {"model": model, "data": ENTRY.evaluation, "labels": ENTRY.evaluation},
        "load": {"model": ENTRY.model},
        "load_plan": {"path": "missing.json"},
        "load_sensitivity": {"path": "missing.json"},
        "prune": {"model": model, "ratio": 0.1},
        "quantize": {"model": model, "dynamic": True},
        "recover": {"dense": model, "pruned": model, **inputs},
        "save": {"model": model, "path": folder / "out.onnx"},
        "sensitivity": {"model": model, "kinds": "groups", "ratios": 0.5, **inputs},
        "store": {"model": model},
        "verify": {"model": ENTRY.model, "dense": ENTRY.model},
    }[name]


def assert_helpful(problem: OnnxpruneError, where: str) -> None:
    assert problem.hint, f"{where}: {problem.message}"
    flags = [each for each in NO_FLAG.findall(f"{problem.message} {problem.hint}") if each]
    assert not flags, f"{where}: {problem.message} ({problem.hint})"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_wrong_arguments_are_refused_by_name_and_with_a_hint(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # `nonsense` is a good name for a file that is written
    function, usual = getattr(onnxprune, name), arguments(name, tmp_path)
    readers = {
        key: option_of(each).reader
        for config in COMMANDS.get(name, {})
        for key, each in declared(config).items()
    }
    refusals: dict[str, OnnxpruneError] = {}
    nameless: list[str] = []
    for parameter in inspect.signature(function).parameters:
        for value in WRONG[:2] if name == "bench" else WRONG:  # what it accepts takes seconds
            if parameter == "dask" and isinstance(value, str):
                continue  # waits for a scheduler
            try:
                function(**usual | {parameter: value})
            except OnnxpruneError as problem:
                refusals[f"{name}({parameter}={value!r})"] = problem
                checked = parameter in readers and readers[parameter].accepts != "object"
                if type(value) is object and checked and f"{parameter}=" not in problem.message:
                    nameless.append(problem.message)
    assert not nameless
    for where, problem in refusals.items():
        assert_helpful(problem, where)


@pytest.mark.parametrize(
    ("call", "message", "hint"),
    [
        (partial(Options, ratio="abc"), "ratio='abc' is not a number", "0.3"),
        (partial(Options, ratoi=3), "Options have no option 'ratoi'", "did you mean 'ratio'?"),
        (partial(Options, steps=0), "steps=0 is not a whole number", "steps=1"),
        (partial(Options, ratio=0.9), "ratio=0.9 is above max_ratio=0.8", "raise max_ratio="),
        (partial(Options, 0.3, ratio=0.4), "ratio is given twice", "by name"),
        (partial(onnxprune.prune, ENTRY.model, permute=True), "permute=True has nothing", "'2:4'"),
        (partial(onnxprune.prune, ENTRY.model, seed="x"), "seed='x' is not a whole", "seed=1"),
        (partial(onnxprune.prune, ENTRY.model, max_ration=1), "max_ration", "'max_ratio'"),
        (partial(onnxprune.prune, ENTRY.model), "nothing says how much", "add ratio=0.3, target="),
        (partial(onnxprune.prune, ENTRY.model, progress=3), "progress is an int", "print"),
        (partial(onnxprune.prune, None, ratio=0.1), "model is None, not a model", "path"),
        (partial(onnxprune.cut, "model.onnx", {}), "analysis is a str", "analyse"),
        (partial(onnxprune.save, 3, "out.onnx"), "model is an int", "load"),
        (partial(onnxprune.bench, "model.onnx"), "files is a str", "list"),
        (partial(onnxprune.quantize, ENTRY.model), "measured on inputs", "calib=; or dynamic=True"),
    ],
)  # fmt: skip
def test_errors_speak_of_keywords(call: Callable[[], object], message: str, hint: str) -> None:
    with pytest.raises(OnnxpruneError, match=re.escape(message)) as refusal:
        call()
    assert hint in refusal.value.hint
    assert_helpful(refusal.value, message)
    assert refusal.value.__notes__ == [f"hint: {refusal.value.hint}"]  # tracebacks show it


def test_values_are_read_where_options_are_made() -> None:
    assert Options(ratio="30%", seed=np.int64(3)) == Options(ratio=0.3, seed=3)  # type: ignore[arg-type]
    assert Options(seed=None) == Options()  # type: ignore[arg-type]
    assert Options(ratios={"a*": "20%"}) == from_flags({"ratios": ["a*=0.2"]})  # type: ignore[arg-type]


def test_flags_are_named_where_flags_were_typed() -> None:
    with typed_flags(), pytest.raises(OnnxpruneError) as typed:
        Options(ratio=0.9)
    assert typed.value.message == "--ratio 0.9 is above --max-ratio 0.8"
    assert in_python()
    again = pickle.loads(pickle.dumps(typed.value))
    assert (again.message, again.exit_code) == ("ratio=0.9 is above max_ratio=0.8", 2)


def test_what_a_recipe_says_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("seed: 3\nratio: 0.9\n")
    written = recipe.read(path)
    with pytest.raises(OnnxpruneError, match=r"recipe\.yaml, line 2: ratio=?\W*0\.9 is above"):
        from_flags(written.values, written.origins)


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("give inputs with --calib, or take --sparse-method magnitude",
         "give inputs with calib=, or take sparse_method='magnitude'"),
        ("leave out --no-cache; see `onnxprune bench --backend cpu` (--skip-small)",
         "leave out cache=False; see `onnxprune bench --backend cpu` (skip_small=)"),
        ("--skip-first and --target macs=50%.", "skip_first= and target='macs=50%'."),
        ("--calib: x.npz holds no samples", "calib: x.npz holds no samples"),
        ("print it with --json", "print it with --json"),
    ],
)  # fmt: skip
def test_flags_in_a_sentence_become_keywords(text: str, python: str) -> None:
    assert spelled(text) == spelled(spelled(text)) == python
    with typed_flags():
        assert spelled(text) == text


def test_a_value_is_stated_as_it_was_written() -> None:
    assert stated("--shapes input=", "1xa") == "shapes['input']='1xa'"
    assert stated("recipe.yaml, line 3: seed", "x") == "recipe.yaml, line 3: seed x"
    assert len(stated("--seed", list(range(10**6)))) < 100
    assert [kind_of(each) for each in (3, "", None, np.zeros(1))] == [
        "an int", "a str", "None", "an ndarray",
    ]  # fmt: skip


def test_former_names_are_noted_at_the_line_of_the_caller() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = onnxprune.prune(source=ENTRY.model, ratio=0.1, provider="cpu")  # type: ignore[call-arg]
    notes: Mapping[str, str] = {str(each.message): each.filename for each in caught}
    assert result.ok
    assert notes["source= is called model= now"] == __file__
    assert notes["provider= is called backend= now"] == __file__


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() & set(FUNCTIONS)))
def test_help_is_readable(name: str) -> None:
    function = getattr(onnxprune, name)
    shown = f"{inspect.signature(function)}\n{function.__doc__}"
    assert max(map(len, shown.splitlines())) <= 100
    assert "<" not in str(inspect.signature(function))
    assert "--" not in re.sub(r"`[^`]*`", "", function.__doc__)
