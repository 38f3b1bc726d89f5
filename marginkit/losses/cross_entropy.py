"""Cross-entropy, the baseline."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.logits import Labels, scored
from marginkit.norms import Vectors


@dataclass(frozen=True)
class CrossEntropy:
    """-log softmax_y, averaged over the batch.

    Attributes:
        label_smoothing: share of the target spread evenly over all classes.
    """

    label_smoothing: float = 0.0

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch."""
        scores, y = scored(model, x, y)
        return F.cross_entropy(scores, y, label_smoothing=self.label_smoothing)
