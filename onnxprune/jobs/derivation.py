"""Derive the structure of a written model anew, from it and the dense model.

With a plan, the dense model is cut by it, and node by node and weight by weight the written model
has to be that cut. Without one, the plan is found by comparing the two, and the cut has to compute
what the written model does. Models in int8 are compared as the floats that they stand for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast, get_args

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.dataset import Feeds, synthetic_inputs
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.difference import Pairing, changes, is_altered, pair
from onnxprune.graph.layers.linear import find_layers, plain
from onnxprune.graph.layers.sources import by_identity, read_at
from onnxprune.graph.plan import Plan, check, pack
from onnxprune.graph.surgery import cut
from onnxprune.jobs.certificate import Certificate, expected_model
from onnxprune.jobs.likeness import exchanged_units
from onnxprune.jobs.quantize.comparison import Comparison, as_floats, compare_quantized, is_near
from onnxprune.jobs.quantize.dequantize import is_quantized
from onnxprune.jobs.quantize.zeros import pattern_of
from onnxprune.quantities import percent, plural
from onnxprune.recovery.correspond.folding import fold_normalisations, normalisations
from onnxprune.recovery.correspond.kept_units import Correspondence, correspond
from onnxprune.recovery.correspond.matching import match
from onnxprune.recovery.correspond.twin import Twin, in_dense_words, make_twin
from onnxprune.runtime.engines import precision
from onnxprune.sparse.encodings.weights import Values, choose_coding
from onnxprune.sparse.nm import counts
from onnxprune.types import Check

Array = npt.NDArray[Any]

_SAME = 1e-3
"""Largest difference of outputs where the plan was found by comparing weights."""
_MANY = 0.2
"""Share of zeros from which on those of a refitted weight in int8 are no rounded values."""
_ROUNDING = 1e-4
"""Relative difference of weights that one tool and another folded a normalisation into."""
_FORMS: tuple[Values, ...] = ("int8", "fp16", "fp32")
_NAMES = 3
"""Names of weights in a note."""


@dataclass(frozen=True, eq=False)
class Derivation:
    """What comparing two models shows.

    Attributes:
        checks: of the structure.
        plan: what was removed; None where the models do not correspond.
        changed: weights with other values than the cut of the dense model has, zeros aside.
        quantized: whether weights are stored in int8.
        notes: whole sentences.
    """

    checks: list[Check]
    plan: Plan | None = None
    changed: tuple[str, ...] = ()
    quantized: bool = False
    notes: list[str] = field(default_factory=list)


def derive(
    analysis: Analysis,
    small: models.Model,
    claim: Certificate | None,
    plan: Plan | None,
    config: Options,
) -> Derivation:
    """Compare a model with the dense one.

    Args:
        analysis: of the dense model.
        small: the model that was made from it.
        claim: what it is said to be.
        plan: what is said to be removed, where the certificate has no plan.
        config: provider and seed of the check.
    """
    plan = plan if claim is None or claim.plan is None else claim.plan
    command = "" if claim is None else claim.command
    integers = command == "quantize" or (
        claim is None and is_quantized(small, beside=analysis.model)
    )
    if plan is None or command == "recover":
        return _without_plan(analysis, small, claim, config, integers=integers)
    try:
        units = replace(plan, zeroed={})
        structure = models.structure_hash(analysis.model)
        check(units, structure, analysis.groups, analysis.blocks)
        expected = expected_model(analysis, units)
        if claim is not None and claim.precision:
            expected = _converted(expected, claim.precision)
    except OnnxpruneError as error:
        failed = Check("plan fits the dense model", ok=False, value=1.0, limit=0.0)
        return Derivation([failed], plan, notes=[error.message])
    if integers:
        comparison = compare_quantized(expected, small, _masks(claim, plan))
        return _quantized(comparison, claim, plan)
    pairing = pair(expected, small)
    if pairing.problem:
        return _other_graph(pairing.problem, plan)
    result = _weights(pairing, small, claim, plan)
    if result.changed and plan.removed:
        exchanged = exchanged_units(analysis, plan, small, result.changed)
        odd = sum(map(len, exchanged.values()))
        result.checks.append(Check("kept units that are removed ones", not odd, odd, 0))
    return result


def _converted(model: models.Model, name: str) -> models.Model:
    """A model in another precision.

    Raises:
        OnnxpruneError: it cannot be converted, or the precision is unknown.
    """
    if name not in get_args(precision.Half):
        raise OnnxpruneError(f"the certificate states the unknown precision '{name[:20]}'")
    return precision.convert(model, cast("precision.Half", name))


def _other_graph(problem: str, plan: Plan | None) -> Derivation:
    failed = Check("graph = dense graph, cut", ok=False, value=1.0, limit=0.0)
    return Derivation([failed], plan, notes=[f"the graph is not the cut one: {problem}"])


def _masks(claim: Certificate | None, plan: Plan) -> dict[str, tuple[int, int]]:
    if claim is not None and claim.zeroed:
        return dict(claim.zeroed)
    return {name: (mask.size, mask.kept) for name, mask in plan.zeroed.items()}


def _weights(
    pairing: Pairing, small: models.Model, claim: Certificate | None, plan: Plan
) -> Derivation:
    """Compare every weight of a model with the cut."""
    changed, zeros, wide = {value.name or "" for value in pairing.added}, {}, 0
    narrowed = frozenset[str]() if claim is None else claim.narrowed
    masks = _masks(claim, plan)
    stored = {theirs.name or "": (ours, theirs) for ours, theirs in pairing.stored}
    for name, change in changes(pairing):
        zeros[name] = change.zeros
        if not is_altered(change, masks.get(name)):
            continue
        if name in narrowed:
            one, two = map(models.array_of, stored[name])
            wide += not _is_narrowed(one, two, sparse=name in masks)
        else:
            changed.add(name)
    checks = [Check("graph = dense graph, cut", ok=True, value=0.0, limit=0.0)]
    if claim is not None:  # where both graphs are the same, it says what changed
        checks.append(_as_stated(changed, claim))
    if narrowed:
        checks.append(Check("weights that changed more than their bits", wide == 0, wide, 0))
    checks += _sparse(masks, zeros)
    checks += _pattern(small, claim, masks)
    notes = [] if claim is not None else [*_changed_note(changed)]
    return Derivation(checks, plan, tuple(sorted(changed)), notes=notes)


def _is_narrowed(one: Array, two: Array, *, sparse: bool) -> bool:
    """Whether a weight holds what is left of another, made sparse or not, in fewer bits."""
    dtype = ir.DataType.from_numpy(one.dtype)
    for array in (one, *([np.where(two == 0, two, one)] if sparse else [])):
        for values in _FORMS:
            coding, _ = choose_coding(array, dtype, values)
            if np.array_equal(coding.decode(coding.encode(array), dtype), two, equal_nan=True):
                return True
    return False


def _as_stated(changed: Iterable[str], claim: Certificate) -> Check:
    odd = {*changed} if claim.changed is None else {*changed} ^ claim.changed
    return Check("weights not as the certificate says", not odd, len(odd), 0)


def _sparse(masks: Mapping[str, tuple[int, int]], zeros: Mapping[str, int]) -> Iterator[Check]:
    short = [name for name, (size, kept) in masks.items() if zeros.get(name, 0) < size - kept]
    if masks:
        yield Check("weights that lack zeros", not short, len(short), 0)


def _pattern(
    small: models.Model, claim: Certificate | None, masks: Mapping[str, object]
) -> list[Check]:
    """A check that weights have the N:M pattern that a certificate states."""
    n, colon, m = ("" if claim is None else claim.sparsity).partition(":")
    if not (colon and n.isdecimal() and m.isdecimal() and 0 < int(n) < int(m) <= 64):
        return []
    wrong = {
        layer.weight
        for layer in plain(find_layers(small))
        if layer.weight in masks and (counts(layer, layer.tensor.read(), int(m)) > int(n)).any()
    }
    return [Check(f"weights that are not {n}:{m}", not wrong, len(wrong), 0)]


# --- without a plan ----------------------------------------------------------------------------


def compare_with_cut(
    analysis: Analysis, small: models.Model, feeds: Iterable[Feeds], provider: str
) -> tuple[Correspondence, Twin, Check]:
    """Find what was removed by comparing graphs and weights, and check that a cut does the same.

    Args:
        analysis: of the dense model.
        small: the model that was made from it.
        feeds: inputs of the check.
        provider: execution provider.

    Returns:
        What corresponds; the dense graph, cut, with the weights of ``small``; and the check that
        both compute the same.

    Raises:
        OnnxpruneError: nothing corresponds, or a model does not run.
    """
    correspondence = correspond(analysis, small)
    twin, same = _twin(analysis, correspondence, small, feeds, provider)
    return correspondence, twin, same


def _twin(
    analysis: Analysis,
    correspondence: Correspondence,
    small: models.Model,
    feeds: Iterable[Feeds],
    provider: str,
) -> tuple[Twin, Check]:
    """The cut of the dense model with other weights, and the check that it computes the same."""
    twin = make_twin(analysis, correspondence, small)
    renamed = in_dense_words(correspondence.matching, small)
    result = check_equivalence(twin.model, renamed, feeds, provider)
    limit = max(result.limit, _SAME)
    name = "dense graph, cut = model"
    return twin, replace(result, name=name, ok=result.value <= limit, limit=limit)


def _without_plan(
    analysis: Analysis,
    small: models.Model,
    claim: Certificate | None,
    config: Options,
    *,
    integers: bool,
) -> Derivation:
    """Find the plan by comparing two models, and say how the weights differ."""
    steps: Mapping[str, Any] = {}
    faults: list[Check] = []
    notes: list[str] = []
    rounding = 0.0
    try:
        if integers:
            both = as_floats(analysis.model, small)
            analysis = analyse(both.expected, inputs=analysis.inputs[0])
            small, steps = both.actual.model, both.actual.steps
            faults, notes = _scales(both.actual.faults, len(both.actual.ranges), claim)
        else:
            analysis, notes = _folded(analysis, small)
            rounding = _ROUNDING if notes and claim is None else 0.0
        correspondence = _correspondence(analysis, small, claim)
        feeds = synthetic_inputs(analysis, config.provider, config.seed)
        twin, equal = _twin(analysis, correspondence, small, feeds, config.provider)
        expected = cut(analysis, correspondence.removed, correspondence.bypassed)
    except OnnxpruneError as error:
        failed = Check("made from the dense model", ok=False, value=1.0, limit=0.0)
        return Derivation([failed], notes=[error.message])
    pairing = pair(expected, twin.model)
    if pairing.problem:
        return _other_graph(pairing.problem, None)
    names = _names_in(analysis, correspondence, twin, small)
    grids = {name: steps[there] for name, there in names.items() if there in steps}
    changed, masks = _compare_weights(pairing, twin, grids, rounding)
    plan = Plan(
        removed=correspondence.removed,
        bypassed=correspondence.bypassed,
        zeroed={name: pack(mask) for name, mask in masks.items()},
    )
    checks = [equal, *faults]
    notes = [*correspondence.notes, *notes, *_zero_notes(twin.model, plan)]
    if claim is None or claim.changed is None:
        notes += _changed_note(changed)
    if claim is not None and claim.plan is not None:
        same = {*correspondence.matching.bypassed} == {*claim.plan.bypassed}
        checks.append(Check("blocks = those of the certificate", same, float(not same), 0.0))
        exchanged = exchanged_units(analysis, claim.plan, twin.model, changed)
        odd = sum(map(len, exchanged.values()))
        checks.append(Check("kept units that are removed ones", not odd, odd, 0))
        kept = {name: mask.kept for name, mask in plan.zeroed.items()}
        short = [
            name
            for name, (size, most) in claim.zeroed.items()
            if size > most and kept.get(name, 0) > most
        ]
        if claim.zeroed:
            checks.append(Check("weights that lack zeros", not short, len(short), 0))
        if claim.changed is not None:
            checks.append(_as_stated(changed, claim))
            more = [
                name
                for name, mask in plan.zeroed.items()
                if name not in changed and mask.size - mask.kept > _stated_zeros(name, claim)
            ]
            checks.append(Check("weights with zeros that are not stated", not more, len(more), 0))
    return Derivation(checks, plan, tuple(sorted(changed)), integers, notes)


def _stated_zeros(name: str, claim: Certificate) -> int:
    size, kept = claim.zeroed.get(name, (0, 0))
    return size - kept


def _correspondence(
    analysis: Analysis, small: models.Model, claim: Certificate | None
) -> Correspondence:
    """What a certificate says is removed; without one, what comparing the weights shows.

    Raises:
        OnnxpruneError: the plan does not fit, or nothing corresponds.
    """
    if claim is None or claim.plan is None:
        return correspond(analysis, small)
    plan, structure = claim.plan, models.structure_hash(analysis.model)
    check(plan, structure, analysis.groups, analysis.blocks)
    return Correspondence(match(analysis, small), plan.removed, plan.bypassed, 1.0, ())


def _compare_weights(
    pairing: Pairing, twin: Twin, grids: Mapping[str, Array], rounding: float
) -> tuple[set[str], dict[str, Array]]:
    """Names of weights with other values, and which entries are kept of those with zeros.

    Args:
        pairing: of the cut of the dense model and of ``twin``.
        twin: the cut with the weights of the model.
        grids: steps of those that are in integers, by name.
        rounding: largest relative difference that does not count.
    """
    changed = {value.name or "" for value in pairing.added}
    masks: dict[str, Array] = dict(twin.masks)
    differences = dict(changes(pairing))
    for ours, theirs in pairing.stored:
        name = theirs.name or ""
        step = grids.get(name)
        if step is None:
            change = differences[name]
            other = change.kind == "changed" and change.largest > rounding
        else:  # what rounds to zero was not set to zero
            one, two = models.array_of(ours), models.array_of(theirs)
            zeros = (two == 0) & (np.abs(one) > step)
            other = not is_near(one, two, step, sparse=True)
            masks.pop(name, None)
            if zeros.any() and not (other and zeros.mean() < _MANY):
                masks[name] = ~zeros
        if other:
            changed.add(name)
    return changed, masks


def _folded(analysis: Analysis, small: models.Model) -> tuple[Analysis, list[str]]:
    """The dense model with its normalisations folded where they are in the other."""
    dense = analysis.model
    if not normalisations(small) < normalisations(dense):
        return analysis, []
    folded = fold_normalisations(dense)
    if not normalisations(small) <= normalisations(folded) < normalisations(dense):
        return analysis, []
    note = "BatchNormalizations of the dense model were folded, as in the one that was made of it"
    return analyse(folded, inputs=analysis.inputs[0]), [note]


def _names_in(
    analysis: Analysis, correspondence: Correspondence, twin: Twin, small: models.Model
) -> dict[str, str]:
    """Names of stored tensors in the twin -> their names in the model that was given."""
    here, there = by_identity(twin.model, analysis.model), by_identity(small)
    names = {}
    for place, other in correspondence.matching.stored.items():
        if place[0] in here:
            mine, theirs = read_at(here, place), read_at(there, other)
            if mine is not None and theirs is not None:
                names[mine.name or ""] = theirs.name or ""
    return names


def _zero_notes(twin: models.Model, plan: Plan) -> Iterator[str]:
    """A sentence on the zeros of a model, and on their pattern."""
    if not plan.zeroed:
        return
    entries = sum(mask.size for mask in plan.zeroed.values())
    zeros = entries - sum(mask.kept for mask in plan.zeroed.values())
    patterns = {
        layer.weight: pattern_of(layer, layer.tensor.read())[0]
        for layer in plain(find_layers(twin))
        if layer.weight in plan.zeroed
    }
    number = plural(len(plan.zeroed), "weight")
    sentence = f"{percent(zeros / entries)} of {number} were set to zero"
    kinds = {kind for kind in patterns.values() if kind}
    if len(kinds) == 1 and len(patterns) == sum(map(bool, patterns.values())):
        sentence += f", in the pattern {kinds.pop()}"
    yield sentence


def _changed_note(names: Iterable[str]) -> Iterator[str]:
    """A sentence on weights that are neither the dense model's nor zero."""
    known = sorted(names)
    if known:
        more = f" and {len(known) - _NAMES} more" if len(known) > _NAMES else ""
        listed = ", ".join(f"'{name}'" for name in known[:_NAMES])
        yield (
            f"{plural(len(known), 'weight')} with other values than the dense model's, by a refit "
            f"or otherwise: {listed}{more}; only data can tell whether they are good"
        )


# --- models in int8 ----------------------------------------------------------------------------


def _quantized(comparison: Comparison, claim: Certificate | None, plan: Plan) -> Derivation:
    """The checks of a model whose integers were compared with the floats they stand for."""
    if comparison.problem:
        return _other_graph(comparison.problem, plan)
    names = frozenset[str]() if claim is None else claim.quantized
    missing = names - comparison.quantized
    checks, notes = _scales(comparison.faults, comparison.activations, claim)
    coarse = len(comparison.coarse)
    checks = [
        Check("graph = dense graph, cut, in int8", ok=True, value=0.0, limit=0.0),
        Check("weights in int8", bool(names), float(len(names)), math.inf),
        Check("weights that are not in int8", not missing, len(missing), 0),
        Check("weights in coarser steps than their bits allow", not coarse, coarse, 0),
        *checks,
        *_sparse(_masks(claim, plan), comparison.zeros),
    ]
    if claim is not None and claim.changed is not None:
        checks.append(_as_stated(comparison.changed, claim))
    else:
        notes += _changed_note(comparison.changed)
    return Derivation(checks, plan, tuple(sorted(comparison.changed)), quantized=True, notes=notes)


def _scales(
    faults: tuple[str, ...], activations: int, claim: Certificate | None
) -> tuple[list[Check], list[str]]:
    """A check of the scales, and sentences on what it can tell."""
    checks = [Check("scales that contradict each other", not faults, len(faults), 0)]
    if not activations:
        return checks, [*faults]
    known = (
        "the digest of the file says that they are those that were written"
        if claim is not None
        else "without a certificate nothing says that they are those that were measured"
    )
    note = f"the ranges of {plural(activations, 'activation')} follow from data: {known}"
    return checks, [*faults, note]
