"""What a user may choose of a comparison."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Settings:
    """What a user may choose.

    Attributes:
        radii: for each norm, where to tell the robust accuracy; by default round numbers near the quartiles
            of the distances.
        taus: for each norm, where to cut distances; by default the smaller search limit where searches have
            one, else the largest distance found.
        ropes: for each norm, how large a difference of distances still counts as none.
        seed: of the bootstrap.
    """

    radii: Mapping[str, Sequence[float]] = field(default_factory=dict)
    taus: Mapping[str, float] = field(default_factory=dict)
    ropes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0
