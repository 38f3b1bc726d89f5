"""Projected gradient descent on the logit margin, and a bisection of the radius."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.kinds import Kind
from marginkit.logits import Labels, differences
from marginkit.methods.search.descent import Objective, dense, descend
from marginkit.methods.search.faster import through_folded
from marginkit.methods.search.linearisation import linearise, steps_to_boundaries
from marginkit.methods.search.verification import bracket, shorten
from marginkit.norms import Vectors, along, column
from marginkit.types import Bracket, Threat


@dataclass(frozen=True)
class PGD:
    """The smallest radius at which projected gradient descent finds an adversarial input.

    Madry et al., arXiv 1706.06083, on f_y - f_j (cross-entropy saturates in float32: its gradient can be
    exactly zero where an attack exists), with the exact projection onto ball and box. Each sample's radius
    doubles until an attack succeeds and is then bisected. In every round the first start attacks the rival
    that is nearest by linearisation, from the best witness so far; the others attack the next rivals from
    random points, the same for every sample, so that no answer depends on the batch. The answer is an
    upper end: an adversarial input was found there.

    Attributes:
        steps: of gradient descent per start.
        rounds: radii tried.
        starts: per round.
        step_size: of the first step, as a share of the radius; it falls to nothing as a cosine.
        top_k: rivals, those of largest logit, from which the nearest are taken; None for all.
        precision: of the last bisection, relative to the distance.
        seed: of the random starts.
    """

    steps: int = 20
    rounds: int = 12
    starts: int = 2
    step_size: float = 1.0
    top_k: int | None = 10
    precision: float = 2**-8
    seed: int = 0
    kind: ClassVar[Kind] = Kind.UPPER

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The verified bracket [0, found]."""
        return bracket(model, x, y, threat, through_folded(self._search))

    def _search(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Vectors:
        norm = threat.norm
        rival, nearest = _nearest_rivals(model, x, y, threat, self.top_k)
        widest = length_of_box(x, threat)
        radius = torch.where(nearest.isfinite() & (nearest > 0), 1.5 * nearest, 1.0).minimum(widest)
        inner, outer = torch.zeros_like(radius), torch.full_like(radius, torch.inf)
        best = torch.full_like(x, torch.nan)
        generator = torch.Generator().manual_seed(self.seed)
        cosine = [(1 + math.cos(math.pi * step / self.steps)) / 2 for step in range(self.steps)]
        sizes = [self.step_size * heat for heat in cosine]
        for _ in range(self.rounds):
            found = torch.full_like(x, torch.nan)
            for start in range(self.starts):
                target = rival[:, start % rival.shape[1]]
                if start == 0:
                    delta = (best - x).nan_to_num(nan=0.0)
                else:
                    noise = torch.randn(x.shape[1:], generator=generator, dtype=torch.float64)
                    direction = noise.to(x).expand_as(x)
                    delta = along(radius / norm.length(direction), direction)
                todo = found.flatten(1).isnan().any(1)
                if todo.any():
                    goal = _difference(y[todo], target[todo])
                    found[todo] = descend(
                        model, x[todo], y[todo], threat, radius[todo], delta[todo], goal, sizes, dense
                    )
            hit = ~found.flatten(1).isnan().any(1)
            best = torch.where(column(hit, x), found, best)
            inner, outer = torch.where(hit, inner, radius), torch.where(hit, norm.length(found - x), outer)
            radius = torch.where(outer.isinf(), (2 * radius).minimum(widest), (inner + outer) / 2)
        return shorten(model, x, y, threat, best, self.precision)


def _nearest_rivals(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, top_k: int | None
) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n"]]:
    """The rivals by the distance of their linearised boundaries at x, and the smallest such distance."""
    rival, drop, gradient = linearise(model, x, y, top_k)
    length, order = steps_to_boundaries(drop, gradient, x, threat)[1].sort(dim=1, stable=True)
    return rival.gather(1, order), length[:, 0]


def _difference(y: Labels, target: Int[Tensor, "n"]) -> Objective:
    return lambda scores, active: differences(scores, y[active], target[active].unsqueeze(1)).squeeze(1)


def length_of_box(x: Vectors, threat: Threat) -> Float[Tensor, "n"]:
    """The distance of the box's farthest corner; inf without a box."""
    low, high = threat.room(x)
    if low is None or high is None:
        return x.new_full((len(x),), torch.inf)
    return threat.norm.length(torch.maximum(-low, high))
