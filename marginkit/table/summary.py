"""Middles of distances that may be infinite, and the accuracy."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class Classified(Protocol):
    """What has labels and predictions."""

    @property
    def label(self) -> np.ndarray:
        """The classes."""

    @property
    def predicted(self) -> np.ndarray:
        """The model's."""


def mean(values: np.ndarray) -> float:
    """NaN of nothing, without a warning."""
    return float(values.mean()) if len(values) else np.nan


def median(values: np.ndarray) -> float:
    """The middle value; infinities are never averaged with anything but themselves."""
    if not len(values):
        return np.nan
    ordered = np.sort(values)  # np.median would subtract infinities
    middle = ordered[(len(ordered) - 1) // 2], ordered[len(ordered) // 2]
    return float(middle[0] if middle[0] == middle[1] else (middle[0] + middle[1]) / 2)


def accuracy(table: Classified, members: np.ndarray | slice = slice(None)) -> float:
    """The share of samples, all or these, that are classified as their label; NaN of none."""
    return mean(table.predicted[members] == table.label[members])
