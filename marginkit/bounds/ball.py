"""What a linear function can reach within a ball and a box."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.ops import Interval
from marginkit.bounds.relaxations import inner
from marginkit.norms import Box, Norm, Vectors, column


@dataclass(frozen=True, eq=False)
class Ball:
    """The inputs within `radius` of x, and within a box.

    Attributes:
        x: the centres [n, *d].
        radius: of each.
        norm: that measures them.
        low, high: how far each entry may move down (<= 0) and up (>= 0), or None, None.
    """

    x: Vectors
    radius: Float[Tensor, "n"]
    norm: Norm
    low: Box = None
    high: Box = None

    def interval(self) -> Interval:
        """The smallest box around it: each entry by itself."""
        down, up = self._room()
        return self.x + down, self.x + up

    def lowest(self, a: Float[Tensor, "b rows *d"]) -> Float[Tensor, "n rows"]:
        """A lower bound of <a, z> over its points z: exact but for L1 and L2 within a box, and nearly there.

        Coefficients are for each sample, or with b = 1 for all.
        """
        return inner(a, self.x) - self._reach(a)

    def _room(self) -> Interval:
        bound = column(self.radius, self.x).expand_as(self.x)
        if self.low is None or self.high is None:
            return -bound, bound
        return torch.maximum(self.low, -bound), torch.minimum(self.high, bound)

    def _reach(self, a: Tensor) -> Tensor:
        """How far <a, z> can fall below <a, x>."""
        if self.low is None or self.high is None:
            dual = torch.linalg.vector_norm(a.flatten(2), self.norm.dual.p, dim=2)
            return self.radius.unsqueeze(1) * dual
        down, up = self._room()
        if self.norm.p == torch.inf:
            return inner(a.abs(), (up - down) / 2) - inner(a, (up + down) / 2)
        room = torch.where(a > 0, -down.unsqueeze(1), up.unsqueeze(1)).flatten(2)
        weight = a.abs().flatten(2).expand_as(room)
        return _within_l1(weight, room, self.radius) if self.norm.p == 1 else _within_l2(weight, room, self.radius)


def _within_l1(weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """max <weight, t>, 0 <= t <= room, sum t <= radius: the largest weights first."""
    weight, order = weight.sort(dim=2, descending=True)
    room = room.gather(2, order)
    left = radius.view(-1, 1, 1) - (room.cumsum(2) - room)
    return (weight * torch.minimum(left.clamp(min=0), room)).sum(2)


def _within_l2(weight: Tensor, room: Tensor, radius: Tensor, rounds: int = 4) -> Tensor:
    """max <weight, t>, 0 <= t <= room, |t| <= radius, from above.

    Every s > 0 gives the dual bound radius^2 / 2s + sum_i max_t (weight_i t - t^2 / 2s). The best s solves
    |min(s weight, room)| = radius; a few of Newton's steps come near it.
    """
    square = radius.square().unsqueeze(1)
    full = room <= 0
    for _ in range(rounds):
        missing = square - torch.where(full, room, 0).square().sum(2)
        slope = torch.where(full, 0, weight).square().sum(2)
        s = (missing.clamp(min=0) / slope).sqrt().unsqueeze(2)
        full = full | (s * weight >= room) & s.isfinite()
    s = torch.where(s.isfinite() & (s > 0), s, 1.0)
    step = torch.minimum(s * weight, room)
    dual = square / (2 * s.squeeze(2)) + (weight * step - step.square() / (2 * s)).sum(2)
    return torch.minimum(dual, (weight * room).sum(2))
