"""Several applications of one weight: the merged moments solve the problem of all rows."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxprune.solve.joint import Biases, joined
from onnxprune.solve.moments import moments, squared_error
from onnxprune.solve.refit import refit

KINDS: tuple[Biases, ...] = ("own", "common", "fixed")


@given(st.integers(0, 10_000), st.sampled_from(KINDS), st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_a_joint_fit_is_the_least_squares_of_all_rows(seed: int, kind: Biases, count: int) -> None:
    rng = np.random.default_rng(seed)
    inputs, outputs = 6, 3
    x = [rng.standard_normal((80, inputs)) + 3 * rng.standard_normal(inputs) for _ in range(count)]
    y = [part @ rng.standard_normal((inputs, outputs)) + rng.standard_normal(3) for part in x]
    old = [rng.standard_normal((1, outputs)) for _ in range(count)]
    if kind == "common":
        old = old[:1] * count
    matrix = rng.standard_normal((1, inputs, outputs))
    every = [moments(a[None], b[None]) for a, b in zip(x, y, strict=True)]
    rows = joined([(part, part) for part in every], old, matrix, kind)
    fit, _ = refit(
        rows.train, rows.holdout, matrix, rows.bias, free_bias=rows.free, ridges=(1e-12,)
    )
    biases = rows.fitted(fit.weight, fit.bias)

    columns = {"own": np.repeat(np.eye(count), 80, axis=0), "common": np.ones((80 * count, 1))}
    added = columns.get(kind, np.zeros((80 * count, 0)))
    wanted = np.concatenate([b - (old[k] if kind == "fixed" else 0) for k, b in enumerate(y)])
    best = np.linalg.lstsq(np.concatenate([np.concatenate(x), added], axis=1), wanted, rcond=None)
    np.testing.assert_allclose(fit.weight[0], best[0][:inputs], atol=1e-6)
    expected = {"own": best[0][inputs:], "common": np.repeat(best[0][inputs:], count, axis=0)}
    np.testing.assert_allclose(
        np.concatenate(biases), expected.get(kind, np.concatenate(old)), atol=1e-6
    )
    errors = [
        squared_error(part, fit.weight, b).sum() for part, b in zip(every, biases, strict=True)
    ]
    assert fit.after * rows.holdout.variance == pytest.approx(np.mean(errors), rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_that_of_weights_and_biases_as_they_are(kind: Biases) -> None:
    rng = np.random.default_rng(0)
    matrix, bias = rng.standard_normal((2, 4, 3)), rng.standard_normal((2, 3))
    parts = [(moments(rng.standard_normal((2, n, 4)), rng.standard_normal((2, n, 3))),) * 2
             for n in (30, 90)]  # fmt: skip
    rows = joined(parts, [bias, bias], matrix, kind)
    errors = [squared_error(part, matrix, bias).sum() for part, _ in parts]
    assert rows.error == pytest.approx(errors[0] / 4 + errors[1] * 3 / 4)
