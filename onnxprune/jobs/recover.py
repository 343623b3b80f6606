"""Models that somebody else pruned: find what was removed, and refit the remaining weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from onnxprune import model as models
from onnxprune.config import Options, split
from onnxprune.data.batches import is_single, mark_single
from onnxprune.data.dataset import open_dataset, open_source, with_checks
from onnxprune.data.ranks import with_ranks, without_ranks
from onnxprune.errors import OnnxpruneError, blame, in_python
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.evaluate.evaluation import Evaluation, check_task, compare_models
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.interface import Interface
from onnxprune.graph.plan import Origin, Plan, pack, versions
from onnxprune.jobs.apply_plan import RECOVER, cost_of, finite, within_drop
from onnxprune.jobs.interface.alignment import align
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.result import Result, released
from onnxprune.jobs.run import (
    Progress,
    Run,
    place,
    reproducible,
    stand_in_note,
    within_memory,
)
from onnxprune.jobs.steps import State, take
from onnxprune.jobs.verdicts import data_of, judging_notes
from onnxprune.quantities import figure
from onnxprune.recovery.correspond.folding import fold_normalisations, normalisations
from onnxprune.recovery.correspond.kept_units import Correspondence, correspond
from onnxprune.recovery.correspond.twin import (
    Twin,
    carry_back,
    filled_zeros,
    in_dense_words,
    make_twin,
)
from onnxprune.types import Check

_SAME = 1e-3
"""Largest difference between the pruned model and the dense graph cut and filled as found: other
nodes may compute the same in another order, but nothing else may be different."""

_UNCHANGED = 0.999
"""Correlation from which on weights are those of the dense model but for rounding."""


@keywords("recover")
@reproducible
@np.errstate(over="ignore", invalid="ignore")  # such values end in a verdict or refusal
def recover(
    dense: models.ModelLike,
    pruned: models.ModelLike,
    options: Options | None = None,
    *,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Result:
    """Refit a model that somebody else pruned to what the dense one computes.

    What was removed (units, residual branches, single weights) is found by comparing graphs
    and weights; names may differ, and weights may have changed. Only weights are changed, and zeros
    among them stay where they are.

    Args:
        dense: the model before pruning: a path, a ``ModelProto``, a graphsurgeon graph or a loaded
            model; never changed.
        pruned: the model after pruning elsewhere; never changed.
        options: where inputs come from and what runs the models; or give the same as keywords
            (``recover(dense, pruned, calib=batches)``).
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: there are no real inputs, the pruned model was not made from the dense one,
            or its removed parts cannot be determined.

    Example:
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> entry = zoo.get("digits_mlp")
        >>> cut = prune(entry.model, ratio=0.5).model
        >>> result = recover(entry.model, cut, calib=entry.calibration, calib_samples=64)
        >>> result.ok, result.better
        (True, True)
    """
    config = split("recover", fields, options)[0]
    if config.recover == "none":
        raise OnnxpruneError(
            "--recover none leaves nothing to do", hint="take auto, lstsq, pcg or bias"
        )
    config = place(config)
    progress("reading the models")
    pruned_model = models.load(pruned)
    both = align(models.load(dense), pruned_model, config, dict(config.shapes) or None)
    pruned_model = both.small
    run, notes = _opened(both.dense, pruned_model, config, progress)
    narrowing = None if both.narrowing is None else both.narrowing.at(run.analysis)
    run = replace(run, narrowing=narrowing)
    analysis, data, provider = run.analysis, run.data, config.provider
    progress("finding what was removed")
    match = _correspond(analysis, pruned_model)
    twin = make_twin(analysis, match, pruned_model)
    renamed = in_dense_words(match.matching, pruned_model)
    same = _same_function(check_equivalence(twin.model, renamed, data.probe, provider))
    plan = _plan(run, match, twin)
    state = take(run, State(twin.model, plan, twin.model, elsewhere=True), RECOVER)
    progress("comparing with the dense model")
    before, after = (
        compare_models(run.reference, model, data.eval, config)
        for model in (state.start, state.model)
    )
    notes += [*match.notes, *judging_notes(run.reference, data, config, after)]
    if match.likeness < _UNCHANGED:
        notes.append(
            "the remaining weights have changed: their correlation with the dense model's is "
            f"{figure(match.likeness)}"
        )
    if _worse(before, after):
        why = "refitting made unseen outputs worse, so the model is the pruned one as it was given"
        limits, unsure_notes = within_drop(before, config)
        as_given = Result(
            models.clone(pruned_model), plan, analysis, config,
            (same, *limits, *finite(before)), before,
            notes=(*notes, why, *unsure_notes), as_given=before, correspondence=match, better=False,
            command="recover", remaining=cost_of(run, replace(state, model=state.start)),
            judges=data_of(data, before), narrowing=narrowing,
        )  # fmt: skip
        return released(as_given, config, narrowing)
    result = carry_back(analysis.model, twin.model, state.model, match.matching, pruned_model)
    check = check_equivalence(
        in_dense_words(match.matching, result), state.model, data.probe, provider
    )
    checks = [same, replace(check, name="written = refitted")]
    if twin.masks:
        filled = filled_zeros(state.model, twin)
        checks.append(Check("zeros that were filled", filled == 0, filled, 0.0))
    limits, unsure_notes = within_drop(after, config)
    refitted = Result(
        without_ranks(result), plan, analysis, config, (*checks, *limits, *finite(after)), after,
        state.outcomes, notes=(*notes, *state.notes, *unsure_notes), as_given=before,
        correspondence=match, command="recover",
        remaining=cost_of(run, state), judges=data_of(data, after), narrowing=narrowing,
    )  # fmt: skip
    return released(refitted, config, narrowing)


def _correspond(analysis: Analysis, pruned: models.Model) -> Correspondence:
    """What is left of the dense model in the pruned one.

    Raises:
        OnnxpruneError: the one was not made from the other, or they have changed places.
    """
    try:
        return correspond(analysis, pruned)
    except OnnxpruneError as error:
        if models.size_bytes(pruned) <= models.size_bytes(analysis.model):
            raise
        raise OnnxpruneError(
            f"the pruned model is larger than the dense one: {error.message}",
            hint="the dense model comes first, as in recover(dense, pruned)"
            if in_python()
            else "the dense model comes first, as in `onnxprune recover dense.onnx pruned.onnx`",
        ) from error


def _opened(
    dense: models.Model, pruned: models.Model, config: Options, progress: Progress
) -> tuple[Run, list[str]]:
    """A run on the dense model, normalisations folded where they are in the pruned one.

    Raises:
        OnnxpruneError: there are no real samples, or they do not fit.
    """
    dense = with_ranks(dense, config)
    samples, shapes = open_source(dense, config)
    if samples is None or samples.synthetic or config.calib is None:
        raise OnnxpruneError(
            "recovery fits layers to what the dense model computes on real inputs",
            hint="give some with --calib; they need no labels",
        )
    notes = [*stand_in_note(config)]
    if is_single(dense):
        mark_single(pruned)
    folded = fold_normalisations(dense)
    if normalisations(pruned) <= normalisations(folded) < normalisations(dense):
        dense = folded
        notes.append("BatchNormalizations of the dense model were folded, as in the pruned one")
    with blame("--shapes", when=bool(config.shapes)):
        analysis = analyse(dense, inputs=shapes)
    count = analysis.batch if config.shapes else None
    samples = within_memory(samples, config, dense, analysis.facts, count)
    data = with_checks(open_dataset(samples, config), analysis.model, config)
    check_task(dense, data.eval, config)
    return Run(config, analysis, data, progress), [*notes, *data.notes]


def _same_function(check: Check) -> Check:
    """The check that a pruned model computes what the dense graph does with its weights.

    Raises:
        OnnxpruneError: it computes something else.
    """
    limit = max(check.limit, _SAME)
    if check.value > limit:
        raise OnnxpruneError(
            "the pruned model computes something else than the dense graph does with its weights "
            f"(difference {figure(check.value)})",
            hint="some attribute or node differs: give the model that this one was made from",
        )
    return Check("as given = dense graph as cut", ok=True, value=check.value, limit=limit)


def _plan(run: Run, match: Correspondence, twin: Twin) -> Plan:
    return Plan(
        removed=match.removed,
        units={g.name: len(g) for g in run.analysis.groups},
        bypassed=match.bypassed,
        interface=Interface() if run.narrowing is None else run.narrowing.planned,
        zeroed={name: pack(mask) for name, mask in twin.masks.items()},
        origin=Origin(
            structure=models.structure_hash(run.analysis.model),
            criterion="found in a pruned model",
            seed=run.config.seed,
            memory=run.config.memory,
            versions=versions(),
            calibration=run.data.description,
        ),
    )


def _worse(before: Evaluation, after: Evaluation) -> bool:
    """Whether a refit lost: of the metric where there are labels, of agreement where there are not.

    Where the metric is the same, agreement decides: outputs are further off and, of class scores,
    so is their divergence, which training lowers at the cost of the former.
    """
    if after.broken:
        return True
    if before.after is not None and after.after is not None and before.after != after.after:
        return (after.after < before.after) == after.higher_is_better
    rose = [
        now > then
        for then, now in (
            (before.main.relative_error, after.main.relative_error),
            (before.main.kl, after.main.kl),
        )
        if then is not None and now is not None
    ]
    return bool(rose) and all(rose)
