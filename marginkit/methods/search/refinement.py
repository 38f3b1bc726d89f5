"""Refinement of many attempts at once: walk along the boundary towards the input, then keep the best few."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.kinds import INPUT
from marginkit.logits import Labels, crossed, gap, logit_margin
from marginkit.methods.search.descent import dense
from marginkit.norms import L1, L2, LINF, Norm, Vectors, along, column, dot
from marginkit.types import Threat

BEND = 0.5  # the largest relative change of the radius in one step
PRESS = 0.1  # the least relative change: inwards beyond the boundary, outwards before it
LEAST = 0.02  # the least unit in L1, as a share of the radius: for displacements of nothing, or of noise
SAME = 2**-16  # lengths that differ by less are equal, and the first stays: rounding must not choose
TINY = 1e-30


@dataclass
class Attempts:
    """What a search works on: any number of attempts a sample.

    Attributes:
        owner: the sample's position in its batch.
        delta: the displacement to go on from.
        radius: the ball the next displacement lies on.
        rate: step size as a share of its `unit`, in the first step.
        across: whether steps follow the steepest direction of another norm.
        best: the length of the shortest adversarial displacement so far; inf where there is none.
        shortest: that displacement; meaningless where `best` is inf.
    """

    owner: Int[Tensor, "m"]
    delta: Vectors
    radius: Float[Tensor, "m"]
    rate: Float[Tensor, "m"]
    across: Bool[Tensor, "m"]
    best: Float[Tensor, "m"]
    shortest: Vectors

    def __len__(self) -> int:
        return len(self.owner)

    def __getitem__(self, rows: Tensor) -> Attempts:
        return Attempts(*(getattr(self, field.name)[rows] for field in fields(self)))

    @staticmethod
    def join(parts: list[Attempts]) -> Attempts:
        """One after the other."""
        return Attempts(*(torch.cat([getattr(p, f.name) for p in parts]) for f in fields(Attempts)))

    def least(self, samples: int) -> Float[Tensor, "n"]:
        """The best of each sample's attempts."""
        start = self.best.new_full((samples,), torch.inf)
        return start.scatter_reduce(0, self.owner, self.best, "amin")

    def survivors(self, samples: int, keep: int, within: float) -> Int[Tensor, "k"]:
        """Rows of each sample's `keep` best attempts, those within a factor of its very best."""
        least = self.least(samples)
        order = (self.best.log2() / SAME).round().argsort(stable=True)
        order = order[self.owner[order].argsort(stable=True)]
        owner = self.owner[order]
        rank = torch.arange(len(order), device=order.device) - torch.searchsorted(owner, owner)
        return order[(rank < keep) & (self.best[order] <= (1 + SAME) * within * least[owner])]

    def rewind(self) -> None:
        """Goes back to the best displacement found, where there is one."""
        found = self.best.isfinite()
        self.delta = torch.where(column(found, self.delta), self.shortest, self.delta)
        self.radius = torch.where(found, self.best, self.radius)


def refine(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    attempts: Attempts,
    steps: int,
    memory: float = 0.0,
) -> Attempts:
    """Shortens each attempt by descent of the logit margin on a sphere whose radius follows the boundary.

    In the manner of DDN (Rony et al., arXiv 1811.09600) and FMN (Pintor et al., arXiv 2102.12827), but with
    every quantity relative to the current radius, so that no step size depends on the data's scale. The
    radius goes where the linearised margin along the displacement is zero; step size and greatest change of
    radius fall as a cosine. Attacks whichever rival leads. With `memory` a step's direction is that of the
    gradients' moving average, each taken at length 1, in which the former ones have that share.
    """
    norm = threat.norm
    x, y = x[attempts.owner], y[attempts.owner]
    low, high = threat.room(x)
    delta, radius = attempts.delta, attempts.radius
    best, shortest = attempts.best.clone(), attempts.shortest.clone()
    trend = None
    for step in range(steps + 1):
        heat = (1 + math.cos(math.pi * step / steps)) / 2
        point = threat.clip(x, x + delta)
        scores, activations = capture(model, point, (INPUT,))
        over = crossed(scores.detach(), y)
        length = norm.length(delta)
        better = (over & (length < (1 - SAME) * best)).nonzero().squeeze(1)
        best[better], shortest[better] = length[better], delta[better]
        if step == steps:
            break
        margin, rival = logit_margin(scores, y)
        (gradient,) = torch.autograd.grad(margin.sum(), activations, materialize_grads=True)
        rise = margin.detach() + 2 * gap(scores.detach(), y, rival.unsqueeze(1)).squeeze(1)
        change = _change(rise, -dot(gradient, delta), over, best.isinf(), heat)
        radius = torch.minimum(torch.minimum(radius, best) * change, best)
        size = attempts.rate * heat * unit(norm, delta, radius)
        if memory:
            latest = L2.steepest(gradient)
            trend = latest if trend is None else torch.lerp(latest, trend, memory)
        delta = delta - along(size, _direction(norm, gradient if trend is None else trend, attempts.across))
        delta = _retract(norm, delta, radius, low, high)
    return Attempts(attempts.owner, delta, radius, attempts.rate, attempts.across, best, shortest)


def unit(norm: Norm, delta: Vectors, radius: Float[Tensor, "m"]) -> Float[Tensor, "m"]:
    """What step sizes are relative to: the radius; in L1 the largest entry, were the displacement that long.

    There an entry is as much shorter than the radius as there are entries, and the step's largest one has to
    match it: with the radius instead, the projection that follows would keep a few entries and lose the rest.
    """
    if norm is not L1:
        return radius
    return radius * (LINF.length(delta) / L1.length(delta).clamp(min=TINY)).clamp(min=LEAST)


def _change(
    rise: Float[Tensor, "m"],
    slope: Float[Tensor, "m"],
    over: Bool[Tensor, "m"],
    unmet: Bool[Tensor, "m"],
    heat: float,
) -> Float[Tensor, "m"]:
    """The factor on the radius: to the linearised boundary, within limits, and never the wrong way.

    Until an attempt has met the boundary, its radius may grow as fast at the end as at the start.
    """
    bend, press = BEND * heat, PRESS * heat
    most = torch.where(unmet, 1 + BEND, 1 + bend)
    factor = torch.where(slope > 0, 1 + rise / slope.clamp(min=TINY), torch.where(over, 1 - bend, most))
    factor = torch.minimum(factor.clamp(min=1 - bend), most)
    return torch.where(over, factor.clamp(max=1 - press), factor.clamp(min=1 + press))


def _direction(norm: Norm, gradient: Vectors, across: Bool[Tensor, "m"]) -> Vectors:
    """`dense`; `across` takes the other geometry's at the same Euclidean length."""
    usual = dense(norm, gradient)
    if not across.any():
        return usual
    other = (LINF if norm is L2 else L2).steepest(gradient)
    other = along(L2.length(usual) / L2.length(other).clamp(min=TINY), other)
    return torch.where(column(across, gradient), other, usual)


def _retract(
    norm: Norm, delta: Vectors, radius: Float[Tensor, "m"], low: Tensor | None, high: Tensor | None
) -> Vectors:
    """Back to the ball and the box; in L2 onto the sphere first, which keeps the search moving."""
    if norm is not L2:
        return norm.project(delta, radius, low, high)
    delta = along(radius / L2.length(delta).clamp(min=TINY), delta)
    return delta if low is None or high is None else torch.clamp(delta, low, high)
