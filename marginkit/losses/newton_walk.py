"""Towards the boundary, where its tangent tells more than the linearisation at the input."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import capture, evaluating
from marginkit.kinds import INPUT
from marginkit.logits import Labels, linearised_distance, logit_margin
from marginkit.norms import Vectors, along
from marginkit.types import Threat


def toward_boundary(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    steps: int,
    limit: Callable[[Float[Tensor, "n"]], float | Tensor],
) -> Vectors:
    """Where a few Newton steps lead, each to the linearised boundary of the leading rival; detached.

    That is DeepFool (arXiv 1511.04599) cut short, kept in a ball and the box. Samples classified wrong stay
    where they are. The model is in eval mode meanwhile.

    Args:
        model, x, y, threat: as for a method.
        steps: of the walk.
        limit: from the distances that the first linearisation predicts to the ball's radius.
    """
    delta = torch.zeros_like(x)
    with evaluating(model):
        for step in range(steps):
            scores, activations = capture(model, (x + delta).detach(), (INPUT,))
            margin, _ = logit_margin(scores, y)
            (gradient,) = torch.autograd.grad(margin.sum(), activations)
            length = threat.norm.dual.length(gradient)
            distance = linearised_distance(margin.detach(), length, epsilon=1e-6)
            if step == 0:
                right = distance > 0
                radius = torch.where(right, limit(distance), 0)
            moved = delta - along(distance, threat.norm.steepest(gradient))
            delta = threat.clip(x, x + threat.norm.project(moved, radius)) - x
    return (x + delta).detach()
