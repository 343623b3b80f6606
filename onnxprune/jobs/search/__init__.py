"""The smallest model within a drop, where nothing says how much to remove.

Models are made for one budget after the other, by bisection; damage curves are measured once and
serve all of them. Each is recovered before it is judged: what is lost as cut says little about what
is lost in the end. Three parts of the data share no sample: models are fitted to the first, chosen
by the second, and the one that is taken is judged by the third, because the smallest that passes a
test is partly the luckiest. With few samples the last two are one, and the report says so.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from onnxprune.errors import OnnxpruneError
from onnxprune.jobs.apply_plan import Pruned
from onnxprune.jobs.run import BLAS, Run
from onnxprune.jobs.search.bisection import Bisection
from onnxprune.jobs.search.choice import taken
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.measured import swept_curves
from onnxprune.select.importance.units import priced

__all__ = ["search"]


def search(run: Run) -> Pruned:
    """Find the smallest model that loses at most ``max_drop``.

    Args:
        run: the drop, what is made small, and how; its samples are real ones.

    Returns:
        The model, with all that were visited. Where even the mildest cut loses too much, that one,
        with a bad verdict.

    Raises:
        OnnxpruneError: the inputs are made up, or nothing can be removed.
    """
    if run.data.synthetic:
        raise OnnxpruneError(
            f"how much may go cannot be judged on made-up inputs ({run.data.description})",
            hint="give real ones with --calib, or say how much goes, as in --target macs=50%",
        )
    looking = Bisection(run, _curves(run))
    looking.bisect()
    return taken(looking, run)


def _curves(run: Run) -> Curves | None:
    """What every group loses at every width, for all the budgets to come."""
    if run.config.sensitivity is not None:
        return swept_curves(run.analysis, run.config)
    with threadpool_limits(BLAS, "blas"):
        return priced(run.analysis, run.config, run.data.fit, run.progress)
