"""Bounds carried through a graph: intervals forwards, linear functions backwards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, affine, nonlinear
from marginkit.bounds.graph.ops import Convolution, Interval, LinearBounds, Scale
from marginkit.bounds.graph.relaxations import LinearRelaxation, Rectifier, inner
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.ball_ascent import Enclosure, largest_bound
from marginkit.bounds.linear.carrying import met
from marginkit.bounds.linear.patches import Coefficients, single_entries
from marginkit.bounds.linear.undecided import Around
from marginkit.norms import column

CLIMB = 0.5  # of a slope in one step
NOISE = 1e-9  # of a sample's largest gradient: less has the sign of its rounding
Tightness = Literal["ibp", "crown-ibp", "crown"]
Given = Mapping[int, Interval] | None


@dataclass(frozen=True)
class Propagation:
    """How bounds are found.

    Attributes:
        tightness: `ibp` carries intervals to the last affine operations (Gowal et al., arXiv 1810.12715);
            `crown-ibp` takes lines over those intervals and goes back to the input from the scores (Zhang
            et al., arXiv 1906.06316); `crown` goes back from every nonlinear operation (arXiv 1811.00866).
        same: parallel lines.
        entries: at most so many coefficients at a time, which bounds the memory.
        ascents: steps of gradient ascent by which the lower lines of the way back from the scores are
            chosen, for each sample (after Xu et al., arXiv 2011.13824); hidden layers keep theirs.
        stretches: a Lipschitz constant of each node's own in L2, for balls in L2: then layers are bounded by
            ball and intervals together (`lagrangian.py`).
        climbs: steps of ascent for that bound.
    """

    tightness: Tightness
    same: bool = False
    entries: int = 2**22
    ascents: int = 0
    stretches: tuple[float, ...] | None = None
    climbs: int = 0

    def __call__(
        self,
        graph: Graph,
        ball: Ball,
        targets: Float[Tensor, "n rows classes"],
        given: Given = None,
    ) -> Float[Tensor, "n rows"]:
        """Lower bounds of the scores' linear functions within the ball.

        With intervals `given` that hold the values of some nodes no function goes back from hidden ones.
        """
        known = self._known(graph, ball, given)
        if self.stretches:
            return largest_bound(known.enclosure, targets, self.climbs)
        if self.ascents and self.tightness != "ibp" and not self.same:
            return self._ascended(known, targets)
        return known.lowest(len(graph.nodes) - 1, Coefficients(targets), stop=self.tightness == "ibp")

    def enclosure(self, graph: Graph, ball: Ball) -> Enclosure:
        """Where every node's values are; with `stretches`."""
        return self._known(graph, ball).enclosure

    def intervals(self, graph: Graph, ball: Ball) -> list[Interval]:
        """That hold the values of every node up to the last nonlinear one."""
        return self._known(graph, ball).intervals

    def _known(self, graph: Graph, ball: Ball, given: Given = None) -> _Known:
        known = _Known(Around(graph, ball, self.stretches, self.entries))
        tighten = [False] * len(graph.nodes)
        for node in graph.nodes:
            if nonlinear(node.op) and given is None:
                source = graph.nodes[node.inputs[0]]
                inexact = source.mixes == 2 or ball.norm.p != torch.inf
                goes_back = source.affine or (self.tightness == "crown" and not nonlinear(source.op))
                tighten[node.inputs[0]] = inexact and goes_back
        last = max((i for i, node in enumerate(graph.nodes) if nonlinear(node.op)), default=0)
        for i, node in enumerate(graph.nodes[: last + 1]):
            known.around.add(i)
            if tighten[i]:
                known.intervals[i] = self._tightened(known, i)
            if given is not None and i in given:
                (known.intervals[i],) = met([known.intervals[i]], [given[i]])
            if nonlinear(node.op):
                if self.stretches:
                    known.around.decide(i)
                known.lines[i] = node.op.lines(*known.intervals[node.inputs[0]], self.same)
        return known

    def _ascended(self, known: _Known, targets: Float[Tensor, "n rows classes"]) -> Float[Tensor, "n rows"]:
        """The best bounds met while unstable ReLUs' lower slopes climb; every slope allowed is a proof."""
        graph, last, wanted = known.graph, len(known.graph.nodes) - 1, Coefficients(targets)
        best = known.lowest(last, wanted)
        free: dict[int, tuple[LinearRelaxation, Interval, float]] = {}
        for j, lines in known.lines.items():
            op, source = graph.nodes[j].op, graph.nodes[j].inputs[0]
            if isinstance(op, Rectifier) and isinstance(lines, LinearRelaxation):
                free[j] = (lines, known.intervals[source], op.negative)
        for _ in range(self.ascents if free else 0):
            with torch.enable_grad():
                slopes = [lines.lower_slope.detach().requires_grad_() for lines, _, _ in free.values()]
                for (j, (lines, _, _)), slope in zip(free.items(), slopes, strict=True):
                    known.lines[j] = replace(lines, lower_slope=slope)
                climb = _clear(torch.autograd.grad(known.lowest(last, wanted).amin(1).sum(), slopes))
            for (j, (lines, interval, least)), up in zip(list(free.items()), climb, strict=True):
                known.lines[j] = moved = _climbed(lines, up, interval, least)
                free[j] = (moved, interval, least)
            best = torch.maximum(best, known.lowest(last, wanted))
        return best

    def _tightened(self, known: _Known, i: int) -> Interval:
        """The interval met with the one that linear functions give, where that can matter."""
        low, high = (end.reshape(len(end), -1) for end in known.intervals[i])
        matters = torch.full_like(low, self.same, dtype=torch.bool) | (low < high)
        if self.same:  # the published bound meets no intervals, and a tighter one can end up looser
            low, high = torch.full_like(low, -torch.inf), torch.full_like(high, torch.inf)
        elif self.tightness == "crown" and all(
            getattr(node.op, "piecewise", True) for node in known.graph.nodes
        ):  # a stable neuron's lines are exact, and nothing else is made of its interval
            matters = (low < 0) & (high > 0)
        shape = known.graph.nodes[i].shape
        widest = max(prod(node.shape) for node in known.graph.nodes)
        shared = known.graph.nodes[i].affine  # the linear functions
        quick = shared and self.stretches is None
        wanted = matters.any(0, keepdim=True) if shared else matters
        most_rows = max(1, self.entries // (widest * len(low)))
        for rows, chosen in single_entries(wanted, shape, most_rows, low.dtype):
            chosen = chosen.expand(len(low), -1)
            least = known.lowest(i, rows, quick=quick)
            most = -known.lowest(i, Coefficients(-rows.a, rows.patch), quick=quick)
            mine = matters.gather(1, chosen)  # not what another sample asked for
            low = low.scatter(1, chosen, torch.where(mine, least, -torch.inf).maximum(low.gather(1, chosen)))
            high = high.scatter(1, chosen, torch.where(mine, most, torch.inf).minimum(high.gather(1, chosen)))
        low, high = low.view(-1, *shape), high.view(-1, *shape)
        return torch.minimum(low, high), torch.maximum(low, high)


def _clear(climb: Sequence[Tensor]) -> list[Tensor]:
    """A gradient, zero where it has the sign of its rounding."""
    largest = torch.stack([up.reshape(len(up), -1).abs().amax(1) for up in climb]).amax(0)
    return [torch.where(up.abs() > NOISE * column(largest, up), up, 0) for up in climb]


def _climbed(lines: LinearRelaxation, up: Tensor, interval: Interval, least: float) -> LinearRelaxation:
    """Lower slopes a step up the gradient, between the two pieces' own; stable neurons keep their line."""
    unstable = (interval[0] < 0) & (interval[1] > 0)
    moved = (lines.lower_slope + CLIMB * up.sign()).clamp(least, 1)
    return replace(lines, lower_slope=torch.where(unstable, moved, lines.lower_slope))


@dataclass(frozen=True, eq=False)
class _Known:
    """What is known of a graph's nodes so far."""

    around: Around
    lines: dict[int, LinearBounds] = field(default_factory=dict)
    constants: dict[int, Tensor] = field(default_factory=dict)

    @property
    def graph(self) -> Graph:
        """The operations."""
        return self.around.graph

    @property
    def ball(self) -> Ball:
        """Of inputs."""
        return self.around.ball

    @property
    def intervals(self) -> list[Interval]:
        """That hold the nodes' values."""
        return self.around.intervals

    @property
    def enclosure(self) -> Enclosure:
        """For bounds in L2."""
        a = self.around
        return Enclosure(a.graph, a.ball, a.centres, a.radii, a.intervals, a.secants)

    def lowest(
        self, i: int, wanted: Coefficients, stop: bool = False, quick: bool = False
    ) -> Float[Tensor, "n rows"]:
        """A lower bound of linear functions of node i.

        Args:
            i: the node.
            wanted: the linear functions.
            stop: at nonlinear operations, and take their intervals.
            quick: as in `Ball.concretize`.
        """
        pending, total = {i: wanted}, wanted.a.new_zeros(1, wanted.a.shape[1])

        def add(k: int, more: Coefficients) -> None:
            pending[k] = pending[k].plus(more, self.graph.nodes[k].shape) if k in pending else more

        for j in range(i, 0, -1):
            if j not in pending:
                continue
            c, node = pending.pop(j), self.graph.nodes[j]
            if j in self.lines and stop:
                total = total + _over_interval(c.whole(node.shape), self.intervals[j])
            elif j in self.lines:
                lines = self.lines[j]
                if isinstance(lines, LinearRelaxation):
                    back, offset = lines.part(c.of).backward(c.a)
                    add(node.inputs[0], Coefficients(back, c.patch))
                else:
                    back, offset = lines.backward(c.whole(node.shape))
                    add(node.inputs[0], Coefficients(back))
                total = total + offset
            else:
                total = total + inner(c.a, c.of(self._constant(j)))
                for k, part in zip(node.inputs, self._transposed(j, c), strict=True):
                    add(k, part)
        if 0 in pending:
            ball = self.ball.part(pending[0].of)
            total = total + ball.concretize(pending[0].a, quick)
        return total.expand(len(self.ball.x), -1)

    def _transposed(self, j: int, c: Coefficients) -> list[Coefficients]:
        node = self.graph.nodes[j]
        shapes = [self.graph.nodes[k].shape for k in node.inputs]
        if c.patch is not None and isinstance(node.op, Convolution):
            return [c.through(node.op, shapes[0])]
        if c.patch is not None and isinstance(node.op, Scale) and shapes[0] == node.shape:
            return [Coefficients(c.a * c.of(node.op.scale.expand(node.shape)), c.patch)]
        a = c.whole(node.shape)
        assert affine(node.op)
        back = node.op.transpose(a.flatten(0, 1), shapes)
        return [Coefficients(part.view(*a.shape[:2], *part.shape[1:])) for part in back]

    def _constant(self, j: int) -> Tensor:
        """What node j is at zero."""
        if j not in self.constants:
            node = self.graph.nodes[j]
            zeros = [self.ball.x.new_zeros(1, *self.graph.nodes[k].shape) for k in node.inputs]
            assert node.op is not None
            self.constants[j] = node.op(*zeros)
        return self.constants[j]


def _over_interval(a: Tensor, interval: Interval) -> Tensor:
    low, high = interval
    return inner(a.clamp(min=0), low) + inner(a.clamp(max=0), high)
