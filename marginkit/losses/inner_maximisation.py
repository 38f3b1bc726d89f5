"""The inner maximisation of adversarial training: projected ascent inside a ball and the box."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import capture, evaluating
from marginkit.kinds import INPUT
from marginkit.norms import Vectors, along
from marginkit.types import Threat

PerSampleLoss = Callable[[Tensor], Float[Tensor, "n"]]


def worst_inputs(
    model: nn.Module,
    x: Vectors,
    threat: Threat,
    radius: float,
    objective: PerSampleLoss,
    *,
    steps: int,
    step_size: float,
    random_start: bool = True,
) -> Vectors:
    """The inputs that projected steepest ascent reaches (Madry et al., arXiv 1706.06083), detached.

    The model is in eval mode meanwhile, so that samples do not interact and BatchNorm's running statistics
    see clean inputs only. A random start is one displacement for the whole batch, from the global generator,
    which the training loop seeds: samples stay independent of each other.

    Args:
        model, x, threat: whom to attack, from where, in which norm and box.
        radius: of the ball, in raw input units.
        objective: scores -> what to make large, one number a sample.
        steps: of ascent.
        step_size: of each, as a share of the radius.
        random_start: begin somewhere in the ball instead of at x.
    """
    radii = x.new_full((len(x),), radius)
    low, high = threat.room(x)
    delta = torch.zeros_like(x)
    if random_start:
        direction = torch.empty_like(x[:1]).uniform_(-1, 1)
        delta = (radius * torch.rand(()).item() * direction / threat.norm.length(direction)).expand_as(x)
        delta = threat.norm.project(delta, radii, low, high)
    with evaluating(model):
        for _ in range(steps):
            scores, activations = capture(model, (x + delta).detach(), (INPUT,))
            (gradient,) = torch.autograd.grad(objective(scores).sum(), activations)
            moved = delta + along(step_size * radii, threat.norm.steepest(gradient))
            delta = threat.norm.project(moved, radii, low, high)
    return threat.clip(x, x + delta).detach()
