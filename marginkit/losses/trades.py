"""TRADES: accuracy and robustness in two terms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.guard.answer import answer
from marginkit.logits import Labels, scored
from marginkit.losses.inner_maximisation import worst_inputs
from marginkit.norms import NORMS, Vectors
from marginkit.types import Threat


@dataclass(frozen=True)
class Trades:
    """Cross-entropy + beta KL(p(x) || p(x')), x' the worst input within a ball (arXiv 1901.08573).

    Attributes:
        beta: weight of the second term; more of it trades accuracy for robustness.
        radius: of the ball, in raw input units.
        norm: that measures it.
        steps: of projected gradient ascent on the divergence.
        step_size: of each, as a share of the radius.
        low, high: the box inputs live in; None for none.
    """

    beta: float = 6.0
    radius: float = 0.1
    norm: Literal["l1", "l2", "linf"] = "linf"
    steps: int = 7
    step_size: float = 0.25
    low: float | None = 0.0
    high: float | None = 1.0

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`."""
        scores, y = scored(model, x, y)
        with evaluating(model), torch.no_grad():
            clean = answer(model, x).softmax(1)
        worst = worst_inputs(
            model,
            x,
            Threat(NORMS[self.norm], self.low, self.high),
            self.radius,
            lambda found: _divergence(clean, found),
            steps=self.steps,
            step_size=self.step_size,
        )
        apart = _divergence(scores.softmax(1), answer(model, worst)).mean()
        return F.cross_entropy(scores, y) + self.beta * apart


def _divergence(clean: Float[Tensor, "n c"], scores: Float[Tensor, "n c"]) -> Float[Tensor, "n"]:
    """KL(clean || softmax(scores)) of each sample."""
    return F.kl_div(scores.log_softmax(1), clean, reduction="none").sum(1)
