"""How many weights every layer loses, measured where that has to be."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from onnxprune import model as models
from onnxprune.data.activations.rows import moments_of
from onnxprune.data.activations.runner import Segments
from onnxprune.errors import OnnxpruneError
from onnxprune.graph.layers.epilogue import Weights, find_epilogue
from onnxprune.graph.layers.linear import LinearLayer
from onnxprune.graph.shapes import Fact
from onnxprune.quantities import Sparsity
from onnxprune.sparse import shares
from onnxprune.sparse.fisher import damage_of, information
from onnxprune.sparse.layerwise import Settings
from onnxprune.sparse.probe import Probe
from onnxprune.sparse.rows import Feeds
from onnxprune.sparse.select import gram_of, scores_of

Float = npt.NDArray[np.float64]


def counts(
    dense: models.Model,
    layers: Sequence[LinearLayer],
    asked: Sparsity,
    batches: list[Feeds],
    facts: Mapping[str, Fact],
    how: Settings,
    tell: Callable[[str], None],
) -> list[int]:
    """How many entries each layer loses; under N:M the pattern says it.

    Raises:
        OnnxpruneError: layers are to be measured, and there are no inputs.
    """
    weights = Weights(dense)
    values = {v.name or "": v for v in models.values(dense.ir.graph)}
    sizes = [layer.size for layer in layers]
    if asked.m or how.spread in ("per-tensor", "per-row"):
        return shares.even(sizes, asked.share)
    if how.spread == "global" and not batches:
        scores = [scores_of("magnitude", weights.read(each)[0], None) for each in layers]
        return shares.by_scores(scores, asked.share)
    if not batches:
        raise OnnxpruneError(
            f"--sparse-allocation {how.spread} measures what each layer loses",
            hint="give inputs with --calib, or take --sparse-allocation global",
        )
    known = None
    if how.spread == "sensitivity":
        tell("measuring what errors of every layer cost")
        known = information(
            dense, layers, batches,
            provider=how.provider, threads=how.threads, seed=how.sample.seed,
        )  # fmt: skip
    probe = (
        Probe(dense, batches, how.provider) if how.spread == "sensitivity" and not known else None
    )
    found: list[Float] = []
    rows, per_input = how.sample.rows // 2, how.sample.per_input // 2  # a look is enough
    sample = replace(how.sample, rows=rows, per_input=per_input)
    epilogues = [find_epilogue(values, facts, layer) for layer in layers]
    wanted = [(layer.x, end.value) for layer, end in zip(layers, epilogues, strict=True)]
    kept = itertools.chain.from_iterable(wanted)  # running to a sum passes other layers
    run = Segments(dense, batches, kept=kept, provider=how.provider, threads=how.threads)
    for number, (layer, epilogue) in enumerate(zip(layers, epilogues, strict=True), start=1):
        tell(f"measuring layer {number} of {len(layers)}: {layer.node}")
        alone = replace(epilogue, skip=None)
        train, _ = moments_of(layer, alone, run, run, sample)
        for name in wanted[number - 1]:
            run.release(name)
        weight, _ = weights.read(layer, epilogue)
        if how.spread == "global":
            xx = gram_of(train, free_bias=False)
            found.append(scores_of("wanda", weight, xx) / np.sqrt(train.variance))
            continue
        errors = shares.errors(layer, weight, train)
        curve = errors.sum(axis=(1, 2)) / train.variance
        if known is not None:
            there = known[layer.node]
            curve = damage_of(errors, there, epilogue.gain.reshape(there.shape))
        elif probe is not None:
            curve = curve * probe.weight_of(layer, epilogue, weight, train, curve)
        found.append(curve)
    if how.spread == "global":
        return shares.by_scores(found, asked.share)
    return shares.by_damage(sizes, found, asked.share)
