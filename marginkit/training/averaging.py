"""Weights averaged over the course of training."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn


class Averaged:
    """A copy of a model whose weights follow it: a <- d a + (1 - d) w after each step.

    d is (1 + n) / (10 + n) after n steps, until that is more than the decay: a start from random weights is
    soon forgotten. Floating-point buffers are averaged too, others copied.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        """Of the model as it is."""
        self.model = copy.deepcopy(model).requires_grad_(False)
        self.decay, self.steps = decay, 0

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """A step was done."""
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        mine, theirs = list[Tensor](), list[Tensor]()
        for a, b in zip(self.model.state_dict().values(), model.state_dict().values(), strict=True):
            if a.is_floating_point():
                mine.append(a)
                theirs.append(b)
            else:
                a.copy_(b)
        torch._foreach_lerp_(mine, theirs, 1 - decay)

    def progress(self) -> dict[str, Any]:
        """What going on needs."""
        return {"steps": self.steps, "state": self.model.state_dict()}

    def restore(self, progress: dict[str, Any]) -> None:
        """To go on from there."""
        self.steps = progress["steps"]
        self.model.load_state_dict(progress["state"])
