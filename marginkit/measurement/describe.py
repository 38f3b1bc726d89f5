"""What a table says of itself: what was measured, what the numbers depend on, what follows from them."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
from torch import nn

from marginkit.data.dataset import Data
from marginkit.events import OnEvent, tracked, unheard
from marginkit.kinds import Kind
from marginkit.measurement.activation_variance import activation_variance
from marginkit.measurement.loader import Loader
from marginkit.measurement.plan import Plan
from marginkit.measurement.settings import Measurement
from marginkit.reliability.examine import examine
from marginkit.table.attacks import record
from marginkit.table.provenance import Provenance, plain
from marginkit.table.records import Meta
from marginkit.table.table import MarginTable
from marginkit.table.verdicts import combined
from marginkit.versions import versions

SCALED_BY = 1000  # samples whose activations tell a layer's scale


def provenance(data: Data, measurement: Measurement) -> Provenance:
    """What is known before anything is measured: which model, data set and threat."""
    asked, dtype, shard = measurement.asked, measurement.execution.dtype, measurement.plan.shard
    found = plain(
        {
            **measurement.kept.meta,
            "dataset": data.about(),
            "threat": {"low": asked.bounds[0], "high": asked.bounds[1], **asked.limits.describe()},
            "batch_size": measurement.plan.batch_size,
            **({"dtype": dtype} if dtype else {}),
            **({"shard": shard} if shard[1] > 1 else {}),
        }
    )
    return Provenance.of(found)


def dependencies(about: Provenance, measurement: Measurement) -> Meta:
    """All that the numbers depend on: where it changed, nothing is resumed."""
    methods = {
        name: {"method": type(method).__name__, **asdict(method)}  # type: ignore[call-overload]
        for name, method in measurement.asked.methods.items()
    }
    found: Meta = plain(
        {
            **about.identity(),
            "samples": measurement.plan.count,
            "methods": methods,
            "norms": measurement.asked.norms,
            "search_at": measurement.asked.search_at,
            "witnesses": measurement.kept.witnesses,
            "device": torch.device(measurement.execution.device).type,
            "versions": versions(),
        }
    )
    return found


def completed(before: Provenance, found: Meta) -> Provenance:
    """A table's provenance with what follows from its rows; of two runs' checks, those that doubt more."""
    return combined(before, before.updated(found))


@dataclass(frozen=True)
class Description:
    """What follows from a whole table: layers' scales, robust accuracies, whether it can be believed.

    Attributes:
        model: as proofs and estimates see it.
        loader: of the data it was measured on.
        measurement: what was measured, and on how many samples to check it.
        on_event: hears of the progress.
    """

    model: nn.Module
    loader: Loader
    measurement: Measurement
    on_event: OnEvent = unheard

    def of(self, table: MarginTable) -> Meta:
        """The part of the table's `meta` that its rows decide."""
        scales = {"activation_variance": self._scales(table)}
        return plain({**scales, **record(table), **self._verdicts(table)})  # type: ignore[no-any-return]

    def _scales(self, table: MarginTable) -> dict[str, float]:
        """The activations' variance at each layer that was estimated at."""
        layers = tuple(dict.fromkeys(c.layer for c in table.columns if c.kind is Kind.ESTIMATE))
        first = Plan(min(len(self.loader.data), SCALED_BY), self.measurement.plan.batch_size)
        batches = tracked(self.loader(first.groups.values()), "scales", len(first.groups), self.on_event)
        found = activation_variance(self.model, (x for _, x, _ in batches), layers, self.on_event)
        return {layer: value for layer, value in found.items() if math.isfinite(value)}

    def _verdicts(self, table: MarginTable) -> Meta:
        asked, samples = self.measurement.asked, self.measurement.kept.checks
        return examine(table, self.model, self.loader.data, asked, samples=samples, on_event=self.on_event)
