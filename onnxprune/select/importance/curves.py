"""Error curves: what every group loses at every width, from one calibration of the dense model.

Moments are collected at every layer that reads units, groups are swept by group OBS elimination
(``solve.group_obs``), and the curves that come out are in one currency: squared error over the
variance of where it counts, summed over the layers that read the group. They depend on the model
and the data alone, so any budget can be met from them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import whole
from onnxprune.data.activations.runner import Segments
from onnxprune.data.memory import MemoryBudget, set_aside
from onnxprune.graph.analysis import Analysis
from onnxprune.graph.layers.applications import common_epilogues, find_applications
from onnxprune.graph.layers.epilogue import Epilogue, find_epilogue
from onnxprune.graph.layers.linear import LinearLayer, find_layers, refittable
from onnxprune.graph.units import Group, Slice
from onnxprune.solve.group_obs import Consumer, Elimination, eliminate
from onnxprune.solve.im2col import sample_positions, token_rows
from onnxprune.solve.moments import Accumulator, Moments

Array = npt.NDArray[Any]
Feeds = Mapping[str, Array]


class _Spread:
    """The variance of a value over all axes but its channels, summed over channels."""

    def __init__(self, axis: int) -> None:
        self._axis = axis
        self._count = 0
        self._sum: Array = np.zeros(1)
        self._square: Array = np.zeros(1)

    def add(self, value: Array, count: int, seed: int) -> None:
        """Account for a batch by a sample of so many positions."""
        total = value.size // max(value.shape[self._axis], 1)
        rows = whole(token_rows(value, self._axis, sample_positions(total, count, seed))[0])
        self._count += len(rows)
        self._sum = self._sum + rows.sum(axis=0, dtype=np.float64)
        self._square = self._square + np.einsum("rn,rn->n", rows, rows, dtype=np.float64)

    @property
    def variance(self) -> float:
        mean = self._sum / self._count
        return float(np.maximum(self._square / self._count - mean**2, 0).sum())


@dataclass(frozen=True, eq=False)
class Reader:
    """A calibrated layer.

    Attributes:
        layer: the layer; the first where several apply the same weight.
        matrix: ``[g, K, N]``, its weight in the units of where its output counts.
        moments: of its inputs.
        norm: the variance of where its output counts, summed over channels; over the number of
            applications where the same weight is applied several times.
        epilogue: where its output counts.
        applications: all layers that apply its weight, each with its epilogue.
    """

    layer: LinearLayer
    matrix: Array
    moments: Moments
    norm: float
    epilogue: Epilogue
    applications: tuple[tuple[LinearLayer, Epilogue], ...]


class _Pool:
    """The applications of one weight while their inputs are observed together.

    What is refitted is one weight for all of them, so the rows of all of them make one problem.
    """

    def __init__(self, layer: LinearLayer, matrix: Array, epilogue: Epilogue) -> None:
        self.layer, self.matrix, self.epilogue = layer, matrix, epilogue
        self.applications: list[tuple[LinearLayer, Epilogue]] = []
        self.collected: Accumulator | None = None
        self._norms: list[float] = []

    def add(self, variance: float) -> bool:
        """Count one application; whether it was the last."""
        self._norms.append(variance)
        return len(self._norms) == len(self.applications)

    def reader(self) -> Reader:
        """What was observed, together."""
        assert self.collected is not None
        scaled = self.matrix * self.epilogue.gain.reshape(self.matrix.shape[0], 1, -1)
        norm = sum(self._norms) / len(self._norms) ** 2
        moments, self.collected = self.collected.finish(), None
        return Reader(self.layer, scaled, moments, norm, self.epilogue, tuple(self.applications))


def calibrate(
    analysis: Analysis,
    batches: Sequence[Feeds],
    *,
    groups: Sequence[Group] | None = None,
    rows: int = 20_000,
    rows_per_input: int = 8,
    seed: int = 0,
    memory: MemoryBudget | None = None,
    provider: str = "cpu",
    threads: int | None = None,
) -> dict[str, Reader]:
    """Measure every layer that reads units of some group.

    The applications of one weight share a reader. Of layers that are too wide for the memory
    budget only the variances of inputs are known.

    Args:
        analysis: analysis of the dense model.
        batches: feeds.
        groups: groups whose readers are calibrated; None for all.
        rows: rows sampled per layer, at least.
        rows_per_input: rows sampled per input of the layer, if that is more.
        seed: seed of the sample.
        memory: the memory budget.
        provider: what runs the model.
        threads: threads within an operator.

    Returns:
        ``{node: reader}``.
    """
    budget = memory or MemoryBudget()
    some = analysis.groups if groups is None else groups
    readers = {n for g in some for s in g.slices if s.role == "reads" for n in s.nodes}
    values = {v.name or "": v for v in models.values(analysis.model.ir.graph)}
    read: list[tuple[LinearLayer, Epilogue, _Pool]] = []
    pools: dict[object, _Pool] = {}
    layers = find_layers(analysis.model)
    ends: dict[str, Epilogue] = {}
    for each in find_applications(layers)[0].values():
        if readers & {layer.node for layer in each}:
            common = common_epilogues(values, analysis.facts, each)
            ends |= {layer.node: end for layer, end in zip(each, common, strict=True)}
    for layer in refittable(layers):
        if layer.node in readers:
            epilogue = ends.get(layer.node) or find_epilogue(values, analysis.facts, layer)
            weight = (layer.weight, layer.weight_axis, *layer.along, layer.window, layer.shape)
            key = (*weight, layer.axis, layer.out_axis, epilogue.gain.tobytes())
            if key not in pools:
                matrix = layer.matrix(layer.tensor.read().astype(np.float32))
                pools[key] = _Pool(layer, matrix, epilogue)
            pools[key].applications.append((layer, epilogue))
            read.append((layer, epilogue, pools[key]))
    wide = _too_wide(some, {layer.node: pool for layer, _, pool in read}, budget)
    kept = [name for layer, epilogue, _ in read for name in (layer.x, epilogue.value)]
    run = Segments(
        analysis.model, batches, kept=kept, provider=provider, threads=threads, most=budget.values
    )
    readers_by_node: dict[str, Reader] = {}
    in_memory = 0
    for layer, epilogue, pool in read:
        run.advance([layer.x, epilogue.value])
        groups_, inputs, _ = pool.matrix.shape
        times = len(batches) * len(pool.applications)
        share = -(-max(rows, rows_per_input * inputs) // times)
        pool.collected = pool.collected or Accumulator(
            groups_, inputs, apart=pool.layer.node in wide
        )
        collected, variance = pool.collected, _Spread(layer.out_axis)
        for number in range(len(batches)):
            variance.add(run.as_held(epilogue.value, number), share, seed + number)
            x, among = run.as_held(layer.x, number), run.shown_to(layer, number)
            positions = sample_positions(layer.count(x.shape), share, seed + number, among)
            collected.add(whole(layer.rows(x, positions)))
        if pool.add(variance.variance):
            reader = pool.reader()
            size = reader.moments.xx.nbytes
            in_memory += size
            if max(in_memory // 4, size) > budget.moments // 16:
                in_memory -= size
                moments = replace(reader.moments, xx=set_aside(reader.moments.xx))
                reader = replace(reader, moments=moments)
            readers_by_node |= dict.fromkeys((each.node for each, _ in pool.applications), reader)
        for name in (layer.x, epilogue.value):
            run.release(name)
    return readers_by_node


def _too_wide(
    groups: Sequence[Group], pools: Mapping[str, _Pool], budget: MemoryBudget
) -> frozenset[str]:
    """The first applications of weights whose inputs are priced apart, group by group."""
    wide: set[str] = set()
    for group in groups:
        nodes = [n for s in group.slices if s.role == "reads" for n in s.nodes if n in pools]
        shapes = {pools[n].layer.node: pools[n].matrix.shape[:2] for n in nodes}
        wide |= budget.too_wide({node: shape for node, shape in shapes.items() if node not in wide})
    return frozenset(wide)


def eliminate_groups(
    groups: Sequence[Group],
    readers: Mapping[str, Reader],
    *,
    ridge: float = 1e-4,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[dict[str, Elimination], dict[str, str]]:
    """The order of removal and the error at every width, group by group.

    Args:
        groups: groups of the analysis that was calibrated.
        readers: from :func:`calibrate`.
        ridge: see :func:`onnxprune.solve.group_obs.eliminate`.
        progress: told which group is being worked on.

    Returns:
        ``{group: elimination}``, and ``{group: why there is none}``.
    """
    eliminations: dict[str, Elimination] = {}
    declined: dict[str, str] = {}
    for group in groups:
        uses = [(s, n) for s in group.slices if s.role == "reads" for n in s.nodes]
        unknown = [n for s, n in uses if n not in readers or not reads(readers[n].layer, s)]
        if not uses:
            declined[group.name] = "no layer with stored weights reads it"
        elif unknown:
            declined[group.name] = f"'{unknown[0]}', which reads it, is not refitted"
        else:
            progress(f"measuring the error curve of {group.name}")
            pairs = [(readers[n], s) for s, n in uses]
            once = {(id(r), s.tensor, s.axis): (r, s) for r, s in pairs}.values()
            consumers = (c for reader, cut in once for c in consumers_of(reader, cut))
            eliminations[group.name] = eliminate(consumers, len(group), ridge=ridge)
    return eliminations, declined


def reads(layer: LinearLayer, cut: Slice) -> bool:
    """Whether the units of a slice are inputs of a layer; a whole matrix of a stack is none."""
    along = layer.stack is None or layer.stored_axis == cut.axis
    return along and layer.weight == cut.tensor


def consumers_of(reader: Reader, cut: Slice) -> Iterator[Consumer]:
    """A layer that reads the units of a slice, one consumer per group of a convolution."""
    layer = reader.layer
    groups, inputs, _ = reader.matrix.shape
    size = int(cut.rows.max()) + 1
    unit_of = np.full(max(size, groups * inputs), -1, dtype=np.int64)
    unit_of[cut.rows] = np.arange(len(cut.rows))[:, None]
    known = reader.moments
    for group, index in enumerate(layer.input_index(cut.axis)):
        unit = unit_of[index]
        order = np.argsort(unit, kind="stable")
        owned = order[unit[order] >= 0]
        units, counts = np.unique(unit[owned], return_counts=True)
        if not len(units):
            continue
        apart = known.xx.ndim == 2
        yield Consumer(
            xx=known.xx[group],
            count=0 if apart else known.count,
            weight=reader.matrix[group],
            units=units,
            blocks=owned.reshape(len(units), int(counts[0])),
            norm=max(reader.norm, np.finfo(np.float64).tiny),
            problem=group,
        )
