"""The shortest displacement within a polytope, and multipliers that prove it the shortest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize, sparse

from marginkit.norms import L1, L2, Norm

CUTS, ROUNDS = 16, 50  # constraints that an L2 solve takes in at a time, and how often
# Of HiGHS, and at most so many iterations of each. Where many rows meet in one point its simplex method may
# go round in circles: some regions of convolutional networks need 30 iterations, others never end.
SOLVERS = (("highs-ds", 1000), ("highs-ipm", 500))
UNBOUNDED, GIVEN_UP = 3, (1, 4)  # statuses of SciPy's: no end; a limit, or trouble with numbers
SECONDS = 60.0  # of one solver: the last resort, so that no answer depends on the clock before it must


@dataclass(frozen=True)
class Region:
    """Of one sample: {z : normal z >= level, low <= z <= high}; the first row is the boundary to cross."""

    normal: Float[np.ndarray, "rows f"]
    level: Float[np.ndarray, "rows"]
    low: Float[np.ndarray, "f"]
    high: Float[np.ndarray, "f"]

    def shortest(self, norm: Norm) -> np.ndarray | None:
        """The point of least norm; None where there is none or the solver gives up."""
        return self.solved(norm)[0]

    def solved(self, norm: Norm, seconds: float = SECONDS) -> tuple[np.ndarray | None, np.ndarray]:
        """That point, and multipliers >= 0 of the rows.

        All points of the region satisfy (m normal) z >= m level for every m >= 0, so that half-space's
        distance is a bound, whatever the solver did; with these m it is the point's. A solver that has come
        to its limit gives None and multipliers as far as it got.

        Args:
            norm: of the point.
            seconds: at most, beside the limits of iterations.
        """
        if not all(np.isfinite(part).all() for part in (self.normal, self.level)):
            return None, np.zeros(len(self.level))
        seconds = min(seconds, SECONDS)
        return self._solved_l2(seconds) if norm is L2 else self._solved_linearly(norm, seconds)

    def _solved_linearly(self, norm: Norm, seconds: float) -> tuple[np.ndarray | None, np.ndarray]:
        """L1 and Linf: the direction z / |z| of largest 1 / |z|, a linear programme."""
        f = len(self.low)
        unit: Any = sparse.eye_array(f)
        total: Any = sparse.csr_array((0, f))
        low = -np.ones(f)
        if norm is L1:
            unit, total = sparse.hstack([unit, -unit]), sparse.csr_array(np.ones((1, 2 * f)))
            low = np.zeros(2 * f)
        above, below = (np.flatnonzero(np.isfinite(end)) for end in (self.high, self.low))
        rows: list[Any] = [
            _beside(-sparse.csr_array(self.normal) @ unit, self.level),
            _beside(unit.tocsr()[above], -self.high[above]),
            _beside(-unit.tocsr()[below], self.low[below]),
            _beside(total, np.zeros(total.shape[0])),
        ]
        limit = np.zeros(sum(part.shape[0] for part in rows))
        if norm is L1:
            limit[-1] = 1
        cost = np.r_[np.zeros(len(low)), -1]
        bounds = np.c_[np.r_[low, 0], np.r_[np.ones(len(low)), np.inf]]
        found = _linear_programme(cost, sparse.vstack(rows).tocsr(), limit, bounds, seconds)
        if found.x is None:
            return (np.zeros(f) if found.status == UNBOUNDED else None), np.zeros(len(self.level))
        multiplier = -found.ineqlin.marginals[: len(self.level)].clip(max=0)
        moves, inverse = found.x[:-1], found.x[-1]
        if inverse <= 1e-12:
            return None, multiplier
        return (moves[:f] - moves[f:] if norm is L1 else moves) / inverse, multiplier

    def _solved_l2(self, seconds: float) -> tuple[np.ndarray | None, np.ndarray]:
        """Lawson and Hanson's least distance programming, with rows taken in as they are violated."""
        end = time.monotonic() + seconds
        count, taken = len(self.level), np.array([0])
        normal, level = self.normal[:1], self.level[:1]
        multiplier = np.zeros(count)
        for _ in range(ROUNDS):
            point, weights = _least_distance(normal, level)
            mine = taken >= 0
            multiplier[:] = 0
            np.add.at(multiplier, taken[mine], weights[mine])
            if point is None:
                return None, multiplier
            at, rows, values = self._violated(point)
            if not len(values):
                return point, multiplier
            if time.monotonic() > end:
                break
            normal, level, taken = np.vstack([normal, rows]), np.r_[level, values], np.r_[taken, at]
        return None, multiplier

    def _violated(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions (-1 for the box), rows and levels."""
        tolerance = 1e-9 * (1 + np.abs(point).max())
        short = self.level - self.normal @ point
        worst = np.argsort(-short)[:CUTS]
        worst = worst[short[worst] > tolerance]
        outside = np.maximum(self.low - point, point - self.high)
        far = np.argsort(-outside)[:CUTS]
        far = far[outside[far] > tolerance]
        under = point[far] < self.low[far]
        sides = np.zeros((len(far), len(point)))
        sides[np.arange(len(far)), far] = np.where(under, 1, -1)
        levels = np.r_[self.level[worst], np.where(under, self.low[far], -self.high[far])]
        return np.r_[worst, np.full(len(far), -1)], np.vstack([self.normal[worst], sides]), levels


def _linear_programme(
    cost: np.ndarray, rows: Any, most: np.ndarray, bounds: np.ndarray, seconds: float
) -> Any:
    """The first solver's answer that is one: a solution, or that there is none; else the last one's."""
    for method, iterations in SOLVERS:
        options = {"maxiter": iterations, "time_limit": seconds}
        solve: Any = optimize.linprog
        found = solve(cost, rows, most, bounds=bounds, method=method, options=options)
        if found.status not in GIVEN_UP:
            break
    return found


def _beside(left: Any, last: np.ndarray) -> Any:
    """The sparse matrix and one more column."""
    return sparse.hstack([left, sparse.csr_array(last[:, None])])


def least_distance(normal: np.ndarray, level: np.ndarray) -> np.ndarray | None:
    """The z of least Euclidean length with normal z >= level; None where there is none.

    By non-negative least squares (Lawson and Hanson, Solving Least Squares Problems, ch. 23).
    """
    return _least_distance(normal, level)[0]


def _least_distance(normal: np.ndarray, level: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """The same, and multipliers of the rows."""
    scale = np.linalg.norm(normal, axis=1).clip(min=1e-30)
    size = np.abs(level / scale).max()
    if size == 0:
        return np.zeros(normal.shape[1]), np.zeros(len(level))
    system = np.vstack([(normal / scale[:, None]).T, level / scale / size])
    target = np.zeros(len(system))
    target[-1] = 1
    try:
        multiplier, residual = optimize.nnls(system, target)
    except RuntimeError:
        return None, np.zeros(len(level))
    rest = system @ multiplier - target
    return (None if residual < 1e-10 else -size * rest[:-1] / rest[-1]), multiplier / scale
