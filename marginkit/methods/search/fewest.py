"""The fewest features that have to change: the search behind `nearest` in L0."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.kinds import INPUT
from marginkit.logits import Labels, crossed, logit_margin
from marginkit.methods.search.starts import Start, attempts
from marginkit.methods.search.verification import is_adversarial
from marginkit.norms import L1, LINF, Vectors, along, column
from marginkit.types import Threat

# By the effort of `nearest`.
STEPS = {"fast": 30, "balanced": 80, "tight": 300, "thorough": 1000, "exhaustive": 3000}
SOFT = 1e-3  # where a change counts half, squared, in units of the box's width
LEAST, ADAPT = 0.3, 0.01  # changes below this share of the width are undone; how fast that share moves
FIRST, LAST = 1.0, 0.1  # step sizes, in the same units
MEAN, SQUARE = 0.9, 0.999  # Adam's
ROUNDS = 24  # of undoing changes that do not matter
TINY = 1e-12


@dataclass
class Sparsest:
    """The sparsest adversarial displacement of each sample so far; NaN and inf where there is none."""

    delta: Vectors
    count: Float[Tensor, "n"]

    def offer(self, delta: Vectors, over: Bool[Tensor, "n"], count: Float[Tensor, "n"]) -> None:
        """Keeps it where it is adversarial and sparser."""
        better = over & (count < self.count)
        self.count = torch.where(better, count, self.count)
        self.delta = torch.where(column(better, delta), delta, self.delta)


def fewest(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, steps: int, rivals: int | None
) -> Vectors:
    """Adversarial inputs with few changed features, or pixels; NaN rows where none was found.

    In the manner of sigma-zero (Cina et al., arXiv 2402.01879): Adam on the logit margin, while it is above
    0, and on a smooth count of the changes; small changes are undone, by a threshold that rises while the
    input is adversarial and falls while it is not. Begins with what DeepFool finds in L1; ends by undoing
    changes that do not matter, the others taken to the box's ends.

    Args:
        model, x, y, threat: as in `bracket`, in L0.
        steps: of Adam.
        rivals: how many to look at in the beginning.
    """
    found = Sparsest(torch.full_like(x, torch.nan), torch.full_like(x.flatten(1)[:, 0], torch.inf))
    pool = attempts(model, x, y, replace(threat, norm=L1), [Start("l1", 0)], rivals)
    pool = pool[pool.survivors(len(x), 1, 1.0)]
    pool = pool[pool.best.isfinite()]
    begun = torch.full_like(x, torch.nan)
    begun[pool.owner] = pool.shortest
    _offered(found, model, x, y, threat, begun)
    _walk(found, model, x, y, threat, steps)
    _thin(found, model, x, y, threat)
    return threat.clip(x, x + found.delta)


def _walk(found: Sparsest, model: nn.Module, x: Vectors, y: Labels, threat: Threat, steps: int) -> None:
    unit, features = _width(x, threat), x[0].numel()
    delta, mean, square = (torch.zeros_like(x) for _ in range(3))
    least = torch.full_like(unit, LEAST)
    for step in range(steps):
        point = threat.clip(x, x + delta)
        scores, activations = capture(model, point, (INPUT,))
        over = crossed(scores.detach(), y)
        found.offer(delta, over, threat.norm.length(point - x))
        lead, _ = logit_margin(scores, y)
        (gradient,) = torch.autograd.grad(lead.sum(), activations, materialize_grads=True)
        share = along(1 / unit, delta)
        slope = 2 * SOFT * share / (share.square() + SOFT).square() / features
        slope = slope + torch.where(column(over, x), 0.0, along(unit, gradient))
        slope = along(1 / LINF.length(slope).clamp(min=TINY), slope)
        mean, square = mean.lerp(slope, 1 - MEAN), square.lerp(slope.square(), 1 - SQUARE)
        size = LAST + (FIRST - LAST) * (1 + math.cos(math.pi * step / steps)) / 2
        move = (mean / (1 - MEAN ** (step + 1))) / ((square / (1 - SQUARE ** (step + 1))).sqrt() + 1e-8)
        delta = threat.clip(x, x + delta - along(size * unit, move)) - x
        least = (least + torch.where(over, ADAPT, -ADAPT) * size).clamp(0, 1)
        delta = torch.where(_size(threat, delta) < column(least * unit, x), 0.0, delta)
    point = threat.clip(x, x + delta)
    found.offer(delta, is_adversarial(model, point, y), threat.norm.length(point - x))


def _thin(found: Sparsest, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> None:
    """Undoes ever smaller shares of the changes, those that matter least first."""
    share = torch.full_like(found.count, 0.5)
    low, high = threat.room(x)
    for _ in range(ROUNDS):
        rows = (
            (found.count.isfinite() & (found.count > 1) & (share * found.count >= 0.5)).nonzero().squeeze(1)
        )
        if not len(rows):
            break
        origin, labels, delta = x[rows], y[rows], found.delta[rows]
        scores, activations = capture(model, threat.clip(origin, origin + delta), (INPUT,))
        lead, _ = logit_margin(scores, labels)
        (gradient,) = torch.autograd.grad(lead.sum(), activations, materialize_grads=True)
        changed = _size(threat, delta) > 0
        if low is not None and high is not None:
            end = torch.where(gradient > 0, low[rows], high[rows])
            delta = torch.where(changed & end.isfinite() & (gradient != 0), end, delta)
        kept = _most(threat, -gradient * delta, changed, (share[rows] * found.count[rows]).ceil())
        delta = torch.where(kept, delta, 0.0)
        before = found.count[rows].clone()
        part = Sparsest(found.delta[rows], before)
        _offered(part, model, origin, labels, threat, delta)
        found.delta[rows], found.count[rows] = part.delta, part.count
        share[rows] = torch.where(part.count < before, share[rows], share[rows] / 2)


def _most(
    threat: Threat, worth: Vectors, changed: Bool[Tensor, "n *d"], dropped: Float[Tensor, "n"]
) -> Bool[Tensor, "n *d"]:
    """Which changes stay when so many of the least worth are undone."""
    worth = _summed(threat, worth).masked_fill(~changed, torch.inf)
    flat = worth.flatten(1)
    if worth.shape[1] != 1 and threat.norm.pixels:
        flat = worth[:, :1].flatten(1)
    order = flat.sort(dim=1).values
    last = order.gather(1, (dropped.long() - 1).clamp(0, flat.shape[1] - 1).unsqueeze(1)).squeeze(1)
    return worth > column(last, worth)


def _offered(
    found: Sparsest, model: nn.Module, x: Vectors, y: Labels, threat: Threat, delta: Vectors
) -> None:
    given = ~delta.flatten(1).isnan().any(1)
    delta = torch.where(column(given, delta), delta, 0.0)
    point = threat.clip(x, x + delta)
    over = given & is_adversarial(model, point, y)
    found.offer(point - x, over, threat.norm.length(point - x))


def _size(threat: Threat, delta: Vectors) -> Vectors:
    """Of each change; of its pixel's largest where pixels count."""
    if threat.norm.pixels and delta.ndim > 2:
        return delta.abs().amax(1, keepdim=True).expand_as(delta)
    return delta.abs()


def _summed(threat: Threat, worth: Vectors) -> Vectors:
    return worth.sum(1, keepdim=True).expand_as(worth) if threat.norm.pixels and worth.ndim > 2 else worth


def _width(x: Vectors, threat: Threat) -> Float[Tensor, "n"]:
    """How far features may move: the box's width, the inputs' own size where there is none."""
    low, high = threat.room(x)
    usual = LINF.length(x).clamp(min=1.0)
    if low is None or high is None:
        return usual
    width = (high - low).flatten(1).amax(1)
    return torch.where(width.isfinite() & (width > 0), width, usual)
