"""A search for adversarial inputs that goes along with the bounds of a ball's parts."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.bounds.graph.graph import Graph, rounded
from marginkit.logits import crossed
from marginkit.methods.search.hopping import Hopping
from marginkit.types import Threat

EDGE = 1e-6  # of the radius, that searches in float32 keep off its sphere


@dataclass(frozen=True, eq=False)
class Sample:
    """One sample of a model, and what may be done to it.

    Attributes:
        model: in float64.
        graph: the model as operations.
        x: the sample [1, *d].
        y: its label [1].
        threat: norm, box and mask.
    """

    model: nn.Module
    graph: Graph
    x: Tensor
    y: Tensor
    threat: Threat


@dataclass(frozen=True, eq=False)
class Attack:
    """Looks for an adversarial input of one sample, from points where its bounds are worst as well.

    (Bounds lead where gradients at the input do not: Zhang et al., arXiv 2206.03727, ICML 2022.)
    """

    sample: Sample
    rival: Tensor
    hopping: Hopping

    @staticmethod
    def of(sample: Sample, radius: float, rival: Tensor) -> Attack:
        """With a search in float32."""
        graph, inside = rounded(sample.graph, torch.float32), radius * (1 - EDGE)
        return Attack(sample, rival, Hopping(graph, sample.x.float(), sample.y, sample.threat, inside))

    def __call__(self, points: Tensor, rival: Tensor, open_: Tensor) -> Tensor | None:
        """An adversarial input [1, *d] within the radius, or None.

        Args:
            points: of parts, the worst first.
            rival: of these parts, by position.
            open_: rivals of all parts that are left, by position.
        """
        found = self.hopping.round(self.rival[open_], points.float(), self.rival[rival]).double()
        model, x, y, threat = self.sample.model, self.sample.x, self.sample.y, self.sample.threat
        radius, sides = x.new_tensor([self.hopping.radius]), threat.room(x)
        with evaluating(model):
            for i in range(len(found)):
                near = found[i : i + 1]
                point = threat.clip(x, x + threat.norm.project(near - x, radius, *sides))
                if bool(crossed(model(point), y)):
                    return point
        return None

    def alone(self, deadline: float) -> Tensor | None:
        """The same by `time.monotonic` at the latest (and a round), without points that bounds lead to."""
        none, everyone = torch.zeros_like(self.rival[:0]), torch.arange(len(self.rival))
        found = None
        while found is None and time.monotonic() < deadline:
            found = self(self.sample.x[:0], none, everyone)
        return found
