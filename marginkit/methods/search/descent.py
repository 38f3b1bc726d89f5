"""Projected gradient descent inside a ball and the box: what attacks at a given radius share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.kinds import INPUT
from marginkit.logits import Labels, crossed, logit_margin
from marginkit.norms import L1, LINF, Norm, Vectors, along
from marginkit.types import Threat

Objective = Callable[[Tensor, Int[Tensor, "m"]], Float[Tensor, "m"]]


def descend(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    radius: Float[Tensor, "n"],
    delta: Vectors,
    objective: Objective,
    sizes: list[float],
    direct: Callable[[Norm, Vectors], Vectors],
) -> Vectors:
    """The first adversarial point met inside the radius; NaN rows where none is.

    Args:
        model, x, y, threat: as in `bracket`.
        radius: of each sample's ball.
        delta: where to start.
        objective: (scores, which samples they belong to) -> what to make small, one number a row.
        sizes: of each step, as shares of the radius.
        direct: (norm, gradient) -> the direction of a step; `steepest` or `dense`.
    """
    found = torch.full_like(x, torch.nan)
    active = torch.arange(len(x), device=x.device)
    low, high = threat.room(x)
    delta = threat.norm.project(delta, radius, low, high)
    for size in [*sizes, None]:
        point = threat.clip(x[active], x[active] + delta)
        scores, activations = capture(model, point, (INPUT,))
        over = crossed(scores.detach(), y[active])
        found[active[over]] = point[over]
        if over.all() or size is None:
            break
        (gradient,) = torch.autograd.grad(
            objective(scores, active).sum(), activations, materialize_grads=True
        )
        active, delta, gradient = active[~over], delta[~over], gradient[~over]
        delta = delta - along(size * radius[active], direct(threat.norm, gradient))
        sides = (None, None) if low is None or high is None else (low[active], high[active])
        delta = threat.norm.project(delta, radius[active], *sides)
    return found


def steepest(norm: Norm, gradient: Vectors) -> Vectors:
    """What raises a linear function most per unit of length."""
    return norm.steepest(gradient)


def dense(norm: Norm, gradient: Vectors) -> Vectors:
    """Steepest, but for L1: there the projection, not the step, is what makes it sparse."""
    if norm is not L1:
        return norm.steepest(gradient)
    return along(1 / LINF.length(gradient).clamp(min=1e-30), gradient)


def margin(y: Labels) -> Objective:
    """The logit margin over the leading rival."""
    return lambda scores, active: logit_margin(scores, y[active])[0]


def likelihood(y: Labels) -> Objective:
    """The label's log-probability, cross-entropy's negative; its gradient can be exactly zero in float32."""
    return lambda scores, active: scores.log_softmax(1).gather(1, y[active].unsqueeze(1)).squeeze(1)
