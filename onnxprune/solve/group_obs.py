"""Group OBS elimination: the order in which units are removed, and the error of every count.

Backward elimination by the optimal-brain-surgeon formula (Hassibi and Stork, 1993), carried from
weights to whole units and from one layer to all the layers that read the unit. With centred
moments ``H_c = E[x x^T] + lambda I`` of consumer ``c``, ``P_c = H_c^-1`` and ``W_c = P_c B_c``,
removing unit ``j`` and re-solving for everything that is left raises the squared error by exactly

    s_j = sum_c tr(W_c[j]^T (P_c[j, j])^-1 W_c[j]) / norm_c

so the cheapest unit goes, ``P`` and ``W`` are downdated, and so on. One sweep gives the error of
every count of kept units; any budget can be met from it later.

The downdates are kept as a thin factor ``P = P0 - U^T U`` that is multiplied out only now and
then, and the problem is set up anew from ``H`` when half of its rows have gone, which bounds both
the work (about ``K^3`` multiplications in matrix products) and the loss of digits. Only the lower
triangle of ``P`` is computed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import cho_factor, cho_solve, solve_triangular
from scipy.linalg.blas import dgemm, dsyrk
from scipy.linalg.lapack import dpotri

from onnxprune.solve.moments import require_finite, shrinkage

Float = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]

_PENDING = 64
"""Rows of downdates that wait before they are multiplied out."""

_DEAD = 1e-12
"""Inputs whose variance is below this share of the largest carry nothing: their mean is a bias."""


@dataclass(frozen=True, eq=False)
class Consumer:
    """One linear layer (or one group of a grouped convolution) that reads units.

    Attributes:
        xx: ``[K, K]``, covariance of its inputs; or ``[K]``, their variances, where they are taken
            for uncorrelated: no refit then makes up for what goes.
        weight: ``[K, N]``, what it multiplies them with now; the ridge pulls towards it.
        units: ``[u]``, the units it reads.
        blocks: ``[u, b]``, the inputs that belong to each of them; inputs in no block stay.
        norm: the variance that makes its error relative: that of its output summed over
            channels, or of the residual stream it is added to.
        xy: ``[K, N]``, covariance of inputs and wanted outputs; ``xx @ weight`` if None.
        problem: which group of its convolution it is.
        count: rows that the covariance is of, which is shrunk accordingly; 0 leaves it as it is.
    """

    xx: Float
    weight: npt.NDArray[Any]
    units: Index
    blocks: Index
    norm: float
    xy: Float | None = None
    problem: int = 0
    count: int = 0


@dataclass(frozen=True, eq=False)
class Elimination:
    """The outcome of one sweep.

    Attributes:
        order: ``[units]``, in the order of removal, cheapest first.
        error: ``[units + 1]``; ``error[k]`` is the rise of the relative squared error, summed
            over the consumers, when ``k`` units are kept and the consumers are refitted.
    """

    order: Index
    error: Float

    def kept(self, count: int) -> Index:
        """The ``count`` units that are removed last, ascending."""
        return np.sort(self.order[len(self.order) - count :])


class _Sweep:
    """The moving state of one consumer: ``P``, ``W`` and the diagonal blocks of ``P``."""

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        self._xx, self._share, self._added = consumer.xx, 0.0, 0.0
        if consumer.count:
            self._share, self._added = shrinkage(consumer.xx, consumer.count)
        self._penalty = 0.0
        whole = self._matrix()
        variance = np.diagonal(whole)
        self._penalty = penalty = ridge * float(variance.mean()) or 1.0
        alive = variance > _DEAD * max(float(variance.max()), np.finfo(np.float64).tiny)
        weight = np.where(alive[:, None], consumer.weight, 0.0).astype(np.float64)
        xy = whole @ weight if consumer.xy is None else consumer.xy
        wanted = xy + penalty * weight
        if wanted.shape[1] > wanted.shape[0]:
            # Costs depend on W W^T alone: a triangle stands for outputs that outnumber inputs.
            wanted = np.linalg.qr(wanted.T).R.T
        self._B = np.ascontiguousarray(wanted)
        self._blocks = consumer.blocks
        self._norm = consumer.norm
        self._place = {int(unit): at for at, unit in enumerate(consumer.units)}
        self._rows = np.ones(len(variance), dtype=bool)
        whole[np.diag_indices(len(whole))] += penalty
        self._set_up(whole)

    def _matrix(self, rows: Index | None = None) -> Float:
        """The covariance of some rows, shrunk and with the ridge: made when it is needed."""
        xx = self._xx if rows is None else self._xx[np.ix_(rows, rows)]
        out: Float = (1 - self._share) * xx
        at = np.diag_indices(len(out))
        out[at] += self._added
        out[at] += self._penalty
        return np.ascontiguousarray(out)

    def _set_up(self, matrix: Float) -> None:
        """Solve for the remaining rows from scratch; the matrix is used up."""
        rows = np.flatnonzero(self._rows)
        require_finite(matrix)
        factor = cho_factor(matrix.T, lower=True, overwrite_a=True)
        self._W = np.ascontiguousarray(cho_solve(factor, self._B[rows]))
        self._P, _ = dpotri(factor[0], lower=True, overwrite_c=True)
        where = np.zeros(len(self._rows), dtype=np.int64)
        where[rows] = np.arange(len(rows))
        self._at = where[self._blocks]
        down, across = self._at[:, :, None], self._at[:, None, :]
        self._D = self._P[np.maximum(down, across), np.minimum(down, across)]
        self._U = np.zeros((max(_PENDING, self._blocks.shape[1]), len(rows)))
        self._used = 0

    def holds(self, unit: int) -> bool:
        return unit in self._place

    def costs(self, units: Index) -> Float:
        """The error of removing each of ``units``, all read by this consumer."""
        at = np.array([self._place[int(u)] for u in units], dtype=np.int64)
        if self._at.shape[1] == 1:
            squares = np.einsum("kn,kn->k", self._W, self._W)
            cost: Float = squares[self._at[at, 0]] / self._D[at, 0, 0]
        else:
            W = self._W[self._at[at]]
            inner = np.linalg.solve(self._D[at], W @ W.transpose(0, 2, 1))
            cost = np.trace(inner, axis1=1, axis2=2)
        return cost / self._norm

    def remove(self, units: Sequence[int]) -> Float:
        """Remove ``units`` one after the other and return the error that each adds."""
        places = [self._place[u] for u in units]
        rows = self._at[places].ravel()
        if self._used + len(rows) > len(self._U):
            self._flush(len(rows))
        U = self._U[: self._used]
        across = self._inverse_rows(rows) - U[:, rows].T @ U
        lower = np.linalg.cholesky(across[:, rows])
        V = solve_triangular(lower, across, lower=True)
        Z = solve_triangular(lower, self._W[rows], lower=True)
        # W -= V' Z in one pass over W: this is where most of the time goes.
        dgemm(-1.0, Z.T, V, 1.0, self._W.T, overwrite_c=True)
        self._U[self._used : self._used + len(rows)] = V
        self._used += len(rows)
        blocks = V.T[self._at]
        self._D -= blocks @ blocks.transpose(0, 2, 1)
        self._rows[self._blocks[places].ravel()] = False
        cost: Float = (Z**2).reshape(len(places), -1).sum(axis=1) / self._norm
        if 0 < 2 * np.count_nonzero(self._rows) < len(self._W):
            self._P = np.zeros((0, 0))
            self._set_up(self._matrix(np.flatnonzero(self._rows)))
        return cost

    def _flush(self, wanted: int) -> None:
        self._P = dsyrk(
            -1.0, self._U[: self._used].T, beta=1.0, c=self._P, lower=True, overwrite_c=True
        )
        if wanted > len(self._U):
            self._U = np.zeros((wanted, len(self._P)))
        self._used = 0

    def _inverse_rows(self, rows: Index) -> Float:
        """``[rows, K]``: what is right of the diagonal is what lies below it."""
        result: Float = self._P[rows]
        for at, row in enumerate(rows):
            result[at, row:] = self._P[row:, row]
        return result


class _Apart:
    """The state of a consumer whose inputs count as uncorrelated: costs never change."""

    def __init__(self, consumer: Consumer) -> None:
        squares = np.einsum("kn,kn->k", consumer.weight, consumer.weight, dtype=np.float64)
        cost = (consumer.xx * squares)[consumer.blocks].sum(axis=1) / consumer.norm
        self._cost = {int(unit): float(c) for unit, c in zip(consumer.units, cost, strict=True)}

    def holds(self, unit: int) -> bool:
        return unit in self._cost

    def costs(self, units: Index) -> Float:
        return np.array([self._cost[int(unit)] for unit in units])

    def remove(self, units: Sequence[int]) -> Float:
        return self.costs(np.array(units, np.int64))


def eliminate(
    consumers: Iterable[Consumer], units: int, *, ridge: float = 1e-4, at_once: float = 0.0
) -> Elimination:
    """Remove units cheapest first until none is left.

    Args:
        consumers: every layer that reads the units; at least one, and none with zero ``norm``. Each
            is looked at once, so they need not be in memory together.
        units: how many units there are; those that no consumer reads cost nothing and go first.
        ridge: ``lambda`` as a share of the mean input variance of each consumer.
        at_once: share of the remaining units removed on one set of costs. The error stays exact
            for the order taken; only the order is less greedy.

    Returns:
        The order and the error of every count.
    """
    sweeps: list[_Sweep | _Apart] = []
    read: list[Index] = []
    for consumer in consumers:
        sweeps.append(_Apart(consumer) if consumer.xx.ndim == 1 else _Sweep(consumer, ridge))
        read.append(np.sort(np.asarray(consumer.units, dtype=np.int64)))
        del consumer  # its moments, while the next one is made
    remaining = np.ones(units, dtype=bool)
    order: list[int] = []
    error = [0.0]
    while remaining.any():
        cost = np.zeros(units)
        for sweep, mine in zip(sweeps, read, strict=True):
            now = mine[remaining[mine]]
            if len(now):
                cost[now] += sweep.costs(now)
        alive = np.flatnonzero(remaining)
        count = max(int(at_once * len(alive)), 1)
        chosen = alive[np.argsort(cost[alive], kind="stable")[:count]]
        paid = np.zeros(len(chosen))
        for sweep in sweeps:
            resident = [at for at, unit in enumerate(chosen) if sweep.holds(int(unit))]
            if resident:
                paid[resident] += sweep.remove([int(chosen[at]) for at in resident])
        remaining[chosen] = False
        order.extend(int(unit) for unit in chosen)
        error.extend(error[-1] + np.cumsum(np.maximum(paid, 0.0)))
    return Elimination(np.array(order, dtype=np.int64), np.array(error[::-1]))
