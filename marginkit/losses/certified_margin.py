"""Large margins that are proved: each distance is a difference of scores over its Lipschitz constant."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.errors import UsageError
from marginkit.logits import Labels, differences, rivals, scored
from marginkit.losses.lipschitz_constants import POWER_STEPS, pair_constants
from marginkit.norms import Vectors


@dataclass(frozen=True)
class CertifiedMargin:
    """t log(1 + sum_j exp((radius - d_j) / t)) with d_j = (f_y - f_j) / L_yj the proved L2 distance to j.

    That is t times cross-entropy of the negative distances, with an offset and a temperature t, as AOL has it
    for logits (Prach and Lampert, arXiv 2208.03160), but of each pair's own constant (as CRM, arXiv
    2310.00116, and GloRo nets, arXiv 2102.08452). A small t makes it a hinge on the nearest distance. In a
    `lipschitz-mlp` or `lipschitz-cnn` the constants are known; elsewhere spectral norms are estimated and
    learnt to be small.

    Attributes:
        radius: from which on little is gained, in raw input units.
        temperature: t, in the same units.
        steps: of power iteration, where norms are estimated.
    """

    radius: float = 0.5
    temperature: float = 0.25
    steps: int = POWER_STEPS

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if not (self.temperature > 0 and self.radius >= 0):
            raise UsageError(
                f"certified-margin: radius {self.radius:g}, temperature {self.temperature:g}; expected"
                " at least 0, and above 0"
            )

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`.

        Raises:
            MarginkitError: the model has an operation without bounds.
        """
        scores, y = scored(model, x, y)
        rival = rivals(scores, y, None)
        constants = pair_constants(model, x, scores.shape[1], self.steps)
        distance = differences(scores, y, rival) / constants[y.unsqueeze(1), rival]
        short = (self.radius - distance) / self.temperature
        missing = torch.logsumexp(torch.cat([torch.zeros_like(short[:, :1]), short], 1), 1)
        return self.temperature * missing.mean()
