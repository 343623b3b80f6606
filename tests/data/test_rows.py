"""Which rows are put aside to judge what is fitted to the others."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxprune import model as models
from onnxprune.data import zoo
from onnxprune.data.activations.rows import Sample, moments_of
from onnxprune.data.activations.runner import Segments
from onnxprune.graph.analysis import analyse
from onnxprune.graph.layers.epilogue import find_epilogue
from onnxprune.graph.layers.linear import LinearLayer, find_layers, refittable
from onnxprune.solve.moments import of_outputs, restrict

batches = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(batches, st.integers(1, 12), st.integers(2, 8))
def test_whole_samples_are_put_aside_counted_through_all_batches(
    samples: list[int], each: int, held: int
) -> None:
    sample = Sample(holdout_every=held)
    found = [
        sample.aside(samples, k, np.arange(n * each), n * each).reshape(n, each)
        for k, n in enumerate(samples)
    ]
    if sum(samples) < held:
        return
    whole = np.concatenate(found)
    assert (whole.all(axis=1) == whole.any(axis=1)).all()
    assert whole.any(axis=1).sum() == sum(samples) // held


@given(st.integers(1, 5), st.integers(6, 40))
def test_of_a_few_samples_the_last_rows_are(count: int, rows: int) -> None:
    aside = Sample(holdout_every=6).aside([1] * count, 0, np.arange(rows), rows)
    assert 0 < aside.sum() <= -(-rows // 6)
    assert not np.diff(aside.astype(int)).min() < 0  # once aside, aside to the end


def cut(layer: LinearLayer, inputs: int, outputs: int) -> LinearLayer:
    """A layer with fewer inputs and outputs."""
    sizes = (outputs, inputs) if layer.weight_axis else (inputs, outputs)
    kernel = layer.window.kernel if layer.window else ()
    stored = layer.tensor.unseen(np.empty((*sizes, *kernel))).shape
    return replace(layer, source=replace(layer.tensor, shape=stored))


@pytest.mark.parametrize("name", ["digits_mlp", "digits_rescnn", "digits_encoder"])
def test_the_dense_model_seen_through_what_is_left_is_a_part_of_it(name: str) -> None:
    entry, rng = zoo.get(name), np.random.default_rng(0)
    analysis = analyse(models.load(entry.model))
    with np.load(entry.calibration) as z:
        feeds = [{key: z[key][k : k + 8] for key in z.files} for k in (0, 8)]
    values = {v.name or "": v for v in models.values(analysis.model.ir.graph)}
    run, looked = Segments(analysis.model, feeds), 0
    for layer in refittable(find_layers(analysis.model)):
        groups, inputs, outputs = layer.shape
        if groups > 1:
            continue
        epilogue = find_epilogue(values, analysis.facts, layer)
        taps = layer.taps
        reads, kept = rng.random(inputs // taps) < 0.6, rng.random(outputs) < 0.6
        reads[0] = kept[0] = True
        whole, _ = moments_of(layer, epilogue, run, run, Sample())
        shift = replace(epilogue, shift=epilogue.shift[kept])
        small = cut(layer, int(reads.sum()), int(kept.sum()))
        part, _ = moments_of(small, shift, run, run, Sample(), kept, reads)
        at = np.flatnonzero(np.repeat(reads, taps))
        of = np.flatnonzero(kept)
        wanted = of_outputs(restrict(whole, at), of)
        for each in ("xx", "xy", "yy", "mean_x", "mean_y"):
            ours, theirs = getattr(part, each), getattr(wanted, each)
            np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5 * abs(theirs).max())
        looked += 1
    assert looked
