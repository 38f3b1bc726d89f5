"""What a linear function can reach within a ball and a box."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.ops import Interval
from marginkit.bounds.graph.relaxations import inner
from marginkit.norms import Box, Norm, Vectors, column

CACHED = 2**17  # numbers worked on at a time: what a processor keeps near
TINY = 1e-300  # of a square whose root has a gradient
TOP = 32  # weights that mostly use up an L1 radius


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

    def part(self, take: Callable[[Tensor], Tensor]) -> Ball:
        """Of some entries, within which a linear function's other entries are zero."""
        low, high = (None if end is None else take(end) for end in (self.low, self.high))
        return Ball(take(self.x), self.radius, self.norm, low, high)

    def interval(self) -> Interval:
        """The smallest box around it: each entry by itself."""
        down, up = self._room()
        return self.x + down, self.x + up

    def concretize(self, a: Float[Tensor, "b rows *d"], quick: bool = False) -> Float[Tensor, "n rows"]:
        """A lower bound of <a, z> over its points z: exact but for L2 within a box, and nearly there.

        Args:
            a: coefficients of each sample, or with b = 1 of all.
            quick: for L2 within a box the better of two: the ball without entries that can't move, the box.
        """
        return inner(a, self.x) - self.reach(a, quick)

    def _room(self) -> Interval:
        bound = column(self.radius, self.x).expand_as(self.x)
        if self.low is None or self.high is None:
            return -bound, bound
        return torch.maximum(self.low, -bound), torch.minimum(self.high, bound)

    def reach(self, a: Tensor, quick: bool = False) -> Tensor:
        """How far <a, z> can fall below <a, x>; as `concretize`."""
        if self.low is None or self.high is None:
            dual: Tensor = torch.linalg.vector_norm(a.flatten(2), self.norm.dual.p, dim=2)
            return self.radius.unsqueeze(1) * dual
        down, up = self._room()
        if self.norm.p == torch.inf:
            return self._cornered(a, down, up)
        if self.norm.p == 2 and quick:
            return torch.minimum(self._masked(a, down, up), self._cornered(a, down, up))
        within = _within_l1 if self.norm.p == 1 else _within_l2
        down, up, radius = down.flatten(1).unsqueeze(1), up.flatten(1).unsqueeze(1), self.radius.unsqueeze(1)

        def few_rows(rows: Tensor) -> Tensor:
            room = torch.where(rows > 0, -down, up)
            return within(rows.abs().expand_as(room), room, radius)

        few = max(1, CACHED // down.numel())
        found = torch.cat([few_rows(rows) for rows in torch.split(a.flatten(2), few, dim=1)], 1)
        return torch.minimum(found, self._masked(a, *self._room())) if self.norm.p == 2 else found

    def _cornered(self, a: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """The reach in the box alone."""
        return inner(a.abs(), (up - down) / 2) - inner(a, (up + down) / 2)

    def _masked(self, a: Tensor, down: Tensor, up: Tensor) -> Tensor:
        """The reach in the L2 ball alone, without the entries that can't move the way they should."""
        square = inner(a.clamp(min=0).square(), (down < 0).to(a)) + inner(
            a.clamp(max=0).square(), (up > 0).to(a)
        )
        return self.radius.unsqueeze(1) * square.clamp(min=TINY).sqrt()


def _within_l1(weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The most of <weight, t> for 0 <= t <= room, sum t <= radius: the largest weights first."""
    weight = weight * (room > 0)
    for most in (min(TOP, weight.shape[2]), weight.shape[2]):
        top, order = weight.topk(most, dim=2)
        taken = room.gather(2, order)
        total = taken.cumsum(2)
        if ((total[..., -1] >= radius) | (top[..., -1] == 0)).all():
            break
    left = (radius.unsqueeze(2) - (total - taken)).clamp(min=0)
    return (top * torch.minimum(left, taken)).sum(2)


def _within_l2(weight: Tensor, room: Tensor, radius: Tensor) -> Tensor:
    """The most of <weight, t> for 0 <= t <= room, |t| <= radius, from above.

    Every s > 0 gives the dual bound radius^2 / 2s + sum_i max_t (weight_i t - t^2 / 2s). The best s solves
    |min(s weight, room)| = radius; two of Newton's steps from below come near it.
    """
    square = radius.square().expand(weight.shape[:2])
    s, taken = square.new_zeros(square.shape), square.new_zeros(square.shape)
    with torch.no_grad():  # at the best s the bound does not change with it
        for _ in range(2):
            full = s.unsqueeze(2) * weight >= room
            taken = torch.linalg.vector_norm(room * full, dim=2).square()
            free = torch.linalg.vector_norm(weight * ~full, dim=2)
            better = (square - taken).clamp(min=0).sqrt() / free
            s = torch.where(better.isfinite() & (better > s), better, s)
    step = torch.minimum(s.unsqueeze(2) * weight, room)
    gained = torch.linalg.vecdot(weight, step)
    rest = square - torch.linalg.vector_norm(step, dim=2).square()
    dual = gained + rest / (2 * s.clamp(min=TINY))
    return torch.minimum(torch.where(s > 0, dual, torch.inf), torch.linalg.vecdot(weight, room))
