"""The smallest model within a drop, where nothing says how much to remove.

Models are made for one budget after the other, by bisection; damage curves are measured once and
serve all of them. Each is recovered before it is judged: what is lost as cut says little about what
is lost in the end. Three parts of the data share no sample: models are fitted to the first, chosen
by the second, and the one that is taken is judged by the third, because the smallest that passes a
test is partly the luckiest. With few samples the last two are one, and the report says so.
"""

from __future__ import annotations

from threadpoolctl import threadpool_limits

from onnxprune.config import Options
from onnxprune.data.dataset import Inputs
from onnxprune.graph.analysis import Analysis
from onnxprune.jobs.apply_plan import BLAS, Pruned, Tell
from onnxprune.jobs.search.bisection import Bisection
from onnxprune.jobs.search.choice import taken
from onnxprune.jobs.search.parts import divide
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.measured import swept_curves
from onnxprune.select.importance.units import priced

__all__ = ["search"]


def search(analysis: Analysis, inputs: Inputs, asked: Options, tell: Tell) -> Pruned:
    """Find the smallest model that loses at most ``asked.max_drop``.

    Args:
        analysis: of the dense model.
        inputs: where feeds come from; real ones.
        asked: the drop, what is made small, and how.
        tell: hears the progress.

    Returns:
        The model, with all that were visited. Where even the mildest cut loses too much, that one,
        with a bad verdict.

    Raises:
        OnnxpruneError: the inputs are made up or too few, or nothing can be removed.
    """
    parts = divide(inputs, asked.seed)
    curves = _curves(analysis, asked, parts.choosing, tell)
    looking = Bisection(analysis, asked, parts.choosing, curves, tell)
    looking.bisect()
    return taken(looking, parts, asked)


def _curves(analysis: Analysis, asked: Options, inputs: Inputs, tell: Tell) -> Curves | None:
    """What every group loses at every width, for all the budgets to come."""
    if asked.sensitivity is not None:
        return swept_curves(analysis, asked)
    with threadpool_limits(BLAS, "blas"):
        return priced(analysis, asked, inputs.parts(analysis)[0], tell)
