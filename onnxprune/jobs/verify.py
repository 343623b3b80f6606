"""Verify a written model: its files, its structure against the dense model, and its quality.

The digests are compared before the model is read: a file that was changed after it was written is
refused unread. Then the structure is derived anew from the two models; see
`onnxprune.jobs.derivation`.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np

from onnxprune import model as models
from onnxprune.config import FilePath, Options, split
from onnxprune.data.dataset import Dataset, Part, open_dataset, open_source
from onnxprune.data.ranks import with_ranks, with_ranks_of
from onnxprune.errors import as_path, blame
from onnxprune.evaluate.caveats import caveats
from onnxprune.evaluate.evaluation import Evaluation, check_task, compare_models
from onnxprune.evaluate.verdict import Quality, judge
from onnxprune.graph.analysis import analyse
from onnxprune.graph.interface import Interface
from onnxprune.graph.plan import Plan, load_plan
from onnxprune.graph.surgery import interface_of
from onnxprune.jobs import certificate as certificates
from onnxprune.jobs.certificate import Certificate
from onnxprune.jobs.data_digests import same_files
from onnxprune.jobs.derivation import Derivation, derive
from onnxprune.jobs.finite_weights import FiniteWeights
from onnxprune.jobs.interface.alignment import align
from onnxprune.jobs.interface.mapped_data import relabelled
from onnxprune.jobs.interface.narrowing import Narrowing
from onnxprune.jobs.keywords import keywords
from onnxprune.jobs.run import Progress, place
from onnxprune.jobs.verdicts import data_of
from onnxprune.model.decode import densify
from onnxprune.model.seal import Digests, data_files, hash_data, map_path, read_seal
from onnxprune.types import Check

Status = Literal["verified", "failed", "nothing cut", "not checked"]

OTHER_DENSE = "dense model = that of the certificate"
"""The check that fails where another dense model is given."""
NOT_BROKEN = "quality is not broken"
"""The check that fails where the model is broken and does not say so."""
OTHER_GRAPH, OTHER_DATA = "graph = as written", "data files = as written"
"""The checks that fail where a file has another digest than its certificate states."""
_FIGURES = 0.02
"""Largest difference of a measured figure from the one that a certificate states."""


@dataclass(frozen=True, eq=False, repr=False)
class Verification:
    """Whether a model is what it claims to be.

    Attributes:
        model, dense: the two files.
        certificate: what the first claims; None without a certificate.
        checks: of its files, of its structure, and of its quality where there are data.
        structure: ``verified``, ``failed``, ``nothing cut`` where it has the units, blocks and
            weights of the dense model, or ``not checked`` where its files are not those that were
            written.
        plan: what was removed, from the certificate or found by comparing the models.
        changed: weights with other values than the cut of the dense model has, zeros aside.
        evaluation: against the dense model, where there are data.
        quality: the verdict on it; None without data.
        notes: whole sentences.
        interface: what changed of the inputs and outputs; empty where nothing did.
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
    interface: Interface = field(default_factory=Interface)

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(each.ok for each in self.checks)

    def _repr_html_(self) -> str:
        # Of the room above, so it is imported by name on demand.
        return str(importlib.import_module("onnxprune.report.python").verification_html(self))

    def __repr__(self) -> str:
        return f"<Verification: {self}>"

    def __str__(self) -> str:
        failed = [each.name for each in self.checks if not each.ok]
        if failed:
            return f"{self.model.name} is NOT what it claims to be: {', '.join(failed)}"
        claims = "is what its certificate says" if self.certificate else "has no certificate"
        return f"{self.model.name} {claims}; structure {self.structure}"


@keywords("verify")
@np.errstate(over="ignore", invalid="ignore")  # such values end in a verdict or refusal
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
    progress("hashing the files")
    seal = read_seal(paths[0])
    claim = certificates.read(paths[0], seal)
    files = [] if claim is None else _file_checks(claim, seal.digests, paths[0])
    if not all(each.ok for each in files):
        why = "it was changed after it was written, so it was not read"
        return Verification(*paths, claim, tuple(files), "not checked", notes=(why,))
    progress("reading the models")
    small, large = (models.load(path) for path in paths)
    checks = [] if claim is None else [*files, *_claim_checks(claim, small, large)]
    with blame("--shapes", when=bool(config.shapes)):
        large = with_ranks(densify(large)[0], config)
        small = with_ranks_of(densify(small)[0], large)
        carried = interface_of(small)
        both = align(large, small, config, dict(config.shapes) or None)
        large, small = both.dense, both.small
        analysis = analyse(large, inputs=dict(config.shapes) or None)
    if both.narrowing is not None:
        checks += [*both.narrowing.checks, *_map_checks(both.interface, claim)]
    checks += _map_file_checks(carried, paths[0])
    if both.narrowing is not None:
        config = both.narrowing.absolute(config)
    samples = _opened(both.reference, config, both.narrowing)
    progress("deriving the structure")
    stated = None if plan is None else plan if isinstance(plan, Plan) else load_plan(plan)
    result = derive(analysis, small, claim, stated, config)
    checks += result.checks
    if stated is not None and claim is not None and claim.plan is not None:
        same = _same_plan(stated, claim)
        checks.append(Check("plan = that of the certificate", same, float(not same), 0.0))
    status = _status(result, claim, narrowed=bool(both.interface))
    if claim is not None and claim.structure in ("verified", "nothing cut") and status != "failed":
        removed = _removes(result.plan, claim) or result.quantized
        same = status == "verified" if claim.structure == "verified" else not removed
        checks.append(Check("structure = as stated", same, float(not same), 0.0))
    evaluation = quality = None
    if samples is not None and all(each.ok for each in checks):
        progress("measuring the quality")
        evaluation, quality, more = _quality(both.reference, small, claim, config, samples)
        checks += more
    notes = [*_inexact(both.narrowing), *result.notes, *_data_notes(claim, config)]
    if evaluation is not None:
        notes += [*evaluation.notes, *caveats(evaluation)]
    if claim is None:
        notes.append("it has no certificate, so nothing says what it should be")
    elif claim.document is None:
        notes.append("the file of its certificate is missing: its plan was found by comparing")
    return Verification(
        *paths, claim, tuple(checks), status, result.plan, result.changed, evaluation, quality,
        tuple(notes), both.interface,
    )  # fmt: skip


def _inexact(narrowing: Narrowing | None) -> list[str]:
    """Sentences on what left the interface although what remains is not the original's then."""
    notes = () if narrowing is None else narrowing.notes
    return [note for note in notes if note.startswith("inexact")]


def _data_notes(claim: Certificate | None, config: Options) -> Iterator[str]:
    """Sentences on whether the data are those that a certificate names."""
    if claim is None or config.calib is None or not claim.files:
        return
    roles, others = same_files(claim.files, config)
    if roles:
        yield f"the certificate names these data: {', '.join(roles)}"
    elif others:
        yield "the data are none of those that the certificate names, so figures may differ"


def _status(result: Derivation, claim: Certificate | None, *, narrowed: bool) -> Status:
    if not all(each.ok for each in result.checks):
        return "failed"
    if narrowed or _removes(result.plan, claim) or result.changed or result.quantized:
        return "verified"
    return "nothing cut"


def _map_checks(interface: Interface, claim: Certificate | None) -> list[Check]:
    """A check that the map of a model is that of its certificate."""
    if claim is None or claim.plan is None:
        return []
    other = claim.plan.interface != interface
    return [Check("map = that of the certificate", not other, float(other), 0.0)]


def _map_file_checks(interface: Interface, path: Path) -> list[Check]:
    """A check that the map beside a model, where there is one, is the one that it carries."""
    place = map_path(path)
    if not place.is_file():
        return []
    other = Interface.load(place) != interface
    return [Check(f"{place.name} = map of the model", not other, float(other), 0.0)]


def _file_checks(claim: Certificate, digests: Digests, path: Path) -> list[Check]:
    """Checks that every byte of the files of a model is as it was written."""
    data = {*claim.digests.data.items()} ^ {*hash_data(path, claim.digests.data).items()}
    graph = claim.digests.graph != digests.graph
    return [
        Check(OTHER_GRAPH, not graph, float(graph), 0.0),
        Check(OTHER_DATA, not data, float(len(data)), 0.0),
    ]


def _claim_checks(claim: Certificate, small: models.Model, dense: models.Model) -> list[Check]:
    """Checks of what a certificate says of the files that are read, and of itself."""
    files = data_files(small) ^ set(claim.digests.data)
    other = certificates.dense_hash(dense) != claim.dense
    odd = () if claim.document is None else certificates.contradictions(claim.document)
    return [
        Check("data files without a digest", not files, float(len(files)), 0.0),
        Check(OTHER_DENSE, not other, float(other), 0.0),
        Check("statements that contradict each other", not odd, float(len(odd)), 0.0),
    ]


def _same_plan(plan: Plan, claim: Certificate) -> bool:
    assert claim.plan is not None
    zeroed = {name: (mask.size, mask.kept) for name, mask in plan.zeroed.items()}
    return replace(plan, zeroed={}) == claim.plan and zeroed == dict(claim.zeroed)


def _removes(plan: Plan | None, claim: Certificate | None) -> bool:
    zeroed = bool(plan is not None and plan.zeroed) or bool(claim is not None and claim.zeroed)
    return zeroed or bool(plan is not None and (plan.removed or plan.bypassed or plan.reordered))


# --- quality ---------------------------------------------------------------------------------


def _opened(
    dense: models.Model, config: Options, narrowing: Narrowing | None
) -> tuple[Dataset, Part] | None:
    """The samples to measure on, and all of them in one part; None without any."""
    if config.calib is None:
        return None
    source, _ = open_source(dense, config)
    assert source is not None
    data = open_dataset(source, config)
    part = data.whole(config)
    if narrowing is not None:
        part, notes = relabelled(part, config, narrowing)
        data = replace(data, notes=(*data.notes, *notes))
    check_task(dense, part, config)
    return data, part


def _quality(
    dense: models.Model,
    small: models.Model,
    claim: Certificate | None,
    config: Options,
    samples: tuple[Dataset, Part],
) -> tuple[Evaluation, Quality, list[Check]]:
    """Measure the model on all samples, and compare with what its certificate states."""
    data, part = samples
    evaluation = compare_models(dense, small, part, config)
    quality = judge(
        evaluation, data=data_of(data, evaluation), weights=FiniteWeights(small, dense).reasons()
    )
    checks = []
    stated = "" if claim is None else claim.quality
    if stated != "broken":
        word = f"{NOT_BROKEN} (stated: {stated})" if stated else NOT_BROKEN
        checks.append(Check(word, not quality.broken, float(quality.broken), 0.0))
    document = {} if claim is None or claim.document is None else claim.document
    figures = document.get("evaluation")
    value = figures.get("value") if isinstance(figures, Mapping) else None
    if isinstance(value, float | int) and evaluation.value is not None:
        assert isinstance(figures, Mapping)
        own, theirs = evaluation.drop_error or 0.0, figures.get("error")
        error = math.hypot(own, theirs if isinstance(theirs, float | int) else own)
        limit = max(_FIGURES * max(abs(value), 1e-3), 3 * error)
        if figures.get("measure") == evaluation.measure:
            better = (
                evaluation.value > value
                if evaluation.higher_is_better
                else evaluation.value < value
            )
            gap = 0.0 if better else abs(evaluation.value - value)
            checks.append(Check("quality = as stated", gap <= limit, gap, limit))
    return evaluation, quality, checks
