"""Threads of matrix products.

Recovery keeps BLAS to one thread: its many small products only get slower on more. Where products
are large they may have all of them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

from threadpoolctl import threadpool_info, threadpool_limits

_LARGE = 6e9
"""Multiplications of two layers on all rows from which on threads pay: at 1.6e9 two of them take
1.3 times as long as one, at 15e9 and 31e9 0.75 and 0.65 times."""
_ALL = max((m["num_threads"] for m in threadpool_info() if m["user_api"] == "blas"), default=1)
"""As many as BLAS has where nobody says anything."""


def threads_for(multiplications: float) -> AbstractContextManager[object]:
    """All threads of BLAS within this context if there is so much to do at a time."""
    return threadpool_limits(_ALL, "blas") if multiplications > _LARGE else nullcontext()
