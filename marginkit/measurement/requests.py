"""What is asked of each sample: a method, in a norm, at a layer; and the columns that answer it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from marginkit.kinds import INPUT, Kind, Status
from marginkit.methods.asked import Asked
from marginkit.table.provenance import plain
from marginkit.table.table import Column
from marginkit.types import Bracket, Estimate, Method, Threat

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

    @cached_property
    def options(self) -> dict[str, Any]:
        """The method's, as columns record them; each column says its own layer."""
        found: dict[str, Any] = plain(asdict(self.method))  # type: ignore[call-overload]
        found.pop("layers", None)
        return found

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
        nothing = 0.0 if self._proved(place) else np.inf
        keeps = shape is not None and self.searches and place != "lower"
        end = self.end(place)
        return Column(
            self.name,
            self.threat.norm.name,
            self.layer if end else place,
            kind,
            self.options,
            distance=np.full(n, np.nan if kind is Kind.ESTIMATE else nothing),
            status=np.full(n, int(status), np.uint8),
            rival=np.full(n, -1, np.int32),
            witness=np.full((n, *shape), np.nan, np.float32) if keeps and shape is not None else None,
            note=note,
            end=end,
        )

    def columns(self, answer: Bracket | Estimate, restore: Callable[[Tensor], Tensor] | None) -> list[Column]:
        """The method's answer; with witnesses, in the model's own inputs, where `restore` is given."""
        if isinstance(answer, Estimate):
            return [self._estimate(answer, i) for i in range(len(answer.layers))]
        return [self._end(answer, place, restore) for place in self.places]

    def _estimate(self, answer: Estimate, i: int) -> Column:
        parts = (part[:, i] for part in (answer.distance, answer.status, answer.rival))
        return self._column(answer.layers[i], *parts)

    def _end(self, answer: Bracket, place: str, restore: Callable[[Tensor], Tensor] | None) -> Column:
        end = answer.lower if self._proved(place) else answer.upper
        found = replace(self._column(place, end, answer.status, answer.rival), note=answer.note)
        if restore is None or answer.witness is None or place == "lower":
            return found
        return replace(found, witness=array(restore(answer.witness)).astype(np.float32))

    def _column(self, place: str, distance: Tensor, status: Tensor, rival: Tensor) -> Column:
        end = self.end(place)
        return Column(
            self.name,
            self.threat.norm.name,
            self.layer if end else place,
            self.method.kind,
            self.options,
            distance=array(distance).astype(np.float64),
            status=array(status).astype(np.uint8),
            rival=array(rival).astype(np.int32),
            end=end,
        )

    def _proved(self, place: str) -> bool:
        """Whether the column there is a lower end."""
        return self.method.kind in (Kind.LOWER, Kind.SMOOTHED) or place == "lower"


def build_requests(asked: Asked) -> list[Request]:
    """Every method in every norm; searches at every layer of `search_at`, the others at the input.

    Layers have names here, as from `Asked.resolved`.
    """
    found = []
    for name, method in asked.methods.items():
        for norm in asked.norms:
            for layer in asked.search_at if method.kind is Kind.UPPER else (INPUT,):
                places = _places(method, layer, asked.limits.subspace is not None)
                found.append(Request(name, method, asked.threat(norm), layer, places))
    return found


def _places(method: Method, layer: str, subspace: bool) -> tuple[str, ...]:
    if method.kind is Kind.EXACT:
        return ("lower", "upper")
    if method.kind is Kind.ESTIMATE and not subspace:
        return tuple(getattr(method, "layers", (INPUT,)))
    return (layer,)


def array(tensor: Tensor) -> np.ndarray:
    """The tensor's values, for a table."""
    found: np.ndarray = tensor.detach().cpu().numpy()
    return found


def unfinished(column: Column) -> np.ndarray:
    """The samples that another run may yet answer: the method failed, or its time was up before them."""
    left = (column.status == Status.TIMEOUT) & (column.rival < 0) & bool(column.note)
    return np.asarray(left | (column.status == Status.FAILED))
