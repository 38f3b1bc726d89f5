"""The multi-class hinge loss, a margin of logits rather than of inputs."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.logits import Labels, logit_margin, scored
from marginkit.norms import Vectors


@dataclass(frozen=True)
class Hinge:
    """max(0, margin - (f_y - max_{j != y} f_j)), averaged over the batch (Crammer and Singer, 2001).

    Attributes:
        margin: of the logits; beyond it a sample costs nothing.
    """

    margin: float = 1.0

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch."""
        scores, y = scored(model, x, y)
        return F.relu(self.margin - logit_margin(scores, y)[0]).mean()
