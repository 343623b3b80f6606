"""A sweep, start to end: find the rows, measure the cells, recommend ratios."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options, from_flags
from onnxprune.data.cache import Cache
from onnxprune.data.dataset import Inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import task_of
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.apply_plan import BLAS
from onnxprune.jobs.choose_plan import make_plan, prepare
from onnxprune.jobs.sensitivity.baseline import Dense, weighing_of
from onnxprune.jobs.sensitivity.executors import Pool, gather, open_pool
from onnxprune.jobs.sensitivity.job import samples_of
from onnxprune.jobs.sensitivity.recommend import exactly, only_orders, recommend
from onnxprune.jobs.sensitivity.request import Request, from_words
from onnxprune.jobs.sensitivity.targets import find_rows
from onnxprune.select.sensitivity import (
    Cell,
    Sensitivity,
    Target,
    cell_from_json,
    cell_to_json,
)

SAMPLES = 512
"""Inputs that every cell is measured on, unless more or fewer are asked for."""
_PAYS = 3e11
"""Multiply-accumulates of a sweep from which starting processes takes less time than it saves."""
_ASKED = ("ratios", "kinds", "drop", "workers", "dask")

Tell = Callable[[str], None]


def sensitivity(
    source: Any,  # noqa: ANN401  # everything models.load takes
    options: Options | None = None,
    request: Request | None = None,
    *,
    tell: Tell = lambda _: None,
    **flags: object,
) -> Sensitivity:
    """Prune every group, block and weight alone, at several ratios, and measure what it costs.

    Units that belong together go together: a row is a group, not a layer. Everything else stays as
    it is, and nothing is refitted, so a row says how much a part is needed, not how well its loss
    can be made up for.

    Args:
        source: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: inputs, labels, metric, criterion and what to skip; or give the same as keywords.
        request: what to sweep and who does it; or give its fields as keywords
            (``sensitivity(path, calib=batches, ratios=(0.25, 0.5), kinds=("groups",))``).
        tell: hears the progress.
        flags: the options, and the fields of the request, by name.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or there is nobody to do
            the work.
    """
    words = {name: flags.pop(name) for name in _ASKED if name in flags}
    wanted = request or from_words(words)
    asked = options or from_flags({"calib_samples": SAMPLES} | flags)
    if asked.calib is None:
        raise OnnxpruneError(
            "sensitivity is measured on inputs", hint="give some with --calib; labels are optional"
        )
    weighing_of(asked)
    analysis, inputs = prepare(source, asked, tell)
    with open_pool(_hands(analysis, wanted, asked), wanted.dask) as pool:
        return _swept(analysis, inputs, asked, wanted, pool, tell)


def _swept(
    analysis: Analysis, inputs: Inputs, asked: Options, wanted: Request, pool: Pool, tell: Tell
) -> Sensitivity:
    assert inputs.calibration is not None
    task = task_of(asked, inputs.calibration.indices)
    with threadpool_limits(BLAS, "blas"):
        rows = find_rows(analysis, asked, wanted, inputs.parts(analysis)[0], tell)
    tell("running the dense model")
    dense = Dense(analysis, tuple(inputs.calibration), asked, task)
    job = dense.job(rows)
    cache = Cache("cells", tell, enabled=asked.cache and not dense.nameless)
    measured = known_cells(cache, job.key)
    cells = [(t.name, r) for t in rows.targets for r in _columns(t, wanted.ratios)]
    missing = [cell for cell in cells if cell not in measured]
    if missing:
        pool.share(job)

    def keep(cell: Cell) -> None:
        measured[cell.target, cell.ratio] = cell
        keep_cell(cache, job.key, cell)
        done = sum(each in measured for each in cells)
        tell(f"{done} of {len(cells)} cells: {cell.target} at {cell.ratio:g}")

    gather(pool, job.key, missing, keep)
    notes = []
    if len(missing) < len(cells):
        notes.append(f"{len(cells) - len(missing)} cells come from an earlier run (--no-cache)")
    if inputs.synthetic:
        notes.append(f"inputs were synthetic ({inputs.description}): values say little")
    found = Sensitivity(
        structure=models.structure_hash(analysis.model),
        model=analysis.model.path.name if analysis.model.path else "model",
        metric=dense.metric,
        higher_is_better=dense.higher_is_better,
        dense=1.0 if dense.before is None else dense.before.value,
        samples=samples_of(dense.feeds),
        inputs=inputs.description,
        criterion=rows.criterion,
        ratios=wanted.ratios,
        targets=rows.targets,
        cells=tuple(measured[cell] for cell in cells),
        declined=rows.declined,
        notes=tuple(notes),
    )
    if wanted.drop is None:
        return found
    tell("measuring recommended ratios together")
    curves = only_orders(rows.targets, analysis)

    def plan(ratios: Mapping[str, float]) -> Mapping[str, tuple[int, ...]]:
        with_ratios = replace(asked, ratios=exactly(ratios))
        return make_plan(analysis, with_ratios, inputs, tell, curves)[0].removed

    advice = recommend(analysis, found, wanted.drop, asked.max_ratio, plan, dense.drop_without)
    return replace(found, recommended=advice)


def known_cells(cache: Cache, key: str) -> dict[tuple[str, float], Cell]:
    """The cells of a sweep that an earlier run kept, of whatever ratios.

    Args:
        cache: of cells.
        key: of the job.
    """
    cells = (cell_from_json(record) for record in cache.records(key) or ())
    return {(cell.target, cell.ratio): cell for cell in cells}


def keep_cell(cache: Cache, key: str, cell: Cell) -> None:
    """Keep a cell for the next run, unless it failed: then it is measured again."""
    if not cell.reason:
        cache.append(key, cell_to_json(cell))


def _columns(target: Target, ratios: Sequence[float]) -> Sequence[float]:
    """The ratios of one row: a block is there or not."""
    return (1.0,) if target.kind == "block" else ratios


def _hands(analysis: Analysis, wanted: Request, asked: Options) -> int:
    """How many processes: as many as asked for, else all cores where the work is worth it."""
    if wanted.workers is not None:
        return wanted.workers
    rows = len(analysis.groups) + len(analysis.blocks) + len(analysis.walk.calls)
    work = CostModel(analysis)().macs * asked.calib_samples * rows * len(wanted.ratios)
    return _cores() if work > _PAYS else 1


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
