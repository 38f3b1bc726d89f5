"""The way back through a relaxed network's lines, to planes below it; and forth, for their gradients.

A bound's derivative by a slope or a multiplier is read off the values at the point where the bound is taken,
so one pass each way gives value and gradients.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property

import torch
from torch import Tensor

from marginkit.bounds.graph.graph import affine, nonlinear
from marginkit.bounds.graph.ops import LinearBounds
from marginkit.bounds.graph.relaxations import LinearRelaxation
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.cube import in_cube, off_cube
from marginkit.bounds.linear.envelopes import Blend, Hull
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains


@dataclass(frozen=True, eq=False)
class Planes:
    """Linear functions <normal, x> + level that lie below the network's, one a part.

    Attributes:
        value: their least values over the ball [m].
        point: where those are taken [m, *d].
        normal: [m, *d].
        level: [m].
    """

    value: Tensor
    point: Tensor
    normal: Tensor
    level: Tensor

    def __getitem__(self, rows: Tensor | slice) -> Planes:
        return Planes(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def join(some: Sequence[Planes]) -> Planes:
        """One after the other."""
        return Planes(*(torch.cat([getattr(planes, f.name) for planes in some]) for f in fields(Planes)))


@dataclass(frozen=True, eq=False)
class Passage:
    """One way back through the lines of a relaxed network, and at wish the way forth.

    Attributes:
        relaxed: the network.
        lines: of its undecided units.
        normal, level: of the planes.
        passed: the undecided units' coefficients [m, units].
        kept: those of nodes whose lines mix several entries.
        hulls: planes that are mixed with the upper lines, by node.
    """

    relaxed: Relaxed
    lines: LinearRelaxation
    normal: Tensor
    level: Tensor
    passed: Tensor
    kept: Mapping[int, Tensor]
    hulls: Mapping[int, Hull]

    @cached_property
    def planes(self) -> Planes:
        """What the lines give."""
        least, point = _least(self.relaxed.ball, self.normal)
        return Planes(least + self.level, point, self.normal, self.level)

    @cached_property
    def before(self) -> Tensor:
        """What goes into the units at the planes' points, were each of them its line [m, units]."""
        return self._forth[0]

    @property
    def above(self) -> Tensor:
        """By how much the hulls' planes are above the lines there, 0 where none is asked for [m, units]."""
        return self._forth[1]

    @cached_property
    def _forth(self) -> tuple[Tensor, Tensor]:
        return _forward(self)


def backward(relaxed: Relaxed, parts: Subdomains, lines: LinearRelaxation, beta: Tensor) -> Passage:
    """From the parts' targets to the inputs."""
    blend = relaxed.blend(parts)
    return through(relaxed, relaxed.targets[parts.rival], lines, parts.split * beta, blend)


def through(
    relaxed: Relaxed,
    targets: Tensor,
    lines: LinearRelaxation,
    pull: Tensor | None = None,
    blend: Blend | None = None,
) -> Passage:
    """From linear functions [m, *shape] of the node that is bounded to the inputs.

    Args:
        relaxed: the network.
        targets: the functions.
        lines: of the undecided units, a row for each function.
        pull: of the splits' constraints on what goes into these units [m, units].
        blend: of the lines with the network's envelopes.
    """
    nodes, count = relaxed.graph.nodes, len(targets)
    pending, kept, hulls = {relaxed.start: targets}, dict[int, Tensor](), dict[int, Hull]()
    passed = torch.zeros_like(lines.lower_slope)
    level = targets.new_zeros(count)
    for j in range(relaxed.start, 0, -1):
        if j not in pending:
            continue
        c, node, op = pending.pop(j), nodes[j], nodes[j].op
        if j in relaxed.undecided:
            units, flat = relaxed.undecided[j], c.reshape(count, -1)
            mine = flat[:, units.index]
            passed[:, units.place] = mine
            if blend is not None and j in relaxed.envelopes:
                hulls[j] = Hull.of(relaxed.envelopes[j], mine, blend.within(units.place))
                mine = mine - hulls[j].taken
            level = level + (mine * _offset(lines, mine, units.place)).sum(1)
            mine = mine * _slope(lines, mine, units.place)
            mine = mine + hulls[j].linear if j in hulls else mine
            mine = mine if pull is None else mine - pull[:, units.place]
            back: Sequence[Tensor] = [units.on(mine, relaxed.slopes(j), flat).view_as(c)]
        elif nonlinear(op):
            kept[j] = c
            through, offset = relaxed.base[j].backward(c.unsqueeze(1))
            back, level = [through.squeeze(1)], level + offset.squeeze(1)
        else:
            assert affine(op)
            back = op.transpose(c, [nodes[k].shape for k in node.inputs])
            if j in relaxed.constants:
                level = level + c.reshape(count, -1) @ relaxed.constants[j]
        for k, part in zip(node.inputs, back, strict=True):
            pending[k] = pending[k] + part if k in pending else part
    normal = pending.get(0, relaxed.ball.x.new_zeros(count, *nodes[0].shape))
    for hull in hulls.values():
        more, offset = off_cube(relaxed.ball, *hull.back())
        normal, level = normal + more.view_as(normal), level + offset
    return Passage(relaxed, lines, normal, level, passed, kept, hulls)


def _forward(passage: Passage) -> tuple[Tensor, Tensor]:
    """What goes into the undecided units, by the lines in use, and what planes are above the lines."""
    relaxed, point, lines, passed = passage.relaxed, passage.planes.point, passage.lines, passage.passed
    place = in_cube(relaxed.ball, point) if passage.hulls else point
    values, before, above = [point], torch.zeros_like(passed), torch.zeros_like(passed)
    for j, node in enumerate(relaxed.graph.nodes[1 : relaxed.start + 1], 1):
        inputs = [values[k] for k in node.inputs]
        if j in relaxed.undecided:
            units, flat = relaxed.undecided[j], inputs[0].reshape(len(point), -1)
            mine, c = flat[:, units.index], passed[:, units.place]
            before[:, units.place] = mine
            mine = mine * _slope(lines, c, units.place) + _offset(lines, c, units.place)
            if j in passage.hulls:
                hull = passage.hulls[j]
                above[:, units.place] = hull.above(place, before[:, units.place], mine) - mine
                mine = mine + hull.weight * above[:, units.place]
            values.append(units.on(mine, relaxed.slopes(j), flat).view(len(point), *node.shape))
        elif j in passage.kept:
            values.append(_lined(relaxed.base[j], passage.kept[j], inputs[0]))
        else:
            assert node.op is not None
            values.append(node.op(*inputs))
    return before, above


def _least(ball: Ball, normal: Tensor) -> tuple[Tensor, Tensor]:
    """Of <normal, x> over the ball, and where."""
    count = len(normal)
    if ball.norm.p == torch.inf:
        point = torch.where(normal > 0, *ball.interval())
        return (normal * point).flatten(1).sum(1), point
    ends = (None if end is None else end.expand(count, *end.shape[1:]) for end in (ball.low, ball.high))
    spread = Ball(ball.x.expand_as(normal), ball.radius.expand(count), ball.norm, *ends)
    with torch.enable_grad():
        leaf = normal.detach().requires_grad_()
        least = spread.concretize(leaf.unsqueeze(1)).squeeze(1)
        (point,) = torch.autograd.grad(least.sum(), leaf)
    return least.detach(), point


def _slope(lines: LinearRelaxation, c: Tensor, place: slice) -> Tensor:
    return torch.where(c > 0, lines.lower_slope[:, place], lines.upper_slope[:, place])


def _offset(lines: LinearRelaxation, c: Tensor, place: slice) -> Tensor:
    return torch.where(c > 0, lines.lower_offset[:, place], lines.upper_offset[:, place])


def _lined(lines: LinearBounds, c: Tensor, before: Tensor) -> Tensor:
    """The value of the lines that coefficients c take: the derivative of the bound by them."""
    with torch.enable_grad():
        leaf = c.detach().unsqueeze(1).requires_grad_()
        back, offset = lines.backward(leaf)
        (out,) = torch.autograd.grad((back.squeeze(1) * before).sum() + offset.sum(), leaf)
    return out.squeeze(1)
