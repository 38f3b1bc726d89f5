"""Adversarial training, the yardstick of robustness."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.guard.given import as_batch_labels
from marginkit.logits import Labels, Scores, check_scores, scored
from marginkit.losses.inner_maximisation import worst_inputs
from marginkit.norms import NORMS, Vectors
from marginkit.types import Threat


@dataclass(frozen=True)
class Adversarial:
    """Cross-entropy of the worst inputs that PGD finds within a ball (Madry et al., arXiv 1706.06083).

    Attributes:
        radius: of the ball, in raw input units.
        norm: that measures it.
        steps: of projected gradient ascent.
        step_size: of each, as a share of the radius.
        natural: the share of plain cross-entropy beside it.
        low, high: the box inputs live in; None for none.
    """

    radius: float = 0.1
    norm: Literal["l1", "l2", "linf"] = "linf"
    steps: int = 7
    step_size: float = 0.25
    natural: float = 0.0
    low: float | None = 0.0
    high: float | None = 1.0

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`."""
        y = as_batch_labels(y, x)
        worst = worst_inputs(
            model,
            x,
            Threat(NORMS[self.norm], self.low, self.high),
            self.radius,
            lambda scores: _each(scores, y),
            steps=self.steps,
            step_size=self.step_size,
        )
        found = F.cross_entropy(*scored(model, worst, y))
        if not self.natural:
            return found
        return (1 - self.natural) * found + self.natural * F.cross_entropy(*scored(model, x, y))


def _each(scores: Scores, y: Labels) -> Float[Tensor, "n"]:
    check_scores(scores, y)
    return F.cross_entropy(scores, y, reduction="none")
