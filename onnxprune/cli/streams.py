"""Standard streams that take any text and never raise.

A character that the encoding of a stream lacks is spelt out, and names from files bring no control
characters. Where a stream is closed or its disk is full, the rest is dropped and the first error
kept, so that a command goes on to say what it wrote and ends with the right exit code.
"""

from __future__ import annotations

import codecs
import errno
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TextIO, cast

from onnxprune.errors import escaped

_SPELT = {
    "±": "+-", "…": "...", "µ": "u", "→": "->", "✕": "x", "✓": "v", "—": "-", "·": ".",
    "░": ".", "█": "#", "▁": "_", "▂": "_", "▃": "-", "▄": "-", "▅": "=", "▆": "=", "▇": "#",
}  # fmt: skip
"""Characters of ours in ASCII; others are escaped."""


def _spell(error: UnicodeError) -> tuple[str, int]:
    """The error handler of encoders: what a character is written as."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lost = error.object[error.start : error.end]
    return "".join(_SPELT.get(each) or escaped(each) for each in lost), error.end


codecs.register_error("onnxprune", _spell)


def encodable(text: str, encoding: str) -> str:
    r"""A text that an encoding can write, as near as possible to the given one.

    Example:
        >>> print(encodable("3 ± 1 ms, é", "ascii"))
        3 +- 1 ms, \xe9
    """
    try:
        return text.encode(encoding, "onnxprune").decode(encoding)
    except LookupError:  # an encoding that Python does not know
        return text.encode("ascii", "onnxprune").decode("ascii")


class SafeStream:
    """A stream whose methods never raise.

    Args:
        stream: what is written to; None where the process has none.

    Attributes:
        failure: the error after which nothing more was written; None as long as all was.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self.failure: OSError | None = None
        self._closed = stream is None
        self._stream = stream or io.StringIO()

    @property
    def encoding(self) -> str:
        """The name of the encoding."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    def write(self, text: str) -> int:
        """Write a text, as far as the encoding has its characters."""
        if self._closed and text:
            self.failure = self.failure or OSError(errno.EBADF, "it is closed")
        if self.failure is None:
            try:
                self._stream.write(encodable(text, self.encoding))
            except (OSError, ValueError) as error:  # ValueError: a closed file
                self._give_up(error)
        return len(text)

    def flush(self) -> None:
        """Bring what was written to its reader."""
        if self.failure is None:
            try:
                self._stream.flush()
            except (OSError, ValueError) as error:
                self._give_up(error)

    def _give_up(self, error: OSError | ValueError) -> None:
        self.failure = error if isinstance(error, OSError) else OSError(errno.EBADF, "it is closed")
        # What is still in the buffer would be complained about again when Python ends.
        with suppress(OSError, ValueError, AttributeError):
            number = self._stream.fileno()
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, number)
            os.close(null)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)


@contextmanager
def safe() -> Iterator[tuple[SafeStream, SafeStream]]:
    """Make the standard streams safe: output and errors."""
    _open_descriptors()
    former = sys.stdout, sys.stderr
    result = SafeStream(sys.stdout), SafeStream(sys.stderr)
    sys.stdout, sys.stderr = cast("TextIO", result[0]), cast("TextIO", result[1])
    try:
        yield result
    finally:
        sys.stdout, sys.stderr = former


def _open_descriptors() -> None:
    """Give the numbers of closed standard streams away, before a model's file gets one."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
