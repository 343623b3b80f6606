"""Run something in a process that dies at a chosen step on the file system."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

_EVENTS = ("open", "os.rename", "os.remove", "os.link", "os.chmod", "os.mkdir", "os.rmdir")
_DIED, _FAILED = 9, 1


def dies_at(step: int, action: Callable[[], object]) -> bool:
    """Run ``action`` in a copy of this process that dies, without cleaning up, before a step.

    Args:
        step: number of the opening, renaming, linking or removal of a file that is not done.
        action: what the process does.

    Returns:
        Whether it died; otherwise it had fewer steps.
    """
    child = os.fork()
    if child == 0:
        with suppress(BaseException):
            _count_down(step)
            action()
            os._exit(0)
        os._exit(_FAILED)
    _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    assert code in (0, _DIED), "the process failed by itself"
    return code == _DIED


def _count_down(step: int) -> None:
    left = step

    def audit(event: str, args: tuple[object, ...]) -> None:
        nonlocal left
        if event not in _EVENTS or (event == "open" and "r" in str(args[1])):
            return
        if left == 0:
            os._exit(_DIED)
        left -= 1

    sys.addaudithook(audit)
