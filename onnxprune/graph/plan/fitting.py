"""The check that a plan fits a graph."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence

from onnxprune.errors import OnnxpruneError
from onnxprune.graph.plan.core import Plan
from onnxprune.graph.units import Block, Group


def check(
    plan: Plan,
    structure: str,
    groups: Sequence[Group],
    blocks: Sequence[Block] = (),
    shapes: Mapping[str, Sequence[int]] | None = None,
) -> None:
    """Refuse a plan that was not made for this graph, or that names what is not in it.

    A plan fits any checkpoint of the graph it was made for. One without a structure hash (written
    by hand) fits wherever everything it names exists.

    Args:
        plan: to apply.
        structure: hash of the graph to apply it to.
        groups: of that graph.
        blocks: of that graph.
        shapes: of its weights; needed only for plans that zero single weights.

    Raises:
        OnnxpruneError: it does not fit; the message names the first mismatch, the hint the nearest
            name there is.
    """
    wrong = _mismatch(plan, groups, blocks, shapes)
    other = bool(plan.origin.structure) and plan.origin.structure != structure
    if not other:
        if wrong is not None:
            raise wrong
        return
    where = (
        wrong.message if wrong else "everything it names exists, but the graphs differ elsewhere"
    )
    raise OnnxpruneError(
        f"the plan was made for another graph ({plan.origin.structure[:12]}, this one is "
        f"{structure[:12]}): {where}",
        hint="make a new plan for this model: plans carry over between checkpoints of one graph",
    )


def _mismatch(
    plan: Plan,
    groups: Sequence[Group],
    blocks: Sequence[Block],
    shapes: Mapping[str, Sequence[int]] | None,
) -> OnnxpruneError | None:
    """The first thing in the plan that the graph does not have."""
    sizes = {g.name: len(g) for g in groups}
    for name, units in plan.removed.items():
        if name not in sizes:
            return _unknown("group", name, sizes)
        size, before = sizes[name], plan.units.get(name, sizes[name])
        if before != size:
            return OnnxpruneError(f"group {name!r} has {size} units, the plan knows {before}")
        if units[-1] >= size:
            return OnnxpruneError(
                f"group {name!r} has no unit {units[-1]}", hint=f"its units are 0 to {size - 1}"
            )
        if len(units) == size:
            return OnnxpruneError(
                f"the plan removes all {size} units of group {name!r}",
                hint="keep at least one; to drop a whole branch, bypass its block",
            )
    known = [b.name for b in blocks]
    for name in plan.bypassed:
        if name not in known:
            return _unknown("block", name, known)
    return _weight_mismatch(plan, shapes)


def _weight_mismatch(
    plan: Plan, shapes: Mapping[str, Sequence[int]] | None
) -> OnnxpruneError | None:
    if shapes is None and plan.zeroed:
        raise ValueError("a plan that zeroes weights is checked against their shapes")
    for name, mask in plan.zeroed.items():
        if name not in (shapes or {}):
            return _unknown("weight", name, shapes or {})
        shape = tuple((shapes or {})[name])
        if shape != mask.shape:
            return OnnxpruneError(
                f"weight {name!r} has shape {list(shape)}, the plan's mask {list(mask.shape)}"
            )
    return None


def _unknown(what: str, name: str, known: Iterable[str]) -> OnnxpruneError:
    names = list(known)
    near = difflib.get_close_matches(name, names, 1, cutoff=0.4)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {len(names)} of them: see inspect"
    return OnnxpruneError(f"the model has no {what} {name!r}", hint=hint)
