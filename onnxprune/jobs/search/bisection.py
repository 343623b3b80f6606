"""Which budgets are tried, and the models made for them."""

from __future__ import annotations

from dataclasses import replace

from onnxprune.config import Options
from onnxprune.data.dataset import Inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.evaluation import Judgement
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import CostModel
from onnxprune.graph.plan import Plan
from onnxprune.jobs.apply_plan import Pruned, Tell, carry_out
from onnxprune.jobs.choose_plan import by_clock, make_plan
from onnxprune.quantities import Budget
from onnxprune.select.importance.error_curves import Curves

NEAR = 0.02
"""The budget is found to this part of the dense model."""
MOST = 8
"""Models made at most, before the mildest cut is tried."""


def good(judged: Judgement, asked: Options) -> bool:
    """Whether a model is within the drop."""
    assert asked.max_drop is not None
    return judged.drop <= asked.max_drop and not judged.broken


class Bisection:
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
        self._kind = kind
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


def _label(budget: Budget, dense: int) -> str:
    share = budget.value if budget.relative else budget.value / max(dense, 1)
    return f"{budget.kind}={share * 100:.4g}%"
