"""Which rows are put aside to judge what is fitted to the others."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxprune.linear.rows import Sample

batches = st.lists(st.integers(1, 9), min_size=1, max_size=6)


@given(batches, st.integers(1, 12), st.integers(2, 8))
def test_whole_samples_are_put_aside_counted_through_all_batches(
    samples: list[int], each: int, held: int
) -> None:
    sample = Sample(held=held)
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
    aside = Sample(held=6).aside([1] * count, 0, np.arange(rows), rows)
    assert 0 < aside.sum() <= -(-rows // 6)
    assert not np.diff(aside.astype(int)).min() < 0  # once aside, aside to the end
