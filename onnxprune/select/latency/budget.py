"""Choosing units under a latency budget: by a table, corrected by what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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
from onnxprune.runtime.registry import Backend, backend, of_provider
from onnxprune.select.allocate import Lattice, Limits
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.units import worth_of
from onnxprune.select.latency.predict import Predictor
from onnxprune.select.latency.root_finding import TOLERANCE, Try, aim, closest_last, miss
from onnxprune.select.latency.table import keep_table, open_table
from onnxprune.select.selection import Selection, allowed, choose, narrowest
from onnxprune.types import Check

Feeds = Mapping[str, npt.NDArray[Any]]
Tell = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Reached:
    """Units that go, and what measures the result.

    Attributes:
        selection: what goes.
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


def reach(
    analysis: Analysis,
    asked: Options,
    limits: Limits,
    fit: Sequence[Feeds],
    feeds: Feeds,
    bypassed: Sequence[str],
    tell: Tell,
    curves: Curves | None = None,
) -> Reached:
    """Choose units so that the model takes as long as asked on the backend asked for.

    Args:
        analysis: of the dense model.
        asked: the options; their target limits latency.
        limits: guard rails made from them.
        fit: the calibration feeds that may be fitted to; empty without data.
        feeds: what is run to measure; see :func:`one_sample`.
        bypassed: blocks that go anyway.
        tell: hears the progress.
        curves: damage curves, where they are known already.

    Raises:
        OnnxpruneError: the criterion needs data, or the backend does not take the model.
    """
    target, where = asked.target, backend_of(asked)
    assert target is not None
    if not (found := where.available()).ok:
        raise OnnxpruneError(
            f"latency cannot be measured on {where.name} here: {found.reason}",
            hint=f"to install it: {where.install}",
        )
    stopwatch = Stopwatch(where, analysis.model, feeds, asked.threads)
    worth = worth_of(analysis, asked, limits, fit, bypassed, tell, curves)
    shapes = {name: array.shape for name, array in feeds.items()}
    table = open_table(where, asked.threads, keep=asked.cache, tell=tell)
    widths = allowed(analysis, asked, limits, worth)
    predictor = Predictor(analysis, table, shapes, widths, tell)
    if asked.cache:
        keep_table(table, tell)

    def measured(selection: Selection) -> float:
        small = cut(analysis, selection.removed, (*bypassed, *selection.bypassed))
        return part_of(target, stopwatch(small, AIMING))

    if target.relative:
        whole = 1 / target.value
    else:
        tell("measuring what the model takes")
        whole = part_of(target, stopwatch(None, AIMING))

    def aimed(widths: Lattice, cost: CostMeasure) -> tuple[tuple[Try[Selection], ...], Selection]:
        """Plans by a price that latency follows, and the narrowest of them all."""
        least = narrowest(widths, worth)

        def price(selection: Selection) -> int:
            gone = (*bypassed, *selection.bypassed)
            return cost.measure(selection.removed, gone)

        def chosen(budget: int) -> Selection:
            if price(least) > budget:
                return least
            limit = Budget(cost.kind, budget, relative=False)
            return choose(analysis, widths, worth, asked, limit, cost, bypassed)

        nothing = Selection({}, worth.criterion, "global", widths.declined)
        dense = Try(nothing, cost.measure(), whole)
        return aim(dense, chosen, price, measured, tell), least

    tries, least = aimed(faster(widths, predictor), predictor)
    notes = _notes(predictor)
    if miss(tries[-1].reached):
        # Layers on their own can behave unlike layers in a model, small ones above all.
        by_macs = replace(asked, target=Budget("macs", 0.5, relative=True), threads=None)
        others, narrow = aimed(
            allowed(analysis, by_macs, limits, worth), CostModel(analysis).only("macs")
        )
        if (best := closest_last((*tries, *others)))[-1] in others:
            tries, least = best, narrow
            notes = (*notes, "layers timed alone did not lead there, so multiply-accumulates did")
    return Reached(tries[-1].chosen, stopwatch, tries, notes, tries[-1].chosen is least)


def backend_of(asked: Options) -> Backend:
    """The backend a latency is asked for on: the one named, or the provider.

    Raises:
        OnnxpruneError: there is none of that name.
    """
    assert asked.target is not None
    named = asked.target.backend
    return backend(named) if named else of_provider(asked.backend)


def one_sample(analysis: Analysis, feeds: Feeds, shapes: Mapping[str, Sequence[int]]) -> Feeds:
    """What a model is timed with: one sample, unless the user gave shapes.

    Args:
        analysis: of the model; it knows which inputs leave the number of samples open.
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


def faster(lattice: Lattice, predictor: Predictor) -> Lattice:
    """The widths without those that take as long as a larger one, or longer."""
    widths, declined = dict(lattice.widths), dict(lattice.declined)
    for group in lattice.free:
        units, kept, best = lattice.units[group], [], np.inf
        for width in reversed(lattice.widths[group].tolist()):
            taken = predictor.measure({group: range(units - width)})
            if taken < best:
                kept.append(width)
                best = taken
        widths[group] = np.array(kept[::-1], np.int64)
        if len(kept) == 1:
            declined[group] = "no width below the dense one is faster, as timed"
    free = tuple(g for g in lattice.free if len(widths[g]) > 1)
    return replace(lattice, widths=widths, free=free, declined=declined)


def part_of(target: Budget, compared: Compared) -> float:
    """What was measured, in parts of what is wanted."""
    if target.relative:
        return compared.ratio / target.value
    return compared.pruned / (target.value * 1e-9)


@dataclass(frozen=True, eq=False)
class Result:
    """What the finished model takes.

    Attributes:
        compared: as measured.
        check: whether that is the latency asked for.
        note: the same in a sentence.
    """

    compared: Compared
    check: Check
    note: str


def result(reached: Reached, model: models.Model, asked: Options) -> Result:
    """Measure the finished model against the dense one."""
    target = asked.target
    assert target is not None
    compared = reached.stopwatch(model, FINAL)
    if abs(part_of(target, compared) - 1) > TOLERANCE:  # the clock may have been disturbed
        compared = min(compared, reached.stopwatch(model, FINAL), key=lambda c: c.high - c.low)
    part, name = part_of(target, compared), backend_of(asked).name
    value, limit = (
        (compared.ratio, target.value)
        if target.relative
        else (compared.pruned, target.value * 1e-9)
    )
    how = (
        f"latency on {name}: {times(compared.ratio)} of the original "
        f"({interval(compared.low, compared.high)}, {compared.runs} runs), "
        f"{measured(compared.pruned, 'seconds')} against {measured(compared.dense, 'seconds')}"
    )
    ok = part <= 1 + TOLERANCE
    if not ok:
        how += f"; {target} is not reached, {_why(reached)}"
    elif part < 1 - TOLERANCE:
        how += f"; {target} is kept with room to spare"
    return Result(compared, Check(f"latency on {name}", ok, value, limit), how)


def _why(reached: Reached) -> str:
    if reached.narrowest:
        return "though every group is as narrow as its limits (--max-ratio) and kernels allow"
    return f"after {len(reached.tries) - 1} plans that were measured"


def _notes(predictor: Predictor) -> tuple[str, ...]:
    if not predictor.untimed:
        return ()
    count, some = len(predictor.untimed), predictor.untimed[0]
    what = f"{count} parts of the graph cannot be timed alone ('{some}' is one)"
    return (f"{what}: they count as if no cut changed them",)
