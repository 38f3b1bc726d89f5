"""Models that hide their gradients, each in another way, around an honest network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Around(nn.Module):
    """A network with something done to what goes in or comes out."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network


class RoundedInput(Around):
    """Eight grey levels: the gradient is zero everywhere."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network((7 * x).round() / 7)


class Jpeg(Around):
    """Coefficients of the whole picture's cosine transform, rounded as JPEG rounds them."""

    def forward(self, x: Tensor) -> Tensor:
        k = torch.arange(8.0).to(x)
        basis = torch.cos(torch.pi / 8 * (k + 0.5) * k.unsqueeze(1)) / 2
        basis = basis / basis.norm(dim=1, keepdim=True)
        rounded = (4 * (basis @ x @ basis.T)).round() / 4
        return self.network(basis.T @ rounded @ basis)


class SignActivation(Around):
    """Hidden units that are on or off."""

    def forward(self, x: Tensor) -> Tensor:
        features = nn.Sequential(*list(self.network.children())[:-1])(x)
        return list(self.network.children())[-1](features.sign() * 2.0)


class Argmax(Around):
    """The answer alone, as a vote."""

    def forward(self, x: Tensor) -> Tensor:
        return F.one_hot(self.network(x).argmax(1), 10).to(x) * 3


class Saturated(Around):
    """Logs of clamped probabilities at a high temperature: flat wherever the network is sure."""

    def forward(self, x: Tensor) -> Tensor:
        return (100 * self.network(x)).softmax(1).clamp(1e-12, 1).log()


class Noisy(Around):
    """Noise on every input, drawn anew."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 0.1 * torch.randn_like(x))


class Ridged(Around):
    """Ripples too small to change an answer and too steep to see past."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x + 2e-3 * torch.sin(2e4 * x))


class WrongGradient(Around):
    """The right answers, and the gradient of something else."""

    def forward(self, x: Tensor) -> Tensor:
        lie = torch.sin(torch.arange(x[0].numel() * 10.0)).view(-1, 10).to(x)
        decoy = x.flatten(1) @ lie
        return self.network(x.detach()) + decoy - decoy.detach()


class Stairs(Around):
    """A staircase of the scores, whose gradient is its treads' slope."""

    def forward(self, x: Tensor) -> Tensor:
        scores = self.network(x)
        return scores.div(4, rounding_mode="floor") * 4 + 1e-4 * scores


class BatchStatistics(Around):
    """BatchNorm that never learned running statistics."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__(network)
        self.norm = nn.BatchNorm2d(1, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.network(0.3 * self.norm(x) + 0.3)


class Sigmoids(Around):
    """Ten detectors, each with its own probability."""

    def forward(self, x: Tensor) -> Tensor:
        return self.network(x).sigmoid()


MASKED = (
    RoundedInput, Jpeg, SignActivation, Argmax, Saturated, Noisy, Ridged, WrongGradient, Stairs,
    BatchStatistics, Sigmoids,
)  # fmt: skip
