"""The command line itself: flags, exit codes, and who hears what."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Ran
from onnxprune.cli import _parser, console, main
from onnxprune.cli import prune as prune_command
from onnxprune.cli.parser import Parser
from onnxprune.config import Options, declared
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError
from onnxprune.jobs import recipe

Cli = Callable[..., Ran]
ROOT = Path(__file__).parents[2]
COMMANDS = (
    *"inspect prune apply recover sensitivity quantize store densify mask eligible build".split(),
    *"eval verify advise bench report demo help completion".split(),
)


def refused(ran: Ran) -> tuple[str, str]:
    """The error and the hint of a run that could not start; it must have said nothing else."""
    assert ran.code == 2
    assert ran.out == ""
    lines = ran.err.splitlines()
    assert len(lines) == 2, ran.err
    assert lines[0].startswith("error: ")
    assert lines[1].startswith("hint: ")
    return lines[0].removeprefix("error: "), lines[1].removeprefix("hint: ")


@pytest.mark.parametrize("command", [(), *((each,) for each in COMMANDS)])
def test_help_is_data_and_a_success(cli: Cli, command: tuple[str, ...]) -> None:
    ran = cli(*command, "--help")
    assert (ran.code, ran.err) == (0, "")
    assert f"usage: onnxprune {' '.join(command)}".rstrip() in ran.out


def test_help_lists_every_command_and_no_other(cli: Cli) -> None:
    listed = re.findall(r"^    (\w+) ", cli("--help").out, re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_version_is_that_of_the_package(cli: Cli) -> None:
    assert cli("--version").out == f"onnxprune {importlib.metadata.version('onnxprune')}\n"


def test_without_a_command_it_explains_itself_and_fails(cli: Cli) -> None:
    ran = cli()
    assert (ran.code, ran.out) == (2, "")
    assert "usage: onnxprune" in ran.err


def test_every_option_is_a_flag_of_prune() -> None:
    parser = Parser(prog="onnxprune", allow_abbrev=False)
    prune_command.add(parser.add_subparsers())
    found = vars(parser.parse_all(["prune", "m.onnx"]))
    assert set(declared(Options)) <= set(found)


@pytest.mark.parametrize(
    ("arguments", "error", "hint"),
    [
        (("prun", "m.onnx"), "'prun'", "'prune'"),
        (("prune", "m.onnx", "--raito", "0.3"), "--raito", "'--ratio'"),
        (("prune", "m.onnx", "--calib-sample=3"), "--calib-sample'", "'--calib-samples'"),
        (("prune", "m.onnx", "--rat", "0.3"), "--rat'", "'--ratio'"),
        (("prune",), "MODEL", "onnxprune prune --help"),
        (("inspect", "a.onnx", "b.onnx"), "'b.onnx'", "onnxprune inspect --help"),
        (("prune", "m.onnx", "--ratio"), "--ratio", "onnxprune help ratio"),
        (("apply", "plan.json", "m.onnx"), "-o", "onnxprune apply --help"),
        (("prune", "m.onnx"), "how much", "--ratio 0.3"),
        (("prune", "m.onnx", "--ratio", "30"), "--ratio 30", "30%"),
        (("prune", "m.onnx", "--ratio", "half"), "half", "0.3"),
        (("prune", "m.onnx", "--target", "flops=50%"), "flops", "macs=50%"),
        (("prune", "m.onnx", "--target", "macs=50%", "--ratio", ".3"), "--target", "one of them"),
        (("prune", "m.onnx", "--ratio", "0.9"), "--max-ratio", "--max-ratio"),
        (("prune", "m.onnx", "--ratio", "0.3", "--metric", "acc"), "acc", "accuracy"),
        (("prune", "m.onnx", "--ratio", "0.3", "--labels", "y"), "--labels", "--calib"),
        (("prune", "m.onnx", "--ratio", "0.3", "--batch", "0"), "--batch 0", "--batch 1"),
        (("prune", "m.onnx", "--ratio", "0.3", "--shapes", "1x3"), "1x3", "input=1x3x224x224"),
        (("prune", "m.onnx", "--ratio", "0.3", "--recipe", "no.yaml"), "no.yaml", "path"),
        (("inspect", "m.onnx", "--shapes", "x=ax3"), "ax3", "1x3x224x224"),
    ],
)
def test_wrong_flags_are_refused_in_one_sentence_and_a_hint(
    cli: Cli, arguments: tuple[str, ...], error: str, hint: str
) -> None:
    said = refused(cli(*arguments))
    assert error in said[0]
    assert hint in said[1]
    assert said[0][0] == said[0][0].lower()


def test_an_unknown_key_in_a_recipe_suggests_the_flag(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("ratoi: 0.3\n")
    error, hint = refused(cli("prune", "m.onnx", "--recipe", tmp_path / "recipe.yaml"))
    assert "'ratoi'" in error
    assert "'ratio'" in hint


def asked(tmp_path: Path, text: str, *flags: str) -> Options:
    """The options that a recipe and flags make together."""
    (tmp_path / "recipe.yaml").write_text(text)
    parser = Parser(prog="onnxprune", allow_abbrev=False)
    prune_command.add(parser.add_subparsers())
    line = ["prune", "m.onnx", "--recipe", str(tmp_path / "recipe.yaml"), *flags]
    return prune_command._options(parser.parse_all(line))[0]


def test_flags_override_the_recipe_and_leave_the_rest_of_it(tmp_path: Path) -> None:
    text = "ratio: 0.3\nmax-ratio: 0.5\nskip: [head]\nallow_inexact: true\n"
    assert asked(tmp_path, text) == Options(
        ratio=0.3, max_ratio=0.5, skip=("head",), allow_inexact=True
    )
    both = asked(tmp_path, text, "--max-ratio", "0.6", "--skip", "stem", "--target", "macs=40%")
    assert (both.ratio, str(both.target), both.max_ratio) == (None, "macs=40%", 0.6)
    assert (both.skip, both.allow_inexact) == (("stem",), True)


def test_a_saved_recipe_can_be_given_back(tmp_path: Path) -> None:
    first = asked(tmp_path, "ratio: 25%\nratios: {'layer1*': 0.1}\nshapes: {x: 1x3x8x8}\n")
    recipe.write(first, tmp_path / "saved.yaml")
    assert asked(tmp_path, (tmp_path / "saved.yaml").read_text()) == first


def test_an_unexpected_error_is_a_sentence_unless_debugging(
    monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    def fall(_given: object) -> int:
        raise ZeroDivisionError("the sky\nis falling")

    monkeypatch.setattr("onnxprune.cli.inspect.run", fall)
    error, hint = refused(cli("inspect", "m.onnx"))
    assert "ZeroDivisionError: the sky is falling" in error
    assert "--debug" in hint
    ran = cli("inspect", "m.onnx", "--debug")
    assert ran.code == 2
    assert "Traceback" in ran.err


def test_an_interrupt_is_no_traceback(monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    def stop(_given: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("onnxprune.cli.inspect.run", stop)
    ran = cli("inspect", "m.onnx")
    assert ran.code == 130
    assert ran.err.startswith("error: interrupted")


def test_a_bad_verdict_has_its_own_exit_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def judge(_given: object) -> int:
        raise OnnxpruneError("It drifts.", exit_code=1)

    monkeypatch.setattr("onnxprune.cli.inspect.run", judge)
    assert main(["inspect", "m.onnx"]) == 1
    assert capsys.readouterr().err == "error: It drifts.\nRESULT inspect exit=1\n"


def test_progress_is_silent_where_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    with console.progress() as progress:
        progress("reading")
    assert capsys.readouterr() == ("", "")


def test_square_brackets_in_messages_are_text(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(OnnxpruneError("no [bold]:smile: in 'x[0]'", hint="pip install 'onnxprune[cpu]'"))
    assert capsys.readouterr().err == (
        "error: no [bold]:smile: in 'x[0]'\nhint: pip install 'onnxprune[cpu]'\n"
    )


def test_long_messages_stay_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(OnnxpruneError("a " * 500 + "b", hint="c " * 500 + "d"))
    assert len(capsys.readouterr().err.splitlines()) == 2


def run_program(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the installed program as a user does."""
    program = Path(sys.executable).with_name("onnxprune")
    return subprocess.run(
        [program, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def test_the_installed_program_starts_and_its_exit_code_is_ours() -> None:
    ran = run_program("inspect", "/nowhere/model.onnx")
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert ran.stderr.startswith("error: ")
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("wish", ["FORCE_COLOR", "NO_COLOR"])
def test_colour_follows_the_environment(wish: str) -> None:
    ran = run_program("prune", "m.onnx", **{wish: "1", "TERM": "xterm-256color"})
    assert ("\x1b[" in ran.stderr) == (wish == "FORCE_COLOR")


def test_help_does_not_wait_for_onnx() -> None:
    code = (
        "import sys; from onnxprune.cli import main; main(['prune', '--help']);"
        "sys.exit('onnx' in sys.modules or 'onnxruntime' in sys.modules)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ran.returncode == 0, ran.stderr


def test_a_reader_that_leaves_early_is_no_error() -> None:
    program = Path(sys.executable).with_name("onnxprune")
    buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
    with subprocess.Popen(
        [program, "--help"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=buffered
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == b""


def test_every_command_line_in_the_documents_is_one_we_take() -> None:
    lines = [
        line.partition("$ onnxprune ")[2].partition("#")[0].partition(" > ")[0]
        for document in ("README.md", "CONTRIBUTING.md", "docs/quickstart.md")
        for line in (ROOT / document).read_text(encoding="utf-8").splitlines()
        if line.startswith("$ onnxprune ")
    ]
    assert len(lines) >= 5
    for line in lines:
        found = _parser().parse_all(shlex.split(line))
        if found.command == "prune" and not found.recipe:
            wanted, _ = prune_command._options(found)
            assert wanted.searches or not wanted.asks_for_nothing, line


def test_the_recipe_in_the_readme_is_one_we_take(tmp_path: Path) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    assert not asked(tmp_path, example).asks_for_nothing


def test_what_the_documents_show_is_what_inspect_prints(cli: Cli) -> None:
    printed = [
        line.rstrip() for line in cli("inspect", zoo.get("digits_rescnn").model).out.splitlines()
    ]
    shown: list[str] = []
    for document in ("README.md", "docs/quickstart.md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        (example,) = re.findall(r"\$ onnxprune inspect model\.onnx.*?\n(.*?)```", text, re.DOTALL)
        shown += [line for line in example.splitlines() if "..." not in line and line.strip()]
    assert len(shown) > 10
    assert [line for line in shown if line not in printed] == []


LINK = "https://github.com/onnxprune/onnxprune/"


def test_links_of_the_readme_name_files_of_the_repository() -> None:
    """The readme is shown outside of the repository too, so its links are whole addresses."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)\s]+)\)", text)
    assert len(links) > 10
    for link in links:
        raw = LINK.replace("github.com", "raw.githubusercontent.com") + "main/"
        path = re.sub(rf"^({LINK}(blob|tree)/main/|{raw})", "", link).partition("#")[0]
        assert path != link, link
        assert (ROOT / path).exists(), link


def test_without_onnxruntime_it_says_how_to_get_it() -> None:
    code = (
        "import sys; sys.modules['onnxruntime'] = None\n"
        "from onnxprune.cli import main; sys.exit(main(['demo']))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert ran.stdout == ""
    assert "pip install 'onnxprune[cpu]'" in ran.stderr
    assert "Traceback" not in ran.stderr
