"""Intervals of a large network's units around the samples of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import torch
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, nonlinear
from marginkit.bounds.graph.ops import Convolution, Dense, Interval, TransposedConvolution
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.bounds.linear.forwards import Linearised
from marginkit.types import Threat

MANY = 2**16  # units: lines back to the input from all that intervals leave undecided would take minutes
WORK = 2**39  # multiplications: around a sample of more, one linearisation does


def large(graph: Graph) -> bool:
    """Whether units are too many for lines back from each; all rectifiers, or max-pooling made of them."""
    units = [node for node in graph.nodes if nonlinear(node.op)]
    rectified = all(isinstance(node.op, Rectifier | MaxPool) for node in units)
    return rectified and sum(prod(node.shape) for node in units) > MANY


def affordable(graph: Graph) -> bool:
    """Whether the network can be passed through as often as its input has entries."""
    work = 0
    for node in graph.nodes:
        if isinstance(node.op, Dense | Convolution | TransposedConvolution):
            work += node.op.weight[0].numel() * prod(node.shape)
    return work * prod(graph.nodes[0].shape) <= WORK


@dataclass(frozen=True, eq=False)
class Surroundings:
    """A graph around each sample of a batch.

    Attributes:
        each: of one sample.
    """

    each: Sequence[Linearised]

    @staticmethod
    def of(graph: Graph, x: Tensor, threat: Threat) -> Surroundings:
        """Of samples [n, *d] and a graph without max-pooling; nothing is computed yet."""
        found = []
        for i in range(len(x)):
            row = x[i : i + 1]
            found.append(Linearised(graph, row, threat.norm, *threat.room(row)))
        return Surroundings(found)

    @cached_property
    def farthest(self) -> Tensor:
        """No larger radius is tried [n]."""
        return torch.stack([one.x.new_tensor(one.farthest) for one in self.each])

    def intervals(self, samples: Tensor, radius: Tensor) -> tuple[Tensor, dict[int, Interval]]:
        """The positions among `samples` of balls in which few units bend, and these units' intervals."""
        found = dict[int, dict[int, Interval]]()
        for k, (i, r) in enumerate(zip(samples.tolist(), radius.tolist(), strict=True)):
            if (intervals := self.each[i].intervals(r)) is not None:
                found[k] = intervals
        near = torch.tensor(list(found), dtype=torch.long, device=samples.device)
        together = dict[int, Interval]()
        for j in self.each[0].rectifiers if found else ():
            low, high = zip(*(intervals[self.each[0].source(j)] for intervals in found.values()), strict=True)
            together[self.each[0].source(j)] = torch.cat(low), torch.cat(high)
        return near, together
