"""Verify a written model: its files, its structure against the dense model, and its quality.

The structure is derived anew from the two models. With a certificate, the dense model is cut by the
plan that stands there, and node by node and weight by weight the written model has to be that cut:
what was refitted is named, all else is equal or zero. Without one, the plan is found by comparing
the two, and the cut has to compute what the written model does.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.config import FilePath, Options, split
from onnxprune.data.dataset import Feeds, open_dataset, open_source, synthetic_inputs
from onnxprune.errors import OnnxpruneError, as_path, blame
from onnxprune.evaluate.caveats import caveats
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.evaluate.evaluation import Evaluation, compare_models
from onnxprune.evaluate.verdict import Quality, judge
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.difference import Pairing, changes, is_altered, pair
from onnxprune.graph.layers.linear import find_layers, plain
from onnxprune.graph.plan import Plan, check, load_plan
from onnxprune.jobs import certificate as certificates
from onnxprune.jobs.certificate import Certificate, expected_model
from onnxprune.jobs.finite_weights import FiniteWeights
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.quantize.preparation import prepared
from onnxprune.jobs.run import Progress, place
from onnxprune.jobs.verdicts import data_of
from onnxprune.model.decode import densify
from onnxprune.model.seal import Digests, read_seal
from onnxprune.recovery.correspond.kept_units import Correspondence, correspond
from onnxprune.recovery.correspond.twin import Twin, in_dense_words, make_twin
from onnxprune.sparse.nm import counts
from onnxprune.types import Check

Array = npt.NDArray[Any]
Status = Literal["verified", "failed", "nothing cut"]

OTHER_DENSE = "dense model = that of the certificate"
"""The check that fails where another dense model is given."""
_SAME = 1e-3
"""Largest difference of outputs where the plan was found by comparing weights."""
_NARROWED = 1 / 127
"""Largest change of a weight that is stored in fewer bits, relative to its largest entry."""
_LARGEST_STEP = 1 / 50
"""Step of the integers relative to the largest weight: 7 bits and a sign have 1 / 63."""
_HALF_STEP = 0.51
"""Largest distance of an integer weight from the float one, in steps."""
_FIGURES = 0.02
"""Largest difference of a measured figure from the one that a certificate states."""


@dataclass(frozen=True, eq=False, repr=False)
class Verification:
    """Whether a model is what it claims to be.

    Attributes:
        model, dense: the two files.
        certificate: what the first claims; None without a certificate.
        checks: of its files, of its structure, and of its quality where there are data.
        structure: ``verified``, ``failed``, or ``nothing cut`` where it has the units, blocks and
            weights of the dense model.
        plan: what was removed, from the certificate or found by comparing the models.
        changed: weights with other values than the cut of the dense model has, zeros aside.
        evaluation: against the dense model, where there are data.
        quality: the verdict on it; None without data.
        notes: whole sentences.
    """

    model: Path
    dense: Path
    certificate: Certificate | None
    checks: tuple[Check, ...]
    structure: Status
    plan: Plan | None = None
    changed: tuple[str, ...] = ()
    evaluation: Evaluation | None = None
    quality: Quality | None = None
    notes: tuple[str, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(each.ok for each in self.checks)

    def __repr__(self) -> str:
        return f"<Verification: {self}>"

    def __str__(self) -> str:
        failed = [each.name for each in self.checks if not each.ok]
        if failed:
            return f"{self.model.name} is NOT what it claims to be: {', '.join(failed)}"
        claims = "is what its certificate says" if self.certificate else "has no certificate"
        return f"{self.model.name} {claims}; structure {self.structure}"


@dataclass(frozen=True, eq=False)
class _Structure:
    """What comparing two models shows."""

    checks: list[Check]
    plan: Plan | None = None
    changed: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)


@keywords("verify")
def verify(
    model: FilePath,
    dense: FilePath,
    options: Options | None = None,
    *,
    plan: Plan | FilePath | None = None,
    progress: Progress = lambda _: None,
    **fields: object,
) -> Verification:
    """Check that a written model is what its certificate says, and what remains of the dense one.

    Args:
        model: path of the .onnx file; its certificate lies beside it.
        dense: path of the model that it was made from.
        options: samples to measure the quality on; or give the same as keywords
            (``verify(small, dense, calib=batches)``).
        plan: the units, blocks and weights that are said to be removed, or the file of a plan.
        progress: called with a line of text at each stage.
        fields: the options by name, instead of ``options``.

    Raises:
        OnnxpruneError: a model cannot be read, or a certificate is damaged or belongs to another
            model.

    Example:
        >>> import tempfile
        >>> from onnxprune import prune
        >>> from onnxprune.data import zoo
        >>> dense = zoo.get("digits_mlp").model
        >>> small = prune(dense, ratio=0.5).save(f"{tempfile.mkdtemp()}/small.onnx")
        >>> verify(small, dense).ok
        True
    """
    config = place(split("verify", fields, options)[0])
    paths = as_path(model, "model"), as_path(dense, "dense")
    progress("reading the models")
    small, large = (models.load(path) for path in paths)
    progress("hashing the files")
    seal = read_seal(small)
    claim = certificates.read(paths[0], seal)
    large, small = densify(large)[0], densify(small)[0]
    checks = [] if claim is None else _own_checks(claim, seal.digests, large)
    with blame("--shapes", when=bool(config.shapes)):
        analysis = analyse(large, inputs=dict(config.shapes) or None)
    progress("deriving the structure")
    wanted = None if plan is None else plan if isinstance(plan, Plan) else load_plan(plan)
    result = _structure(analysis, small, claim, wanted, config)
    checks += result.checks
    if wanted is not None and claim is not None and claim.plan is not None:
        same = _same_plan(wanted, claim)
        checks.append(Check("plan = that of the certificate", same, float(not same), 0.0))
    evaluation = quality = None
    if config.calib is not None and all(each.ok for each in checks):
        progress("measuring the quality")
        evaluation, quality, more = _quality(large, small, claim, config)
        checks += more
    status: Status = "verified"
    if not all(each.ok for each in result.checks):
        status = "failed"
    elif result.plan is not None and not _removes(result.plan, claim) and not result.changed:
        status = "nothing cut"
    notes = [*result.notes]
    if evaluation is not None:
        notes += [*evaluation.notes, *caveats(evaluation)]
    if claim is None:
        notes.append("it has no certificate, so nothing says what it should be")
    elif claim.document is None:
        notes.append("the file of its certificate is missing: its plan was found by comparing")
    return Verification(
        *paths, claim, tuple(checks), status, result.plan, result.changed, evaluation, quality,
        tuple(notes),
    )  # fmt: skip


def _own_checks(claim: Certificate, digests: Digests, dense: models.Model) -> list[Check]:
    """Checks of the files, and of the dense model."""
    data = {*claim.digests.data.items()} ^ {*digests.data.items()}
    graph = claim.digests.graph != digests.graph
    other = certificates.dense_hash(dense) != claim.dense
    return [
        Check("graph = as written", not graph, float(graph), 0.0),
        Check("data files = as written", not data, float(len(data)), 0.0),
        Check(OTHER_DENSE, not other, float(other), 0.0),
    ]


def _same_plan(plan: Plan, claim: Certificate) -> bool:
    assert claim.plan is not None
    zeroed = {name: (mask.size, mask.kept) for name, mask in plan.zeroed.items()}
    return replace(plan, zeroed={}) == claim.plan and zeroed == dict(claim.zeroed)


def _removes(plan: Plan, claim: Certificate | None) -> bool:
    zeroed = bool(plan.zeroed) or bool(claim is not None and claim.zeroed)
    return bool(plan.removed or plan.bypassed or plan.reordered or zeroed)


def _structure(
    analysis: Analysis,
    small: models.Model,
    claim: Certificate | None,
    wanted: Plan | None,
    config: Options,
) -> _Structure:
    plan = wanted if claim is None or claim.plan is None else claim.plan
    command = "" if claim is None else claim.command
    if plan is None or command == "recover":
        if command == "quantize":
            return _quantized(analysis, small, claim, Plan())
        return _compared(analysis, small, claim, config)
    try:
        units = replace(plan, zeroed={})
        structure = models.structure_hash(analysis.model)
        check(units, structure, analysis.groups, analysis.blocks)
        expected = expected_model(analysis, units)
    except OnnxpruneError as error:
        failed = Check("plan fits the dense model", ok=False, value=1.0, limit=0.0)
        return _Structure([failed], plan, notes=[error.message])
    if command == "quantize":
        return _quantized(analysis, small, claim, plan)
    pairing = pair(expected, small)
    if pairing.problem:
        failed = Check("graph = dense graph, cut", ok=False, value=1.0, limit=0.0)
        return _Structure(
            [failed], plan, notes=[f"the graph is not the cut one: {pairing.problem}"]
        )
    return _weights(pairing, small, claim, plan)


def _weights(
    pairing: Pairing, small: models.Model, claim: Certificate | None, plan: Plan
) -> _Structure:
    """Compare every weight of a model with the cut."""
    changed, zeros, wide = {value.name or "" for value in pairing.added}, {}, 0
    narrowed = frozenset[str]() if claim is None else claim.narrowed
    masks = {name: (mask.size, mask.kept) for name, mask in plan.zeroed.items()}
    masks = dict(claim.zeroed) if claim is not None and claim.zeroed else masks
    for name, change in changes(pairing):
        zeros[name] = change.zeros
        if not is_altered(change, masks.get(name)):
            continue
        if name in narrowed:
            wide += change.largest > _NARROWED
        else:
            changed.add(name)
    checks = [Check("graph = dense graph, cut", ok=True, value=0.0, limit=0.0)]
    if claim is not None:  # where both graphs are the same, it says what changed
        odd = changed if claim.changed is None else changed ^ claim.changed
        checks.append(Check("weights not as the certificate says", not odd, len(odd), 0))
    if narrowed:
        checks.append(Check("weights that changed more than their bits", wide == 0, wide, 0))
    short = [name for name, (size, kept) in masks.items() if zeros.get(name, 0) < size - kept]
    if masks:
        checks.append(Check("weights that lack zeros", not short, len(short), 0))
    checks += _pattern(small, claim, masks)
    return _Structure(checks, plan, tuple(sorted(changed)))


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
    match = correspond(analysis, small)
    twin = make_twin(analysis, match, small)
    check = check_equivalence(twin.model, in_dense_words(match.matching, small), feeds, provider)
    limit = max(check.limit, _SAME)
    same = replace(check, name="dense graph, cut = model", ok=check.value <= limit, limit=limit)
    return match, twin, same


def _compared(
    analysis: Analysis, small: models.Model, claim: Certificate | None, config: Options
) -> _Structure:
    """Find the plan by comparing two models, and check that the cut computes the same."""
    try:
        feeds = synthetic_inputs(analysis, config.provider, config.seed)
        match, twin, equal = compare_with_cut(analysis, small, feeds, config.provider)
    except OnnxpruneError as error:
        failed = Check("made from the dense model", ok=False, value=1.0, limit=0.0)
        return _Structure([failed], notes=[error.message])
    checks = [equal]
    plan = Plan(removed=match.removed, bypassed=match.bypassed)
    names = {name: (mask.size, int(mask.sum())) for name, mask in twin.masks.items()}
    if claim is not None and claim.plan is not None:
        same = plan.removed == claim.plan.removed and {*plan.bypassed} == {*claim.plan.bypassed}
        checks.append(Check("plan = that of the certificate", same, float(not same), 0.0))
        short = [
            name
            for name, (size, kept) in claim.zeroed.items()
            if size - kept > 0 and name in names and names[name][1] > kept
        ]
        if claim.zeroed:
            checks.append(Check("weights that lack zeros", not short, len(short), 0))
    return _Structure(checks, plan, notes=list(match.notes))


# --- models in int8 --------------------------------------------------------------------------


def _quantized(
    analysis: Analysis, small: models.Model, claim: Certificate | None, plan: Plan
) -> _Structure:
    """Compare the weights of a quantized model with those it was made from, and its outputs."""
    expected, _ = prepared(expected_model(analysis, plan))
    stored = models.constants(small)
    names = frozenset[str]() if claim is None else claim.quantized
    kept = dict(_float_weights(expected))
    missing = [name for name in names if name not in kept or _integers(name, stored) is None]
    far, other = 0, []
    refitted = claim is None or claim.changed is None
    for name, array in kept.items():
        codes = _integers(name, stored)
        if codes is not None:
            far += not refitted and not _is_near(array, *codes)
        elif name not in names and name in stored and not refitted:
            tensor = models.constant(stored[name])
            if tensor is not None and not np.array_equal(tensor.numpy(), array, equal_nan=True):
                other.append(name)
    checks = [
        Check("weights in int8", bool(names), float(len(names)), math.inf),
        Check("weights that are not in int8", not missing, len(missing), 0),
        Check("int8 weights further off than half a step", far == 0, far, 0),
        Check("float weights with other values", not other, len(other), 0),
    ]
    return _Structure(checks, plan)


def _float_weights(model: models.Model) -> Iterator[tuple[str, Array]]:
    for layer in plain(find_layers(model)):
        yield layer.weight, layer.tensor.read()


def _integers(name: str, stored: Mapping[str, Any]) -> tuple[Array, Array, Array] | None:
    """Codes, scale and zero point of the int8 form of a weight."""
    for suffix in ("_quantized", "_Transposed_quantized", "_transposed_quantized"):
        value = stored.get(name + suffix)
        if value is None:
            continue
        base = (name + suffix).removesuffix("_quantized")
        parts = [
            stored.get(f"{base}_{part}") or stored.get(f"{name}_{part}")
            for part in ("scale", "zero_point")
        ]
        tensors = [None if part is None else models.constant(part) for part in (value, *parts)]
        if tensors[0] is None or tensors[1] is None:
            return None
        codes, scale = tensors[0].numpy(), tensors[1].numpy()
        point = np.zeros_like(scale, codes.dtype) if tensors[2] is None else tensors[2].numpy()
        return codes, scale, point
    return None


def _is_near(array: Array, codes: Array, scale: Array, point: Array) -> bool:
    """Whether integers are those next to an array, along whichever axis the scales run."""
    for turned in (False, True):
        values = codes.T if turned else codes
        if values.shape != array.shape:
            continue
        axes: Sequence[int | None] = [None] if scale.size == 1 else range(array.ndim)
        for axis in axes:
            if axis is not None and array.shape[axis] != scale.size:
                continue
            shape = [1] * array.ndim
            if axis is not None:
                shape[axis] = -1
            step = scale.astype(np.float64).reshape(shape)
            if np.abs(step).max() > _LARGEST_STEP * np.abs(array).max() and array.any():
                continue
            zero = point.astype(np.float64).reshape(shape)
            gap = np.abs((values.astype(np.float64) - zero) * step - array)
            if (gap <= _HALF_STEP * np.abs(step) + 1e-12).all():
                return True
    return False


# --- quality ---------------------------------------------------------------------------------


def _quality(
    dense: models.Model, small: models.Model, claim: Certificate | None, config: Options
) -> tuple[Evaluation, Quality, list[Check]]:
    """Measure the model on all samples, and compare with what its certificate states."""
    source, _ = open_source(dense, config)
    assert source is not None
    data = open_dataset(source, config)
    evaluation = compare_models(dense, small, data.whole(config), config)
    quality = judge(
        evaluation, data=data_of(data, evaluation), weights=FiniteWeights(small, dense).reasons()
    )
    checks = []
    if claim is not None and claim.quality in ("good", "degraded"):
        word = f"quality is not broken (stated: {claim.quality})"
        checks.append(Check(word, not quality.broken, float(quality.broken), 0.0))
    document = {} if claim is None or claim.document is None else claim.document
    stated = document.get("evaluation")
    value = stated.get("value") if isinstance(stated, Mapping) else None
    if isinstance(value, float | int) and evaluation.value is not None:
        assert isinstance(stated, Mapping)
        own, theirs = evaluation.drop_error or 0.0, stated.get("error")
        error = math.hypot(own, theirs if isinstance(theirs, float | int) else own)
        limit = max(_FIGURES * max(abs(value), 1e-3), 3 * error)
        if stated.get("measure") == evaluation.measure:
            better = (
                evaluation.value > value
                if evaluation.higher_is_better
                else evaluation.value < value
            )
            gap = 0.0 if better else abs(evaluation.value - value)
            checks.append(Check("quality = as stated", gap <= limit, gap, limit))
    return evaluation, quality, checks
