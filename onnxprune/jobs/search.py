"""Find the smallest model within a drop, where no amount is set.

Models are made for one budget after the other, by bisection; error curves are measured once and
serve all of them. Each is recovered before it is judged: what is lost as cut says little about what
is lost in the end. Three parts of the data share no sample: models are fitted to the first, chosen
by the second, and the one that is taken is judged by the third, because the smallest that passes a
test is partly the luckiest. With few samples the last two are one, and the report says so.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace
from typing import cast

from threadpoolctl import threadpool_limits

from onnxprune.data.dataset import ASIDE, ENOUGH
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.caveats import caveats
from onnxprune.evaluate.dense_check import samples_needed
from onnxprune.evaluate.evaluation import Evaluation, compare_models
from onnxprune.graph.cost import CostModel
from onnxprune.graph.plan import Plan
from onnxprune.jobs.apply_plan import apply_plan
from onnxprune.jobs.choose_plan import by_importance, by_latency, measured_curves
from onnxprune.jobs.removal import check_removal
from onnxprune.jobs.result import Result
from onnxprune.jobs.run import BLAS, Run
from onnxprune.jobs.verdicts import data_of, judging_notes
from onnxprune.quantities import COST_KINDS, Budget, spread, unit_of
from onnxprune.select.importance.error_curves import Curves
from onnxprune.select.importance.units import Problem, error_curves
from onnxprune.types import NOTHING_REMOVED, Check

NEAR = 0.02
"""Precision of the budget, as a share of the dense model."""
MOST = 8
"""Most models to visit before the mildest cut."""
MILDER = 3
"""Further models to visit where none passes the last samples."""


def search(run: Run) -> Result:
    """Find the smallest model that loses at most ``max_drop``.

    Args:
        run: its options hold the drop and the cost to minimise; its samples are real.

    Returns:
        The model, with all visited models as its history. Where even the mildest cut loses too
        much, that one, with a failed check.

    Raises:
        OnnxpruneError: the inputs are synthetic, or nothing can be removed.
    """
    config = run.config
    if run.data.synthetic:
        raise OnnxpruneError(
            f"a drop cannot be measured on synthetic inputs ({run.data.description})",
            hint="give real ones with --calib, or an amount, as in --target macs=50%",
        )
    curves = measured_curves(run)
    if config.sensitivity is None:
        with threadpool_limits(BLAS, "blas"):
            curves = error_curves(
                Problem(run.analysis, config, fit=run.data.fit, progress=run.progress)
            )
    bisection = Bisection(run, curves)
    bisection.bisect()
    return choose(bisection, run)


def passes(result: Result, max_drop: float) -> bool:
    """Whether a visited model passes its checks and the drop."""
    return result.ok and result.evaluation.within(max_drop)


class Bisection:
    """The models visited so far, and the search for the next.

    Attributes:
        results: in the order of the visits.
    """

    def __init__(self, run: Run, curves: Curves | None) -> None:
        self.results: list[Result] = []
        self._run = replace(run, data=replace(run.data, eval=run.data.holdout))
        self._curves, self._max_drop = curves, cast(float, run.config.max_drop)
        self._about = 0
        kind, _, self._backend = run.config.smallest.partition("@")
        self._kind = kind
        self._timed = COST_KINDS[kind].timed  # in parts of the dense model's
        self._dense = 1 if self._timed else CostModel(run.analysis).only(kind).measure()

    @property
    def passing(self) -> list[Result]:
        """The models that pass, the smallest first."""
        return sorted((r for r in self.results if passes(r, self._max_drop)), key=self.cost)

    def bisect(self) -> None:
        """Visit models until the smallest that passes is known to within ``NEAR``."""
        low, high = 0.0, 1.0  # nothing is left, which is too little; everything, which is enough
        unmet: OnnxpruneError | None = None
        while high - low > NEAR and len(self.results) < MOST:
            share = (low + high) / 2
            further = math.ceil(math.log2((high - low) / NEAR))
            self._about = min(len(self.results) + further, MOST)
            try:
                result = self._visit(self._part(share))
            except _UnmetError as error:  # widths end somewhere
                low, unmet = share, error.reason
                continue
            if passes(result, self._max_drop):
                high = min(share, self.cost(result) / max(self._dense, 1))
            else:
                low = share
        if not self.passing:
            try:
                self._visit(
                    self._part(1 - NEAR)
                    if self._timed
                    else Budget(self._kind, max(self._dense - 1, 1), relative=False)
                )
            except _UnmetError as error:
                if not self.results:
                    raise (unmet or error.reason) from None

    def milder(self) -> Result | None:
        """Make the model halfway between the largest so far and the dense one.

        Returns:
            The model, if it is new and passes; else None.
        """
        largest = max(map(self.cost, self.results)) / max(self._dense, 1)
        before = len(self.results)
        try:
            result = self._visit(self._part((1 + largest) / 2))
        except _UnmetError:
            return None
        new = len(self.results) > before
        return result if new and passes(result, self._max_drop) else None

    def cost(self, result: Result) -> float:
        """The cost that the search minimises."""
        if result.latency is not None:
            return result.latency.ratio
        return float(result.remaining.of(self._kind))

    def _part(self, share: float) -> Budget:
        return Budget(self._kind, share, relative=True, backend=self._backend)

    def _visit(self, budget: Budget) -> Result:
        """Make, recover and evaluate the model for a budget, unless it was made before.

        Raises:
            _UnmetError: the budget cannot be met.
        """
        number = len(self.results) + 1
        total = max(self._about, number)

        def progress(what: str) -> None:
            self._run.progress(f"model {number} of about {total}, {budget_words(budget)}: {what}")

        config = replace(self._run.config, target=budget, max_drop=None, smallest="macs")
        run = replace(self._run, config=config, progress=progress)
        try:
            choice = (by_latency if self._timed else by_importance)(run, self._curves)
            if not self._timed and (known := self._known(choice.plan)) is not None:
                return known
        except OnnxpruneError as error:
            raise _UnmetError(error) from error
        result = apply_plan(run, choice)
        for check in result.checks:
            if check.name.startswith("latency") and not check.ok:
                raise _UnmetError(OnnxpruneError(result.notes[-1]))
        if (known := self._known(result.plan)) is not None:
            return known
        self.results.append(result)
        return result

    def _known(self, plan: Plan) -> Result | None:
        """The result that removes the same, if there is one."""
        for each in self.results:
            if each.plan.removed == plan.removed and each.plan.bypassed == plan.bypassed:
                return each
        return None


def budget_words(budget: Budget) -> str:
    """A budget as progress names it.

    Example:
        >>> budget_words(Budget("macs", 0.59, relative=True))
        '59.0 % of MACs'
    """
    if not budget.relative:
        return str(budget)
    kind = {"macs": "MACs"}.get(budget.kind, budget.kind)
    where = f" on {budget.backend}" if budget.backend else ""
    return f"{budget.value * 100:.1f} % of {kind}{where}"


class _UnmetError(Exception):
    """A budget that no allowed widths meet; the reason is the message for the user."""

    def __init__(self, reason: OnnxpruneError) -> None:
        super().__init__(reason.message)
        self.reason = reason


def choose(bisection: Bisection, run: Run) -> Result:
    """The smallest model that passes, by the samples kept for that if there are any."""
    config, data = run.config, run.data
    assert config.max_drop is not None
    others = data.eval is not data.holdout  # samples that nothing was chosen by
    result = max(bisection.results, key=bisection.cost)
    evaluation, tries = result.evaluation, 0
    passing = deque(bisection.passing)
    further = MILDER if others else 0
    while passing:
        result = passing.popleft()
        evaluation = result.evaluation
        if not others:
            break
        evaluation = compare_models(run.reference, result.model, data.eval, config)
        tries += 1
        if evaluation.within(config.max_drop):
            break
        if not passing and further:
            further -= 1
            milder = bisection.milder()
            passing.extend([milder] if milder is not None else [])
    within = evaluation.within(config.max_drop)
    drop = Check("drop", within, evaluation.drop, config.max_drop)
    earlier = [check for check in result.checks if check.name != NOTHING_REMOVED]
    return replace(
        result,
        config=config,
        checks=(*earlier, *check_removal(config, result.dense, result.plan), drop),
        evaluation=evaluation,
        judges=data_of(data, evaluation),
        notes=(
            *_without(result),
            *judging_notes(run.reference, data, config, evaluation),
            *_notes(bisection, evaluation, tries, config.max_drop),
        ),
        history=tuple(bisection.results),
    )


def _without(result: Result) -> list[str]:
    """The notes of a visited model but for those on its own evaluation."""
    own = (*result.evaluation.notes, *caveats(result.evaluation, limited=True))
    return [note for note in result.notes if note not in own]


def _notes(bisection: Bisection, evaluation: Evaluation, tries: int, max_drop: float) -> list[str]:
    """Notes on the choice, and on the standard error of the drop."""
    results, samples = bisection.results, evaluation.samples
    models = f"{len(results)} models were made and recovered"
    by = results[0].evaluation.samples
    choice = f"the smallest within the drop was chosen on {by} inputs that none was fitted to"
    notes = [f"{models}, and {choice}"]
    if not bisection.passing:
        notes = [f"{models}, and none was within the drop, the mildest cut included"]
    elif tries:
        end = "until one passed" if evaluation.within(max_drop) else "and none passed"
        more = "" if tries == 1 else f": {tries} models were tried on these, {end}"
        notes.append(f"the verdict is on {samples} other inputs{more}")
    else:
        notes.append(
            "the drop is measured on the inputs that the model was chosen by, which flatters it: "
            f"with {round(2 * ENOUGH / ASIDE)} inputs or more, others are used"
        )
    error = evaluation.drop_error
    if error is not None:
        unit = unit_of(evaluation.measure)
        drop, wide, limit = (spread(value, unit) for value in (evaluation.drop, error, max_drop))
        sure = f"the drop of {drop} has a standard error of {wide}"
        if evaluation.drop + 2 * error > max_drop:
            sure += f": with {samples} inputs, more than {limit} is not excluded"
            needed = samples_needed(error, samples, max_drop, share=unit == "fraction")
            sure += f"; about {needed:,} would tell" if needed > samples else ""
        notes.append(sure)
    return notes
