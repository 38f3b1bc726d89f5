"""Input-gradient regularisation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.guard.given import as_batch_labels
from marginkit.kinds import INPUT
from marginkit.logits import Labels, check_scores
from marginkit.losses.double_backward import require_double_backward
from marginkit.norms import NORMS, Vectors


@dataclass(frozen=True)
class GradientPenalty:
    """Cross-entropy + weight |grad_x cross-entropy|_q^2, q dual to the norm (arXiv 1711.09404 for L2).

    Attributes:
        weight: of the penalty.
        norm: of the distances that the penalty is for.
    """

    weight: float = 0.1
    norm: Literal["l1", "l2", "linf"] = "l2"

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`.

        Raises:
            MarginkitError: the model has an operation that can't be differentiated twice.
        """
        y = as_batch_labels(y, x)
        scores, activations = capture(model, x, (INPUT,))
        check_scores(scores, y)
        each = F.cross_entropy(scores, y, reduction="none")
        (gradient,) = torch.autograd.grad(each.sum(), activations, create_graph=True)
        require_double_backward(gradient)
        return each.mean() + self.weight * NORMS[self.norm].dual.length(gradient).square().mean()
