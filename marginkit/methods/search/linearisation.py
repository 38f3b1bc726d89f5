"""The classifier linearised at a point: how far each rival's boundary lies, inside the box."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.kinds import INPUT
from marginkit.logits import Labels, differences, gap, gradients, rivals
from marginkit.norms import Vectors, dot
from marginkit.types import Threat


def linearise(
    model: nn.Module, x: Vectors, y: Labels, top_k: int | None
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"], Float[Tensor, "n k *d"]]:
    """The top_k rivals j, how far f_y - f_j has to fall for j to lead by twice the gap, and its gradient."""
    scores, activations = capture(model, x, (INPUT,))
    rival = rivals(scores, y, top_k)
    difference = differences(scores, y, rival)
    gradient = torch.stack([g for (g,) in gradients(difference, activations)], 1)
    return rival, difference.detach() + 2 * gap(scores.detach(), y, rival), gradient


def steps_to_boundaries(
    drop: Float[Tensor, "n k"], gradient: Float[Tensor, "n k *d"], x: Vectors, threat: Threat
) -> tuple[Float[Tensor, "n k *d"], Float[Tensor, "n k"]]:
    """The shortest step inside the box along which each linearised difference falls by `drop`.

    Also its length: inf where even the box's corner falls short (the step then leads to that corner).
    """
    n, k = drop.shape
    low, high = threat.room(x)
    if low is not None and high is not None:
        low, high = low.repeat_interleave(k, 0), high.repeat_interleave(k, 0)
    normal = gradient.flatten(0, 1)
    step = threat.norm.reach(normal, -drop.flatten(), low, high)
    short = -dot(normal, step) < drop.flatten() * (1 - 1e-3)
    length = torch.where(short, torch.inf, threat.norm.length(step))
    return step.view_as(gradient), length.view(n, k)


def nudge(x: Vectors, threat: Threat) -> Vectors:
    """A small step inside the box, the same for every sample, out of a point where all gradients vanish."""
    noise = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = threat.room(x)
    if low is None or high is None:
        return (1e-3 * noise).to(x).expand_as(x)
    width = (high - low).nan_to_num(posinf=1.0)
    return torch.minimum(torch.maximum(1e-3 * noise.to(x) * width, low), high)
