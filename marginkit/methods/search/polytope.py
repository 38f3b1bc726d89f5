"""The shortest displacement within a polytope, and multipliers that prove it the shortest."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy import optimize

from marginkit.norms import L1, L2, Norm

CUTS, SIDES, ROUNDS = 16, 64, 50  # rows, and sides of the box, taken in at a time, and how often
TOLERANCE, ROUNDING = 1e-9, 1e-6  # of what is taken in, and of what a solver leaves
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
        to its limit gives None and multipliers as far as it got. Few rows bind at the shortest point, so
        they are taken in as they are violated.

        Args:
            norm: of the point.
            seconds: at most, beside the limits of iterations.
        """
        multiplier, taken = np.zeros(len(self.level)), np.array([0])
        if not all(np.isfinite(part).all() for part in (self.normal, self.level)):
            return None, multiplier
        left = min(seconds, SECONDS)
        end = time.monotonic() + left
        for _ in range(ROUNDS):
            normal, level = self._rows(taken)
            if norm is L2:
                point, weights = _least_distance(normal, level)
            else:
                point, weights = _least_linear(norm, normal, level, (self.low, self.high), left)
            mine = taken < len(multiplier)
            multiplier[:] = 0
            np.add.at(multiplier, taken[mine], weights[mine])
            if point is None:
                return None, multiplier
            more, worst = self._violated(point, taken)
            if not len(more):
                return (point if worst <= ROUNDING * _size(point) else None), multiplier
            left = end - time.monotonic()
            if left < 0:
                break
            taken = np.r_[taken, more]
        return None, multiplier

    def _rows(self, taken: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Normals and levels at these positions: rows, then the box's low sides, then its high ones."""
        count, f = self.normal.shape
        side = np.maximum(taken - count, 0)
        sides, level = np.eye(f)[side % f], np.r_[self.low, -self.high][side]
        sides[side >= f] *= -1
        mine = taken < count
        row = np.where(mine, taken, 0)
        return np.where(mine[:, None], self.normal[row], sides), np.where(mine, self.level[row], level)

    def _violated(self, point: np.ndarray, taken: np.ndarray) -> tuple[np.ndarray, float]:
        """Positions of the rows and sides that the point violates most and that are not taken yet.

        Also by how much it violates any.
        """
        rows = self.level - self.normal @ point
        short = np.r_[rows, self.low - point, point - self.high]
        worst = float(short.max())
        short[taken] = 0
        found = []
        for part, most in ((np.arange(len(rows)), CUTS), (np.arange(len(rows), len(short)), SIDES)):
            first = part[np.argsort(-short[part])[:most]]
            found.append(first[short[first] > TOLERANCE * _size(point)])
        return np.concatenate(found), worst


def _size(point: np.ndarray) -> float:
    return 1 + float(np.abs(point).max())


def _least_linear(
    norm: Norm, normal: np.ndarray, level: np.ndarray, box: tuple[np.ndarray, np.ndarray], seconds: float
) -> tuple[np.ndarray | None, np.ndarray]:
    """The z of least L1 or Linf length with normal z >= level, and multipliers of the rows.

    The direction z / |z| of largest 1 / |z|, a linear programme. Of the box, only the sides at 0 count.
    """
    count, f = normal.shape
    up, down = (box[1] > 0).astype(float), (box[0] < 0).astype(float)
    rows, limit = np.c_[-normal, level], np.zeros(count)
    low, high = -down, up
    if norm is L1:
        rows = np.vstack([np.c_[-normal, normal, level], np.r_[np.ones(2 * f), 0]])
        limit, low, high = np.r_[limit, 1], np.zeros(2 * f), np.r_[up, down]
    bounds = np.c_[np.r_[low, 0], np.r_[high, np.inf]]
    found = _linear_programme(np.r_[np.zeros(len(low)), -1], rows, limit, bounds, seconds)
    if found.x is None:
        return (np.zeros(f) if found.status == UNBOUNDED else None), np.zeros(count)
    multiplier = -found.ineqlin.marginals[:count].clip(max=0)
    moves, inverse = found.x[:-1], found.x[-1]
    if inverse <= 1e-12:
        return None, multiplier
    return (moves[:f] - moves[f:] if norm is L1 else moves) / inverse, multiplier


def _linear_programme(
    cost: np.ndarray, rows: np.ndarray, most: np.ndarray, bounds: np.ndarray, seconds: float
) -> Any:
    """The first solver's answer that is one: a solution, or that there is none; else the last one's."""
    for method, iterations in SOLVERS:
        options = {"maxiter": iterations, "time_limit": seconds}
        solve: Any = optimize.linprog
        found = solve(cost, rows, most, bounds=bounds, method=method, options=options)
        if found.status not in GIVEN_UP:
            break
    return found


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
    try:  # of the triangle, the same multipliers: rows are few, and features many
        triangle: Any = np.linalg.qr(np.c_[system, target], mode="r")
        multiplier, _ = optimize.nnls(triangle[:, :-1], triangle[:, -1])
    except RuntimeError:
        return None, np.zeros(len(level))
    rest = system @ multiplier - target
    return (None if np.linalg.norm(rest) < 1e-10 else -size * rest[:-1] / rest[-1]), multiplier / scale
