"""The result of a job: a model, and what is known of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from onnxprune import model as models
from onnxprune.config import Options, StoreOptions
from onnxprune.errors import OnnxpruneError, as_model_path
from onnxprune.evaluate.evaluation import Evaluation
from onnxprune.evaluate.latency import Compared
from onnxprune.evaluate.verdict import Quality, Structure, judge, judge_structure
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.cost import Cost, CostModel
from onnxprune.graph.difference import changes, pair
from onnxprune.graph.interface import Interface
from onnxprune.graph.plan import Plan
from onnxprune.graph.surgery import cut
from onnxprune.jobs.certificate import Claims, certify, verdicts
from onnxprune.jobs.finite_weights import FiniteWeights
from onnxprune.jobs.interface.narrowing import Narrowing
from onnxprune.jobs.interface.narrowing import released as released_model
from onnxprune.jobs.removal import is_empty
from onnxprune.jobs.store import Stored, store
from onnxprune.jobs.verdicts import over_limit, refuse_broken, unmeasured
from onnxprune.model.seal import Certify
from onnxprune.quantities import figure, times
from onnxprune.recovery.correspond.kept_units import Correspondence
from onnxprune.recovery.correspond.matching import match
from onnxprune.recovery.correspond.twin import make_twin
from onnxprune.sparse.streamed import StreamedCheck
from onnxprune.types import Check, LayerOutcome


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The result of a job: a model, its plan, checks and evaluation.

    Attributes:
        model: the result.
        plan: what was removed; applies to any checkpoint of the same graph.
        analysis: of the dense model.
        config: the options.
        command: the command that made it: ``prune``, ``apply`` or ``recover``.
        remaining: the cost of ``model``, tensors that recovery added included.
        checks: equivalence, zeros, and the limits of the options.
        evaluation: how its outputs compare with the dense model's, on inputs nothing was fitted to.
        outcomes: of every layer that was considered, by kind: ``refit`` after
            a cut, ``zeros`` where single weights were set to zero.
        notes: sentences on declined parts, their reasons, and the source of inputs.
        latency: beside the dense model's, where the target is a latency.
        history: models that a search visited, in order.
        as_given: evaluation of a model that was pruned elsewhere, before any refit.
        correspondence: of its nodes and those of the dense model, in that case.
        better: whether ``model`` is the refitted one; if not, it is the one that was given, because
            refitting made held-out outputs worse.
        judges: which samples ``evaluation`` is on, in words.
        synthetic: whether these are made up, so that only values that are not finite count.
        interface: what changed of the inputs and outputs; empty where nothing did.
        narrowing: ids and classes that left first; ``analysis`` is then of the narrowed model.
        adapted: ``model`` on the inputs of the original, where those changed.
        advice: what would let units go, where none went though some were to.
    """

    model: models.Model
    plan: Plan
    analysis: Analysis
    config: Options
    checks: tuple[Check, ...] = ()
    evaluation: Evaluation = field(default_factory=Evaluation)
    outcomes: Mapping[str, tuple[LayerOutcome, ...]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    latency: Compared | None = None
    history: tuple[Result, ...] = ()
    as_given: Evaluation | None = None
    correspondence: Correspondence | None = None
    better: bool = True
    judges: str = ""
    synthetic: bool = False
    interface: Interface = field(default_factory=Interface)
    narrowing: Narrowing | None = None
    adapted: models.Model | None = None
    advice: str = ""
    command: Literal["prune", "apply", "recover"] = "prune"
    remaining: Cost = field(kw_only=True)

    @property
    def ok(self) -> bool:
        """Whether every check passed and the result is not broken.

        Weights that get their zeros while they are written are checked there; before that, this
        reads them.
        """
        return all(check.ok for check in self.checks) and not self.quality.broken

    @property
    def writable(self) -> bool:
        """Whether the result is :attr:`ok`, provided that every weight can be written."""
        return not self._measured.broken and all(
            (isinstance(each, StreamedCheck) and each.assured) or each.ok for each in self.checks
        )

    @cached_property
    def structure(self) -> Structure:
        """Whether the model is what the plan says: verified, failed or nothing cut."""
        names = [name for name, units in self.plan.removed.items() if units]
        exact = all(self.analysis.group(name).exact for name in names)
        return judge_structure(self.checks, cut=not is_empty(self.plan), exact=exact)

    @cached_property
    def quality(self) -> Quality:
        """Whether it does what the dense model does: good, degraded, broken or not measured.

        Weights are read once, to see that all are finite, unless they were written before.
        """
        return self._measured.with_findings(("broken", each) for each in self.finite.reasons())

    @cached_property
    def _measured(self) -> Quality:
        """The quality but for weights that are not finite."""
        changed = not is_empty(self.plan) or any(self.outcomes.values())
        reason = unmeasured(self.config, self.plan, changed=changed)
        quality = judge(
            self.evaluation, data=self.judges, synthetic=self.synthetic, unmeasured=reason
        )
        return quality.with_findings(over_limit(self.checks, self.evaluation.measure))

    @cached_property
    def finite(self) -> FiniteWeights:
        """The search for weights that are NaN or infinite."""
        return FiniteWeights(self.model, self.analysis.model)

    @cached_property
    def dense(self) -> Cost:
        """What the dense model costs, before anything left its interface."""
        return CostModel(self.analysis)() if self.narrowing is None else self.narrowing.dense

    @property
    def original(self) -> Analysis:
        """The analysis of the dense model, before anything left its interface."""
        return self.analysis if self.narrowing is None else self.narrowing.original

    def save(self, path: str | Path, *, force: bool = False) -> Path:
        """Write the model, weights in the form of ``store``; never over one it came from.

        Unless ``certificate=False`` was given, ``NAME.certificate.json`` is written beside it.

        Args:
            path: the .onnx file.
            force: write it although it is broken (`quality`).

        Raises:
            OnnxpruneError: the result is broken, or cannot be written there.
        """
        path = as_model_path(path)
        dense = self.analysis.model.path
        other = dense is not None and dense != self.model.path
        if dense is not None and other and path.exists() and dense.samefile(path):
            raise OnnxpruneError(f"{path} is the dense model", hint="write to another file")
        if not force:
            refuse_broken(self._measured)
        stored = self.stored(strict=not force)
        if self.narrowing is not None:
            self.narrowing.check_tokenizer(path)
        stored.save(path, certify=self.certify(stored))
        if self.narrowing is not None:
            self.narrowing.write_tokenizer(path)
        return path

    def _recovered(self) -> set[str] | None:
        """Weights of a model that was pruned elsewhere with other values than the cut has."""
        assert self.correspondence is not None
        removed, bypassed = self.correspondence.removed, self.correspondence.bypassed
        model = self.model if self.adapted is None else self.adapted
        matching = match(self.analysis, model)  # with the biases that it has gained
        twin = make_twin(self.analysis, replace(self.correspondence, matching=matching), model)
        pairing = pair(cut(self.analysis, removed, bypassed), twin.model)
        if pairing.problem:
            return None
        names = {value.name or "" for value in pairing.added}
        return names | {name for name, change in changes(pairing) if change.kind == "changed"}

    def certify(self, stored: Stored) -> Certify | None:
        """What makes the certificate of the model; None if the options want none.

        Args:
            stored: the form of its weights.
        """
        config = self.config
        if not config.certificate:
            return None
        return certify(
            Claims(
                command=self.command,
                changed=None if self.correspondence is None else self._recovered,
                dense=self.original.model,
                model=self.model,
                narrowing=self.narrowing,
                plan=self.plan,
                config=config,
                analysis=self.analysis,
                sparsity="" if config.sparsity is None else str(config.sparsity),
                narrowed=[each.name for each in stored.weights if each.narrowed],
                fitted=config.fits,
                verdicts=lambda: verdicts(self, self.evaluation, self.checks),
            )
        )

    def stored(self, *, strict: bool = False) -> Stored:
        """The model with its weights in the form of ``store``.

        Args:
            strict: refuse to write weights that are not finite, by `NotFiniteError`.
        """
        config = self.config
        options = StoreOptions(
            config.store, backend=(config.backend,), certificate=config.certificate
        )
        if self.config.store in ("dense", "external"):
            return store(self.finite.watched(strict=strict), options)
        if strict:
            self.finite.require()
        return store(self.model, options)

    def report(self, path: str | Path) -> Path:
        """Write the HTML page of the run: one file that needs no network.

        Raises:
            OnnxpruneError: the file does not end in ``.html`` or cannot be written.
        """
        page: Path = _drawn().page(self, Path(path))
        return page

    def plot(self, path: str | Path) -> Path:
        """Draw quality against cost as .png or .svg: dense, pruned, and the visited models.

        Raises:
            OnnxpruneError: there are no calibration data to judge by, or the file cannot be
                written.
        """
        picture: Path = _drawn().picture(self, Path(path))
        return picture

    def to_json(self) -> dict[str, Any]:
        """The versioned report of the run, as ``--json`` prints it."""
        document: dict[str, Any] = _drawn().document(self)
        return document

    def _repr_html_(self) -> str:
        return str(_drawn().html(self))

    def __repr__(self) -> str:
        return f"<Result: {self}>"

    def __str__(self) -> str:
        removed = sum(len(units) for units in self.plan.removed.values())
        refits, zeros = (self.outcomes.get(name, ()) for name in ("refit", "zeros"))
        if self.as_given is None:
            return (
                f"{removed} units removed from {len(self.plan.removed)} groups, "
                f"{sum(bool(each.method) for each in zeros)} weights made sparse, "
                f"macs {times(self.remaining.macs / max(self.dense.macs, 1))}, "
                f"params {times(self.remaining.params / max(self.dense.params, 1))}, "
                f"structure {self.structure.status}, quality {self.quality.status}"
            )
        removal = f"{removed} units and {len(self.plan.bypassed)} blocks were removed before"
        if not self.better:
            return f"{removal}; no refit was better, so the model is as it was given"
        changed = sum(each.method != "none" for each in refits)
        changed += sum(bool(each.method) and each.refit != "none" for each in zeros)
        errors = [each.main.relative_error for each in (self.as_given, self.evaluation)]
        change = " -> ".join("unknown" if e is None else figure(e) for e in errors)
        return f"{removal}; {changed} layers refitted, relative error {change}"


def released(result: Result, config: Options, narrowing: Narrowing | None) -> Result:
    """The result of a run with its models as they are written, and the options as they were given.

    Until then models take the ids of the original, as the samples of the run do.
    """
    if narrowing is None:
        return result
    model, interface = released_model(result.model, narrowing)
    history = tuple(
        replace(each, model=released_model(each.model, narrowing)[0], interface=interface)
        for each in result.history
    )
    return replace(
        result, model=model, adapted=result.model, interface=interface, history=history,
        config=config,
    )  # fmt: skip


def _drawn() -> Any:  # noqa: ANN401  a module
    """The module that draws results: of the room above, so it is imported by name on demand."""
    return importlib.import_module("onnxprune.report.python")
