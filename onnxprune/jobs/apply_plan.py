"""Apply a plan: cut the model, and make the remaining weights compute what the dense one did."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxprune.config import Options
from onnxprune.data.activations.rows import Sample
from onnxprune.data.memory import budget_of
from onnxprune.data.mixtures import with_mixtures
from onnxprune.data.ranks import without_ranks
from onnxprune.errors import spelled
from onnxprune.evaluate import node_check
from onnxprune.evaluate.evaluation import Evaluation, compare_models
from onnxprune.graph import surgery
from onnxprune.graph.analysis import analyse
from onnxprune.graph.cost import Cost, CostModel, cost
from onnxprune.graph.plan import Plan
from onnxprune.graph.reference import mask_model
from onnxprune.jobs.choose_plan import PlanChoice
from onnxprune.jobs.removal import check_removal, reasons
from onnxprune.jobs.result import Result
from onnxprune.jobs.run import Run, stand_in_note
from onnxprune.jobs.sparsify import refit_zeros, restore_zeros, sparsify
from onnxprune.jobs.steps import State, Step, step, take
from onnxprune.jobs.verdicts import data_of, judging_notes, unsure
from onnxprune.quantities import figure, percent
from onnxprune.recovery.bias_correction import correct
from onnxprune.recovery.order import Problem
from onnxprune.recovery.reconstruct import reconstruct
from onnxprune.recovery.refit import Settings
from onnxprune.select.latency.budget import LatencyChoice, measure_result
from onnxprune.train import distill as training
from onnxprune.types import Check


def cut(run: Run, choice: PlanChoice) -> State:
    """The dense model without the removals of a plan."""
    run.progress("cutting")
    plan = choice.plan
    small = surgery.cut(run.analysis, plan.removed, plan.bypassed)
    return State(small, plan, choice.start or small, notes=choice.notes)


@step("model")
def check_equivalence(run: Run, state: State) -> State:
    """Check that the cut model computes what the masked original does, where it should.

    Where nothing was cut and there are no data, nothing has to run. What left the interface was
    checked before.
    """
    analysis, plan = run.analysis, state.plan
    if not state.cut and (run.data.source is None or run.narrowing is not None):
        return state.then(state.start)
    inexact = inexact_groups(run, plan)
    if inexact:
        some = f"{inexact[0]}{' and others' if inexact[1:] else ''}"
        note = f"inexact: {some} was cut, so the result is not the masked original"
        return state.then(state.start, notes=[note])
    run.progress("checking that the cut equals the masked original")
    reference = mask_model(analysis, plan.removed, plan.bypassed)
    check, note = node_check.check_cut(
        analysis, plan.removed, state.model, reference, run.data.probe, run.config.provider
    )
    return state.then(state.start, checks=[check], notes=[note] if note else [])


def inexact_groups(run: Run, plan: Plan) -> list[str]:
    """Groups that lost units although that changes a normalisation."""
    return [name for name in plan.removed if not run.analysis.group(name).exact]


@step("layer")
def refit(run: Run, state: State) -> State:
    """Refit every layer of a cut model to the outputs of the dense one, as ``--recover`` says.

    Few samples are enlarged by mixtures of them.
    """
    config, analysis, feeds = run.config, run.analysis, run.data.fit
    good = all(check.ok for check in state.checks)
    changed = state.cut or (state.elsewhere and not state.plan.zeroed)
    if config.recover == "none" or not (changed and feeds and good):
        return state
    keep = analysis.keep(state.plan.removed)

    def kept(value: str, axis: int) -> npt.NDArray[np.bool_]:
        axes = analysis.walk.axes[value]  # of a value of unknown rank there are none
        inside = -len(axes) <= axis < len(axes)
        return keep(axes[axis]) if inside else np.zeros(0, np.bool_)

    problem, budget = Problem(analysis.model, state.model, kept, analysis.facts), budget_of(config)
    sample = Sample(memory=budget)
    if config.recover == "bias":
        recovery = correct(
            problem, feeds, Settings(sample=sample, provider=config.provider), run.progress
        )
    else:
        pairs = Settings.pairs if config.recover == "auto" else 0
        settings = Settings(sample=sample, pairs=pairs, provider=config.provider)
        every = settings.sample.holdout_every
        more = with_mixtures(
            feeds, most_bytes=budget.samples, holdout_every=every, seed=config.seed
        )
        recovery = reconstruct(problem, more, settings, run.progress)
    return state.then(recovery.model, refit=recovery.outcomes)


@step("model")
def distill(run: Run, state: State) -> State:
    """Train the remaining weights as a whole, where held-out samples agree that it helps."""
    if run.config.recover != "auto" or not (run.data.fit and state.plan.zeroed):
        return state
    keep = {name: mask.unpack() for name, mask in state.plan.zeroed.items()}
    config = run.config
    settings = training.Settings(
        seed=config.seed, provider=config.provider, memory=budget_of(config)
    )
    outcome = training.distil(
        run.analysis.model, state.model, keep, run.data.fit, settings, run.progress
    )
    if outcome.reason:
        note = f"the remaining weights were not trained as a whole: {outcome.reason}"
    elif not outcome.steps:
        note = "training the remaining weights as a whole did not help on held-out inputs"
    else:
        note = (
            f"the remaining weights were trained as a whole for {outcome.steps} steps: outputs on "
            f"held-out inputs are {percent(outcome.after)} as far from the original's as after "
            "refitting every layer"
        )
    return state.then(outcome.model if outcome.steps else None, notes=[note])


PRUNE = (check_equivalence, refit, sparsify, distill)
"""What follows a cut where single weights are chosen anew."""
APPLY = (check_equivalence, refit, restore_zeros, distill)
"""The same where a plan names them."""
RECOVER = (refit, refit_zeros, distill)
"""What is done to a model that was pruned elsewhere."""


def apply_plan(run: Run, choice: PlanChoice, steps: Iterable[Step] = PRUNE) -> Result:
    """Cut, take the steps, and compare with the dense model.

    Args:
        run: the options, the dense model and its data.
        choice: the plan.
        steps: to take after the cut.

    Raises:
        OnnxpruneError: the plan does not fit the model, or a model does not run.
    """
    timing = choice.timing
    with nullcontext() if timing is None else timing.stopwatch:
        result = evaluate(run, take(run, cut(run, choice), steps), choice.unchanged)
        result = replace(result, advice=choice.advice)
        return result if timing is None else time(run, timing, result)


def evaluate(run: Run, state: State, unchanged: Mapping[str, str]) -> Result:
    """Compare the result with the dense model, and check the limits of the options.

    Args:
        run: the options, the dense model and its data.
        state: after the last step.
        unchanged: why groups that could be cut stay whole, by group.
    """
    config, data, analysis = run.config, run.data, run.analysis
    checks, notes = list(state.checks), [*state.notes, *stand_in_note(run.config)]
    if run.narrowing is not None:
        checks = [*run.narrowing.checks, *checks]
        notes = [*run.narrowing.notes, *notes]
    inexact = inexact_groups(run, state.plan)
    evaluation = Evaluation()  # synthetic inputs say nothing beyond the checks
    runs = state.cut or data.source is not None  # else nothing needs that
    if not data.synthetic or (runs and not checks) or config.max_drop is not None:
        run.progress("comparing with the original")
        evaluation = compare_models(run.reference, state.model, data.eval, config)
        notes += judging_notes(run.reference, data, config, evaluation)
    if inexact and state.outcomes.get("refit"):
        before = compare_models(run.reference, state.start, data.eval, config)
        notes.append(f"inexact: {distance_of(before)} as cut and {distance_of(evaluation)} now")
    limits, unsure_notes = within_drop(evaluation, config)
    checks += [*limits, *finite(evaluation)]
    notes += unsure_notes
    dense, remaining = CostModel(analysis)(), cost_of(run, state)
    if config.target is not None and not config.target.timed:  # a time is measured later
        kind = config.target.kind
        value, limit = remaining.of(kind), config.target.limit(dense.of(kind))
        checks.append(Check(kind, value <= limit, float(value), float(limit)))
    checks += check_removal(config, dense, state.plan)
    notes += reasons(config, analysis, state.plan, unchanged)
    if data.synthetic and runs:
        notes.append(f"inputs were synthetic ({data.description}): accuracy was not measured")
    elif data.synthetic:
        notes.append("there were no inputs, so the model was not run: accuracy was not measured")
    if not data.fit and config.recover not in ("auto", "none"):
        notes.append(spelled(f"nothing was refitted: --recover {config.recover} needs --calib"))
    parts = tuple(checks), evaluation, state.outcomes, tuple(notes)
    return Result(
        without_ranks(state.model), state.plan, analysis, config, *parts, remaining=remaining,
        judges=data_of(data, evaluation), synthetic=data.synthetic, narrowing=run.narrowing,
    )  # fmt: skip


def cost_of(run: Run, state: State) -> Cost:
    """The cost of the current model, counted anew: recovery may have added tensors."""
    if not (state.cut or run.data.fit):
        return CostModel(run.analysis)()
    return cost(analyse(state.model, inputs=run.analysis.inputs[0]))


def within_drop(evaluation: Evaluation, config: Options) -> tuple[list[Check], list[str]]:
    """The check of the accepted drop, if there is one, and notes on how sure it is."""
    if config.max_drop is None:
        return [], []
    drop = evaluation.drop
    check = Check("drop", drop <= config.max_drop, drop, config.max_drop)
    return [check], unsure(evaluation, config.max_drop)


def finite(evaluation: Evaluation) -> list[Check]:
    """A failed check where outputs are no longer finite."""
    if not evaluation.broken:
        return []
    return [Check("finite outputs", ok=False, value=float("inf"), limit=0.0)]


def time(run: Run, timing: LatencyChoice, result: Result) -> Result:
    """Measure the finished model against the latency target."""
    run.progress("measuring the latency of the result")
    latency = measure_result(timing, result.model, run.config)
    return replace(
        result,
        checks=(*result.checks, latency.check),
        notes=(*result.notes, *timing.notes, latency.note),
        latency=latency.compared,
    )


def distance_of(evaluation: Evaluation) -> str:
    """How far the output that says most is from the original's, in words."""
    main = evaluation.main
    error = "unknown" if main.relative_error is None else figure(main.relative_error)
    return f"the relative error of '{main.name}' is {error}"
