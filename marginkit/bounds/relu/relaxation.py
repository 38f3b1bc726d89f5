"""How near the decision boundary can be in each part of a ReLU network's domain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from marginkit.bounds.ascent import adam
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.relu.half_space import HalfSpaces
from marginkit.bounds.relu.network import ReLUNetwork
from marginkit.bounds.relu.subproblems import Hyperplanes, UnitRelaxation
from marginkit.bounds.subdomains import Subdomains
from marginkit.norms import Box, Norm

RATE = 0.3  # of the ascent, in shares of a slope's range


@dataclass(frozen=True, eq=False)
class Relaxation:
    """Bounds of one sample's network by lines, over displacements.

    Attributes:
        network: of displacements.
        label: the sample's.
        norm: that measures them.
        room: the box of a displacement [1, f], or None, None.
    """

    network: ReLUNetwork
    label: int
    norm: Norm
    room: tuple[Box, Box]

    def lines(self, nodes: Subdomains) -> UnitRelaxation:
        """Around 0 the upper line is the chord; where the sign is known it is the unit itself."""
        undecided = nodes.undecided
        slope = self.slopes(nodes.low)
        width = torch.where(undecided, nodes.high - nodes.low, 1)
        stable = torch.where(nodes.low >= 0, torch.ones_like(slope), slope)
        chord = torch.where(undecided, (nodes.high - slope * nodes.low) / width, stable)
        return UnitRelaxation(undecided, chord, torch.where(undecided, (slope - chord) * nodes.low, 0))

    def backward(
        self,
        a: dict[int, Tensor],
        c: Tensor,
        depth: int,
        lines: UnitRelaxation,
        alpha: Tensor,
        pull: Tensor | None,
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """A linear lower bound of functions of the displacement and the hidden units.

        Args:
            a: coefficients [n, rows, units] by source, as in `ReLUNetwork.weights`.
            c: constants [n, rows].
            depth: layers of hidden units to pass.
            lines: of the units.
            alpha: slopes of the lower lines.
            pull: subtracted from the coefficients of what goes into the units.

        Returns:
            Its coefficients [n, rows, f], its constants, and the coefficients of each hidden layer.
        """
        sizes, a = self.network.sizes, dict(a)
        chords, offsets, alphas, undecided = (
            torch.split(part.unsqueeze(1), sizes, dim=2)
            for part in (lines.chord, lines.offset, alpha, lines.undecided)
        )
        pulls = None if pull is None else torch.split(pull.unsqueeze(1), sizes, dim=2)
        passed = []
        for k in reversed(range(depth)):
            mine = a.pop(k + 1, None)
            mine = c.new_zeros(*c.shape, sizes[k]) if mine is None else mine
            passed.append(mine)
            c = c + (mine.clamp(max=0) * offsets[k]).sum(2)
            mine = mine * torch.where(undecided[k] & (mine > 0), alphas[k], chords[k])
            if pulls is not None:
                mine = mine - pulls[k]
            c = c + mine @ self.network.biases[k]
            for source, weight in self.network.weights[k].items():
                back = mine @ weight
                a[source] = a[source] + back if source in a else back
        return a.get(0, c.new_zeros(*c.shape, self.network.width)), c, passed[::-1]

    def bounded(self, nodes: Subdomains, steps: int) -> tuple[Subdomains, Hyperplanes]:
        """Raises each part's bound by so many steps of ascent.

        Every slope alpha and every multiplier beta >= 0 gives a linear function that is at most 0 wherever
        the part holds an adversarial input, and so a hyperplane that lies between: the distance to it is a
        bound, whatever the ascent does. (Wang et al., arXiv 2103.06624, bound the margin within a ball this
        way; here it is the distance.)

        Returns:
            The parts, and the hyperplanes.
        """
        lines, slope = self.lines(nodes), self.slopes(nodes.low)
        alpha, beta = nodes.alpha, nodes.beta
        best, kept_alpha, kept_beta = torch.full_like(nodes.bound, -torch.inf), alpha, beta
        none = alpha.new_zeros(len(nodes), self.network.width)
        kept = Hyperplanes(none, torch.zeros_like(best), none)
        scale = torch.cat(list(self._target(nodes.rival)[0].values()), 2)[:, 0].abs().mean(1, keepdim=True)
        state = [torch.zeros_like(alpha) for _ in range(4)]
        for step in range(steps + 1):
            length, planes, passed = self.distance(nodes, lines, alpha, beta)
            better = length > best
            best = torch.maximum(length, best)
            kept_alpha = torch.where(better.unsqueeze(1), alpha, kept_alpha)
            kept_beta = torch.where(better.unsqueeze(1), beta, kept_beta)
            kept = planes.where(better, kept)
            if step == steps:
                break
            inside = self.values(planes.point, passed, lines, alpha)
            rise = RATE * 0.9**step
            uphill = torch.where(lines.undecided & (passed > 0), passed * inside, 0)
            alpha = torch.clamp(alpha + rise * adam(uphill, state[:2], step), slope, torch.ones_like(slope))
            tilt = -nodes.split * inside
            beta = (beta + rise * scale * adam(tilt, state[2:], step)).clamp(min=0)
        bound = torch.maximum(nodes.bound, best)
        return replace(nodes, alpha=kept_alpha, beta=kept_beta, bound=bound), kept

    def tightened(
        self, nodes: Subdomains, radius: float, layers: range, quick: bool, beyond: Hyperplanes | None = None
    ) -> Subdomains:
        """The intervals of some hidden layers met with what linear bounds give in the ball of that radius.

        Args:
            nodes: the parts; those where an interval is empty get the bound inf.
            radius: of the ball.
            layers: of hidden units.
            quick: as in `Ball.concretize`.
            beyond: hyperplanes that all adversarial inputs lie beyond, one a part.
        """
        sizes = self.network.sizes
        ball = self._ball(len(nodes), radius)
        half_spaces = (
            None if beyond is None else HalfSpaces(beyond.normal, beyond.level, radius, self.norm, self.room)
        )
        for k in layers:
            start = sum(sizes[:k])
            open_ = nodes.undecided[:, start : start + sizes[k]]
            rows = open_.any(0).nonzero().squeeze(1)
            if not len(rows):
                continue
            alpha = torch.where(nodes.high > -nodes.low, 1.0, self.slopes(nodes.low))
            count, bias = len(nodes) if k else 1, self.network.biases[k][rows]
            both = {
                source: torch.cat([weight[rows], -weight[rows]]).expand(count, -1, -1)
                for source, weight in self.network.weights[k].items()
            }
            constants = torch.cat([bias, -bias]).expand(count, -1)
            a, c, _ = self.backward(both, constants, k, self.lines(nodes), alpha, None)
            if half_spaces is None:
                least = c - ball.reach(a, quick)
            else:
                least = c.expand(len(nodes), -1).masked_fill(~open_[:, rows].repeat(1, 2), -torch.inf)
                part, row = least.isfinite().nonzero(as_tuple=True)
                least[part, row] += half_spaces.concretize(a[part if k else part * 0, row], part)
            low, high, at = nodes.low.clone(), nodes.high.clone(), start + rows
            low[:, at] = torch.maximum(low[:, at], least[:, : len(rows)])
            high[:, at] = torch.minimum(high[:, at], -least[:, len(rows) :])
            nodes = replace(nodes, low=low, high=high)
        empty = (nodes.low > nodes.high + 1e-9 * (1 + nodes.low.abs())).any(1)
        low = torch.minimum(nodes.low, nodes.high)
        return replace(nodes, low=low, bound=torch.where(empty, torch.inf, nodes.bound))

    def root(self, rivals: Tensor, radius: float) -> Subdomains:
        """The whole ball, once for each rival."""
        free = torch.full((1, self.network.units), torch.inf, dtype=torch.float64)
        zeros, none = torch.zeros_like(free), torch.zeros(1, dtype=torch.float64)
        one = Subdomains(
            rivals[:1],
            -free,
            free,
            zeros,
            zeros,
            zeros,
            zeros,
            zeros[:, :0],
            none,
            torch.full((1,), -1),
        )
        ends = [self._ball(1, radius).interval()]
        for k, (size, slope) in enumerate(zip(self.network.sizes, self.network.slopes, strict=True)):
            middle = self.network.layer(k, [(low + high) / 2 for low, high in ends])
            reach = torch.zeros_like(middle)
            for source, weight in self.network.weights[k].items():
                reach = reach + (ends[source][1] - ends[source][0]) / 2 @ weight.abs().T
            part = slice(sum(self.network.sizes[:k]), sum(self.network.sizes[:k]) + size)
            one.low[:, part], one.high[:, part] = middle - reach, middle + reach
            one = self.tightened(one, radius, range(k, k + 1), quick=False)
            low, high = one.low[:, part], one.high[:, part]
            ends.append((torch.maximum(low, slope * low), torch.maximum(high, slope * high)))
        alpha = torch.where(one.high > -one.low, 1.0, self.slopes(one.low))
        return replace(Subdomains.join([replace(one, alpha=alpha)] * len(rivals)), rival=rivals)

    def distance(
        self, nodes: Subdomains, lines: UnitRelaxation, alpha: Tensor, beta: Tensor
    ) -> tuple[Tensor, Hyperplanes, Tensor]:
        """To the hyperplanes, these, and the coefficients of the hidden units."""
        target, c = self._target(nodes.rival)
        normal, level, passed = self.backward(
            target, c, len(self.network.sizes), lines, alpha, nodes.split * beta
        )
        normal, level = normal.squeeze(1), level.squeeze(1)
        length, point = self.away(normal, level)
        coefficients = torch.cat([alpha[:, :0], *(part.squeeze(1) for part in passed)], 1)
        return length, Hyperplanes(normal, level, point), coefficients

    def away(self, normal: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
        """How far {z in the box : normal z + level <= 0} is, and its nearest point; inf where it is empty."""
        room = [None if end is None else end.expand_as(normal) for end in self.room]
        point = self.norm.reach(normal, -level.clamp(min=0), *room)
        moved = (normal * point).sum(1)
        missed = level + moved > 1e-9 * (level.abs() + (normal * point).abs().sum(1))
        return torch.where(missed & (level > 0), torch.inf, self.norm.length(point)), point

    def values(self, point: Tensor, passed: Tensor, lines: UnitRelaxation, alpha: Tensor) -> Tensor:
        """What goes into the hidden units at a point where each unit is replaced by the line in use."""
        found, values = [alpha[:, :0]], [point]
        slope = torch.where(lines.undecided & (passed > 0), alpha, lines.chord)
        offset = torch.where(passed > 0, 0, lines.offset)
        parts = zip(*(torch.split(part, self.network.sizes, 1) for part in (slope, offset)), strict=True)
        for k, (steep, rise) in enumerate(parts):
            found.append(self.network.layer(k, values))
            values.append(steep * found[-1] + rise)
        return torch.cat(found, 1)

    def _target(self, rival: Tensor) -> tuple[dict[int, Tensor], Tensor]:
        """The margin over the rivals: its coefficients [n, 1, units] by source, and constants [n, 1]."""
        weights, bias = self.network.weights[-1], self.network.biases[-1]
        a = {source: (weight[self.label] - weight[rival]).unsqueeze(1) for source, weight in weights.items()}
        return a, (bias[self.label] - bias[rival]).unsqueeze(1)

    def slopes(self, like: Tensor) -> Tensor:
        """Of each unit below 0."""
        found = [
            like.new_full((size,), s) for size, s in zip(self.network.sizes, self.network.slopes, strict=True)
        ]
        return torch.cat([like.new_zeros(0), *found]).expand_as(like)

    def _ball(self, count: int, radius: float) -> Ball:
        zeros = torch.zeros(count, self.network.width, dtype=torch.float64)
        low, high = (None if end is None else end.expand_as(zeros) for end in self.room)
        return Ball(zeros, torch.full((count,), radius, dtype=torch.float64), self.norm, low, high)
