"""Bounds carried through a graph: intervals forwards, linear functions backwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.ball import Ball
from marginkit.bounds.graph import Graph, nonlinear
from marginkit.bounds.modules import Op
from marginkit.bounds.ops import Affine, Interval, Lines, Nonlinear
from marginkit.bounds.relaxations import inner

Tightness = Literal["ibp", "crown-ibp", "crown"]


@dataclass(frozen=True)
class Propagation:
    """How bounds are found.

    Attributes:
        tightness: `ibp` carries intervals to the last affine operations (Gowal et al., arXiv 1810.12715);
            `crown-ibp` takes lines over those intervals and goes back to the input from the scores (Zhang
            et al., arXiv 1906.06316); `crown` goes back from every nonlinear operation (arXiv 1811.00866).
        same: parallel lines.
        entries: at most so many coefficients at a time, which bounds the memory.
    """

    tightness: Tightness
    same: bool = False
    entries: int = 2**22

    def __call__(
        self, graph: Graph, ball: Ball, targets: Float[Tensor, "n rows classes"]
    ) -> Float[Tensor, "n rows"]:
        """Lower bounds of the scores' linear functions within the ball."""
        known = _Known(graph, ball)
        tighten = [False] * len(graph.nodes)
        for node in graph.nodes:
            if nonlinear(node):
                source = graph.nodes[node.inputs[0]]
                inexact = source.mixes == 2 or ball.norm.p != torch.inf
                goes_back = source.affine or (self.tightness == "crown" and not nonlinear(source))
                tighten[node.inputs[0]] = inexact and goes_back
        last = max((i for i, node in enumerate(graph.nodes) if nonlinear(node)), default=0)
        for i, node in enumerate(graph.nodes[: last + 1]):
            known.intervals.append(known.forward(i))
            if tighten[i]:
                known.intervals[i] = self._tightened(known, i)
            if nonlinear(node):
                known.lines[i] = node.op.lines(*known.intervals[node.inputs[0]], self.same)
        return known.lowest(len(graph.nodes) - 1, targets, stop=self.tightness == "ibp")

    def _tightened(self, known: _Known, i: int) -> Interval:
        """The interval met with the one that linear functions give, wherever that can matter."""
        low, high = (end.flatten(1) for end in known.intervals[i])
        users = [node.op for node in known.graph.nodes if i in node.inputs]
        matters = low < high
        if all(getattr(op, "piecewise", False) for op in users):
            matters = (low < 0) & (high > 0)
        for chosen in self._chunks(known, matters):
            rows = torch.zeros(*chosen.shape, low.shape[1], dtype=low.dtype, device=low.device)
            rows.scatter_(2, chosen.unsqueeze(2), 1)
            rows = rows.view(*chosen.shape, *known.graph.nodes[i].shape)
            least = known.lowest(i, rows, False)
            most = -known.lowest(i, -rows, False)
            low = low.scatter(1, chosen, torch.maximum(low.gather(1, chosen), least))
            high = high.scatter(1, chosen, torch.minimum(high.gather(1, chosen), most))
        shape = known.intervals[i][0].shape
        return torch.minimum(low, high).view(shape), torch.maximum(low, high).view(shape)

    def _chunks(self, known: _Known, matters: Tensor) -> Iterator[Tensor]:
        """Positions [n, k] of what matters, a few at a time; a sample with fewer repeats others of its own."""
        most = int(matters.sum(1).amax()) if matters.numel() else 0
        order = matters.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most]
        widest = max(prod(node.shape) for node in known.graph.nodes)
        return iter(order.split(max(1, self.entries // (widest * len(matters))), dim=1))


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of a graph's nodes so far."""

    graph: Graph
    ball: Ball
    intervals: list[Interval] = field(default_factory=list)
    lines: dict[int, Lines] = field(default_factory=dict)

    def forward(self, i: int) -> Interval:
        """The interval rule of node i."""
        node = self.graph.nodes[i]
        if node.op is None:
            return self.ball.interval()
        return node.op.interval(*(self.intervals[j] for j in node.inputs))

    def lowest(self, i: int, a: Tensor, stop: bool) -> Float[Tensor, "n rows"]:
        """A lower bound of linear functions [b, rows, *shape] of node i; b = 1 where all samples share them.

        Args:
            i: the node.
            a: coefficients.
            stop: at nonlinear operations, and take their intervals.
        """
        pending, total = {i: a}, a.new_zeros(1, a.shape[1])
        for j in range(i, 0, -1):
            if j not in pending:
                continue
            a, node = pending.pop(j), self.graph.nodes[j]
            if j in self.lines and stop:
                total = total + _over_interval(a, self.intervals[j])
            elif j in self.lines:
                back, offset = self.lines[j].backward(a)
                total = total + offset
                _add(pending, node.inputs[0], back)
            else:
                shapes = [self.graph.nodes[k].shape for k in node.inputs]
                constant = node.op(*(a.new_zeros(1, *shape) for shape in shapes))
                total = total + inner(a, constant)
                for k, part in zip(node.inputs, node.op.transpose(a.flatten(0, 1), shapes), strict=True):
                    _add(pending, k, part.unflatten(0, a.shape[:2]))
        if 0 in pending:
            total = total + self.ball.lowest(pending[0])
        return total.expand(len(self.ball.x), -1)


def _add(pending: dict[int, Tensor], k: int, a: Tensor) -> None:
    pending[k] = pending[k] + a if k in pending else a


def _over_interval(a: Tensor, interval: Interval) -> Tensor:
    low, high = interval
    return inner(a.clamp(min=0), low) + inner(a.clamp(max=0), high)
