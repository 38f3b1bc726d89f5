"""Lipschitz-margin training: rivals get a head start that the wanted radius calls for."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.logits import Labels, scored
from marginkit.losses.lipschitz_constants import POWER_STEPS, score_constant
from marginkit.norms import Vectors


@dataclass(frozen=True)
class LipschitzMargin:
    """Cross-entropy with sqrt(2) radius L added to every score but the label's (arXiv 1802.04034).

    L is the product of the layers' spectral norms (sums over branches): where the label still wins, an L2
    ball of that radius is certified. Norms are estimated by power iteration from a fixed start, from below:
    good for training, not a proof (`lipschitz` proves). BatchNorm counts with its running statistics.

    Attributes:
        radius: the L2 radius wanted, in raw input units.
        steps: of power iteration.
        ramp: the share of training in which the radius grows.
    """

    radius: float = 0.1
    steps: int = POWER_STEPS
    ramp: float = 0.5

    def at(self, share: float) -> LipschitzMargin:
        """The loss when this share of training is done."""
        grown = min(1.0, share / self.ramp) if self.ramp else 1.0
        return LipschitzMargin(self.radius * grown, self.steps, self.ramp)

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`.

        Raises:
            MarginkitError: the model has an operation without bounds.
        """
        scores, y = scored(model, x, y)
        head_start = 2**0.5 * self.radius * score_constant(model, x, self.steps)
        return F.cross_entropy(scores + head_start * (1 - F.one_hot(y, scores.shape[1])), y)
