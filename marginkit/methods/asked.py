"""What is asked of every sample of a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from torch import nn

from marginkit import defaults
from marginkit.data.dataset import Bounds
from marginkit.errors import UsageError
from marginkit.layers import GROUPS, find_stages, resolve_layers
from marginkit.methods.constraints import FREE, Limits
from marginkit.norms import DISTANCES, Vectors
from marginkit.types import Method, Threat


@dataclass(frozen=True)
class Asked:
    """Every method in every norm, within the same limits.

    Attributes:
        methods: by the name their columns have.
        norms: names from DISTANCES.
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
            if norm not in DISTANCES:
                raise UsageError(f"unknown norm {norm!r}; choose from {', '.join(DISTANCES)}")

    def resolved(self, model: nn.Module, x: Vectors) -> Asked:
        """With the model's own names of layers, found by a look at it with a few inputs x."""
        methods = {
            name: replace(method, layers=resolve_layers(model, layers, x))  # type: ignore[type-var]
            if (layers := _layers(method))
            else method
            for name, method in self.methods.items()
        }
        return replace(self, methods=methods, search_at=resolve_layers(model, self.search_at, x))

    def left_out(self, model: nn.Module, x: Vectors) -> str | None:
        """A remark on the stages that the default layers leave out, where they are asked for."""
        layers = [layer for method in self.methods.values() for layer in _layers(method)]
        asked = any(layer in GROUPS for layer in (*layers, *self.search_at))
        return find_stages(model, x).remark() if asked else None

    def threat(self, norm: str) -> Threat:
        """What may be done to an input, in one of the norms."""
        return Threat(DISTANCES[norm], *self.bounds, self.limits.mask, self.limits.levels)


def _layers(method: Method) -> tuple[str, ...]:
    """The layers that a method is asked to look at; none where it has no such option."""
    options = {field.name for field in fields(method)}  # type: ignore[arg-type]
    return tuple(getattr(method, "layers", ())) if "layers" in options else ()
