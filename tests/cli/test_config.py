"""What users write is read the same everywhere, and refused in a sentence."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import quantities as amounts
from onnxprune.config import (
    COMMANDS,
    DEFAULTS,
    Options,
    declared,
    default_of,
    flag,
    from_flags,
    option_of,
    split,
)
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs import recipe
from onnxprune.jobs.run import open_run
from onnxprune.quantities import Budget


@pytest.mark.parametrize(
    ("text", "kind", "dense", "limit"),
    [
        ("macs=50%", "macs", 1000, 500),
        ("macs=0.5x", "macs", 1001, 500),
        ("macs=100%", "macs", 7, 7),
        ("params=1.5M", "params", 10**9, 1_500_000),
        ("params=1200", "params", 10**9, 1200),
        ("bytes=4MiB", "bytes", 10**9, 4 * 2**20),
        ("bytes=4MB", "bytes", 10**9, 4_000_000),
        ("BYTES=12kB", "bytes", 10**9, 12_000),
        ("latency=0.5x@cpu", "latency", 1_000_000, 500_000),
        ("latency=5ms@openvino", "latency", 10**9, 5_000_000),
        ("latency=250us", "latency", 10**9, 250_000),
        ("latency=0.5s", "latency", 10**12, 500_000_000),
    ],
)
def test_budgets_are_read_in_every_unit(text: str, kind: str, dense: int, limit: int) -> None:
    read = amounts.budget(text)
    assert (read.kind, read.limit(dense)) == (kind, limit)


@pytest.mark.parametrize(
    "text", ["macs", "macs=", "macs=0.5", "macs=150%", "macs=0%", "flops=50%", "params=4MiB",
             "macs=-1", "macs=nan", "latency=150%", "latency=5kg", "latency=0.5x@",
             "macs=50%@cpu", "=50%"],
)  # fmt: skip
def test_budgets_that_mean_nothing_are_refused_with_a_hint(text: str) -> None:
    with pytest.raises(OnnxpruneError) as refusal:
        amounts.budget(text)
    assert refusal.value.hint
    assert refusal.value.exit_code == 2


@given(
    st.sampled_from(list(amounts.COST_KINDS)),
    st.floats(1e-6, 1, exclude_min=True),
    st.integers(1, 10**12),
)
def test_a_budget_reads_what_it_prints(kind: str, value: float, dense: int) -> None:
    relative = Budget(kind, value, relative=True)  # type: ignore[arg-type]
    again = amounts.budget(str(relative))
    assert again.relative
    assert again.value == pytest.approx(value, rel=1e-7)
    assert again.limit(dense) <= dense
    absolute = Budget(kind, float(dense + 1), relative=False)  # type: ignore[arg-type]
    assert amounts.budget(str(absolute)) == absolute


@given(st.floats(0, 1))
def test_fractions_are_the_same_as_numbers_text_and_percent(value: float) -> None:
    assert amounts.fraction(value, of="--ratio") == value
    assert amounts.fraction(f"{value:.17f}", of="--ratio") == pytest.approx(value, abs=1e-15)
    assert amounts.fraction(f"{value * 100:.17f}%", of="--ratio") == pytest.approx(value, abs=1e-15)


def test_a_percentage_without_its_sign_is_explained() -> None:
    with pytest.raises(OnnxpruneError, match="ratio='30' is not") as refusal:
        from_flags({"ratio": "30"})
    assert refusal.value.hint == "write 0.3 or 30%"


@pytest.mark.parametrize("given_", ["input=1x3x8x8", ["input=1x3x8x8"], {"input": [1, 3, 8, 8]}])
def test_shapes_are_read_in_every_spelling(given_: object) -> None:
    assert amounts.shapes(given_) == {"input": (1, 3, 8, 8)}


def test_names_with_an_equals_sign_keep_it_and_commas_part_inputs() -> None:
    assert amounts.shapes("a=b=2x3,c=4") == {"a=b": (2, 3), "c": (4,)}


@pytest.mark.parametrize("text", ["1x3", "input=", "input=1xx3", "input=0x3", "input=ax3", "=1x3"])
def test_shapes_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(OnnxpruneError):
        amounts.shapes(text)


def test_every_field_is_an_option_that_is_explained() -> None:
    for config in {config for command in COMMANDS.values() for config in command}:
        options = declared(config)
        assert set(options) == {each.name for each in fields(config)} - {
            "written",
            "stand_in",
            "scarce",
        }
        for name, each in options.items():
            option = option_of(each)
            assert option.help[-1] not in ".,;", name
            assert option.group, name
            assert re.search(rf"^    {name}: ", config.__doc__ or "", re.MULTILINE), name


@pytest.mark.parametrize("command", COMMANDS)
def test_options_left_out_are_at_their_defaults(command: str) -> None:
    for config, options in zip(COMMANDS[command], split(command, {}), strict=True):
        for name in set(COMMANDS[command][config]) - set(DEFAULTS.get(command, {})):
            assert getattr(options, name) == default_of(declared(config)[name])


@pytest.mark.parametrize("former", ["provider", "on", "for"])
def test_former_names_work_with_a_note(former: str) -> None:
    with pytest.warns(FutureWarning, match=f"{former}= is called backend= now"):
        assert from_flags({former: "cuda"}).backend == "cuda"
    with pytest.warns(FutureWarning):
        assert split("bench", {former: "cpu,openvino"})[0].backend == ("cpu", "openvino")


def test_options_of_other_commands_are_unknown() -> None:
    with pytest.raises(OnnxpruneError, match="no option 'ratio'"):
        split("recover", {"ratio": 0.5})
    with pytest.raises(OnnxpruneError, match="no option 'threadz'") as refusal:
        split("bench", {"threadz": 2})
    assert "'threads'" in refusal.value.hint


def test_an_unknown_option_suggests_the_nearest() -> None:
    with pytest.raises(OnnxpruneError, match="max-ration") as refusal:
        from_flags({"max-ration": 0.5})
    assert "'max-ratio'" in refusal.value.hint


@pytest.mark.parametrize(
    "given_",
    [
        {"ratio": 0.3, "target": "macs=50%"},
        {"ratio": 0.9},
        {"ratio": 0.5, "max-ratio": 0.4},
        {"heads": "95%"},
        {"ratios": ["layer1*=0.9"]},
        {"max-ratio": 1.0},
        {"labels": "y.npy"},
        {"allocation": "globl"},
        {"round-to": 0},
        {"batch": 0},
        {"blocks": "two"},
        {"blocks": True},
        {"seed": -1},
        {"allow-inexact": "yes"},
        {"ratios": "layer1"},
        {"skip": 3},
        {"criterion": ""},
        {"target": 0.5},
        {"sparsity": 0},
        {"sparsity": "100%"},
        {"sparsity": "4:2"},
        {"sparsity": "0:4"},
        {"sparsity": "2:400"},
        {"permute": True, "sparsity": 0.5},
        {"sparsity": 0.5, "sparse-method": "wanda"},
        {"sparsity": 0.5, "sparse-allocation": "curves"},
        {"sparsity": 0.5, "sparse-allocation": "sensitivity"},
        {"sparsity": 0.5, "sparse-method": "magnitud"},
    ],
)
def test_contradictions_and_nonsense_are_refused_with_a_hint(given_: dict[str, object]) -> None:
    with pytest.raises(OnnxpruneError) as refusal:
        from_flags(given_)
    assert refusal.value.hint


def test_the_last_of_two_ratios_for_one_glob_is_the_last_word() -> None:
    read = from_flags({"ratios": ["a*=0.1", "*b=0.2", "a*=0.3"]}).ratios
    assert read == (("*b", 0.2), ("a*", 0.3))


def test_only_amounts_make_something_happen() -> None:
    assert from_flags({"skip": "head", "seed": 3, "ratio": 0}).asks_for_nothing
    for amount in (
        {"ratio": 0.1},
        {"target": "macs=1k"},
        {"heads": 0.1},
        {"blocks": 1},
        {"sparsity": "1:2"},
    ):
        assert not from_flags(amount).asks_for_nothing


EVERYTHING: dict[str, object] = {
    "target": "macs=50%",
    "heads": "25%",
    "blocks": 2,
    "ratios": {"layer1*": 0.1, "layer2*": "20%"},
    "sparsity": "2:4",
    "sparse-method": "wanda",
    "sparse-allocation": "per-row",
    "permute": True,
    "skip": ["head*", "stem"],
    "criterion": "wanda",
    "allocation": "uniform",
    "max-ratio": 0.6,
    "round-to": 8,
    "backend": "cuda",
    "calib": "images.npz",
    "calib-samples": 64,
    "batch": 4,
    "labels": "labels.npy",
    "metric": "score.py:top3",
    "preprocess": "imagenet",
    "allow-inexact": True,
    "seed": 7,
    "cache": False,
    "max-drop": "1%",
    "shapes": {"input": [1, 3, 32, 32]},
}


def test_a_saved_recipe_asks_for_the_same_again(tmp_path: Path) -> None:
    asked = from_flags(EVERYTHING)
    recipe.write(asked, tmp_path / "recipe.yaml")
    again = from_flags(recipe.read(tmp_path / "recipe.yaml").values)
    assert again == asked
    assert recipe.as_mapping(again) == recipe.as_mapping(asked)
    assert set(recipe.as_mapping(asked)) == set(EVERYTHING)


def test_a_recipe_of_defaults_says_nothing(tmp_path: Path) -> None:
    recipe.write(Options(), tmp_path / "recipe.yaml")
    assert from_flags(recipe.read(tmp_path / "recipe.yaml").values) == Options()
    assert recipe.as_mapping(Options()) == {}


def test_a_recipe_keeps_what_was_written_and_nothing_else() -> None:
    asked = from_flags({"ratio": "30%", "batch": "32", "seed": 0})
    assert recipe.as_mapping(asked) == {"ratio": "30%", "batch": 32, "seed": 0}
    assert recipe.as_mapping(replace(asked, ratio=0.4)) == {"ratio": 0.4, "batch": 32, "seed": 0}


def test_a_recipe_is_of_its_schema() -> None:
    schema = recipe.schema()
    assert set(recipe.as_mapping(from_flags(EVERYTHING))) <= set(schema["properties"])  # type: ignore[call-overload, arg-type]
    assert set(schema["properties"]) == {flag(name) for name in declared(Options)}  # type: ignore[call-overload]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("target: macs=50%\nration: 0.3\n", r"recipe\.yaml, line 2: there is no option 'ration'"),
        ("# why\n\nratio: 30\n", r"recipe\.yaml, line 3: ratio 30 is not a fraction"),
        ("skip:\n  - a\nbatch: none\n", r"recipe\.yaml, line 3: batch none is not"),
        ("ratio: 0.3\nratio: 0.4\n", r"recipe\.yaml, line 2: ratio is given twice"),
    ],
)
def test_what_is_wrong_in_a_recipe_is_found_by_its_line(
    tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    def read() -> Options:
        written = recipe.read(path)
        return from_flags(written.values, written.origins)

    with pytest.raises(OnnxpruneError, match=message) as refusal:
        read()
    assert refusal.value.hint


def test_a_recipe_refuses_what_a_file_cannot_hold(tmp_path: Path) -> None:
    asked = from_flags({"ratio": 0.1, "calib": {"input": np.zeros((1, 3))}})
    with pytest.raises(OnnxpruneError, match="calib"):
        recipe.write(asked, tmp_path / "recipe.yaml")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"- a\n- b\n", b"ratio: [", b"\xff\xfe\x00", b"just words"])
def test_a_recipe_that_is_no_mapping_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_bytes(content)
    with pytest.raises(OnnxpruneError, match=r"recipe\.yaml") as refusal:
        recipe.read(path)
    assert refusal.value.hint


def _laughs(depth: int, form: str = "[{}]") -> str:
    """Values that refer to the last one nine times, again and again."""
    lines = ["a0: &a0 [x, x, x]"]
    for k in range(1, depth):
        inner = form.format(", ".join([f"*a{k - 1}"] * 9))
        lines.append(f"a{k}: &a{k} {inner}")
    return "\n".join(lines)


@pytest.mark.parametrize(
    "text",
    [
        _laughs(12),
        _laughs(12).replace("a0: &a0 [x, x, x]", "a0: &a0 {x: y}").replace("[*", "{<<: [*")
        .replace("]", "]}"),
        "a: &a [*a]",
        "a: &a {b: *a}",
        "skip: " + "[" * 50 + "]" * 50,
        "skip: " + "[" * 50_000 + "]" * 50_000,
        "skip: [" + "a," * 30_000 + "]",
        "skip: " + "a" * 300_000,
        "[a, b]: 3",
        "{a: b}: 3",
        "ratio: 2024-99-99",
        "ratio: !!int x",
        "ratio: !!float x",
        "ratio: !!bool x",
        "ratio: !!timestamp x",
        "ratio: !!binary é",
        "ratio: !!python/object:os.system x",
        "ratio: 0x",
        "ratio: " + "9" * 5000,
        "ratio: \x1b[31m",
        "a: *b",
        "%YAML 9.9\n---\na: b",
        "a: b\n---\nc: d",
    ],
    ids=lambda text: repr(text[:30]),
)  # fmt: skip
def test_a_recipe_that_asks_for_a_lot_or_for_nonsense_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)

    def read() -> Options:
        written = recipe.read(path)
        return from_flags(written.values, written.origins)

    with pytest.raises(OnnxpruneError, match=r"recipe\.yaml|ratio") as refusal:
        read()
    assert refusal.value.hint
    assert "\n" not in refusal.value.message
    assert refusal.value.message.isprintable()


def test_parts_of_a_recipe_may_be_named_and_repeated(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("skip: &head ['*head*']\nfreeze: *head\n")
    assert recipe.read(path).values == {"skip": ["*head*"], "freeze": ["*head*"]}


def test_a_missing_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OnnxpruneError, match="No such file"):
        recipe.read(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"metric": "acuracy"}, "acuracy", "accuracy"),
        ({"target": "latency=0.5x@opnvino"}, "no backend 'opnvino'", "openvino"),
    ],
)
def test_names_that_no_registry_knows_are_refused_before_any_work(
    options: dict[str, object], message: str, hint: str, tmp_path: Path
) -> None:
    with pytest.raises(OnnxpruneError, match=message) as refusal:
        open_run(tmp_path / "missing.onnx", from_flags(options), lambda _: None)
    assert hint in refusal.value.hint
