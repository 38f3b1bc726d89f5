"""Ways up: steps of gradient ascent, and the search for one multiplier."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

ROUNDS = 8  # of golden-section search, each of which shrinks the interval by .618
GOLDEN = (5**0.5 - 1) / 2


def adam(gradient: Tensor, state: list[Tensor], step: int) -> Tensor:
    """The step of Adam (Kingma and Ba, arXiv 1412.6980), with `state` its two means."""
    state[0].mul_(0.8).add_(gradient, alpha=0.2)
    state[1].mul_(0.95).addcmul_(gradient, gradient, value=0.05)
    root = (state[1] / (1 - 0.95 ** (step + 1))).sqrt()
    return state[0] / (1 - 0.8 ** (step + 1)) / (root + 1e-12)


def best_multiplier(bound: Callable[[Tensor], Tensor], unit: Tensor) -> tuple[Tensor, Tensor]:
    """The largest of a concave function of t >= 0 that golden-section search meets, 0 included; and its t.

    Args:
        bound: of multipliers [m], each by itself.
        unit: a multiplier of the right size [m]: half of the search is below it.
    """

    def at(share: Tensor) -> Tensor:
        tried.append(unit * share / (1 - share))
        values.append(bound(tried[-1]))
        return values[-1]

    tried, values = list[Tensor](), list[Tensor]()
    start, end = torch.zeros_like(unit), torch.ones_like(unit)
    at(start)
    inner = [end - GOLDEN * (end - start), start + GOLDEN * (end - start)]
    low, high = at(inner[0]), at(inner[1])
    for _ in range(ROUNDS - 2):
        left = low > high
        start, end = start.where(left, inner[0]), inner[1].where(left, end)
        fresh = (end - GOLDEN * (end - start)).where(left, start + GOLDEN * (end - start))
        value = at(fresh)
        inner = [fresh.where(left, inner[1]), inner[0].where(left, fresh)]
        low, high = value.where(left, high), low.where(left, value)
    best, which = torch.stack(values).max(0)
    return best, torch.stack(tried).gather(0, which.unsqueeze(0)).squeeze(0)
