"""What a linear function can reach in the part of a ball that lies beyond a hyperplane."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from marginkit.bounds.ascent import best_multiplier
from marginkit.bounds.linear.ball import Ball
from marginkit.norms import L2, Norm

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
        ratio = L2.length(a) / L2.length(normal).clamp(min=1e-30)
        low, high = (None if end is None else end.expand_as(a) for end in self.room)
        ball = Ball(a.new_zeros(1, 1).expand_as(a), torch.full_like(level, self.radius), self.norm, low, high)

        def bound(t: Tensor) -> Tensor:
            tilted = torch.addcmul(a, t.unsqueeze(1), normal).unsqueeze(1)
            value: Tensor = t * level - ball.reach(tilted, quick=True).squeeze(1)
            return value

        return best_multiplier(bound, ratio)[0]
