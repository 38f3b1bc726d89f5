"""Steps of gradient ascent."""

from __future__ import annotations

from torch import Tensor


def adam(gradient: Tensor, state: list[Tensor], step: int) -> Tensor:
    """The step of Adam (Kingma and Ba, arXiv 1412.6980), with `state` its two means."""
    state[0].mul_(0.8).add_(gradient, alpha=0.2)
    state[1].mul_(0.95).addcmul_(gradient, gradient, value=0.05)
    root = (state[1] / (1 - 0.95 ** (step + 1))).sqrt()
    return state[0] / (1 - 0.8 ** (step + 1)) / (root + 1e-12)
