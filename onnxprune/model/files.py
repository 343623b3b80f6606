"""Files that appear complete or not at all, also where a process is killed while it writes.

Every output is written to temporary files beside it, and one rename makes it appear. Where several
files belong together (a graph and its weights, a plan and its masks), that rename is the only
moment that counts: what is needed before it has a name that nothing reads yet, and what is to
happen after it is written down in a journal beside the temporary files. Whoever writes in a folder
first settles the changes that dead writers left there: those that had come to their rename are
completed, the others are undone. Writers hold a lock on their journal while they live, so nothing
of a live one is ever touched.
"""

from __future__ import annotations

import contextlib
import errno
import filecmp
import json
import os
import re
import secrets
import shutil
import socket
import stat
import tempfile
import time
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from onnxprune.errors import OnnxpruneError

try:
    import fcntl
except ImportError:  # Windows: there an open file cannot be removed, which protects live writers
    fcntl = None  # type: ignore[assignment]

_HOST = re.sub(r"[^A-Za-z0-9]", "_", socket.gethostname())[:24] or "host"
_NAME = re.compile(r"\.onnxprune-(?P<host>\w+)-(?P<pid>\d+)-[0-9a-f]{8}")
_JOURNAL, _PART = ".journal", ".tmp"
_ABANDONED = 24 * 3600.0
"""Seconds after which a journal counts as abandoned where its lock and its process say nothing."""

_SPECIAL = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_ODD = "no regular file"
_LENGTHS = (2, 4)
"""Of the entries of a journal: the commit and claims, and what is renamed or removed."""
_SYSTEM = (Path("/dev"), Path("/proc"), Path("/sys"))
_MEMORY = Path("/dev/shm")  # noqa: S108  an ordinary folder, though among the devices

_Direction = Literal["undo", "redo"]


def check_target(path: Path) -> Path:
    """The file that writing to ``path`` replaces or creates: links are followed, and stay.

    Raises:
        OnnxpruneError: its folder is missing, or it is there and no regular file.
    """
    hint, target = "give the name of a file", path
    try:
        target = path.resolve() if path.is_symlink() else path
        kind = stat.S_IFMT(target.stat().st_mode)
    except FileNotFoundError:
        kind = stat.S_IFREG
    except (NotADirectoryError, PermissionError):
        kind = stat.S_IFREG  # the folder says what is wrong
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle
        reason = (error.strerror if isinstance(error, OSError) else None) or "links in a circle"
        raise OnnxpruneError(f"{path} cannot be written: {reason}", hint=hint) from error
    folder = target.parent
    if kind != stat.S_IFREG:
        if kind == stat.S_IFDIR:
            hint = "give the name of a file in it"
        raise OnnxpruneError(f"{path} is {_SPECIAL.get(kind, _ODD)}", hint=hint)
    if not folder.is_dir():
        raise OnnxpruneError(
            f"{path} cannot be written: there is no folder {folder}", hint="create it first"
        )
    for real in (path.parent.resolve(), folder.resolve()):  # /proc/self/fd/1 may lead anywhere
        if any(real.is_relative_to(each) for each in _SYSTEM) and not real.is_relative_to(_MEMORY):
            raise OnnxpruneError(
                f"{path} cannot be written: {real} is no folder for files",
                hint="choose another folder",
            )
    return target


def kind_of_file(status: os.stat_result) -> str:
    """What a path leads to that is no regular file: a folder, a named pipe, a device."""
    return _SPECIAL.get(stat.S_IFMT(status.st_mode), _ODD)


def check_space(folder: Path, size: int) -> None:
    """Refuse to write ``size`` bytes to a folder whose device has less room.

    Raises:
        OnnxpruneError: it has.
    """
    try:
        free = shutil.disk_usage(folder).free
    except OSError:  # not every file system says
        return
    if free < size:
        raise OnnxpruneError(
            f"{folder} has {free} bytes of free space, and {size} are needed",
            hint="free some, or choose a folder on another disk",
        )


class Change:
    """Files of one folder that change together, at the rename of `file` to its target.

    Args:
        target: of the rename, as `check_target` returns it.

    Attributes:
        file: where the new content of ``target`` goes.
    """

    def __init__(self, target: Path) -> None:
        self.target, self.folder = target, target.parent
        settle(self.folder)
        self._journal = _Journal(self.folder)
        self._parts: list[BinaryIO] = []
        self._published = False
        try:
            self.file = self.part()
        except BaseException:
            self._journal.close()
            raise
        self._journal.write("commit", _name_of(self.file))

    def part(self) -> BinaryIO:
        """Another temporary file; it is gone after the change unless it was given a name."""
        # "x" rather than tempfile: the result gets the permissions the user's umask asks for.
        file = (self.folder / self._journal.name()).open("xb")
        self._parts.append(file)
        return file

    def publish(self, part: BinaryIO, names: Iterable[str]) -> str:
        """Give a complete part the first one of ``names`` that is free or has the same content.

        Nothing new may read files of these names until the target says so. A file of the same
        content is replaced, so that a writer who is about to remove the old one spares it; it stays
        if the change fails, as the model that is there now may need it.
        """
        _sync_file(part)
        source = self.folder / _name_of(part)
        number = source.stat().st_ino
        for name in names:
            place = self.folder / name
            self._journal.write("claim", name)  # from here on nobody removes it
            if not place.exists():
                self._journal.write("undo", "remove", name, number)
                free = _link(source, place)
            else:
                free = _is_equal(source, place) and self._replace(source, place)
            if free:
                # Who had looked for claims before this one may still remove the file.
                self._journal.write("redo", "restore", source.name, name)
                self._published = True
                return name
        raise FileExistsError(errno.EEXIST, "every name for the data is taken", str(self.target))

    def _replace(self, source: Path, place: Path) -> bool:
        """Put a file in the place of another, and keep its own name; False if that cannot be."""
        link = self.folder / self._journal.name()
        try:
            os.link(source, link)
            link.replace(place)
        except OSError:  # a file system without links, or a file that is in use on Windows
            return False
        return True

    def withdraw(self, name: str) -> None:
        """Take a file away, to be removed by the change; it comes back if the change fails."""
        if not (self.folder / name).is_file():
            return
        aside = self._journal.name()
        self._journal.write("undo", "rename", aside, name)
        (self.folder / name).replace(self.folder / aside)

    def follow(self, part: BinaryIO, name: str) -> None:
        """Give a complete part its name right after the change; see `withdraw`."""
        _sync_file(part)
        self._journal.write("redo", "rename", _name_of(part), name)

    def remove(self, name: str) -> None:
        """Remove a file right after the change."""
        with contextlib.suppress(FileNotFoundError):
            number = (self.folder / name).stat().st_ino
            self._journal.write("redo", "remove", name, number)

    def is_claimed(self, name: str) -> bool:
        """Whether another writer gives a file that name, and has not come to his rename."""
        for journal in self.folder.glob(f".onnxprune-*{_JOURNAL}"):
            with contextlib.suppress(FileNotFoundError):  # he has come to it
                if journal != self._journal.path and name.encode() in journal.read_bytes():
                    return True
        return False

    def commit(self) -> None:
        """Make the change."""
        part = Path(self.file.name)
        _sync_file(self.file)
        with contextlib.suppress(FileNotFoundError, NotImplementedError):
            part.chmod(stat.S_IMODE(self.target.stat().st_mode))
        self.file.close()
        if self._published:
            _sync_folder(self.folder)  # what the target names has to be there before it
        part.replace(self.target)
        self._close()
        _sync_folder(self.folder)

    def abandon(self) -> None:
        """Leave everything as it was."""
        self._close()

    def _close(self) -> None:
        for file in self._parts:
            with contextlib.suppress(OSError):  # what a full disk does not take
                file.close()
        self._journal.settle()


@contextlib.contextmanager
def replacing(target: Path, size: int = 0) -> Iterator[Change]:
    """Replace or create a file, and others with it, when the body is done, else nothing.

    Args:
        target: the file, as `check_target` returns it.
        size: bytes that will be written, as far as is known.

    Raises:
        OSError: the folder is missing or not writable, or the device is full.
        OnnxpruneError: the device has no room for ``size`` bytes.
    """
    check_space(target.parent, size)
    change = Change(target)
    try:
        yield change
        change.commit()
    except BaseException:
        change.abandon()
        raise


def write(path: str | Path, content: str | bytes, what: str = "") -> Path:
    """Write a file, complete or not at all.

    Args:
        path: of the file; one that is there is replaced, a link is followed.
        content: text is written as UTF-8.
        what: the content, as messages name it, as in ``the plan``.

    Returns:
        ``path``.

    Raises:
        OnnxpruneError: it cannot be written.

    Example:
        >>> import tempfile
        >>> folder = Path(tempfile.mkdtemp())
        >>> write(folder / "notes.txt", "complete").read_text()
        'complete'
    """
    path = Path(path)
    data = content.encode() if isinstance(content, str) else content
    with describing(path, what), replacing(check_target(path), len(data)) as change:
        change.file.write(data)
    return path


@contextlib.contextmanager
def describing(path: Path, what: str = "") -> Iterator[None]:
    """Turn the errors of the system into ours.

    Args:
        path: the file that is written.
        what: its content, as in ``the plan``.

    Raises:
        OnnxpruneError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        place = f"{what} cannot be written to {path}" if what else f"{path} cannot be written"
        raise OnnxpruneError(
            f"{place}: {error.strerror or error}",
            hint="check the name, the folder's permissions and the free space",
        ) from error


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A temporary folder; one that a killed process leaves is removed by the next that makes one.

    Args:
        folder: where; the system's folder for temporary files by default.
    """

    def __init__(self, folder: Path | None = None) -> None:
        place = Path(tempfile.gettempdir()) if folder is None else folder
        settle(place)
        journal = _Journal(place)
        weakref.finalize(self, journal.close)  # after the folder itself, whose turn comes first
        super().__init__(prefix=f"{journal.path.stem}.", suffix=_PART, dir=place)
        self._journal = journal

    def cleanup(self) -> None:
        """Remove the folder and all that is in it."""
        super().cleanup()
        self._journal.close()


def settle(folder: Path) -> None:
    """Complete or undo the changes that dead writers left in a folder, and remove their files."""
    groups: dict[str, list[Path]] = {}
    try:
        for name in os.listdir(folder):  # noqa: PTH208  names are enough, and there may be many
            if match := _NAME.match(name):
                groups.setdefault(match[0], []).append(folder / name)
    except OSError:  # the writer will say what is wrong with it
        return
    for stem, paths in groups.items():
        journal = folder / f"{stem}{_JOURNAL}"
        with contextlib.suppress(OSError):  # somebody else's files, or one who is faster
            if not journal.exists():  # a journal comes before all else
                for path in paths:
                    _remove(path)
            elif (handle := _acquire(journal)) is not None:
                try:
                    _settle(journal)
                finally:
                    _release(handle)


class _Journal:
    """The locked file of a live writer, in which a change says what has to be undone or done."""

    def __init__(self, folder: Path) -> None:
        while True:
            token = f".onnxprune-{_HOST}-{os.getpid()}-{secrets.token_hex(4)}"
            self.path = folder / f"{token}{_JOURNAL}"
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
            try:
                if _lock(handle) and _names(self.path, handle):
                    # An interrupt may come before anybody else knows of it.
                    self._last = weakref.finalize(self, _give_up, self.path, handle, os.getpid())
                    break
            except BaseException:
                with contextlib.suppress(OSError):
                    self.path.unlink()
                _release(handle)
                raise
            os.close(handle)  # taken for abandoned in the moment before it was locked
        self._handle: int | None = handle
        self._owner = os.getpid()
        self._count = 0

    def name(self) -> str:
        """A name for another temporary file of this change."""
        self._count += 1
        return f"{self.path.stem}.{self._count}{_PART}"

    def write(self, *entry: object) -> None:
        """Add an entry before what it says is done: at any moment the journal knows enough."""
        assert self._handle is not None
        line = json.dumps(entry).encode() + b"\n"
        if os.write(self._handle, line) < len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self.path))
        if entry[0] != "commit":
            os.fsync(self._handle)

    def settle(self) -> None:
        """Do or undo what the journal says, and remove it and all temporary files."""
        if self._handle is None or os.getpid() != self._owner:
            return
        _settle(self.path)
        self._unlock()

    def close(self) -> None:
        """Remove the journal of a writer that changes nothing."""
        if self._handle is None or os.getpid() != self._owner:  # of a parent that forked us
            return
        with contextlib.suppress(OSError):
            self.path.unlink()
        self._unlock()

    def _unlock(self) -> None:
        handle, self._handle = self._handle, None
        self._last.detach()
        if handle is not None:
            _release(handle)


def _give_up(journal: Path, handle: int, owner: int) -> None:
    """Settle a change that nobody holds any more."""
    if os.getpid() == owner:
        with contextlib.suppress(OSError):
            _settle(journal)
        _release(handle)


def _settle(journal: Path) -> None:
    """Complete a change whose commit took place, or undo it, and remove its temporary files."""
    entries = []
    try:
        content = journal.read_bytes()
    except FileNotFoundError:  # an interrupt came when all but this was done
        content = b""
    for line in content.split(b"\n")[:-1]:  # a line without its end was not acted on
        with contextlib.suppress(ValueError, RecursionError):
            entry = json.loads(line)
            if isinstance(entry, list) and len(entry) in _LENGTHS and isinstance(entry[1], str):
                entries.append(entry)
    folder = journal.parent
    commit = next((entry[1] for entry in entries if entry[0] == "commit"), None)
    direction: _Direction = "undo" if commit is None or (folder / commit).exists() else "redo"
    for when, *action in entries:
        names = [name for name in action[1:] if isinstance(name, str)]
        if when != direction or not all(map(_is_plain, names)):
            continue
        if action[0] in ("rename", "restore") and len(names) == 2:
            source, target = (folder / name for name in names)
            forced = direction == "redo" and action[0] == "rename"
            if source.exists() and (forced or not target.exists()):
                source.replace(target)
        elif action[0] == "remove" and len(names) == 1:
            place = folder / names[0]
            with contextlib.suppress(FileNotFoundError):
                if place.lstat().st_ino == action[2]:
                    place.unlink()
    # First the journal: with it, but without the file of the commit, the change would look made.
    journal.unlink(missing_ok=True)
    for path in folder.glob(f"{journal.stem}.*{_PART}"):
        _remove(path)


def _is_plain(name: str) -> bool:
    """Whether a name is that of a file in its own folder."""
    return name == Path(name).name and name not in ("", ".", "..")


def _remove(path: Path) -> None:
    """Remove a temporary file or folder, of our own user only."""
    if hasattr(os, "getuid") and path.lstat().st_uid != os.getuid():
        return
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _acquire(journal: Path) -> int | None:
    """A locked handle on the journal of a dead writer; None if it lives or nothing can be told."""
    handle = os.open(journal, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    status = os.fstat(handle)
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    if mine and _lock(handle, check=journal) and _names(journal, handle):
        return handle
    os.close(handle)
    return None


def _lock(handle: int, check: Path | None = None) -> bool:
    """Lock a journal without waiting; whether its writer is dead where there are no locks."""
    if fcntl is not None:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        except OSError:  # a file system without locks
            pass
        else:
            return True
    return check is None or _is_abandoned(check, os.fstat(handle))


def _is_abandoned(journal: Path, status: os.stat_result) -> bool:
    """Whether the writer of a journal is dead, by its process or its age."""
    match = _NAME.match(journal.name)
    if match is not None and match["host"] == _HOST and os.name == "posix":
        try:
            os.kill(int(match["pid"]), 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            return False
    return time.time() - status.st_mtime > _ABANDONED


def _names(path: Path, handle: int) -> bool:
    """Whether a path still names the file that a handle is open on."""
    try:
        return os.path.samestat(path.stat(), os.fstat(handle))
    except OSError:
        return False


def _release(handle: int) -> None:
    with contextlib.suppress(OSError):
        os.close(handle)


def _link(source: Path, place: Path) -> bool:
    """Give a file a second name that is free; False if it is not."""
    try:
        os.link(source, place)
    except FileExistsError:
        return False
    except OSError:  # a file system without links
        if place.exists():
            return False
        source.rename(place)
    return True


def _is_equal(one: Path, other: Path) -> bool:
    """Whether two files have the same content."""
    try:
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _name_of(part: BinaryIO) -> str:
    return Path(part.name).name


def _sync_file(file: BinaryIO) -> None:
    """Bring what was written to the device."""
    file.flush()
    os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make renames in ``folder`` durable where the system can (Windows cannot open a folder)."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
