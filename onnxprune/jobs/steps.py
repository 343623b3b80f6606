"""Steps that follow a cut, one after the other, and the state that they pass on.

A step takes a run and a state and returns the next state. It declares its scope: ``layer`` if it
looks at one layer after the other, front to back, ``model`` if it needs the whole. A new way to
recover is one function with ``@step`` and an entry in the lists of ``apply_plan``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.graph.plan import Plan
from onnxprune.jobs.run import BLAS, Run
from onnxprune.types import Check, LayerOutcome

Scope = Literal["layer", "model"]


@dataclass(frozen=True, eq=False)
class State:
    """A model between two steps.

    Attributes:
        model: the current one.
        plan: the removals, orders and masks so far.
        start: the model that recovery starts from.
        checks: made so far.
        outcomes: of every layer, by kind; see ``Result``.
        notes: whole sentences.
        elsewhere: whether somebody else pruned the model, so that any weight may have changed.
    """

    model: models.Model
    plan: Plan
    start: models.Model
    checks: tuple[Check, ...] = ()
    outcomes: Mapping[str, tuple[LayerOutcome, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    elsewhere: bool = False

    @property
    def cut(self) -> bool:
        """Whether units or blocks were removed."""
        return bool(self.plan.removed or self.plan.bypassed)

    def then(
        self,
        model: models.Model | None = None,
        plan: Plan | None = None,
        *,
        checks: Iterable[Check] = (),
        notes: Iterable[str] = (),
        **outcomes: tuple[LayerOutcome, ...],
    ) -> State:
        """The next state: another model or plan, and more checks, notes and outcomes."""
        return replace(
            self,
            model=model or self.model,
            plan=plan or self.plan,
            checks=(*self.checks, *checks),
            outcomes={**self.outcomes, **outcomes},
            notes=(*self.notes, *notes),
        )


@dataclass(frozen=True)
class Step:
    """One way to check or change a model, and its scope: a layer or the model."""

    function: Callable[[Run, State], State]
    scope: Scope

    def __call__(self, run: Run, state: State) -> State:
        """The state after it; the many small matrix products only get slower on more threads."""
        with threadpool_limits(BLAS, "blas"):
            return self.function(run, state)


def step(scope: Scope) -> Callable[[Callable[[Run, State], State]], Step]:
    """Make a function a step of that scope."""
    return partial(Step, scope=scope)


def take(run: Run, state: State, steps: Iterable[Step]) -> State:
    """Take steps, one after the other."""
    for each in steps:
        state = each(run, state)
    return state
