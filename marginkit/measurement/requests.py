"""What is asked of each sample: a method, in a norm, at a layer; and the columns that answer it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from torch import nn

from marginkit.activations import resolve_layers
from marginkit.kinds import INPUT, Kind, Status
from marginkit.table.table import Column
from marginkit.types import Method, Threat

NO_TIME = "the method's time limit was reached before every sample was begun"


@dataclass(frozen=True)
class Request:
    """One method in one norm at one layer.

    Attributes:
        name: of the columns.
        method: with its options.
        threat: norm, box, mask and grid.
        layer: where it searches.
        places: the layers, or ends, that it answers for: a column each.
    """

    name: str
    method: Method
    threat: Threat
    layer: str
    places: tuple[str, ...]

    @property
    def options(self) -> dict[str, Any]:
        """The method's, as columns record them; each column says its own layer."""
        found = asdict(self.method)  # type: ignore[call-overload]
        found.pop("layers", None)
        return dict(found)

    @property
    def searches(self) -> bool:
        """Whether there is a witness of an answer in the model's own inputs."""
        return self.method.kind in (Kind.UPPER, Kind.EXACT) and self.layer == INPUT

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [column.name for column in self.blank(0, Status.OK)]

    def end(self, place: str) -> str:
        """The end that a place is; empty where it is a layer."""
        return place if self.method.kind is Kind.EXACT else ""

    def blank(
        self, n: int, status: Status, note: str = "", shape: tuple[int, ...] | None = None
    ) -> list[Column]:
        """Columns that say nothing of n samples, and why; with witnesses where their shape is given."""
        return [self._blank(place, n, status, note, shape) for place in self.places]

    def _blank(self, place: str, n: int, status: Status, note: str, shape: tuple[int, ...] | None) -> Column:
        kind = self.method.kind
        nothing = 0.0 if kind in (Kind.LOWER, Kind.SMOOTHED) or place == "lower" else np.inf
        keeps = shape is not None and self.searches and place != "lower"
        end = self.end(place)
        return Column(
            self.name,
            self.threat.norm.name,
            self.layer if end else place,
            kind,
            self.options,
            distance=np.full(n, np.nan if kind is Kind.ESTIMATE else nothing),
            status=np.full(n, int(status)),
            rival=np.full(n, -1),
            witness=np.full((n, *shape), np.nan, np.float32) if keeps and shape is not None else None,
            note=note,
            end=end,
        )


def requests(
    model: nn.Module,
    methods: Mapping[str, Method],
    threats: Sequence[Threat],
    search_at: Sequence[str],
    subspace: bool,
) -> list[Request]:
    """Every method in every norm; searches at every layer of `search_at`, the others at the input."""
    found = []
    for name, method in methods.items():
        for threat in threats:
            for layer in search_at if method.kind is Kind.UPPER else (INPUT,):
                places = _places(model, method, layer, subspace)
                found.append(Request(name, method, threat, layer, places))
    return found


def _places(model: nn.Module, method: Method, layer: str, subspace: bool) -> tuple[str, ...]:
    if method.kind is Kind.EXACT:
        return ("lower", "upper")
    if method.kind is Kind.ESTIMATE and not subspace:
        return resolve_layers(model, getattr(method, "layers", (INPUT,)))
    return (layer,)


def unfinished(column: Column) -> np.ndarray:
    """The samples that another run may yet answer: the method failed, or its time was up before them."""
    left = (column.status == Status.TIMEOUT) & (column.rival < 0) & bool(column.note)
    return np.asarray(left | (column.status == Status.FAILED))
