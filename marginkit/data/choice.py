"""Which samples stand for a data set: evenly over its classes, the same whatever model they are for."""

from __future__ import annotations

import numpy as np

from marginkit.data.dataset import Data


def chosen(data: Data, count: int, seed: int) -> np.ndarray:
    """The positions of so many samples, in order, spread over the classes as evenly as there are samples.

    Each class is shuffled by the seed and gives one sample a round; the order of the classes within a round
    is shuffled too. So fewer samples are always a part of more.

    Args:
        data: whose labels count.
        count: how many samples; all, where there are no more.
        seed: of the shuffles.
    """
    random = np.random.default_rng([seed, 2])
    labels = data.labels
    turn = np.empty(len(labels), np.int64)  # the round in which each sample is taken
    place = np.empty(len(labels), np.int64)
    present = random.permutation(np.unique(labels))
    for i, label in enumerate(present):
        rows = random.permutation(np.flatnonzero(labels == label))
        turn[rows], place[rows] = np.arange(len(rows)), i
    return np.sort(np.lexsort((place, turn))[:count])
