"""Direct maximisation of the input margin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.guard.answer import answer
from marginkit.logits import Labels, logit_margin, scored
from marginkit.losses.inner_maximisation import worst_inputs
from marginkit.norms import NORMS, Vectors, column
from marginkit.types import Threat


@dataclass(frozen=True)
class MaxMargin:
    """Max-margin adversarial training (MMA; Ding et al., arXiv 1812.02637).

    A sample that the model gets right costs the cross-entropy of the boundary point in front of it, if that
    is nearer than `radius`, and nothing if it is not: lowering it moves the boundary away. A wrong one costs
    its own cross-entropy. The boundary point is the root of the soft logit margin, f_y - log sum_{j != y}
    e^{f_j}, on the segment to the point that PGD finds at `radius`. (The paper starts PGD at each sample's
    distance of the epoch before; a loss here has no memory.)

    Attributes:
        radius: beyond this distance, d_max in the paper, nothing is gained; in raw input units.
        norm: that measures it.
        steps: of projected gradient ascent.
        step_size: of each, as a share of the radius.
        halvings: of the segment.
        natural: the share of plain cross-entropy beside it.
        low, high: the box inputs live in; None for none.
    """

    radius: float = 0.15
    norm: Literal["l1", "l2", "linf"] = "linf"
    steps: int = 7
    step_size: float = 0.25
    halvings: int = 6
    natural: float = 1 / 3
    low: float | None = 0.0
    high: float | None = 1.0

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`."""
        scores, y = scored(model, x, y)
        plain = F.cross_entropy(scores, y, reduction="none")
        right = logit_margin(scores.detach(), y)[0] > 0
        point, near = self.boundary(model, x, y)
        at_boundary = F.cross_entropy(answer(model, point), y, reduction="none")
        margin = torch.where(right, torch.where(near, at_boundary, 0), plain)
        return (1 - self.natural) * margin.mean() + self.natural * plain.mean()

    def boundary(self, model: nn.Module, x: Vectors, y: Labels) -> tuple[Vectors, Bool[Tensor, "n"]]:
        """The points found on the boundary in front of samples classified right, and whether there is one."""
        far = worst_inputs(
            model,
            x,
            Threat(NORMS[self.norm], self.low, self.high),
            self.radius,
            lambda scores: -_soft_margin(scores, y),
            steps=self.steps,
            step_size=self.step_size,
        )
        inner, outer = x.new_zeros(len(x)), x.new_ones(len(x))
        with evaluating(model), torch.no_grad():
            near = _soft_margin(answer(model, far), y) < 0
            for _ in range(self.halvings):
                middle = (inner + outer) / 2
                over = _soft_margin(answer(model, x + column(middle, x) * (far - x)), y) < 0
                inner, outer = torch.where(over, inner, middle), torch.where(over, middle, outer)
        return x + column(outer, x) * (far - x), near


def _soft_margin(scores: Float[Tensor, "n c"], y: Labels) -> Float[Tensor, "n"]:
    others = scores.scatter(1, y.unsqueeze(1), -torch.inf)
    return scores.gather(1, y.unsqueeze(1)).squeeze(1) - others.logsumexp(1)
