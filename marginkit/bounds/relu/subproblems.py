"""What bounds a ReLU network's parts."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class UnitRelaxation:
    """On each hidden unit's interval: the upper line's slope and offset, and where it is undecided."""

    undecided: Tensor
    chord: Tensor
    offset: Tensor


@dataclass(frozen=True, eq=False)
class Hyperplanes:
    """Hyperplanes {z : normal z + level = 0}, one a part; its adversarial inputs lie where that is <= 0.

    Attributes:
        normal: [n, f].
        level: [n].
        point: each hyperplane's nearest [n, f].
    """

    normal: Tensor
    level: Tensor
    point: Tensor

    def __getitem__(self, rows: Tensor) -> Hyperplanes:
        return Hyperplanes(self.normal[rows], self.level[rows], self.point[rows])

    def where(self, chosen: Tensor, other: Hyperplanes) -> Hyperplanes:
        """These where chosen, else the others."""
        tall = chosen.unsqueeze(1)
        return Hyperplanes(
            torch.where(tall, self.normal, other.normal),
            torch.where(chosen, self.level, other.level),
            torch.where(tall, self.point, other.point),
        )
