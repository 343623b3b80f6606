"""Stage 1 of a run that keeps some ids or classes only: the dense model without the others.

What remains computes what it did, so the *narrowed* model takes the place of the dense one for all
that follows: budgets, calibration, recovery, verdicts. It is held in adapted form, whose inputs are
those of the original; `released` turns the result into the model that is written.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from onnxprune import model as models
from onnxprune.config import Options
from onnxprune.data.batches import Feeds
from onnxprune.data.calibration import Calibration
from onnxprune.data.dataset import synthetic_inputs
from onnxprune.data.labels import read_vocabulary
from onnxprune.errors import OnnxpruneError, stated, suggest
from onnxprune.evaluate.equivalence import check_equivalence
from onnxprune.graph.analysis import Analysis, analyse
from onnxprune.graph.cost import Cost, CostModel
from onnxprune.graph.interface import Interface
from onnxprune.graph.opened import (
    Vocabulary,
    normalised_outputs,
    units_at,
    vocabularies,
    vocabulary_units,
)
from onnxprune.graph.reference import mask_model
from onnxprune.graph.surgery import (
    narrow,
    release,
    select_outputs,
)
from onnxprune.jobs.interface.class_axis import (
    ClassAxis,
    blank_of,
    describe,
    find_class_axis,
    kept_classes,
)
from onnxprune.jobs.interface.class_labels import relabel, relabel_characters
from onnxprune.jobs.interface.kept_ids import SmallVocabulary, small_vocabulary, tokenizer_of
from onnxprune.quantities import Budget, KeptIds, percent
from onnxprune.types import Check

_Units = dict[str, tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Narrowing:
    """What left the interface of a dense model.

    Attributes:
        original: analysis of the dense model as it was given.
        model: the narrowed model, adapted: it takes the ids of the original.
        interface: what changed.
        renormalised: whether an output is normalised over what remains.
        keep_ids: whether the written model takes the ids of the original too.
        classes: where outputs count classes, by output, and which remain.
        checks: that what remains computes what it did.
        notes: whole sentences.
        vocabulary: the ids that remain, and their tokenizer.
    """

    original: Analysis
    model: models.Model
    interface: Interface
    renormalised: bool = False
    keep_ids: bool = False
    classes: Mapping[str, tuple[ClassAxis, tuple[int, ...]]] = field(default_factory=dict)
    checks: tuple[Check, ...] = ()
    notes: tuple[str, ...] = ()
    vocabulary: SmallVocabulary = field(default_factory=SmallVocabulary)

    def check_tokenizer(self, path: Path) -> None:
        """Refuse a path whose folder is that of the tokenizer, which stays as it is.

        Raises:
            OnnxpruneError: it is.
        """
        if not self.keep_ids:
            self.vocabulary.check(path)

    def write_tokenizer(self, path: Path) -> list[Path]:
        """Write the tokenizer of a smaller vocabulary beside a model, if there is one.

        Args:
            path: of the model.

        Raises:
            OnnxpruneError: a file would replace one of the original's, or cannot be written.
        """
        return [] if self.keep_ids else self.vocabulary.write(path.parent)

    @cached_property
    def reference(self) -> models.Model:
        """The model that quality is judged beside: the original with what remains of its outputs.

        It reads ids that left, too. Where what remains is normalised anew, values of the original
        are others; there it is the narrowed model.
        """
        if self.renormalised:
            return self.model
        return select_outputs(self.original.model, self.interface)

    @property
    def dense(self) -> Cost:
        """What the dense model costs."""
        return CostModel(self.original)()

    def at(self, analysis: Analysis) -> Narrowing:
        """The same, its original analysed at the shapes of another analysis."""
        original = analyse(self.original.model, inputs=analysis.inputs[0], interface=True)
        return replace(self, original=original)

    @property
    def planned(self) -> Interface:
        """The map as plans keep it."""
        return self.interface.with_ids_inside() if self.keep_ids else self.interface

    def absolute(self, config: Options) -> Options:
        """Options whose target is a share of the original, as an amount; others stay.

        The vocabulary and the blank of CTC outputs, by which a metric reads texts, follow too.
        """
        target = config.target
        if target is not None and target.relative and not target.timed:
            limit = max(target.limit(self.dense.of(target.kind)), 1)
            config = replace(config, target=Budget(target.kind, limit, relative=False))
        for axis, kept in self.classes.values():
            blank = blank_of(config, axis)
            if blank is not None and config.blank != "last":
                config = replace(config, blank=kept.index(blank))
            if blank is not None and config.vocabulary is not None:
                tokens = read_vocabulary(config.vocabulary)
                blanks = [blank] if len(tokens) == axis.count - 1 else []
                known = [k for k in range(axis.count) if k not in blanks]
                some = [t for k, t in zip(known, tokens, strict=False) if k in kept]
                config = replace(config, vocabulary=tuple(some))
        return config


# --- stage 1 ---------------------------------------------------------------------------------


def narrow_by_options(
    analysis: Analysis, config: Options, samples: Calibration | None
) -> Narrowing:
    """The dense model with the ids and classes that options keep.

    Args:
        analysis: of the dense model, its interface opened.
        config: the options.
        samples: of calibration; None without.

    Raises:
        OnnxpruneError: an input, output, id, label or index is unknown, or cannot be removed alone.
    """
    removed: _Units = {}
    notes: list[str] = []
    small = SmallVocabulary()
    if config.vocab:
        removed, small = _vocabulary_units(analysis, config, samples)
        notes += small.notes
    classes: dict[str, tuple[ClassAxis, tuple[int, ...]]] = {}
    first = _feeds(analysis, config, samples) if config.keep_outputs else ()
    for choice in config.keep_outputs:
        output = choice.output or _only_output(analysis)
        _check_output(analysis, output)
        axis = find_class_axis(analysis, output, first[0], config)
        kept = kept_classes(choice, axis, analysis.model.ir.metadata_props, config)
        leaving = sorted({*range(axis.size)} - {*axis.kept(kept)})
        if not leaving:
            raise OnnxpruneError(
                f"--keep-outputs {output} keeps all {axis.count} classes",
                hint="name those that stay; the others leave",
            )
        removed |= _with(removed, units_at(analysis, output, axis.axis, leaving))
        classes[output] = (axis, kept)
        notes.append(describe(axis, kept))
    empty = analysis.emptied(removed)
    if empty:
        outputs = ", ".join(f"'{name}'" for name in classes)
        raise OnnxpruneError(
            f"--keep-outputs: an axis of '{empty}' would keep nothing",
            hint=f"indices of {outputs} count all of its axis: coordinates and objectness among "
            "them have to stay, too",
        )
    inexact = next((g for g in map(analysis.group, removed) if not g.exact), None)
    if inexact is not None and not config.allow_inexact:
        raise OnnxpruneError(
            f"what remains of '{inexact.interface[-1]}' would not be the original's: "
            f"{inexact.reason}",
            hint="accept that with --allow-inexact, and judge the result with --calib",
        )
    result = _narrowed(analysis, removed, config, samples, small.unknown)
    notes += _followers(result.interface, classes)
    notes += _relabel(result.model, analysis.model.ir.metadata_props, classes)
    return replace(
        result,
        keep_ids=config.keep_ids,
        classes=classes,
        notes=(*notes, *result.notes, *_lost(result.interface, samples), *_timed(config)),
        vocabulary=small,
    )


def narrow_by_units(
    analysis: Analysis, removed: _Units, config: Options, samples: Calibration | None
) -> Narrowing:
    """The same without units that were chosen otherwise.

    Args:
        analysis: of the dense model, its interface opened.
        removed: group name -> units that leave.
        config: provider and seed of the check.
        samples: of calibration; None without.
    """
    return _narrowed(analysis, removed, config, samples, None)


def narrow_by_map(
    analysis: Analysis, interface: Interface, config: Options, samples: Calibration | None
) -> Narrowing:
    """The same with what a map leaves: that of a plan, or of a model that was narrowed before.

    Raises:
        OnnxpruneError: the map does not fit the model.
    """
    unknown = next((a.unknown for a in interface.inputs if a.unknown is not None), None)
    removed = units_of(analysis, interface)
    result = _narrowed(analysis, removed, config, samples, unknown)
    _check_map(interface, result.interface)
    classes = {}
    feeds = _feeds(analysis, config, samples)
    for axis in (axis for axis in interface.outputs if axis.kind == "class"):
        own = find_class_axis(analysis, axis.value, feeds[0], config)
        if own.axis == axis.axis:
            within = [k - own.first for k in axis.kept if 0 <= k - own.first < own.count]
            classes[axis.value] = (own, tuple(within))
    _relabel(result.model, analysis.model.ir.metadata_props, classes)
    keep_ids = any(axis.inside for axis in (*interface.inputs, *interface.outputs))
    return replace(
        result,
        keep_ids=keep_ids,
        classes=classes,
        notes=(*result.notes, *_lost(result.interface, samples)),
    )


def _relabel(
    model: models.Model,
    metadata: Mapping[str, str],
    classes: Mapping[str, tuple[ClassAxis, tuple[int, ...]]],
) -> list[str]:
    """Rewrite the labels in the metadata of a narrowed model, and say which entries that were."""
    notes = []
    for axis, kept in classes.values():
        for size in dict.fromkeys((axis.count - (axis.nothing is not None), axis.count)):
            shift = int(axis.nothing == 0 and size < axis.count)
            own = [k - shift for k in kept if 0 <= k - shift < size]
            if new := relabel(metadata, size, own):
                break
        else:
            new = relabel_characters(metadata, axis.count, kept)
        if new:
            model.ir.metadata_props.update(new)
            notes.append(f"labels in the metadata are rewritten: {', '.join(sorted(new))}")
    return list(dict.fromkeys(notes))  # outputs of several levels share their labels


def units_of(analysis: Analysis, interface: Interface) -> _Units:
    """The units of a model that a map removes.

    Raises:
        OnnxpruneError: the model has no such inputs, outputs or axes, or they are of another size.
    """
    removed: _Units = {}
    values = {v.name for v in (*analysis.model.ir.graph.inputs, *analysis.model.ir.graph.outputs)}
    for axis in (*interface.inputs, *interface.outputs):
        if axis.value not in values:
            raise OnnxpruneError(
                f"the map names '{axis.value}', which is no input or output of the model",
                hint="give the model that the narrowed one was made from",
            )
        leaving = sorted({*range(axis.size)} - {*axis.kept})
        removed |= _with(removed, units_at(analysis, axis.value, axis.axis, leaving))
    return removed


def _check_map(expected: Interface, actual: Interface) -> None:
    """Refuse a map that other axes follow from than it names."""

    def plain(interface: Interface) -> set[tuple[object, ...]]:
        axes = (*interface.inputs, *interface.outputs)
        return {(a.value, a.axis, a.size, a.kept) for a in axes}

    if plain(expected) != plain(actual):
        names = sorted({str(each[0]) for each in plain(expected) ^ plain(actual)})
        raise OnnxpruneError(
            f"the map does not fit the model: '{names[0]}' would change otherwise",
            hint="give the model that the narrowed one was made from",
        )


def _with(removed: Mapping[str, Sequence[int]], units: Mapping[str, Sequence[int]]) -> _Units:
    """Units together with those of the same groups that leave already."""
    return {name: tuple(sorted({*removed.get(name, ()), *own})) for name, own in units.items()}


def _narrowed(
    analysis: Analysis,
    removed: _Units,
    config: Options,
    samples: Calibration | None,
    unknown: int | None,
) -> Narrowing:
    """Narrow a model, and check what remains against the masked original."""
    result = narrow(analysis, removed, unknown)
    interface = result.interface
    model = result.model
    if unknown is None and any(axis.axis is None for axis in interface.inputs):
        kept = next(axis.kept[0] for axis in interface.inputs if axis.axis is None)
        model = narrow(analysis, removed, kept).model  # samples may hold ids that left
    feeds = [interface.project(each) for each in _feeds(analysis, config, samples)]
    groups = [analysis.group(name) for name in removed]
    exact = all(group.exact for group in groups)
    notes = [
        f"{group.renormalised} normalises what remains of the classes of '{name}': their values "
        "are those of the original, renormalised"
        for group in groups
        for name in normalised_outputs(analysis, group)
    ]
    checks: tuple[Check, ...] = ()
    if exact:
        reference = select_outputs(mask_model(analysis, removed), interface)
        check = check_equivalence(model, reference, feeds, config.provider)
        checks = (replace(check, name="what remains = masked original"),)
    else:
        inexact = next(group for group in groups if not group.exact)
        notes.append(f"inexact: {inexact.name} was cut, and {inexact.reason}")
    anew = any(group.renormalised for group in groups)
    return Narrowing(
        analysis, model, interface, anew, checks=checks, notes=tuple(dict.fromkeys(notes))
    )


def _feeds(analysis: Analysis, config: Options, samples: Calibration | None) -> tuple[Feeds, ...]:
    if samples is not None and not samples.synthetic:
        return (next(iter(samples)),)
    return synthetic_inputs(analysis, config.provider, config.seed)


def _lost(interface: Interface, samples: Calibration | None) -> list[str]:
    """A sentence on samples that hold an id which left."""
    if samples is None or samples.synthetic or not any(a.axis is None for a in interface.inputs):
        return []
    flags = [interface.loses(each) for each in samples]
    lost, count = sum(int(each.sum()) for each in flags), sum(map(len, flags))
    if not lost:
        return []
    unknown = next((a.unknown for a in interface.inputs if a.unknown is not None), None)
    read = "" if unknown is None else f", which is read as {unknown}"
    return [f"{lost} of {count} samples ({percent(lost / count)}) lose an id{read}"]


def _followers(interface: Interface, classes: Collection[str]) -> list[str]:
    """Sentences on outputs that lose the same classes though nobody named them."""
    notes = []
    for axis in interface.outputs:
        if axis.value in classes or axis.kind == "vocabulary":
            continue
        share = f"{len(axis.kept)} of {axis.size}"
        notes.append(
            f"'{axis.value}' numbers the classes that stay, {share}, too"
            if axis.axis is None
            else f"{share} indices of axis {axis.axis} of '{axis.value}' stay, too"
        )
    return notes


def _timed(config: Options) -> list[str]:
    """A sentence on a target that is no share of the original."""
    target = config.target
    if target is None or not (target.timed and target.relative):
        return []
    return ["the latency target is a share of what remains after ids and classes left"]


def _only_output(analysis: Analysis) -> str:
    names = [value.name or "" for value in analysis.model.ir.graph.outputs]
    if len(names) != 1:
        raise OnnxpruneError(
            f"--keep-outputs names no output, and the model has {len(names)}",
            hint=f"name one in front, as in --keep-outputs {names[0]}=0,2,7",
        )
    return names[0]


def _check_output(analysis: Analysis, output: str) -> None:
    names = [value.name or "" for value in analysis.model.ir.graph.outputs]
    if output not in names:
        hint = suggest(output, names, f"its outputs are {', '.join(names)}")
        raise OnnxpruneError(f"--keep-outputs: the model has no output '{output}'", hint=hint)


# --- vocabularies ----------------------------------------------------------------------------


def _vocabulary_units(
    analysis: Analysis, config: Options, samples: Calibration | None
) -> tuple[_Units, SmallVocabulary]:
    """The units of the ids that leave, and what stays of the largest vocabulary."""
    counted = [choice for choice in config.vocab if choice.form in ("calib", "top")]
    if counted and samples is not None and samples.synthetic:
        raise OnnxpruneError(
            f"{stated('--vocab', str(counted[0]))} counts ids, and those of random inputs say "
            "nothing",
            hint="give real inputs with --calib, or ids, as in --vocab ids:keep.txt",
        )
    known = vocabularies(analysis)
    chosen: dict[str, tuple[Vocabulary, list[KeptIds]]] = {}
    for choice in config.vocab:
        vocabulary = _vocabulary(analysis, known, choice.input)
        chosen.setdefault(vocabulary.group, (vocabulary, []))[1].append(choice)
    largest = max((each for each, _ in chosen.values()), key=lambda each: each.size)
    removed: _Units = {}
    main, notes = SmallVocabulary(), list[str]()
    tokenizer = tokenizer_of(config)
    for vocabulary, choices in chosen.values():
        settings = (tokenizer, config.unknown) if vocabulary is largest else (None, None)
        small = small_vocabulary(choices, vocabulary, samples, *settings)
        leaving = sorted({*range(vocabulary.size)} - {*small.kept})
        removed |= _with(removed, vocabulary_units(analysis, vocabulary, leaving))
        notes += small.notes
        main = small if vocabulary is largest else main
    if config.keep_ids and main.unknown is None:
        raise OnnxpruneError(
            "--keep-ids reads removed ids as the unknown token, and nothing says which that is",
            hint="give the tokenizer with --tokenizer, or the id, as in --unknown 100",
        )
    return removed, replace(main, notes=tuple(notes))


def _vocabulary(analysis: Analysis, known: Sequence[Vocabulary], name: str) -> Vocabulary:
    """The vocabulary of an input, or the largest.

    Raises:
        OnnxpruneError: there is none.
    """
    inputs = [value.name or "" for value in analysis.model.ir.graph.inputs]
    if not known:
        raise OnnxpruneError(
            "--vocab: no input of the model holds ids that a stored table is looked up by: it has "
            + ", ".join(f"'{each}'" for each in inputs),
            hint="`onnxprune inspect --interface` lists what can be removed",
        )
    if not name:
        return known[0]
    for vocabulary in known:
        if name in vocabulary.inputs:
            return vocabulary
    holders = [each for vocabulary in known for each in vocabulary.inputs]
    problem = "holds no ids of a stored table" if name in inputs else "is no input of the model"
    raise OnnxpruneError(
        f"--vocab {name}=: '{name}' {problem}",
        hint=suggest(name, holders, f"inputs with ids are {', '.join(holders)}"),
    )


# --- the end of a run ------------------------------------------------------------------------


def released(model: models.Model, narrowing: Narrowing) -> tuple[models.Model, Interface]:
    """A result as it is written, with the map in its metadata.

    Args:
        model: adapted.
        narrowing: of its run.
    """
    return release(model, narrowing.interface, keep_ids=narrowing.keep_ids)
