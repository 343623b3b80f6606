"""Which of the models that were made is taken, and what the user is told of the choice."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import replace

from onnxprune.config import Options
from onnxprune.data.dataset import ASIDE, ENOUGH
from onnxprune.evaluate.equivalence import Verdict
from onnxprune.evaluate.evaluation import Evaluation, compare_models
from onnxprune.evaluate.latency import Compared
from onnxprune.jobs.apply_plan import Pruned, Visited
from onnxprune.jobs.run import Run
from onnxprune.jobs.search.bisection import Bisection, good
from onnxprune.types import Check

MILDER = 3
"""Models made in addition where none that was chosen passes the last samples."""


def taken(looking: Bisection, run: Run) -> Pruned:
    """The smallest model that passes, by the samples kept for that if there are any."""
    asked, data = run.config, run.data
    others = data.eval is not data.holdout  # samples that nothing was chosen by
    chosen = max((made for _, made, _ in looking.made), key=looking.cost)
    outcome, looked = chosen.outcome, 0
    passing = deque(sorted((made for _, made, ok in looking.made if ok), key=looking.cost))
    further = MILDER if others else 0
    while passing:
        chosen = passing.popleft()
        outcome = chosen.outcome
        if not others:
            break
        outcome = compare_models(run.analysis.model, chosen.model, data.eval, asked)
        looked += 1
        if good(outcome, asked):
            break
        if not passing and further:
            further -= 1
            milder = looking.milder()
            passing.extend([milder] if milder is not None else [])
    assert asked.max_drop is not None
    drop = Check("drop", good(outcome, asked), outcome.drop, asked.max_drop)
    visited = tuple(
        Visited(label, made.left, made.outcome, ok, made is chosen and drop.ok, _timed_on(made))
        for label, made, ok in looking.made
    )
    return replace(
        chosen,
        outcome=outcome,
        verdict=Verdict((*chosen.verdict.checks, drop)),
        notes=(*chosen.notes, *_notes(visited, outcome, looked, asked)),
        options=asked,
        visited=visited,
    )


def _notes(
    visited: Sequence[Visited], outcome: Evaluation, looked: int, asked: Options
) -> list[str]:
    """How the choice was made, and how sure the drop is."""
    by = visited[0].judged.samples
    made = f"{len(visited)} models were made and recovered"
    how = f"the smallest within the drop was chosen on {by} inputs that none was fitted to"
    notes = [f"{made}, and {how}"]
    if not any(each.ok for each in visited):
        notes = [f"{made}, and none was within the drop, the mildest cut included"]
    elif looked:
        end = "until one passed" if good(outcome, asked) else "and none passed"
        more = "" if looked == 1 else f": {looked} models were tried on these, {end}"
        notes.append(f"the verdict is on {outcome.samples} other inputs{more}")
    else:
        notes.append(
            "its drop is that on the same inputs, which flatters the one that was chosen: with "
            f"{round(2 * ENOUGH / ASIDE)} inputs or more, others judge it"
        )
    error = outcome.drop_error
    if error is not None:
        sure = f"the drop of {outcome.drop:.4f} has a standard error of {error:.4f}"
        assert asked.max_drop is not None
        if outcome.drop + 2 * error > asked.max_drop:
            sure += f": with {outcome.samples} inputs, more than {asked.max_drop:g} is not excluded"
        notes.append(sure)
    return notes


def _timed_on(made: Pruned) -> tuple[str, Compared] | None:
    """On which backend a model was timed, and how that ended; None where it was not."""
    target = made.options.target
    if made.latency is None or target is None:
        return None
    return target.backend, made.latency
