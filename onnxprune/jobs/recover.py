"""Models that somebody else pruned: what they lost is found, and what is left is refitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from threadpoolctl import threadpool_limits

from onnxprune import model as models
from onnxprune.config import Options, from_flags
from onnxprune.data.dataset import Feeds, open_dataset, open_source
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import Verdict, prove
from onnxprune.evaluate.evaluation import Evaluation, compare_models
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import CostModel
from onnxprune.graph.plan import Origin, Plan, pack, versions
from onnxprune.jobs.apply_plan import Pruned
from onnxprune.jobs.run import BLAS, check_names
from onnxprune.jobs.run import Progress as Tell
from onnxprune.recover.bias_correction import correct
from onnxprune.recover.correspond.folding import fold_normalisations, normalisations
from onnxprune.recover.correspond.kept_units import Correspondence, correspond
from onnxprune.recover.correspond.twin import (
    Twin,
    carry_back,
    filled_zeros,
    in_dense_words,
    make_twin,
)
from onnxprune.recover.reconstruct import reconstruct
from onnxprune.recover.refit import Settings
from onnxprune.recover.sparse_refit import refit_masked
from onnxprune.sparse.zeros import zero
from onnxprune.types import Check, LayerOutcome

_SAME = 1e-3
"""Largest difference between the pruned model and the dense graph cut and filled as found: other
nodes may compute the same in another order, but nothing else may be different."""

_UNCHANGED = 0.999
"""Correlation from which on weights are those of the dense model but for rounding."""


@dataclass(frozen=True, eq=False)
class Recovered(Pruned):
    """A model that was pruned elsewhere, refitted.

    Attributes:
        given: how the outputs of the model as it was given compare with the dense model's.
        found: which node is which, and how far the weights resemble.
        better: whether ``model`` is the refitted one; if not, it is the one that was given,
            because refitting made held-out outputs worse.
    """

    given: Evaluation
    found: Correspondence
    better: bool

    def save(self, path: str | Path) -> Path:
        """Write the model; never over the ones it came from."""
        dense = self.analysis.model.path
        if dense is not None and Path(path).exists() and dense.samefile(path):
            raise OnnxpruneError(f"{path} is the dense model", hint="write to another file")
        return models.save(self.model, path)

    def __str__(self) -> str:
        removed = sum(len(units) for units in self.plan.removed.values())
        changed = sum(o.method != "none" for o in self.recovered)
        changed += sum(bool(o.method) and o.refit != "none" for o in self.thinned)
        gone = f"{removed} units and {len(self.plan.bypassed)} blocks were gone"
        if not self.better:
            return f"{gone}; no refit was better, so the model is as it was given"
        errors = [j.main.relative_error for j in (self.given, self.outcome)]
        said = " -> ".join("unknown" if e is None else f"{e:.4g}" for e in errors)
        return f"{gone}; {changed} layers refitted, relative error {said}"


def recover_model(
    dense: Any,  # noqa: ANN401  # everything models.load takes
    pruned: Any,  # noqa: ANN401  # the same
    options: Options | None = None,
    *,
    tell: Tell = lambda _: None,
    **flags: object,
) -> Recovered:
    """Refit a model that somebody else pruned to what the dense one computes.

    What is gone (units, residual branches, single weights) is found by comparing graphs and
    weights; names may differ, and weights may have changed. Only weights are changed, and zeros
    among them stay where they are.

    Args:
        dense: the model before pruning: a path, a ``ModelProto``, a graphsurgeon graph or a loaded
            model; never changed.
        pruned: what somebody made of it; never changed.
        options: where inputs come from and what runs the models; or give the same as keywords
            (``recover_model(dense, pruned, calib=batches)``).
        tell: hears the progress.
        flags: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: there are no real inputs, the pruned model was not made from the dense one,
            or it cannot be told what is gone.
    """
    asked = options or from_flags(flags)
    if asked.recover == "none":
        raise OnnxpruneError(
            "--recover none leaves nothing to do", hint="take auto, lstsq, pcg or bias"
        )
    check_names(asked)
    tell("reading the models")
    original, given = models.load(dense), models.load(pruned)
    samples, shapes = open_source(original, asked)
    if samples is None or samples.synthetic:
        raise OnnxpruneError(
            "recovery fits layers to what the dense model computes on real inputs",
            hint="give some with --calib; they need no labels",
        )
    notes = []
    folded = fold_normalisations(original)
    if normalisations(given) <= normalisations(folded) < normalisations(original):
        original = folded
        notes.append("BatchNormalizations of the dense model were folded, as in the pruned one")
    analysis = analyse(original, inputs=shapes)
    data = open_dataset(samples, asked)
    tell("finding what is gone")
    found = correspond(analysis, given)
    twin = make_twin(analysis, found, given)
    named = in_dense_words(found.matching, given)
    feeds = data.probe
    _same_function(prove(twin.model, named, feeds, asked.provider))
    plan = _plan(analysis, found, twin, data.description, asked)
    with threadpool_limits(BLAS, "blas"):
        refitted, layers, thinned = _refit(analysis, plan, twin, data.fit, asked, tell)
    tell("comparing with the dense model")
    before = compare_models(original, twin.model, data.eval, asked)
    after = compare_models(original, refitted, data.eval, asked)
    notes += found.notes
    if found.likeness < _UNCHANGED:
        notes.append(
            "the weights that are left have changed: their correlation with the dense model's is "
            f"{found.likeness:.3f}"
        )
    if data.one_batch:
        notes.append("there is one batch of inputs alone, which was fitted to and judged by")
    made = carry_back(original, twin.model, refitted, found.matching, given)
    checks = [prove(in_dense_words(found.matching, made), refitted, feeds, asked.provider)]
    checks = [replace(checks[0], name="written = refitted")]
    if twin.masks:
        filled = filled_zeros(refitted, twin)
        checks.append(Check("zeros that were filled", filled == 0, filled, 0.0))
    better = not _worse(before, after)
    if not better:
        notes.append(
            "refitting made unseen outputs worse, so the model is the pruned one as it was given"
        )
        made, after, checks = models.clone(given), before, []
    if after.broken:
        checks.append(Check("finite outputs", ok=False, value=float("inf"), limit=0.0))
    costs = CostModel(analysis)
    return Recovered(
        model=made,
        plan=plan,
        verdict=Verdict(tuple(checks)),
        analysis=analysis,
        dense=costs(),
        left=costs(plan.removed, plan.bypassed),
        outcome=after,
        recovered=layers if better else (),
        thinned=thinned if better else (),
        notes=tuple(notes),
        options=asked,
        given=before,
        found=found,
        better=better,
    )


def _same_function(check: Check) -> None:
    """Refuse a pruned model that computes something else than the dense graph with its weights."""
    if check.value > max(check.limit, _SAME):
        raise OnnxpruneError(
            "the pruned model computes something else than the dense graph does with its weights "
            f"(difference {check.value:.2g})",
            hint="some attribute or node differs: give the model that this one was made from",
        )


def _plan(
    analysis: Analysis, found: Correspondence, twin: Twin, calibration: str, asked: Options
) -> Plan:
    return Plan(
        removed=found.removed,
        units={g.name: len(g) for g in analysis.groups},
        bypassed=found.bypassed,
        zeroed={name: pack(mask) for name, mask in twin.masks.items()},
        origin=Origin(
            structure=models.structure_hash(analysis.model),
            criterion="found in a pruned model",
            seed=asked.seed,
            versions=versions(),
            calibration=calibration,
        ),
    )


def _refit(
    analysis: Analysis,
    plan: Plan,
    twin: Twin,
    fit: Sequence[Feeds],
    asked: Options,
    tell: Tell,
) -> tuple[models.Model, tuple[LayerOutcome, ...], tuple[LayerOutcome, ...]]:
    """Refit what was cut, then, if there are zeros to keep, what is left between them."""
    teacher, model = analysis.model, twin.model
    layers: tuple[LayerOutcome, ...] = ()
    cut = bool(plan.removed or plan.bypassed)
    if cut or not twin.masks:
        keep = analysis.keep(plan.removed)

        def kept(value: str, axis: int) -> npt.NDArray[np.bool_]:
            return keep(analysis.walk.axes[value][axis])

        if asked.recover == "bias":
            made = correct(
                teacher, model, kept, analysis.facts, fit, provider=asked.provider, tell=tell
            )
        else:
            settings = Settings(
                pairs=Settings.pairs if asked.recover == "auto" else 0, provider=asked.provider
            )
            made = reconstruct(teacher, model, kept, analysis.facts, fit, settings, tell)
        model, layers = made.model, made.outcomes
        teacher = model
    if not twin.masks:
        return model, layers, ()
    facts = analysis.facts if not cut else analyse(model, inputs=analysis.inputs[0]).facts
    model, thinned = refit_masked(
        teacher, zero(model, plan.zeroed), twin.masks, fit, facts,
        only_bias=asked.recover == "bias", seed=asked.seed, provider=asked.provider, tell=tell,
    )  # fmt: skip
    return model, layers, thinned


def _worse(before: Evaluation, after: Evaluation) -> bool:
    """Whether a refit lost: of the metric where there are labels, of agreement where there are not.

    Where the metric is the same, agreement decides.
    """
    if after.broken:
        return True
    if before.after is not None and after.after is not None and before.after != after.after:
        return (after.after < before.after) == after.higher_is_better
    errors = [j.main.relative_error for j in (before, after)]
    return errors[0] is not None and errors[1] is not None and errors[1] > errors[0]
