"""Slopes and multipliers of the bounds in L2, climbing together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, affine, nonlinear
from marginkit.bounds.graph.ops import Interval, LinearBounds
from marginkit.bounds.graph.relaxations import LinearRelaxation, inner
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.lagrangian import Layer, pieces
from marginkit.bounds.reach import Secants

SCALES = (0.0, *(4.0**k for k in range(-4, 2)))  # multipliers to begin with, in units of |c| / R
SMALLEST = 1e-4  # of a multiplier that climbs, as a share of the largest
SHARES = (0.7, 0.3)  # of a multiplier that climbs, of a layer's ball and of its undecided units'
ROUND = 20  # steps; then what is proved leaves
NOISE = 1e-3  # of a row's largest gradient at first: what is smaller, rounding too, moves little
RATE, DECAY = 0.1, 0.5  # of the ascent, and from round to round

ByLayer = dict[int, Tensor]
Start = Callable[[Layer, Tensor], Tensor]


def _largest(up: Tensor) -> Tensor:
    """Each row's largest entry, which the row's steps are measured against."""
    largest = up.reshape(*up.shape[:2], -1).abs().amax(2).clamp(min=SMALLEST**9)
    return largest.view(*largest.shape, *[1] * (up.ndim - 2))


def _crown(layer: Layer, c: Tensor) -> Tensor:
    lower, upper = layer.lines.lower_slope.unsqueeze(1), layer.lines.upper_slope.unsqueeze(1)
    return torch.where(c > 0, lower, upper)


def _tangent(layer: Layer, c: Tensor) -> Tensor:
    return layer.slope_at_centre.unsqueeze(1)


def _flat(layer: Layer, c: Tensor) -> Tensor:
    return torch.zeros_like(c)


@dataclass(frozen=True, eq=False)
class Enclosure:
    """A graph over a ball, and where every node's values are.

    Attributes:
        graph: to be bounded; the first entries of each of the others are its nodes'.
        ball: of its inputs.
        centres: the values at the ball's centre.
        radii: [n], of a ball around them.
        intervals: that hold them.
        secants: of activations whose undecided inputs have a ball of their own.
    """

    graph: Graph
    ball: Ball
    centres: Sequence[Tensor]
    radii: Sequence[Float[Tensor, "n"]]
    intervals: Sequence[Interval]
    secants: Mapping[int, Secants] = field(default_factory=dict)

    def part(self, samples: Tensor) -> Enclosure:
        """Of some samples."""
        ends = (None if end is None else end[samples] for end in (self.ball.low, self.ball.high))
        ball = Ball(self.ball.x[samples], self.ball.radius[samples], self.ball.norm, *ends)
        intervals = [(low[samples], high[samples]) for low, high in self.intervals]
        return Enclosure(
            self.graph, ball, [z[samples] for z in self.centres], [r[samples] for r in self.radii], intervals,
            {j: secants.part(samples) for j, secants in self.secants.items()},
        )  # fmt: skip

    @cached_property
    def lines(self) -> dict[int, LinearBounds]:
        """Of every nonlinear node."""
        nodes = enumerate(self.graph.nodes)
        found = {}
        for j, node in nodes:
            if nonlinear(node.op):
                found[j] = node.op.lines(*self.intervals[node.inputs[0]], False)
        return found

    @cached_property
    def layers(self) -> dict[int, Layer]:
        """The nonlinear nodes that work entry by entry."""
        found = {}
        for j, lines in self.lines.items():
            op, k = self.graph.nodes[j].op, self.graph.nodes[j].inputs[0]
            if isinstance(lines, LinearRelaxation) and nonlinear(op):
                radii, among = [self.radii[k]], None
                if j in self.secants:
                    radii, among = [*radii, self.secants[j].radius], self.secants[j].undecided
                parts = pieces(op, *self.intervals[k])
                found[j] = Layer(self.centres[k], torch.stack(radii, 1), parts, lines, among)
        return found

    def lowest(
        self, targets: Float[Tensor, "n rows _"], through: Callable[[int, Tensor], tuple[Tensor, Tensor]]
    ) -> Float[Tensor, "n rows"]:
        """A lower bound of linear functions of the last node; `through` gives a layer's g and offset."""
        nodes, total = self.graph.nodes, targets.new_zeros(targets.shape[:2])
        pending: dict[int, Tensor] = {len(nodes) - 1: targets}
        for j in range(len(nodes) - 1, 0, -1):
            if j not in pending:
                continue
            c, node = pending.pop(j), nodes[j]
            if nonlinear(node.op):
                back, offset = through(j, c) if j in self.layers else self.lines[j].backward(c)
                parts = [back]
            else:
                assert affine(node.op)
                shapes = [nodes[k].shape for k in node.inputs]
                offset = inner(c, node.op(*(c.new_zeros(1, *shape) for shape in shapes)))
                flat = node.op.transpose(c.flatten(0, 1), shapes)
                parts = [part.view(*c.shape[:2], *part.shape[1:]) for part in flat]
            total = total + offset
            for k, part in zip(node.inputs, parts, strict=True):
                pending[k] = pending[k] + part if k in pending else part
        return total + self.ball.concretize(pending[0]) if 0 in pending else total

    def bound(self, targets: Tensor, slopes: ByLayer, multipliers: ByLayer) -> Float[Tensor, "n rows"]:
        """With g = slope c."""

        def through(j: int, c: Tensor) -> tuple[Tensor, Tensor]:
            g = c * slopes[j]
            return g, self.layers[j].offset(c, g, multipliers[j])

        return self.lowest(targets, through)

    def begin(self, targets: Tensor, slope: Start, ball: int = -1) -> Bound:
        """With these slopes, and the best of SCALES for multipliers of one of each layer's balls."""
        slopes, multipliers = ByLayer(), ByLayer()

        def through(j: int, c: Tensor) -> tuple[Tensor, Tensor]:
            layer = self.layers[j]
            slopes[j] = slope(layer, c).expand_as(c)
            radius = layer.radius[:, ball, None].clamp(min=1e-30)
            unit = c.reshape(*c.shape[:2], -1).norm(dim=2) / radius
            one = torch.eye(layer.radius.shape[1], device=layer.radius.device).to(unit)[ball]

            def offset(multiplier: Tensor) -> Tensor:
                return layer.offset(c, c * slopes[j], multiplier.unsqueeze(2) * one)

            best, which = torch.stack([offset(scale * unit) for scale in SCALES]).max(0)
            multipliers[j] = (unit * unit.new_tensor(SCALES)[which]).unsqueeze(2) * one
            return c * slopes[j], best

        return Bound(self.lowest(targets, through), slopes, multipliers)


@dataclass(frozen=True, eq=False)
class Bound:
    """What slopes and multipliers prove.

    Attributes:
        value: [n, rows].
        slopes: [n, rows, *shape], by node.
        multipliers: [n, rows, balls], by node.
    """

    value: Float[Tensor, "n rows"]
    slopes: ByLayer
    multipliers: ByLayer

    def better(self, other: Bound) -> Bound:
        """For each row the one that proves more."""
        wins = other.value > self.value

        def chosen(mine: ByLayer, theirs: ByLayer) -> ByLayer:
            shaped = {j: wins.view(*wins.shape, *[1] * (mine[j].ndim - 2)) for j in mine}
            return {j: torch.where(shaped[j], theirs[j], mine[j]) for j in mine}

        value = torch.where(wins, other.value, self.value)
        return Bound(value, chosen(self.slopes, other.slopes), chosen(self.multipliers, other.multipliers))

    def part(self, samples: Tensor) -> Bound:
        """Of some samples."""
        slopes, multipliers = (
            {j: values[samples] for j, values in by.items()} for by in (self.slopes, self.multipliers)
        )
        return Bound(self.value[samples], slopes, multipliers)


def largest_bound(
    within: Enclosure, targets: Float[Tensor, "n rows _"], steps: int
) -> Float[Tensor, "n rows"]:
    """Lower bounds of linear functions of the scores, positive ones as soon as they are found.

    Args:
        within: a ball in L2.
        targets: the functions.
        steps: of ascent at most; a sample leaves when all its bounds are positive.
    """
    best = within.begin(targets, _crown).better(within.begin(targets, _tangent))
    # nothing climbs from where the inputs' coefficients are zero
    flat = within.begin(targets, _flat, 0).value
    best = Bound(torch.maximum(best.value, flat), best.slopes, best.multipliers)
    found = best.value.clone()
    samples = torch.arange(len(targets), device=targets.device)
    for k in range(0, steps if within.layers else 0, ROUND):
        still = (best.value <= 0).any(1).nonzero().squeeze(1)
        if not len(still):
            break
        samples, within, best = samples[still], within.part(still), best.part(still)
        best = _climbed(within, targets[samples], best, RATE * DECAY ** (k // ROUND))
        before = found[samples]
        found[samples] = torch.where(before > 0, before, best.value)  # whatever other rows still need
    return found


def _climbed(within: Enclosure, targets: Tensor, start: Bound, rate: float) -> Bound:
    """The best bound met on so many steps of Adam (Kingma and Ba, arXiv 1412.6980) up from another."""
    best, limits = start, {j: layer.steepest for j, layer in within.layers.items()}
    with torch.enable_grad():
        slopes = {j: values.clone().requires_grad_() for j, values in start.slopes.items()}
        logs = {}
        for j, values in start.multipliers.items():
            least = SMALLEST * values.amax((1, 2), keepdim=True).clamp(min=SMALLEST)
            if values.shape[2] > 1:
                values = values.sum(2, keepdim=True) * values.new_tensor(SHARES)
            logs[j] = values.maximum(least).log().requires_grad_()
        free = [*slopes.values(), *logs.values()]
        groups = [{"params": [*slopes.values()], "lr": rate}, {"params": [*logs.values()], "lr": 2 * rate}]
        adam = torch.optim.Adam(groups, betas=(0.9, 0.99), eps=NOISE, maximize=True)
        scales: list[Tensor] = []
        for _ in range(ROUND):
            multipliers = {j: log.exp() for j, log in logs.items()}
            value = within.bound(targets, slopes, multipliers)
            with torch.no_grad():
                here = Bound(
                    value.detach(),
                    {j: s.detach().clone() for j, s in slopes.items()},
                    {j: m.detach() for j, m in multipliers.items()},
                )
                best = best.better(here)
            climbs = torch.autograd.grad(value.sum(), free)
            scales = scales or [_largest(up) for up in climbs]
            for leaf, up, scale in zip(free, climbs, scales, strict=True):
                leaf.grad = up / scale
            adam.step()
            with torch.no_grad():
                for j, values in slopes.items():
                    low, high = limits[j]
                    values.copy_(torch.maximum(torch.minimum(values, high.unsqueeze(1)), low.unsqueeze(1)))
    return best
