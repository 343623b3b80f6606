"""How many weights every layer loses, so that the whole comes out as asked.

Under ``global`` all weights compete by their share of their layer's output. Under ``curves`` each
layer says what losing more costs after its other weights made up for it, and the zeros go where
they cost least; the curves are made convex first, which makes the greedy choice the best one.
Under ``sensitivity`` costs are in the currency of the model's outputs (``sparse.fisher``).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import chain, pairwise

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import moments_of, part_of
from onnxprune.data.activations.runner import Segments
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.applications import common_epilogues, find_applications
from onnxprune.graph.layers.epilogue import Weights
from onnxprune.graph.layers.linear import LinearLayer, find_layers
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Sparsity
from onnxprune.solve import masks
from onnxprune.solve.moments import merge
from onnxprune.sparse.fisher import divergence_of, information
from onnxprune.sparse.layerwise import Settings
from onnxprune.sparse.probe import GRID, Probe, errors_of
from onnxprune.sparse.rows import Feeds
from onnxprune.sparse.select import gram_of, scores_of
from onnxprune.sparse.streamed import global_counts

Float = npt.NDArray[np.float64]


def removed_counts(
    dense: models.Model,
    layers: Sequence[LinearLayer],
    sparsity: Sparsity,
    batches: list[Feeds],
    facts: Mapping[str, Fact],
    settings: Settings,
    progress: Callable[[str], None],
) -> list[int]:
    """How many entries each layer loses; under N:M the pattern says it.

    Raises:
        OnnxpruneError: layers are to be measured, and there are no inputs.
    """
    weights = Weights(dense)
    values = {v.name or "": v for v in models.values(dense.ir.graph)}
    sizes = [layer.size for layer in layers]
    if sparsity.m or settings.allocation in ("per-tensor", "per-row"):
        return [masks.removed_count(size, sparsity.share) for size in sizes]
    if settings.allocation == "global" and not batches:
        return global_counts(layers, sparsity)
    if not batches:
        raise OnnxpruneError(
            f"--sparse-allocation {settings.allocation} needs calibration data",
            hint="give inputs with --calib, or take --sparse-allocation global",
        )
    known = None
    if settings.allocation == "sensitivity":
        progress("measuring what errors of every layer cost")
        known = information(
            dense, layers, batches,
            provider=settings.provider, threads=settings.threads, seed=settings.sample.seed,
            memory=settings.sample.memory,
        )  # fmt: skip
    probe = (
        Probe(dense, batches, settings.provider)
        if settings.allocation == "sensitivity" and not known
        else None
    )
    results: list[Float] = []
    rows, per_input = settings.sample.rows // 2, settings.sample.per_input // 2  # a look is enough
    sample = replace(settings.sample, rows=rows, per_input=per_input)
    joint, _ = find_applications(find_layers(dense))
    every = [joint.get(layer.node, (layer,)) for layer in layers]
    read = [
        [*zip(each, common_epilogues(values, facts, each), strict=True)] for each in every
    ]  # every application of a weight, and where it counts
    values_read = [[name for layer, end in each for name in (layer.x, end.value)] for each in read]
    kept = chain.from_iterable(values_read)  # running to a sum passes other layers
    run = Segments(
        dense, batches, kept=kept, provider=settings.provider, threads=settings.threads,
        most=sample.memory.values,
    )  # fmt: skip
    for number, applications in enumerate(read, start=1):
        layer, epilogue = applications[0]
        progress(f"measuring layer {number} of {len(layers)}: {layer.node}")
        apart = not sample.memory.fits(*layer.shape[:2])
        parts = applications[:1] if apart else applications
        part = part_of(sample, len(parts))
        train = functools.reduce(
            merge,
            (
                moments_of(each, replace(end, skip=None), run, run, part, apart=apart)[0]
                for each, end in parts
            ),
        )
        for name in values_read[number - 1]:
            run.release(name)
        weight, _ = weights.read(layer, epilogue)
        if settings.allocation == "global":
            if apart:
                worth = np.abs(weight) * np.sqrt(train.second)[:, :, None]
            else:
                worth = scores_of("wanda", weight, gram_of(train, free_bias=False))
            results.append(worth / np.sqrt(train.variance))
            continue
        errors = errors_of(layer, weight, train)
        curve = errors.sum(axis=(1, 2)) / train.variance
        if known is not None:
            there = known[layer.node]
            curve = divergence_of(errors, there, epilogue.gain.reshape(there.shape))
        elif probe is not None and not apart:
            curve = curve * probe.weight_of(layer, epilogue, weight, train, curve)
        results.append(curve)
    if settings.allocation == "global":
        return by_scores(results, sparsity.share)
    return by_error(sizes, results, sparsity.share)


def by_scores(scores: Sequence[Float], share: float) -> list[int]:
    """What one threshold for all layers removes of each."""
    keeps = masks.keep_top_global(scores, share)
    return [int(keep.size - keep.sum()) for keep in keeps]


def by_error(sizes: Sequence[int], curves: Sequence[Float], share: float) -> list[int]:
    """How many weights each layer loses so that the sum of errors is least.

    Args:
        sizes: weights of each layer.
        curves: what each share of ``GRID`` costs it.
        share: of all weights together.

    Returns:
        Counts that add up to the exact total, or to what all can lose at most if that is less.
    """
    total = masks.removed_count(sum(sizes), share)
    segments: list[tuple[float, int, int]] = []
    for index, (size, curve) in enumerate(zip(sizes, curves, strict=True)):
        at = [0] + [masks.removed_count(size, s) for s in GRID]
        for a, b in _hull(at, [0.0, *np.maximum.accumulate(curve)]):
            segments.append(((b[1] - a[1]) / max(b[0] - a[0], 1), index, b[0] - a[0]))
    removed = [0] * len(sizes)
    for _, index, more in sorted(segments, key=lambda piece: piece[0]):
        count = min(more, total - sum(removed))
        removed[index] += count
    return removed


def _hull(
    x: Sequence[int], y: Sequence[float]
) -> list[tuple[tuple[int, float], tuple[int, float]]]:
    """The edges of the lower convex hull of points with ascending ``x``."""
    hull: list[tuple[int, float]] = []
    for point in zip(x, y, strict=True):
        if hull and point[0] == hull[-1][0]:
            continue
        while len(hull) > 1 and _above(hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return list(pairwise(hull))


def _above(a: tuple[int, float], b: tuple[int, float], c: tuple[int, float]) -> bool:
    """Whether ``b`` is on or above the line from ``a`` to ``c``."""
    return (b[1] - a[1]) * (c[0] - a[0]) >= (c[1] - a[1]) * (b[0] - a[0])
