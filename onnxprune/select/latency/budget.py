"""Choosing units under a latency budget: by a table, corrected by what is measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.latency import AIMING, FINAL, Compared, Stopwatch
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostMeasure, CostModel
from onnxprune.graph.surgery import cut
from onnxprune.quantities import Budget, interval, measured, times
from onnxprune.runtime.registry import Backend, backend
from onnxprune.select.allocate import CandidateWidths
from onnxprune.select.importance.units import Problem, score_groups
from onnxprune.select.latency.predict import Predictor
from onnxprune.select.latency.root_finding import TOLERANCE, Try, closest_last, find_root, miss
from onnxprune.select.latency.table import keep_table, open_table
from onnxprune.select.selection import Selection, allowed_widths, choose, narrowest
from onnxprune.types import Check

Feeds = Mapping[str, npt.NDArray[Any]]


@dataclass(frozen=True, eq=False)
class LatencyChoice:
    """The units to remove under a latency budget, and the stopwatch that measured them.

    Attributes:
        selection: units and blocks to remove.
        stopwatch: measures against the dense model.
        tries: every plan that was measured, the chosen one last.
        notes: whole sentences: what could not be timed.
        narrowest: whether no more can be removed.
    """

    selection: Selection
    stopwatch: Stopwatch
    tries: tuple[Try[Selection], ...]
    notes: tuple[str, ...]
    narrowest: bool


def meet_latency(problem: Problem, feeds: Feeds) -> LatencyChoice:
    """Choose units so that the model meets a latency on a backend.

    Args:
        problem: what units are chosen from; the target of its options limits latency.
        feeds: what is run to measure; see :func:`one_sample`.

    Raises:
        OnnxpruneError: the criterion needs data, or the backend does not take the model.
    """
    analysis, config, progress = problem.analysis, problem.config, problem.progress
    bypassed = problem.bypassed
    target, where = config.target, backend_of(config)
    assert target is not None
    if not (availability := where.available()).ok:
        raise OnnxpruneError(
            f"latency cannot be measured on {where.name} here: {availability.reason}",
            hint=f"to install it: {where.install}",
        )
    stopwatch = Stopwatch(where, analysis.model, feeds, config.threads, progress)
    importance = score_groups(problem)
    shapes = {name: array.shape for name, array in feeds.items()}
    table = open_table(where, config.threads, keep=config.cache, progress=progress)
    widths = allowed_widths(problem, importance)
    predictor = Predictor(analysis, table, shapes, widths, progress)
    if config.cache:
        keep_table(table, progress)

    def measured(selection: Selection) -> float:
        small = cut(analysis, selection.removed, (*bypassed, *selection.bypassed))
        return part_of(target, stopwatch(small, AIMING))

    if target.relative:
        whole = 1 / target.value
    else:
        progress("measuring what the model takes")
        whole = part_of(target, stopwatch(None, AIMING))

    def aimed(
        widths: CandidateWidths, cost: CostMeasure
    ) -> tuple[tuple[Try[Selection], ...], Selection]:
        """Plans by a price that latency follows, and the narrowest of them all."""
        least = narrowest(widths, importance)

        def price(selection: Selection) -> int:
            removed_blocks = (*bypassed, *selection.bypassed)
            return cost.measure(selection.removed, removed_blocks)

        def chosen(budget: int) -> Selection:
            if price(least) > budget:
                return least
            limit = Budget(cost.kind, budget, relative=False)
            return choose(problem, widths, importance, limit, cost)

        nothing = Selection({}, importance.criterion, "global", widths.declined)
        dense = Try(nothing, cost.measure(), whole)
        return find_root(dense, chosen, price, measured, progress), least

    tries, least = aimed(faster(widths, predictor), predictor)
    notes = _notes(predictor)
    if miss(tries[-1].latency):
        # Layers on their own can behave unlike layers in a model, small ones above all.
        by_macs = replace(config, target=Budget("macs", 0.5, relative=True), threads=None)
        others, narrow = aimed(
            allowed_widths(replace(problem, config=by_macs), importance),
            CostModel(analysis).only("macs"),
        )
        if (best := closest_last((*tries, *others)))[-1] in others:
            tries, least = best, narrow
            notes = (*notes, "layers timed alone did not lead there, so multiply-accumulates did")
    return LatencyChoice(tries[-1].chosen, stopwatch, tries, notes, tries[-1].chosen is least)


def backend_of(config: Options) -> Backend:
    """The backend a latency is asked for on: the one named, or the provider.

    Raises:
        OnnxpruneError: there is none of that name.
    """
    assert config.target is not None
    named = config.target.backend
    return backend(named or config.backend)


def one_sample(analysis: Analysis, feeds: Feeds, shapes: Mapping[str, Sequence[int]]) -> Feeds:
    """What a model is timed with: one sample, unless the user gave shapes.

    Args:
        analysis: analysis of the model, for inputs with an open number of samples.
        feeds: inputs it runs on.
        shapes: those the user gave, if any.
    """
    if shapes:
        return feeds
    return {
        value.name or "": feeds[value.name or ""][:1]
        if value.shape and not isinstance(value.shape[0], int)
        else feeds[value.name or ""]
        for value in analysis.model.ir.graph.inputs
        if value.name in feeds
    }


def faster(candidates: CandidateWidths, predictor: Predictor) -> CandidateWidths:
    """The widths without those that take as long as a larger one, or longer."""
    widths, declined = dict(candidates.widths), dict(candidates.declined)
    for group in candidates.free:
        units, kept, best = candidates.units[group], [], np.inf
        for width in reversed(candidates.widths[group].tolist()):
            time = predictor.measure({group: range(units - width)})
            if time < best:
                kept.append(width)
                best = time
        widths[group] = np.array(kept[::-1], np.int64)
        if len(kept) == 1:
            declined[group] = "no width below the dense one is faster, as timed"
    free = tuple(g for g in candidates.free if len(widths[g]) > 1)
    return replace(candidates, widths=widths, free=free, declined=declined)


def part_of(target: Budget, compared: Compared) -> float:
    """The measured latency as a fraction of the target."""
    if target.relative:
        return compared.ratio / target.value
    return compared.pruned / (target.value * 1e-9)


@dataclass(frozen=True, eq=False)
class LatencyResult:
    """The latency of the finished model.

    Attributes:
        compared: the measurement, pruned against dense.
        check: whether the latency target is met.
        note: the result in a sentence.
    """

    compared: Compared
    check: Check
    note: str


def measure_result(choice: LatencyChoice, model: models.Model, config: Options) -> LatencyResult:
    """Measure the finished model against the dense one."""
    target = config.target
    assert target is not None
    compared = choice.stopwatch(model, FINAL)
    if abs(part_of(target, compared) - 1) > TOLERANCE:  # the clock may have been disturbed
        compared = min(compared, choice.stopwatch(model, FINAL), key=lambda c: c.high - c.low)
    part, name = part_of(target, compared), backend_of(config).name
    value, limit = (
        (compared.ratio, target.value)
        if target.relative
        else (compared.pruned, target.value * 1e-9)
    )
    note = (
        f"latency on {name}: {times(compared.ratio)} of the original "
        f"({interval(compared.low, compared.high)}, {compared.runs} runs), "
        f"{measured(compared.pruned, 'seconds')} against {measured(compared.dense, 'seconds')}"
    )
    ok = part <= 1 + TOLERANCE
    if not ok:
        note += f"; {target} is not reached, {_why(choice)}"
    elif part < 1 - TOLERANCE:
        note += f"; {target} is kept with room to spare"
    return LatencyResult(compared, Check(f"latency on {name}", ok, value, limit), note)


def _why(choice: LatencyChoice) -> str:
    if choice.narrowest:
        return "though every group is as narrow as its limits (--max-ratio) and kernels allow"
    return f"after {len(choice.tries) - 1} plans that were measured"


def _notes(predictor: Predictor) -> tuple[str, ...]:
    if not predictor.untimed:
        return ()
    count, some = len(predictor.untimed), predictor.untimed[0]
    what = f"{count} parts of the graph cannot be timed alone ('{some}' is one)"
    return (f"{what}: they count as if no cut changed them",)
