"""What a user may choose of a comparison."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from marginkit.errors import UsageError


@dataclass(frozen=True)
class Settings:
    """What a user may choose.

    Attributes:
        radii: for each norm, where to tell the robust accuracy; by default round numbers near the quartiles
            of the distances.
        taus: for each norm, where to cut distances at the input; by default the smaller search limit where
            searches have one, else the largest distance found.
        ropes: for each norm, how large a difference of distances at the input still counts as none.
        seed: of the bootstrap.
    """

    radii: Mapping[str, Sequence[float]] = field(default_factory=dict)
    taus: Mapping[str, float] = field(default_factory=dict)
    ropes: Mapping[str, float] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuses what is no distance."""
        for norm, radii in self.radii.items():
            if not radii:
                raise UsageError(f"radii of {norm}: none is given; expected one or more")
            _require(f"a radius of {norm}", radii, above=False)
        for norm, tau in self.taus.items():
            _require(f"tau of {norm}", [tau], above=True)
        for norm, rope in self.ropes.items():
            _require(f"rope of {norm}", [rope], above=False)

    def require_norms(self, there: Collection[str]) -> None:
        """Refuses a norm that the tables do not have, which would be passed over without a word."""
        for what, given in (("radii", self.radii), ("tau", self.taus), ("rope", self.ropes)):
            for norm in given:
                if norm not in there:
                    raise UsageError(
                        f"--{what} names the norm {norm!r}; the tables share distances at the input in"
                        f" {', '.join(sorted(there)) or 'none'}"
                    )


def _require(what: str, values: Sequence[float], above: bool) -> None:
    for value in values:
        if not (math.isfinite(value) and (value > 0 or (value == 0 and not above))):
            raise UsageError(f"{what} is {value:g}; expected a number {'above 0' if above else '0 or more'}")
