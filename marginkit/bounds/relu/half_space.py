"""What a linear function can reach in the part of a ball that lies beyond a hyperplane."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from marginkit.bounds.linear.ball import Ball
from marginkit.norms import L2, Norm

ROUNDS = 8  # of golden-section search, each of which shrinks the interval by .618
GOLDEN = (5**0.5 - 1) / 2
MEMORY = 2**17  # numbers that stay in the processor's cache


@dataclass(frozen=True, eq=False)
class HalfSpaces:
    """{z : |z| <= radius, normal z + level <= 0} within a box, one for each part of the domain.

    Where a linear bound of a margin is positive no adversarial input lies, so units need to be bounded
    beyond its hyperplane only: the nearer that is to the ball's rim, the less is left. (Kotha et al., arXiv
    2302.01404, bound units under a condition on the scores; here the condition is one hyperplane, and the
    dual has one multiplier.)

    Attributes:
        normal: [n, f].
        level: [n].
        radius: of all.
        norm: that measures displacements.
        room: the box of a displacement [1, f], or None, None.
    """

    normal: Float[Tensor, "n f"]
    level: Float[Tensor, "n"]
    radius: float
    norm: Norm
    room: tuple[Tensor | None, Tensor | None]

    def concretize(self, a: Float[Tensor, "m f"], of: Int[Tensor, "m"]) -> Float[Tensor, "m"]:
        """Lower bounds of <a, z> over the half_spaces `of`; never below that over the whole ball.

        Each multiplier t >= 0 of the hyperplane gives the bound t level + min <a + t normal, z> over the
        ball, concave in t.
        """
        rows = max(1, MEMORY // max(1, a.shape[1]))
        wanted = (a, self.normal[of], self.level[of])
        parts = zip(*(torch.split(tensor, rows) for tensor in wanted), strict=True)
        return torch.cat([self._concretize(*part) for part in parts])

    def _concretize(self, a: Tensor, normal: Tensor, level: Tensor) -> Tensor:
        """By golden-section search for the best multiplier."""
        ratio = L2.length(a) / L2.length(normal).clamp(min=1e-30)
        low, high = (None if end is None else end.expand_as(a) for end in self.room)
        ball = Ball(a.new_zeros(1, 1).expand_as(a), torch.full_like(level, self.radius), self.norm, low, high)

        def bound(share: Tensor) -> Tensor:
            t = ratio * share / (1 - share)
            tilted = torch.addcmul(a, t.unsqueeze(1), normal).unsqueeze(1)
            value: Tensor = t * level - ball.reach(tilted, quick=True).squeeze(1)
            return value

        start, end = torch.zeros_like(level), torch.ones_like(level)
        inner = [end - GOLDEN * (end - start), start + GOLDEN * (end - start)]
        values = [bound(share) for share in inner]
        best = bound(start).maximum(values[0]).maximum(values[1])
        for _ in range(ROUNDS - 2):
            left = values[0] > values[1]
            start, end = start.where(left, inner[0]), inner[1].where(left, end)
            fresh = (end - GOLDEN * (end - start)).where(left, start + GOLDEN * (end - start))
            value = bound(fresh)
            best = best.maximum(value)
            inner = [fresh.where(left, inner[1]), inner[0].where(left, fresh)]
            values = [value.where(left, values[1]), values[0].where(left, value)]
        return best
