"""Whatever the streams are like, what is said arrives as text, and the exit code is right."""

from __future__ import annotations

import errno
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import Ran
from onnxprune.cli import console, main
from onnxprune.cli.streams import SafeStream, encodable
from onnxprune.data import zoo
from onnxprune.errors import OnnxpruneError, visible

Cli = Callable[..., Ran]
MODEL = zoo.get("digits_mlp").model
ENCODINGS = ("utf-8", "ascii", "cp1252", "latin-1", "shift_jis", "utf-16", "no-such-one")


class Full(io.StringIO):
    """A stream whose disk is full."""

    def __init__(self, number: int = errno.ENOSPC) -> None:
        super().__init__()
        self.number = number

    def write(self, _: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


@given(st.text(), st.sampled_from(ENCODINGS))
def test_any_text_can_be_written_in_any_encoding(text: str, encoding: str) -> None:
    result = encodable(text, encoding)
    if encoding != "no-such-one":
        assert result.encode(encoding).decode(encoding) == result
    if text.isascii():
        assert result == text


@given(st.text(st.characters(codec=None)))
def test_what_is_visible_has_no_control_characters(text: str) -> None:
    result = visible(text, line=True)
    assert "\n" not in result
    assert not any(ord(each) < 32 or 0x7F <= ord(each) < 0xA0 for each in result)
    assert not any("\u202a" <= each <= "\u202e" for each in result)
    assert visible(result, line=True) == result
    if text.isprintable():
        assert result == text
    result.encode()  # no half of a character either


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EPIPE, errno.EIO])
def test_a_stream_that_fails_is_given_up(number: int) -> None:
    stream = SafeStream(Full(number))
    for _ in range(3):
        assert stream.write("text") == 4
        stream.flush()
    assert stream.failure is not None
    assert stream.failure.errno == number
    closed = io.StringIO()
    closed.close()
    for none in (SafeStream(closed), SafeStream(None)):
        none.write("text")
        none.flush()
        assert none.failure is not None


@pytest.mark.parametrize("as_json", [False, True])
@pytest.mark.parametrize(("number", "code"), [(errno.ENOSPC, 1), (errno.EPIPE, 141)])
def test_what_is_written_is_said_where_stdout_fails(
    as_json: bool,
    number: int,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, page, plan = (tmp_path / name for name in ("out.onnx", "page.html", "plan.json"))
    words = ["prune", MODEL, "--ratio", "0.3", "-o", out, "--report", page, "--save-plan", plan]
    monkeypatch.setattr(sys, "stdout", Full(number))
    assert main([*map(str, words), *["--json"] * as_json]) == code
    assert all(path.exists() for path in (out, page, plan))
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == f"Wrote {out}" or lines[1] == f"Wrote {out}"
    assert lines[-1].startswith(f"RESULT prune exit={code} ") == (code == 1)
    errors = [line for line in lines if line.startswith("error: ")]
    assert len(errors) == (number != errno.EPIPE)
    assert all("standard output" in line and os.strerror(number) in line for line in errors)


def test_a_bad_verdict_keeps_its_exit_code_where_stdout_fails(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdout", Full(errno.EPIPE))
    assert main(["prune", "missing.onnx", "--ratio", "0.3"]) == 2
    assert capsys.readouterr().err.startswith("error: there is no file missing.onnx")


def test_a_stderr_that_fails_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for stream in (Full(), None):
        monkeypatch.setattr(sys, "stderr", stream)
        out = tmp_path / "out.onnx"
        assert main(["prune", str(MODEL), "--ratio", "0.3", "-o", str(out)]) == 0
        assert out.exists()
        out.unlink()
        assert main(["prune", str(MODEL), "--ratio", "x"]) == 2


@pytest.mark.skipif(os.name != "posix", reason="a shell closes the descriptors")
def test_closed_descriptors_are_no_files_of_the_model(tmp_path: Path) -> None:
    """The first file that is opened would get the number of stdout otherwise."""
    out = tmp_path / "out.onnx"
    words = f"{sys.executable} -m onnxprune store {MODEL} --store external -o {out}"
    done = subprocess.run(
        ["/bin/sh", "-c", f"exec {words} <&- >&- 2>&-"], check=False, cwd=tmp_path
    )
    assert done.returncode == 1  # the report was lost
    onnx.checker.check_model(str(out), full_check=True)
    assert onnx.load(out).SerializeToString()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_json_is_json_in_every_encoding(
    encoding: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx.load(MODEL)
    name = "é\u4e2d\x9b\u202e\x1b[31m"
    first, *others = [node for node in proto.graph.node if node.op_type == "Gemm"]
    for node in proto.graph.node:
        node.input[:] = [name if each == first.output[0] else each for each in node.input]
    first.output[0] = name
    path = tmp_path / f"{name[:2]}.onnx"
    onnx.save(proto, path)
    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding=encoding, errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    assert main(["eligible", str(path), "--json"]) == 0
    stream.flush()
    text = raw.getvalue().decode(encoding)
    document = json.loads(text)
    assert document["model"] == str(path)
    assert others
    assert any(each["node"] == name for each in document["layers"])
    assert all(each in text for each in (("é", "\u4e2d") if encoding == "utf-8" else ()))
    assert not set(text) & {"\x1b", "\x9b", "\u202e"}


def test_names_from_files_bring_no_control_characters(cli: Cli, tmp_path: Path) -> None:
    proto = onnx.load(MODEL)
    evil = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202e\r\nerror: x"
    renamed = {each.name: f"{evil}{k}" for k, each in enumerate(proto.graph.initializer)}
    for tensor in proto.graph.initializer:
        tensor.name = renamed[tensor.name]
    for node in proto.graph.node:
        node.name += evil
        node.input[:] = [renamed.get(each, each) for each in node.input]
    path = tmp_path / "evil.onnx"
    onnx.save(proto, path)
    for words in (
        ("inspect", path, "-v"),
        ("prune", path, "--ratio", "0.3", "-v"),
        ("prune", path, "--ratio", "0.3", "--skip", "*x9"),
        ("prune", path, "--ratio", "0.3", "--calib", f"{evil}.npz"),
        ("eligible", path),
        ("quantize", path, "--dynamic", "-v"),
        (f"{evil}",),
    ):
        ran = cli(*words)
        assert not set(ran.out + ran.err) & {"\x1b", "\x07", "\x9b", "\u202e", "\r"}, words
        assert sum(line.startswith("error:") for line in ran.err.splitlines()) == (ran.code != 0)


def test_every_json_says_whether_it_worked(cli: Cli, tmp_path: Path) -> None:
    good = cli("inspect", MODEL, "--json")
    assert (good.code, list(json.loads(good.out))[:5]) == (
        0,
        ["schema", "version", "ok", "error", "hint"],
    )
    for words in (
        ("prune", "missing.onnx", "--ratio", "0.3"),
        ("prune", MODEL, "--ratio", "x"),
        ("nonsense",),
        ("prune", MODEL, "--nonsense"),
    ):
        ran = cli(*words, "--json")
        document = json.loads(ran.out)
        assert ran.code == 2
        assert document["ok"] is False
        assert f"error: {document['error']}" == ran.err.splitlines()[0]
        assert f"hint: {document['hint']}" == ran.err.splitlines()[1]
        assert document["schema"] == "onnxprune.error"
    copied = cli("demo", "--copy", tmp_path / "copy", "--json")
    assert json.loads(copied.out)["ok"] is True


def test_a_quiet_command_says_how_it_ended_and_nothing_else(cli: Cli, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    ran = cli("prune", MODEL, "--ratio", "0.3", "-o", out, "-q")
    assert ran.out == ""
    status = "structure=verified quality='not measured'"
    assert ran.err == f"RESULT prune exit=0 {status} output={out}\n"
    as_json = cli("prune", MODEL, "--ratio", "0.3", "-q", "--json")
    assert json.loads(as_json.out)["ok"] is True
    refused = cli("prune", MODEL, "--ratio", "x", "-q")
    assert [line.partition(":")[0] for line in refused.err.splitlines()] == ["error", "hint"]


def test_an_error_with_line_breaks_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    console.error(OnnxpruneError("one\ntwo\tthree", hint="four\r\nfive"))
    assert capsys.readouterr().err == "error: one\\ntwo\\tthree\nhint: four\\r\\nfive\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_is_quiet_on_a_terminal(quiet: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calib = MODEL.with_name("digits_calibration.npz")
    command = ["prune", MODEL, "--ratio", "0.3", "--calib", calib, "--calib-samples", "64"]
    command += ["--criterion", "wanda", *(["-q"] if quiet else [])]
    master, slave = os.openpty()
    os.set_blocking(master, False)
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(slave, "w") as terminal, monkeypatch.context() as patched:
        for stream in ("stdout", "stderr"):
            patched.setattr(sys, stream, terminal)
        code = main([str(each) for each in command])
        shown = os.read(master, 1 << 20).decode()
    os.close(master)
    assert code == 0, shown
    assert ("Observing" in shown) == ("recovering" in shown) == (not quiet)
    lines = shown.splitlines()
    assert not quiet or [line.partition(" ")[0] for line in lines[-1:]] == ["RESULT"], shown
    assert not quiet or all(line.startswith(("warning:", "RESULT")) for line in lines), shown
