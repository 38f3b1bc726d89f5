"""What is asked of every sample of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from marginkit import defaults
from marginkit.data.dataset import Bounds
from marginkit.errors import UsageError
from marginkit.methods.constraints import FREE, Limits
from marginkit.norms import NORMS
from marginkit.types import Method, Threat


@dataclass(frozen=True)
class Asked:
    """Every method in every norm, within the same limits.

    Attributes:
        methods: by the name their columns have.
        norms: names from NORMS.
        bounds: the box inputs live in, in raw units; None for no bound.
        limits: a mask, a subspace or a grid.
        search_at: layers at which searches run, as in `resolve_layers`.
    """

    methods: Mapping[str, Method]
    norms: tuple[str, ...] = defaults.NORMS
    bounds: Bounds = defaults.BOUNDS
    limits: Limits = FREE
    search_at: tuple[str, ...] = defaults.SEARCH_AT

    def __post_init__(self) -> None:
        """Refuses unknown norms."""
        for norm in self.norms:
            if norm not in NORMS:
                raise UsageError(f"unknown norm {norm!r}; choose from {', '.join(NORMS)}")

    def threat(self, norm: str) -> Threat:
        """What may be done to an input, in one of the norms."""
        return Threat(NORMS[norm], *self.bounds, self.limits.mask, self.limits.levels)
