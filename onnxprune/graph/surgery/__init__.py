"""Cutting a model: initializers, attributes, stored sizes, and dead nodes."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence

from onnxprune.errors import OnnxpruneError, wrong_type
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.opened import changed_interface
from onnxprune.graph.ops import Keep
from onnxprune.graph.surgery.clean import clean, forget
from onnxprune.graph.surgery.edit import Editor
from onnxprune.graph.surgery.interface import (
    Narrowed,
    adapt,
    follow_ids,
    interface_of,
    release,
    select_outputs,
    with_interface,
    without_scattering,
)
from onnxprune.graph.surgery.sizes import rewrite_sizes
from onnxprune.graph.surgery.tensors import cut_tensors, rewrite_settings, rewrite_shuffles
from onnxprune.model import Model, clone


def cut(
    analysis: Analysis,
    removed: Mapping[str, Sequence[int]],
    bypassed: Sequence[str] = (),
) -> Model:
    """The analysed model without the given units and blocks.

    Args:
        analysis: of the model to cut; neither is changed.
        removed: group name -> indices of the units that leave.
        bypassed: names of blocks whose output becomes their skip.

    Raises:
        OnnxpruneError: an unknown group, unit or block, an axis that would be left empty, or a size
            that the graph computes in a way that cannot follow the cut.
    """
    editor, keep = _edited(analysis, removed, bypassed)
    clean(editor, analysis, keep)
    return editor.model


def narrow(
    analysis: Analysis, removed: Mapping[str, Sequence[int]], unknown: int | None = None
) -> Narrowed:
    """The analysed model without the given units of its interface, on inputs of the original.

    Args:
        analysis: with an interface that may change.
        removed: group name -> indices of the units that leave.
        unknown: the id that removed ids are read as.

    Raises:
        OnnxpruneError: as :func:`cut`.
    """
    interface = changed_interface(analysis, removed, unknown)
    return Narrowed(adapt(cut(analysis, removed), interface), interface)


def draft(analysis: Analysis, removed: Mapping[str, Sequence[int]]) -> Model:
    """The cut with dead nodes and without shapes: quick, for inspection.

    Args:
        analysis: of the model to cut; neither is changed.
        removed: group name -> indices of the units that leave.

    Raises:
        OnnxpruneError: as :func:`cut`.
    """
    editor, keep = _edited(analysis, removed, ())
    forget(editor, analysis, keep)
    return editor.model


def _edited(
    analysis: Analysis, removed: Mapping[str, Sequence[int]], bypassed: Sequence[str]
) -> tuple[Editor, Keep]:
    _check(analysis, removed, bypassed)
    for name, units in removed.items():
        have = len(analysis.group(name))
        unknown = [unit for unit in units if not 0 <= unit < have]
        if unknown:
            raise OnnxpruneError(
                f"the group '{name}' has no unit {unknown[0]}",
                hint=f"its units are counted from 0 to {have - 1}",
            )
    empty = analysis.emptied(removed)
    if empty:
        raise OnnxpruneError(
            f"removing these units would leave nothing of an axis of '{empty}'",
            hint="keep at least one unit of every group that shares the axis",
        )
    editor = Editor(clone(analysis.model))
    keep = analysis.keep(removed)
    blocks = [analysis.block(name) for name in bypassed]
    cut_tensors(editor, analysis, keep)
    rewrite_settings(editor, analysis, keep)
    rewrite_shuffles(editor, analysis, keep)
    rewrite_sizes(editor, analysis, keep)
    follow_ids(editor, analysis, keep)
    for block in blocks:
        editor.replace(block.output, block.skip)
    return editor, keep


def _check(analysis: object, removed: object, bypassed: object) -> None:
    """Refuse arguments of another kind."""
    if not isinstance(analysis, Analysis):
        raise wrong_type(
            "analysis", analysis, "an Analysis", "analyse the model first: onnxprune.analyse(model)"
        )
    hint = 'name groups and units, as in {"conv1:channel": [0, 3, 5]}'
    if not isinstance(removed, Mapping):
        raise wrong_type("removed", removed, "a mapping from groups to units", hint)
    for name, units in removed.items():
        try:
            list(map(operator.index, units))
        except TypeError:
            raise wrong_type(f"removed[{name!r}]", units, "a list of whole numbers", hint) from None
    if not isinstance(bypassed, Sequence) or isinstance(bypassed, str):
        raise wrong_type(
            "bypassed", bypassed, "a list of names", "give the blocks in a list: bypassed=[name]"
        )


__all__ = [
    "Narrowed",
    "adapt",
    "cut",
    "draft",
    "interface_of",
    "narrow",
    "release",
    "select_outputs",
    "with_interface",
    "without_scattering",
]
