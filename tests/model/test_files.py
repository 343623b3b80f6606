"""Files change complete or not at all, at whatever moment a process dies."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from crashes import dies_at
from onnxprune.errors import OnnxpruneError
from onnxprune.model import files
from onnxprune.model.files import ScratchFolder, check_space, check_target, replacing, settle, write

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs processes that can be copied")
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


def names(folder: Path) -> set[str]:
    return {each.name for each in folder.iterdir()}


def content(folder: Path) -> dict[str, str]:
    return {each.name: each.read_text() for each in folder.iterdir()}


def exchange(folder: Path, mark: str) -> None:
    """Replace a graph, its data and its certificate by others."""
    with replacing(folder / "graph") as change:
        part = change.part()
        part.write(mark.encode())
        name = change.publish(part, ("data", f"data.{mark}"))
        change.file.write(name.encode())
        change.withdraw("certificate")
        beside = change.part()
        beside.write(mark.encode())
        change.follow(beside, "certificate")
        for old in folder.glob("data*"):
            if old.name != name:
                change.remove(old.name)


def state(folder: Path) -> str:
    """Whose graph, data and certificate these are; they must be of one."""
    graph = (folder / "graph").read_text()
    mark = (folder / graph).read_text()
    certificate = folder / "certificate"
    assert not certificate.exists() or certificate.read_text() == mark
    return mark


@forks
def test_whenever_a_writer_dies_the_files_are_of_one_time(tmp_path: Path) -> None:
    step, seen = 0, set()
    while True:
        folder = tmp_path / str(step)
        folder.mkdir()
        exchange(folder, "old")
        died = dies_at(step, lambda: exchange(folder, "new"))  # noqa: B023  called at once
        seen.add(state(folder))
        settle(folder)
        mark = state(folder)
        assert content(folder) == {
            "graph": (folder / "graph").read_text(),
            (folder / "graph").read_text(): mark,
            "certificate": mark,
        }
        if not died:
            break
        step += 1
    assert mark == "new"
    assert seen == {"old", "new"}
    assert step > 10


@forks
def test_whenever_the_next_writer_dies_too_the_one_after_it_settles_both(tmp_path: Path) -> None:
    for first in range(3, 20, 2):
        step = 0
        while True:
            folder = tmp_path / f"{first}.{step}"
            folder.mkdir()
            exchange(folder, "old")
            dies_at(first, lambda: exchange(folder, "new"))  # noqa: B023
            died = dies_at(step, lambda: settle(folder))  # noqa: B023
            settle(folder)
            mark = state(folder)
            assert len(content(folder)) == 3
            assert (folder / "certificate").read_text() == mark
            if not died:
                break
            step += 1


def test_what_a_live_writer_has_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "graph").write_text("old")
    with replacing(tmp_path / "graph") as change:
        change.file.write(b"new")
        before = names(tmp_path)
        settle(tmp_path)
        write(tmp_path / "other", "text")
        assert names(tmp_path) == {*before, "other"}
    assert content(tmp_path) == {"graph": "new", "other": "text"}


def test_files_without_a_journal_are_removed_and_others_are_not(tmp_path: Path) -> None:
    stem = ".onnxprune-somewhere-12345-0123abcd"
    (tmp_path / f"{stem}.1.tmp").write_text("half")
    (tmp_path / f"{stem}.2.tmp").mkdir()
    (tmp_path / f"{stem}.2.tmp" / "inside").write_text("half")
    others = {".onnxprune-notes", ".onnxprune-a-b.tmp", "onnxprune-somewhere-1-0123abcd.1.tmp"}
    for name in others:
        (tmp_path / name).write_text("mine")
    settle(tmp_path)
    assert names(tmp_path) == others


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"\xff\xfe\n",
        b'["commit", "x"]\n["redo", "remove", "../precious", 0]\n',
        b'["commit", "x"]\n["redo", "rename", "precious", "/tmp/elsewhere"]\n',
        b'["commit"]\n',
        b"[]\n3\n",
        b'{"commit": 1}\n',
    ],
)
def test_a_damaged_journal_does_no_harm(journal: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "precious").write_text("mine")
    (folder / "precious").write_text("mine")
    (folder / ".onnxprune-somewhere-12345-0123abcd.journal").write_bytes(journal)
    settle(folder)
    assert names(tmp_path) == {"folder", "precious"}
    assert "precious" in names(folder)
    write(folder / "more", "text")


@pytest.mark.parametrize("step", range(12))
def test_an_interrupt_while_settling_leaves_nothing(
    step: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A signal may come between any two steps; what the first attempt leaves, the second takes."""
    honest, count = Path.unlink, 0

    def interrupted(path: Path, missing_ok: bool = False) -> None:
        nonlocal count
        honest(path, missing_ok=missing_ok)
        count += 1
        if count == step:
            raise KeyboardInterrupt

    exchange(tmp_path, "old")
    monkeypatch.setattr(Path, "unlink", interrupted)
    with contextlib.suppress(KeyboardInterrupt):
        exchange(tmp_path, "new")
    gc.collect()
    assert not [name for name in names(tmp_path) if name.startswith(".onnxprune-")]
    assert state(tmp_path) in ("old", "new")


def test_a_failing_body_leaves_everything_as_it_was(tmp_path: Path) -> None:
    exchange(tmp_path, "old")
    before = content(tmp_path)

    def fail() -> None:
        with replacing(tmp_path / "graph") as change:
            change.publish(change.part(), ("more",))
            change.withdraw("certificate")
            change.remove("data")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert content(tmp_path) == before


# Places ---------------------------------------------------------------------------------------


def test_only_regular_files_are_written(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "to_pipe").symlink_to("pipe")
    place = Path.cwd()
    os.chdir(tmp_path)  # names of sockets are short
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
    os.chdir(place)
    for name, message in (
        ("pipe", "named pipe"),
        ("to_pipe", "named pipe"),
        ("socket", "a socket"),
        ("folder", "a folder"),
        ("loop", "cannot be written"),
        ("none/file", "no folder"),
        ("x" * 300, "too long"),
    ):
        before = names(tmp_path)
        with pytest.raises(OnnxpruneError, match=message) as caught:
            write(tmp_path / name, "text")
        assert caught.value.hint
        assert names(tmp_path) == before
    for path in ("/dev/stdout", "/proc/self/fd/1", "/dev/onnxprune", "/sys/onnxprune"):
        with pytest.raises(OnnxpruneError):
            check_target(Path(path))


def test_devices_are_not_replaced(tmp_path: Path) -> None:
    node = tmp_path / "node"
    try:
        os.mknod(node, stat.S_IFCHR | 0o600, os.makedev(1, 3))  # of our own, like /dev/null
    except PermissionError:
        pytest.skip("making a node needs privileges")
    with pytest.raises(OnnxpruneError, match="a device"):
        write(node, "text")
    assert stat.S_ISCHR(node.stat().st_mode)


def test_a_link_stays_and_its_file_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    real, link = tmp_path / "store" / "real", tmp_path / "link"
    real.write_text("old")
    link.symlink_to(real)
    write(link, "new")
    assert link.is_symlink()
    assert real.read_text() == "new"
    (tmp_path / "dangling").symlink_to("later")
    write(tmp_path / "dangling", "text")
    assert (tmp_path / "later").read_text() == "text"
    assert names(tmp_path / "store") == {"real"}


def test_permissions_of_a_replaced_file_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    path.chmod(0o640)
    write(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    write(tmp_path / "other", "text")
    reference = tmp_path / "reference"
    reference.touch()
    assert (tmp_path / "other").stat().st_mode == reference.stat().st_mode


def test_a_full_disk_is_known_beforehand(tmp_path: Path) -> None:
    with pytest.raises(OnnxpruneError, match=r"free space, and \d+ are needed") as caught:
        check_space(tmp_path, 1 << 60)
    assert re.search(r"has \d+ bytes", caught.value.message)
    assert names(tmp_path) == set()


# Temporary folders ------------------------------------------------------------------------------


@forks
def test_a_temporary_folder_of_a_dead_process_is_removed_by_the_next(tmp_path: Path) -> None:
    def leave() -> None:
        folder = ScratchFolder(tmp_path)
        (Path(folder.name) / "file").write_text("text")
        os._exit(9)

    assert dies_at(10_000, leave)
    assert len(names(tmp_path)) == 2
    with ScratchFolder(tmp_path) as folder:
        (Path(folder) / "file").write_text("text")
        assert len(names(tmp_path)) == 2
        settle(tmp_path)
        assert (Path(folder) / "file").exists()
    assert names(tmp_path) == set()


def test_a_temporary_folder_goes_with_what_holds_it(tmp_path: Path) -> None:
    folders = [ScratchFolder(tmp_path)]
    with pytest.warns(ResourceWarning):
        folders.clear()
    assert names(tmp_path) == set()


_WAIT = """
import sys, time
from pathlib import Path
from onnxprune import cli
from onnxprune.model import files

def run(_):
    with files.replacing(Path(sys.argv[1])) as change:
        scratch = files.ScratchFolder(Path(sys.argv[1]).parent)
        print("ready", flush=True)
        time.sleep(60)

cli._run = run
sys.exit(cli.main(["wait"]))
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_that_ends_the_process_leaves_nothing(number: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with subprocess.Popen(
        [sys.executable, "-c", _WAIT, str(tmp_path / "file")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, "PYTHONPATH": str(Path(files.__file__).parents[2])},
        preexec_fn=partial(signal.signal, number, signal.SIG_DFL),  # noqa: PLW1509
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert errors == "error: interrupted\n"
    assert content(tmp_path) == {"file": "old"}


def test_where_locks_do_not_work_age_and_process_decide(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(files, "fcntl", None)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    for pid, host, old, stays in (
        (process.pid, files._HOST, False, False),
        (os.getpid(), files._HOST, False, True),
        (process.pid, "elsewhere", False, True),
        (process.pid, "elsewhere", True, False),
    ):
        journal = tmp_path / f".onnxprune-{host}-{pid}-0123abcd.journal"
        journal.write_text(json.dumps(["commit", "x"]) + "\n")
        if old:
            past = time.time() - 2 * files._ABANDONED
            os.utime(journal, (past, past))
        settle(tmp_path)
        assert journal.exists() == stays
        journal.unlink(missing_ok=True)
