"""The analysis of a model: what can be removed, what leaves with it, what must stay and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from numbers import Integral
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError, suggest, wrong_type
from onnxprune.graph.axes import Axis, Column
from onnxprune.graph.blocks import find_blocks
from onnxprune.graph.groups import Stored, make_groups, pinned_axes, stored_tensors
from onnxprune.graph.ops import Keep
from onnxprune.graph.shapes import Fact, probe_shapes, propagate
from onnxprune.graph.units import Block, Group, Pinned
from onnxprune.graph.walk import Walk, identity, walk
from onnxprune.model.validity import why_invalid

T = TypeVar("T")


@dataclass(frozen=True, eq=False, repr=False)
class Analysis:
    """The result of :func:`analyse`; never changes, and never changes the model.

    Attributes:
        model: the model that was analysed.
        inputs: the concrete graph input shapes it was analysed at, and a second set at which
            rewritten sizes are checked.
        facts: shape, dtype and, where known, content of every value at those shapes.
        groups, blocks: to remove from.
        pinned: axes of stored tensors that stay, with reasons.
        batch: samples in ``inputs[0]`` where the model leaves their number open; else 1.
        walk: the labelled graph; `walk.opened` says whether the interface may change.
        tensors: every distinct use of a stored tensor.
    """

    model: models.Model
    inputs: tuple[Mapping[str, tuple[int, ...]], Mapping[str, tuple[int, ...]]]
    facts: Mapping[str, Fact]
    groups: tuple[Group, ...]
    blocks: tuple[Block, ...]
    pinned: tuple[Pinned, ...]
    batch: int
    walk: Walk
    tensors: tuple[Stored, ...]

    def __repr__(self) -> str:
        parts = (
            f"{len(self.groups)} groups, {len(self.blocks)} blocks, {len(self.pinned)} axes stay"
        )
        return f"<Analysis of {self.model!r}: {parts}>"

    def group(self, name: str) -> Group:
        """The group called ``name``.

        Raises:
            OnnxpruneError: there is none.
        """
        return _named(name, self._groups, "group")

    def block(self, name: str) -> Block:
        """The block called ``name``.

        Raises:
            OnnxpruneError: there is none.
        """
        return _named(name, self._blocks, "block")

    @cached_property
    def _groups(self) -> Mapping[str, Group]:
        return {group.name: group for group in self.groups}

    @cached_property
    def _blocks(self) -> Mapping[str, Block]:
        return {block.name: block for block in self.blocks}

    def removed_atoms(self, removed: Mapping[str, Sequence[int]]) -> npt.NDArray[np.bool_]:
        """``{group: unit indices}`` as a mask over atoms."""
        mask = np.zeros(len(self.walk.space), np.bool_)
        for name, units in removed.items():
            mask[self.group(name).atoms[np.asarray(units, np.int64)]] = True
        return mask

    def keep(self, removed: Mapping[str, Sequence[int]]) -> Keep:
        """A function from an axis to the mask of its kept indices."""
        mask = self.removed_atoms(removed)
        space = self.walk.space
        known: dict[int, npt.NDArray[np.bool_]] = {}

        def keep(axis: Axis) -> npt.NDArray[np.bool_]:
            if id(axis) not in known:
                known[id(axis)] = ~space.removed(axis, mask)
            return known[id(axis)]

        return keep

    @cached_property
    def constants(self) -> dict[str, ir.Value]:
        """Every stored tensor of the model by name."""
        return models.constants(self.model)

    @cached_property
    def distinct_axes(self) -> tuple[tuple[str, list[Column]], ...]:
        """Every distinct axis that can lose an index: a value that has it, and its columns."""
        seen: dict[bytes, tuple[str, list[Column]]] = {}
        for name, tensor in self.walk.axes.items():
            for axis in tensor:
                columns = self.walk.space.columns(axis) if axis.columns else []
                if columns:
                    seen.setdefault(b"|".join(c.tobytes() for c in columns), (name, columns))
        return tuple(seen.values())

    def emptied(self, removed: Mapping[str, Sequence[int]]) -> str:
        """A value with an axis that would lose all its indices; empty if there is none."""
        mask = self.removed_atoms(removed)
        for name, columns in self.distinct_axes:
            if np.logical_or.reduce([mask[c] for c in columns]).all():
                return name
        return ""

    @cached_property
    def params(self) -> int:
        """Elements of all stored tensors that are weights (positions and sizes not counted)."""
        return sum({t.name: t.size for t in self.tensors}.values())

    @cached_property
    def reachable(self) -> float:
        """The fraction of ``params`` in slices that at least one unit can take along."""
        total = 0
        for stored in {t.name: t for t in self.tensors}.values():
            stays = 1
            for axis in stored.axes:
                columns = self.walk.space.columns(axis) if axis.columns else []
                free = [self.walk.space.labels(c) > 0 for c in columns]
                stays *= int((~np.logical_or.reduce(free)).sum()) if free else axis.size or 0
            total += stored.size - stays
        return total / max(self.params, 1)


def _named(name: str, table: Mapping[str, T], what: str) -> T:
    if name in table:
        return table[name]
    hint = suggest(str(name), table) if table else f"no {what} of this model can be removed"
    raise OnnxpruneError(f"the model has no {what} called '{name}'", hint=hint)


def analyse(
    model: models.ModelLike,
    *,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    interface: bool = False,
) -> Analysis:
    """Find everything that can be removed from a model and everything that cannot.

    Args:
        model: as `onnxprune.load` takes it; it is only read.
        inputs: concrete graph input shapes (those of real data); sizes that fit the graph are
            found when they are not given.
        interface: whether graph inputs and outputs may lose indices too; else they stay as they
            are.

    Raises:
        OnnxpruneError: the model cannot be loaded, or no input shapes fit the graph.

    Example:
        >>> from onnxprune.data import zoo
        >>> [group.name for group in analyse(zoo.get("digits_mlp").model).groups]
        ['body.1:ffn', 'body.4:ffn', 'body.7:ffn']
    """
    dense, sizes = models.load(model), _checked(inputs)
    if not isinstance(interface, bool):
        raise wrong_type("interface", interface, "True or False", "interface=True opens it")
    try:
        return _analyse(dense, sizes, interface=interface)
    except (OnnxpruneError, MemoryError):
        raise
    except Exception as error:
        reason = why_invalid(dense.ir)
        if not reason:
            raise
        raise OnnxpruneError(
            f"the model is not valid ONNX: {reason}",
            hint="onnx.checker.check_model says more; export the model again",
        ) from error


def _analyse(
    dense: models.Model, sizes: Mapping[str, tuple[int, ...]] | None, *, interface: bool
) -> Analysis:
    shapes = probe_shapes(dense, sizes)
    facts = propagate(dense, shapes[0])
    second = cache(lambda: facts if shapes[1] == shapes[0] else propagate(dense, shapes[1]))
    labelled = walk(dense, facts, second, opened=interface)
    tensors = stored_tensors(labelled)
    batch = _batch(dense, shapes[0])
    groups = make_groups(labelled, tensors, batch)
    blocks = find_blocks(dense, labelled, batch)
    pinned = pinned_axes(labelled, tensors)
    return Analysis(dense, shapes, facts, groups, blocks, pinned, batch, labelled, tuple(tensors))


def _checked(inputs: object) -> Mapping[str, tuple[int, ...]] | None:
    """The shapes of inputs.

    Raises:
        OnnxpruneError: they are none.
    """
    hint = 'write sizes by input, as in inputs={"image": (1, 3, 224, 224)}'
    if inputs is None:
        return None
    if not isinstance(inputs, Mapping):
        raise wrong_type("inputs", inputs, "a mapping from input names to shapes", hint)
    for name, sizes in inputs.items():
        if not isinstance(sizes, Sequence) or isinstance(sizes, str):
            raise wrong_type(f"inputs[{name!r}]", sizes, "a shape", hint)
        for size in sizes:
            if not isinstance(size, Integral):
                raise wrong_type(f"a size in inputs[{name!r}]", size, "a whole number", hint)
    return inputs


def _batch(model: models.Model, inputs: Mapping[str, tuple[int, ...]]) -> int:
    """The size of an open first axis, if all inputs that have one agree."""
    sizes = {
        inputs[value.name or ""][0]
        for value in model.ir.graph.inputs
        if value.name in inputs and value.shape and not isinstance(value.shape[0], int)
    }
    return sizes.pop() if len(sizes) == 1 else 1


__all__ = ["Analysis", "analyse", "identity"]
