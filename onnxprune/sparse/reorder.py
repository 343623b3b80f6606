"""Channel permutation for N:M inside dependency groups: free, because no node is added.

The units of a group are interchangeable, so they may stand in any order as long as everything
stored that knows them follows: what produces them, what scales them and what contracts them. The
model then computes the same, and which weights share a group of N:M is ours to choose
(``onnxprune.solve.permute``). Whether units really are interchangeable is not taken on trust: the
reordered model is run and must give the outputs of the original; groups that do not are put back.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxprune import model as models
from onnxprune.errors import OnnxpruneError
from onnxprune.evaluate.equivalence import Feeds, check_equivalence
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.units import Group, Slice
from onnxprune.solve.permute import permute
from onnxprune.types import Check

Array = npt.NDArray[Any]
Index = npt.NDArray[np.int64]
Orders = Mapping[str, tuple[int, ...]]
"""Group name -> the unit that comes to stand at each position."""


@dataclass(frozen=True, eq=False)
class Reordered:
    """A model with its units in another order.

    Attributes:
        model: a new one; the same where nothing was reordered.
        orders: what was reordered.
        declined: group name -> why it was left in its order, where reordering might have helped.
        kept: group name -> shares of the score that N:M keeps, before and after.
        check: that the outputs are the same; None where nothing was reordered.
    """

    model: models.Model
    orders: Orders
    declined: Mapping[str, str]
    kept: Mapping[str, tuple[float, float]]
    check: Check | None


def find_orders(
    analysis: Analysis,
    layers: Sequence[LinearLayer],
    scores: Callable[[LinearLayer], Array],
    n: int,
    m: int,
) -> tuple[dict[str, tuple[int, ...]], dict[str, str], dict[str, tuple[float, float]]]:
    """An order of the units of every group that layers read, under which N:M keeps more.

    Args:
        analysis: analysis of the dense model.
        layers: layers that will be made sparse.
        scores: scores of the weights of a layer, ``[g, K, N]``.
        n: kept of every group.
        m: length of a group.

    Returns:
        Orders, reasons for the groups that were left, and the shares of the score kept.
    """
    by_name = {layer.weight: layer for layer in layers}
    orders: dict[str, tuple[int, ...]] = {}
    declined: dict[str, str] = {}
    kept: dict[str, tuple[float, float]] = {}
    for group in analysis.groups:
        parts: list[Array] = []
        for cut in group.slices:
            layer = by_name.get(cut.tensor)
            if cut.role == "reads" and layer is not None and cut.axis == layer.stored_axis:
                parts += _side_by_side(layer, cut, scores(layer), m)
        if not parts:
            continue
        if len(group) % m:
            declined[group.name] = f"its {len(group)} units are no multiple of {m}"
            continue
        best = permute(np.concatenate(parts, axis=1), n, m)
        if best.after > best.before:
            orders[group.name] = tuple(int(u) for u in best.order)
            kept[group.name] = (best.before, best.after)
        else:
            declined[group.name] = "no other order is better"
    return orders, declined, kept


def _side_by_side(layer: LinearLayer, cut: Slice, scores: Array, m: int) -> list[Array]:
    """Scores ``[units, outputs]`` of a slice, once per index that a unit has on the axis.

    Only where neighbouring units are neighbouring inputs, starting at a multiple of ``m``: else
    the order of units does not decide who shares a group.
    """
    rows = cut.rows
    window = layer.window
    groups = layer.shape[0]
    if groups > 1 and not (window is not None and window.transposed):
        return []  # the rows of a grouped Conv are other channels in every group
    steps = rows - rows[:1]
    if (steps != np.arange(len(rows))[:, None]).any() or (rows[0] % m).any():
        return []
    channels = scores.reshape(groups * layer.shape[1] // layer.taps, -1)
    return [channels[rows[:, j]] for j in range(rows.shape[1])]


def reorder(analysis: Analysis, model: models.Model, orders: Orders) -> models.Model:
    """A copy of a model with the units of groups in another order.

    Args:
        analysis: analysis of a model with the same graph.
        model: the model; it is not changed.
        orders: which unit comes to stand where.

    Raises:
        OnnxpruneError: there is no such group, an order is not one of its units, or a tensor
            would have to be in two orders at once.
    """
    result = models.clone(model)
    values = models.constants(result)
    for name, order in orders.items():
        group = analysis.group(name)
        if sorted(order) != list(range(len(group))):
            raise OnnxpruneError(
                f"the order of group '{name}' is not one of its {len(group)} units"
            )
        for (tensor, axis), rows in _moves(group, np.asarray(order, np.int64), analysis).items():
            value = values.get(tensor)
            stored = None if value is None else models.constant(value)
            if value is None or stored is None:
                raise OnnxpruneError(f"'{tensor}' of group '{name}' is not stored in the model")
            array = np.ascontiguousarray(np.take(stored.numpy(), rows, axis))
            models.set_constant(value, ir.Tensor(array, dtype=stored.dtype))
    return result


def _moves(group: Group, order: Index, analysis: Analysis) -> dict[tuple[str, int], Index]:
    """Where every index of every axis that a group cuts comes from."""
    moves: dict[tuple[str, int], Index] = {}
    for cut in group.slices:
        size = analysis.facts[cut.tensor].sizes
        assert size is not None
        key = (cut.tensor, cut.axis)
        rows = moves.setdefault(key, np.arange(size[cut.axis], dtype=np.int64))
        old = rows[cut.rows]
        new = cut.rows[order]
        if (old != cut.rows).any() and (old != new).any():
            raise OnnxpruneError(
                f"'{cut.tensor}' would have to be in two orders at once for group '{group.name}'"
            )
        rows[cut.rows] = new
    return moves


def reorder_safely(
    analysis: Analysis, orders: Orders, feeds: Sequence[Feeds], provider: str = "cpu"
) -> Reordered:
    """Reorder the analysed model, run it, and put back groups that changed an output.

    Args:
        analysis: analysis of the dense model, which is not changed.
        orders: what to reorder.
        feeds: inputs to compare the outputs on.
        provider: what runs both models.
    """
    declined: dict[str, str] = {}
    possible: dict[str, tuple[int, ...]] = {}
    for name, order in orders.items():
        try:
            reorder(analysis, analysis.model, {name: order})
            possible[name] = order
        except OnnxpruneError as error:
            declined[name] = error.message
    if not possible:
        return Reordered(analysis.model, {}, declined, {}, None)
    result = reorder(analysis, analysis.model, possible)
    check = _same(result, analysis, feeds, provider)
    if not check.ok:
        good = _those_that_hold(analysis, possible, feeds, provider)
        declined |= dict.fromkeys(possible.keys() - good, "in another order outputs change")
        possible = {name: possible[name] for name in possible if name in good}
        result = reorder(analysis, analysis.model, possible)
        check = _same(result, analysis, feeds, provider)
    return Reordered(result, possible, declined, {}, check)


def _same(result: models.Model, analysis: Analysis, feeds: Sequence[Feeds], provider: str) -> Check:
    check = check_equivalence(result, analysis.model, feeds, provider)
    return Check(check.name.replace("pruned = masked", "reordered = original"), check.ok,
                 check.value, check.limit)  # fmt: skip


def _those_that_hold(
    analysis: Analysis, orders: Orders, feeds: Sequence[Feeds], provider: str
) -> set[str]:
    """The groups whose order alone changes nothing, found by halving."""
    names = list(orders)
    result = reorder(analysis, analysis.model, orders)
    if _same(result, analysis, feeds[:1], provider).ok:
        return set(names)
    if len(names) == 1:
        return set()
    half = len(names) // 2
    parts = ({n: orders[n] for n in names[:half]}, {n: orders[n] for n in names[half:]})
    return set().union(*(_those_that_hold(analysis, p, feeds, provider) for p in parts))
