"""One layer refitted: several methods are tried, and held-out rows decide.

Nothing is taken on trust: the weights as they are, a new bias, a new scale and bias per output,
and a full refit at several ridges are compared on held-out rows, group by group, and the best
wins. When the weights as they are win, the refit is declined and says so with both errors. The
winner is then solved once more on all rows, held-out ones included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from onnxprune.solve.least_squares import correct_bias, rescale, ridge_regression
from onnxprune.solve.moments import Moments, merge, mixed, of_outputs, squared_error

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)
"""Shares of the mean input variance that are tried as ridges.

The large ones are for wide layers late in a network for large pictures: 500 of these make few
independent rows there, and what is wanted has the noise of all layers before in it. On an
EfficientNet-Lite0 with two thirds of its MACs they lower the divergence from 0.38 to 0.32."""

DENSE = tuple((ridge, share) for share in (0.1, 1.0, 10.0) for ridge in (1e-2, 1.0))
"""Ridges that are tried on rows among which others count, and how much, see :func:`refit`."""

Candidate = tuple[str, float] | tuple[str, float, float]
"""A method, its ridge, and how much rows of the dense model's own inputs count."""

_TINY = float(np.finfo(np.float64).tiny)
_EXACT = 1e-9
"""Relative errors up to this are rounding."""
_JUDGED = 64
"""Outputs of a masked layer that are tried at every ridge, at most."""


@dataclass(frozen=True, eq=False)
class Refit:
    """The result of one refit.

    Attributes:
        weight: ``[g, K, N]``.
        bias: ``[g, N]``.
        accepted: whether anything changed.
        methods: per group, what won: ``none``, ``bias``, ``scale``, ``lstsq`` or ``pcg``.
        ridges: ``[g]``, the ridge chosen where the method takes one, else 0.
        before, after: squared error on held-out rows over the variance of the targets there.
    """

    weight: Float
    bias: Float
    accepted: bool
    methods: tuple[str, ...]
    ridges: Float
    before: float
    after: float

    @property
    def method(self) -> str:
        """The method that won in most groups."""
        return max(set(self.methods), key=self.methods.count)

    @property
    def ridge(self) -> float:
        """The largest ridge of a group; infinite where one kept its weights but for their scale."""
        return float(self.ridges.max()) if self.ridges.all() else np.inf


def refit(
    train: Moments,
    holdout: Moments,
    weight: npt.NDArray[Any],
    bias: npt.NDArray[Any],
    *,
    free_bias: bool = True,
    ridges: tuple[float, ...] = RIDGES,
    dense: tuple[Moments, Moments] | None = None,
) -> tuple[Refit, Refit]:
    """The best of several refits of one layer by the error on held-out rows.

    What is wanted is hardly a function of what a layer reads in a pruned model: the errors of all
    layers before it are in the way, and few samples are soon fitted to these. In the dense model it
    is one, but for the inputs that are gone. Weights that are right for the dense model's inputs
    are thus known well from few samples, and rows of these may be mixed in: a pull towards such
    weights, strong in the directions that those inputs vary in.

    Args:
        train: moments of the rows that may be fitted to.
        holdout: moments of other rows, that decide.
        weight: ``[g, K, N]``, the weights as they are.
        bias: ``[g, N]``, the bias as it is.
        free_bias: whether the layer has a bias that may change.
        ridges: candidates, shares of the mean input variance.
        dense: moments of what the layer's inputs that are left are in the dense model, and of what
            it puts out there: of the same samples as ``train``, and as ``holdout``.

    Returns:
        The winner per group, solved on all rows; and solved on ``train`` alone, for what goes on
        from there to be judged by ``holdout``.
    """
    old = weight.astype(np.float64)
    fixed = None if free_bias else bias.astype(np.float64)
    offset = bias.astype(np.float64)
    tried: list[Candidate] = [("none", 0.0)]
    if free_bias:
        tried += [("bias", 0.0), ("scale", 0.0)]
    tried += [("lstsq", ridge) for ridge in sorted(ridges, reverse=True)]
    tried += [("lstsq", *each) for each in DENSE if dense is not None]

    def solve(rows: Moments, method: str, ridge: float, share: float = 0.0) -> tuple[Float, Float]:
        if method == "none":
            return old, offset
        if method == "bias":
            return old, correct_bias(rows, old)
        if method == "scale":
            return rescale(rows, old)
        if dense is not None and share:
            rows = mixed(rows, dense[0] if rows is train else merge(*dense), share)
        return ridge_regression(rows, old, ridge, fixed)

    judged = _judge(train, holdout, tried, solve)
    together, apart = (
        _settle(rows, tried, judged, solve) for rows in (merge(train, holdout), train)
    )
    return together, apart


def refit_masked(
    train: Moments,
    holdout: Moments,
    masked: Float,
    bias: npt.NDArray[Any],
    tried: Sequence[tuple[str, float]],
    solver: Callable[[Float, Float, float, slice | Index], Float],
    *,
    free_bias: bool,
) -> Refit:
    """The best refit of a layer with fixed zeros, by the error on held-out rows.

    A fit of every output at every ridge would cost several times what the one that wins does, so
    of many outputs some are tried, spread evenly over all; the error after is what it was before,
    times what became of theirs.

    Args:
        train: moments of the rows that may be fitted to.
        holdout: moments of other rows, that decide group by group.
        masked: ``[g, K, N]``, the weights as they are.
        bias: ``[g, N]``.
        tried: names of the solver's fits with their ridges.
        solver: weights ``[g, K, n]`` of some outputs from the second moments ``[g, K, K]`` and
            ``[g, K, n]`` of inputs, and of inputs and wanted outputs, at a ridge.
        free_bias: whether the layer has a bias that may change: then moments are about the mean.

    Returns:
        The winner per group among the weights as they are, the same with a new bias, and the fits.
    """
    plain = [("none", 0.0)] + ([("bias", 0.0)] if free_bias else [])
    count = masked.shape[2]
    some = np.linspace(0, count - 1, min(count, _JUDGED)).round().astype(np.int64)

    def solve(
        rows: Moments, method: str, ridge: float, outputs: slice | Index = some
    ) -> tuple[Float, Float]:
        here, old = masked[:, :, outputs], bias[:, outputs].astype(np.float64)
        if method == "none":
            return here, old
        if method == "bias":
            return here, correct_bias(rows, here)
        xx, xy = rows.xx, rows.xy
        if not free_bias:
            xx = xx + rows.mean_x[:, :, None] * rows.mean_x[:, None, :]
            xy = xy + rows.mean_x[:, :, None] * (rows.mean_y - old)[:, None, :]
        W = solver(xx, xy, ridge, outputs)
        return W, correct_bias(rows, W) if free_bias else old

    if count <= _JUDGED:
        return choose(train, holdout, [*plain, *tried], solve)
    options = [*plain, *tried]
    judged = _judge(of_outputs(train, some), of_outputs(holdout, some), options, solve)
    before = squared_error(holdout, masked, bias).sum(axis=1) / np.maximum(judged.errors[0], _TINY)
    judged = _Judged(judged.errors * before, holdout.variance)

    def whole(rows: Moments, method: str, ridge: float) -> tuple[Float, Float]:
        return solve(rows, method, ridge, slice(None))

    return _settle(merge(train, holdout), options, judged, whole)


@dataclass(frozen=True, eq=False)
class _Judged:
    """Errors on held-out rows, ``[tried, g]``, and the variance of the targets there."""

    errors: Float
    variance: float


def choose(
    train: Moments,
    holdout: Moments,
    tried: Sequence[Candidate],
    solve: Callable[..., tuple[Float, Float]],
) -> Refit:
    """Solve on ``train``, judge on ``holdout`` group by group, solve the winners on both together.

    Args:
        train: moments of the rows that may be fitted to.
        holdout: moments of other rows.
        tried: methods with their ridges; the first leaves everything as it is.
        solve: weights ``[g, K, N]`` and bias ``[g, N]`` from moments, and what a candidate is.

    Returns:
        The winners.
    """
    return _settle(merge(train, holdout), tried, _judge(train, holdout, tried, solve), solve)


def _judge(
    train: Moments,
    holdout: Moments,
    tried: Sequence[Candidate],
    solve: Callable[..., tuple[Float, Float]],
) -> _Judged:
    errors = np.stack(
        [squared_error(holdout, *solve(train, *each)).sum(axis=1) for each in tried]
    )  # [tried, g]
    # Where nothing is wrong but rounding there is nothing to repair.
    errors[0, errors[0] <= _EXACT * holdout.yy.sum(axis=1)] = 0.0
    return _Judged(errors, holdout.variance)


def _settle(
    final: Moments,
    tried: Sequence[Candidate],
    judged: _Judged,
    solve: Callable[..., tuple[Float, Float]],
) -> Refit:
    """The winner of every group, solved on ``final``."""
    best = np.argmin(judged.errors, axis=0)
    weight, bias = (part.copy() for part in solve(final, *tried[0]))
    for index in np.unique(best[best > 0]):
        mine = best == index
        solved, moved = solve(final, *tried[index])
        weight[mine], bias[mine] = solved[mine], moved[mine]
    return Refit(
        weight,
        bias,
        bool((best > 0).any()),
        tuple(tried[i][0] for i in best),
        np.array([tried[i][1] for i in best]),
        float(judged.errors[0].sum()) / judged.variance,
        float(judged.errors.min(axis=0).sum()) / judged.variance,
    )
