"""A long path from the input: the margin falls against a penalty on the distance, with momentum."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.kinds import INPUT
from marginkit.logits import Labels, crossed, logit_margin
from marginkit.methods.search.refinement import TINY
from marginkit.norms import L2, LINF, Vectors, along, column
from marginkit.types import Threat

RATE, END = 1.0, 0.1  # of a step, in radii: first, and as a share of that last
MEMORY = 0.9  # of the directions and of their squares
GROWTH = 1.1  # of the margin's weight, a step on the wrong side of the boundary
FLOOR = 1e-3  # of an entry's scale, as a share of the largest gradient


def wander(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, radius: Float[Tensor, "n"], steps: int
) -> Vectors:
    """The L2-shortest adversarial input met on a long path; NaN rows where none is.

    In the manner of ALMA (Rony et al., arXiv 2011.11857): descent of distance + weight * margin by entry-wise
    scaled steps with momentum, where the weight grows before the boundary and falls beyond it. Here both
    gradients have length 1 and steps are relative to the shortest distance met, so that neither the data's
    scale nor that of the scores counts. Descent on a sphere stays in the pocket where it starts; this
    leaves it.

    Args:
        model, x, y, threat: as in `bracket`; the distance is L2 whatever the threat's norm.
        radius: about how far the boundary is, in L2.
        steps: forward and backward passes.
    """
    delta, speed, square = torch.zeros_like(x), torch.zeros_like(x), None
    weight, best = torch.ones_like(radius), torch.full_like(radius, torch.inf)
    found = torch.full_like(x, torch.nan)
    for step in range(steps):
        point = threat.clip(x, x + delta)
        delta = point - x
        scores, activations = capture(model, point, (INPUT,))
        margin, _ = logit_margin(scores, y)
        (gradient,) = torch.autograd.grad(margin.sum(), activations, materialize_grads=True)
        over, length = crossed(scores.detach(), y), L2.length(delta)
        better = over & (length < best)
        best, found = torch.where(better, length, best), torch.where(column(better, x), point, found)
        radius = torch.where(best.isfinite(), best, torch.maximum(radius, length))
        weight = torch.where(over, weight / GROWTH, weight * GROWTH)
        slope = along(weight / L2.length(gradient).clamp(min=TINY), gradient) + along(
            1 / radius.clamp(min=TINY), delta
        )
        square = slope.square() if square is None else torch.lerp(slope.square(), square, MEMORY)
        scaled = slope / (square.sqrt() + column(FLOOR * LINF.length(slope), x) + TINY)
        speed = MEMORY * speed + scaled
        size = RATE * END ** (step / steps) * radius / x[0].numel() ** 0.5
        delta = delta - along(size, speed)
    return found
