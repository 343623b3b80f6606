"""The smallest model within a drop, where nothing says how much to remove.

Models are made for one budget after the other, by bisection; damage curves are measured once and
serve all of them. Each is recovered before it is judged: what is lost as cut says little about what
is lost in the end. Three parts of the data share no sample: models are fitted to the first, chosen
by the second, and the one that is taken is judged by the third, because the smallest that passes a
test is partly the luckiest. With few samples the last two are one, and the report says so.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import cast

from threadpoolctl import threadpool_limits

from onnxprune.allocate.damage import Curves
from onnxprune.allocate.measured import swept_curves
from onnxprune.amounts import Budget, BudgetKind
from onnxprune.analysis import Analysis
from onnxprune.calibrate import split
from onnxprune.carry_out import BLAS, Pruned, Tell, Visited, carry_out
from onnxprune.cost import CostModel
from onnxprune.errors import OnnxpruneError
from onnxprune.inputs import Inputs
from onnxprune.judge import Judgement, judge
from onnxprune.latency.measure import Compared
from onnxprune.options import Options
from onnxprune.pipeline import by_clock, make_plan
from onnxprune.plan import Plan
from onnxprune.verify import Check, Verdict
from onnxprune.worth import priced

ASIDE = 0.3
"""The part of the data that nothing is fitted to: one half of it chooses, the other judges."""
ENOUGH = 100
"""Samples that such a half must have; else the whole of it does both."""
NEAR = 0.02
"""The budget is found to this part of the dense model."""
MILDER = 3
"""Models made in addition where none that was chosen passes the last samples."""
MOST = 8
"""Models made at most, before the mildest cut is tried."""


@dataclass(frozen=True)
class Parts:
    """Where the feeds of a search come from.

    Attributes:
        choosing: models are fitted to its first part and chosen by its second.
        last: the same first part, and samples that nothing was chosen by; None with few.
    """

    choosing: Inputs
    last: Inputs | None


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
    looking = _Search(analysis, asked, parts.choosing, curves, tell)
    looking.bisect()
    return _taken(looking, parts, asked)


def divide(inputs: Inputs, seed: int) -> Parts:
    """Samples to fit to, to choose by and to judge by.

    Raises:
        OnnxpruneError: there are no real samples, or only one.
    """
    calibration = inputs.calibration
    if calibration is None or inputs.synthetic:
        raise OnnxpruneError(
            f"how much may go cannot be judged on made-up inputs ({inputs.description})",
            hint="give real ones with --calib, or say how much goes, as in --target macs=50%",
        )
    fit, aside = split(calibration, ASIDE, seed)
    if (aside.samples or 0) < 2 * ENOUGH:
        return Parts(replace(inputs, divided=(fit, aside)), None)
    chosen, last = split(aside, 0.5, seed)
    return Parts(replace(inputs, divided=(fit, chosen)), replace(inputs, divided=(fit, last)))


class _Search:
    """Models visited so far, and how to visit another."""

    def __init__(
        self,
        analysis: Analysis,
        asked: Options,
        inputs: Inputs,
        curves: Curves | None,
        tell: Tell,
    ) -> None:
        self.analysis = analysis
        self.made: list[tuple[str, Pruned, bool]] = []
        self._asked, self._inputs, self._curves, self._tell = asked, inputs, curves, tell
        kind, _, self._backend = asked.smallest.partition("@")
        self._kind = cast(BudgetKind, kind)
        self._timed = kind == "latency"  # in parts of the dense model's
        self._dense = 1 if self._timed else int(getattr(CostModel(analysis)(), kind))
        self._seen: dict[object, tuple[Pruned, bool]] = {}

    def bisect(self) -> None:
        """Visit models until the smallest that is good enough is known to within ``NEAR``."""
        low, high = 0.0, 1.0  # nothing is left, which is too little; everything, which is enough
        unmet: OnnxpruneError | None = None
        while high - low > NEAR and len(self.made) < MOST:
            share = (low + high) / 2
            try:
                pruned, ok = self._visit(self._part(share))
            except _UnmetError as error:  # widths end somewhere
                low, unmet = share, error.reason
                continue
            if ok:
                high = min(share, self.cost(pruned) / max(self._dense, 1))
            else:
                low = share
        if not any(ok for _, _, ok in self.made):
            try:
                self._visit(
                    self._part(1 - NEAR)
                    if self._timed
                    else Budget(self._kind, max(self._dense - 1, 1), relative=False)
                )
            except _UnmetError as error:
                if not self.made:
                    raise (unmet or error.reason) from None

    def milder(self) -> Pruned | None:
        """Visit the model halfway between the largest so far and the dense one.

        Returns:
            It, if it is good enough; None if not, or if there is none that is new.
        """
        largest = max(self.cost(made) for _, made, _ in self.made) / max(self._dense, 1)
        known = len(self.made)
        try:
            pruned, ok = self._visit(self._part((1 + largest) / 2))
        except _UnmetError:
            return None
        return pruned if ok and len(self.made) > known else None

    def cost(self, pruned: Pruned) -> float:
        """What is made small."""
        if pruned.latency is not None:
            return pruned.latency.ratio
        return float(getattr(pruned.left, self._kind))

    def _part(self, share: float) -> Budget:
        return Budget(self._kind, share, relative=True, backend=self._backend)

    def _visit(self, budget: Budget) -> tuple[Pruned, bool]:
        """Make, recover and judge the model for a budget, unless it is one that was made before.

        Raises:
            _UnmetError: the budget cannot be met.
        """
        number = len(self.made) + 1

        def tell(what: str) -> None:
            self._tell(f"model {number}, {budget}: {what}")

        asked = replace(self._asked, target=budget, max_drop=None, smallest="macs")
        pruned = self._as_fast(asked, tell) if self._timed else self._as_small(asked, tell)
        key = _key(pruned.plan)
        if key not in self._seen:
            ok = pruned.verdict.ok and good(pruned.outcome, self._asked)
            self._seen[key] = pruned, ok
            self.made.append((_label(budget, self._dense), pruned, ok))
        return self._seen[key]

    def _as_small(self, asked: Options, tell: Tell) -> Pruned:
        """The model for a budget, perhaps one that was made before.

        Raises:
            _UnmetError: the budget cannot be met.
        """
        try:
            plan, notes = make_plan(self.analysis, asked, self._inputs, tell, self._curves)
        except OnnxpruneError as error:
            raise _UnmetError(error) from error
        if (known := self._seen.get(_key(plan))) is not None:
            return known[0]
        return carry_out(self.analysis, plan, asked, self._inputs, notes, tell, anew=True)

    def _as_fast(self, asked: Options, tell: Tell) -> Pruned:
        """The model for a latency.

        Raises:
            _UnmetError: it is not reached.
        """
        try:
            pruned = by_clock(self.analysis, self._inputs, asked, tell, self._curves)
        except OnnxpruneError as error:
            raise _UnmetError(error) from error
        if any(c.name.startswith("latency") and not c.ok for c in pruned.verdict.checks):
            raise _UnmetError(OnnxpruneError(pruned.notes[-1]))
        return pruned


def _key(plan: Plan) -> object:
    """What makes two plans the same."""
    return (*sorted(plan.removed.items()), plan.bypassed)


class _UnmetError(Exception):
    """A budget that no allowed widths meet; the reason is what the user would be told."""

    def __init__(self, reason: OnnxpruneError) -> None:
        super().__init__(reason.message)
        self.reason = reason


def timed_on(made: Pruned) -> tuple[str, Compared] | None:
    """On which backend a model was timed, and how that ended; None where it was not."""
    target = made.options.target
    if made.latency is None or target is None:
        return None
    return target.backend, made.latency


def good(judged: Judgement, asked: Options) -> bool:
    """Whether a model is within the drop."""
    assert asked.max_drop is not None
    return judged.drop <= asked.max_drop and not judged.broken


def _taken(looking: _Search, parts: Parts, asked: Options) -> Pruned:
    """The smallest model that passes, by the samples kept for that if there are any."""
    taken = max((made for _, made, _ in looking.made), key=looking.cost)
    outcome, looked = taken.outcome, 0
    passing = deque(sorted((made for _, made, ok in looking.made if ok), key=looking.cost))
    further = MILDER if parts.last is not None else 0
    while passing:
        taken = passing.popleft()
        outcome = taken.outcome
        if parts.last is None:
            break
        _, feeds = parts.last.parts(looking.analysis)
        outcome = judge(looking.analysis.model, taken.model, parts.last, feeds, asked)
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
        Visited(label, made.left, made.outcome, ok, made is taken and drop.ok, timed_on(made))
        for label, made, ok in looking.made
    )
    return replace(
        taken,
        outcome=outcome,
        verdict=Verdict((*taken.verdict.checks, drop)),
        notes=(*taken.notes, *_notes(visited, outcome, looked, asked)),
        options=asked,
        visited=visited,
    )


def _notes(
    visited: Sequence[Visited], outcome: Judgement, looked: int, asked: Options
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


def _curves(analysis: Analysis, asked: Options, inputs: Inputs, tell: Tell) -> Curves | None:
    """What every group loses at every width, for all the budgets to come."""
    if asked.sensitivity is not None:
        return swept_curves(analysis, asked)
    with threadpool_limits(BLAS, "blas"):
        return priced(analysis, asked, inputs.parts(analysis)[0], tell)


def _label(budget: Budget, dense: int) -> str:
    share = budget.value if budget.relative else budget.value / max(dense, 1)
    return f"{budget.kind}={share * 100:.4g}%"
