"""A sweep, start to end: find the rows, measure the cells, recommend ratios."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options, SensitivityOptions, split
from onnxprune.data.cache import Cache
from onnxprune.errors import OnnxpruneError, spelled
from onnxprune.evaluate.standard_error import SURE
from onnxprune.graph.cost import CostModel
from onnxprune.jobs.apply_plan import apply_plan
from onnxprune.jobs.choose_plan import by_importance, problem_of
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.result import Result
from onnxprune.jobs.run import BLAS, Progress, Run, open_run
from onnxprune.jobs.sensitivity.baseline import Dense, weighing_of
from onnxprune.jobs.sensitivity.executors import Pool, gather, open_pool
from onnxprune.jobs.sensitivity.job import samples_of
from onnxprune.jobs.sensitivity.recommend import (
    as_options,
    command,
    exactly,
    only_orders,
    recommend,
)
from onnxprune.jobs.sensitivity.targets import find_rows
from onnxprune.select.importance.units import Importance
from onnxprune.select.selection import allowed_widths
from onnxprune.select.sensitivity import (
    Cell,
    Recommendation,
    Sensitivity,
    Target,
    cell_from_json,
    cell_to_json,
)

_REFITS = 3
"""Recommendations that are refitted at most until one is within the drop then, too."""
_PAYS = 3e11
"""Multiply-accumulates of a sweep from which starting processes takes less time than it saves."""


@keywords("sensitivity")
def sensitivity(
    model: models.ModelLike,
    options: Options | None = None,
    request: SensitivityOptions | None = None,
    *,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Sensitivity:
    """Prune every group, block and weight alone, at several ratios, and measure what it costs.

    Units that belong together go together: a row is a group, not a layer. Everything else stays as
    it is, and nothing is refitted, so a row says how much a part is needed, not how well its loss
    can be made up for.

    Args:
        model: a path, a ``ModelProto``, a graphsurgeon graph or a loaded model; never changed.
        options: inputs, labels, metric, criterion and what to skip.
        request: targets, ratios and workers.
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options`` and ``request``.

    Raises:
        OnnxpruneError: the model, the options or the data cannot be used, or there is nobody to do
            the work.

    Example:
        >>> from onnxprune.data import zoo
        >>> entry = zoo.get("digits_mlp")
        >>> sweep = sensitivity(
        ...     entry.model, calib=entry.calibration, calib_samples=32, ratios=(0.25, 0.5),
        ...     kinds="groups",
        ... )
        >>> [target.kind for target in sweep.targets]
        ['ffn', 'ffn', 'ffn']
    """
    settings, config = split("sensitivity", fields, request, options)
    if config.calib is None:
        raise OnnxpruneError(
            "sensitivity is measured on inputs", hint="give some with --calib; labels are optional"
        )
    weighing_of(config)
    run = open_run(model, config, progress)
    with open_pool(_worker_count(run, settings), settings.dask) as pool:
        sweep = _swept(run, settings, pool)
    if sweep.recommended is None:
        return sweep
    line = command(run.analysis.model.path, config, sweep.recommended)
    return replace(sweep, recommended=replace(sweep.recommended, command=line))


def _swept(run: Run, settings: SensitivityOptions, pool: Pool) -> Sensitivity:
    config, analysis, data, progress = run.config, run.analysis, run.data, run.progress
    every = data.whole(config)
    with threadpool_limits(BLAS, "blas"):
        rows = find_rows(run, settings)
    progress("running the dense model")
    dense = Dense(analysis, every, config)
    job = dense.job(rows)
    cache = Cache("cells", progress, enabled=config.cache and not dense.nameless)
    results = known_cells(cache, job.key)
    cells = [(t.name, r) for t in rows.targets for r in _columns(t, settings.ratios)]
    missing = [cell for cell in cells if cell not in results]
    if missing:
        pool.share(job)

    def keep(cell: Cell) -> None:
        results[cell.target, cell.ratio] = cell
        keep_cell(cache, job.key, cell)
        done = sum(each in results for each in cells)
        progress(f"{done} of {len(cells)} cells: {cell.target} at {cell.ratio:g}")

    gather(pool, job.key, missing, keep)
    notes = []
    if len(missing) < len(cells):
        earlier = f"{len(cells) - len(missing)} cells come from an earlier run (--no-cache)"
        notes.append(spelled(earlier))
    if data.synthetic:
        notes.append(f"inputs were synthetic ({data.description}): values say little")
    sweep = Sensitivity(
        structure=models.structure_hash(analysis.model),
        model=analysis.model.path.name if analysis.model.path else "model",
        metric=dense.metric,
        higher_is_better=dense.higher_is_better,
        dense=1.0 if dense.before is None else dense.before.value,
        samples=samples_of(dense.feeds),
        inputs=data.description,
        criterion=rows.criterion,
        ratios=settings.ratios,
        targets=rows.targets,
        cells=tuple(results[cell] for cell in cells),
        declined=rows.declined,
        notes=tuple(notes),
    )
    if settings.drop is None:
        return sweep
    advice = _recommended(run, sweep, settings.drop, dense)
    if not advice.ratios and config.round_to == "auto":
        # Fast widths are few in a narrow network, and even the mildest may cost too much.
        anywhere = replace(run, config=replace(config, round_to=1))
        advice = replace(_recommended(anywhere, sweep, settings.drop, dense), round_to=1)
    if advice.round_to is not None and advice.ratios:
        notes.append(
            spelled(
                "no widths that are fast on the backend are within the drop as cut, so any are "
                "recommended (--round-to 1); `onnxprune prune --max-drop` refits and goes further"
            )
        )
    return replace(sweep, recommended=advice, notes=tuple(notes))


def _recommended(run: Run, sweep: Sensitivity, drop: float, dense: Dense) -> Recommendation:
    """The furthest ratios within a drop, with what `prune` makes of them."""
    config, analysis, progress = run.config, run.analysis, run.progress
    progress("measuring recommended ratios together")
    curves = only_orders(sweep.targets, analysis)
    problem = problem_of(run, (), curves)
    importance = Importance(sweep.criterion, {}, curves, {})
    widths = allowed_widths(problem, importance).widths

    def plan(ratios: Mapping[str, float]) -> Mapping[str, tuple[int, ...]]:
        with_ratios = replace(config, ratios=exactly(ratios))
        return by_importance(replace(run, config=with_ratios), curves).plan.removed

    for advice in recommend(analysis, sweep, drop, widths, plan, dense.without)[:_REFITS]:
        if run.data.synthetic:
            return advice  # nothing can be refitted
        result = _pruned(run, advice)
        evaluation = result.evaluation
        if result.ok and evaluation.drop <= drop + SURE * (evaluation.drop_error or 0.0):
            return replace(
                advice,
                refitted=evaluation.drop,
                refitted_error=evaluation.drop_error,
                refitted_samples=evaluation.samples,
            )
    return Recommendation(drop, {})


def _pruned(run: Run, advice: Recommendation) -> Result:
    """What `prune` makes of recommended ratios, by the same options."""
    run.progress("pruning by the recommended ratios")
    same = replace(run, config=as_options(run.config, advice))
    return apply_plan(same, by_importance(same))


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


def _worker_count(run: Run, settings: SensitivityOptions) -> int:
    """The number of processes: --workers, else all cores where the work pays for it."""
    if settings.workers is not None:
        return settings.workers
    analysis, config = run.analysis, run.config
    rows = len(analysis.groups) + len(analysis.blocks) + len(analysis.walk.calls)
    work = CostModel(analysis)().macs * config.calib_samples * rows * len(settings.ratios)
    return _cores() if work > _PAYS else 1


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
