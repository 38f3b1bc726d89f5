"""The generalisation gap, predicted from margin distributions (Jiang et al. 2019, arXiv 1810.00113)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from marginkit.comparison.layers import signatures
from marginkit.errors import MarginkitError
from marginkit.table.table import MarginTable


@dataclass(frozen=True)
class GapPredictor:
    """A line through a pool of models: gap = features @ slope + offset.

    Attributes:
        norm, layers: of the distances that the features are made of.
        slope, offset: fitted.
        r2: share of the gaps' variance explained when each model is predicted from the others (at most 1,
            below 0 where guessing the mean is better).
    """

    norm: str
    layers: tuple[str, ...]
    slope: np.ndarray
    offset: float
    r2: float

    def __call__(self, table: MarginTable) -> float:
        """The predicted gap, training minus test accuracy, of a model measured on its training data."""
        return float(features(table, self.norm, self.layers) @ self.slope + self.offset)


def features(table: MarginTable, norm: str = "l2", layers: Sequence[str] | None = None) -> np.ndarray:
    """Logarithms of every layer's five fences, the paper's best features: [5 layers].

    Args:
        table: first-order distances of *training* samples, with the layers' activation variances.
        norm: of the distances; the paper's is l2.
        layers: which, in order; all by default.

    Raises:
        MarginkitError: a layer is missing, has no variance, or has no positive margin.
    """
    found = {s.layer: s for s in signatures(table) if s.norm == norm}
    chosen = tuple(found) if layers is None else tuple(layers)
    for layer in chosen or ("input",):
        if layer not in found or found[layer].variance is None:
            raise MarginkitError(
                f"the table has no normalised first_order.{norm} at {layer!r}: measure again"
            )
        if not found[layer].fences[0] > 0:
            raise MarginkitError(
                f"a correct sample has no positive margin at {layer!r}; the features are logarithms"
            )
    return np.log([value for layer in chosen for value in found[layer].fences])


def fit(
    tables: Sequence[MarginTable], gaps: Sequence[float], norm: str = "l2", ridge: float = 1e-3
) -> GapPredictor:
    """Fits the line to models whose gaps are known; nothing can be predicted from one model alone.

    Args:
        tables: one a model, measured on training data, all with the same layers.
        gaps: training accuracy minus test accuracy.
        norm: of the distances.
        ridge: penalty on the slope of standardised features; the paper fits without, on hundreds of models.

    Raises:
        MarginkitError: fewer than three models, or as `features`.
    """
    if len(tables) < 3 or len(tables) != len(gaps):
        raise MarginkitError(
            f"{len(tables)} models and {len(gaps)} gaps: give at least three of each, paired"
        )
    layers = tuple(s.layer for s in signatures(tables[0]) if s.norm == norm)
    x, y = np.stack([features(table, norm, layers) for table in tables]), np.asarray(gaps, float)
    slope, offset = _line(x, y, ridge)
    spread = float(((y - y.mean()) ** 2).sum())
    r2 = 1 - float(((y - left_out(x, y, ridge)) ** 2).sum()) / spread if spread else np.nan
    return GapPredictor(norm, layers, slope, offset, r2)


def left_out(x: np.ndarray, y: np.ndarray, ridge: float) -> np.ndarray:
    """Each entry of y [n] as the line through the others' rows of x [n, features] predicts it."""
    found = []
    for i in range(len(y)):
        rest = np.arange(len(y)) != i
        slope, offset = _line(x[rest], y[rest], ridge)
        found.append(x[i] @ slope + offset)
    return np.array(found)


def _line(x: np.ndarray, y: np.ndarray, ridge: float) -> tuple[np.ndarray, float]:
    scale = np.maximum(x.std(0), 1e-12)
    z = (x - x.mean(0)) / scale
    slope = np.linalg.solve(z.T @ z + ridge * len(y) * np.eye(z.shape[1]), z.T @ (y - y.mean())) / scale
    return slope, float(y.mean() - x.mean(0) @ slope)
