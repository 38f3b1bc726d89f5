"""A search that sees scores only: no gradient, so nothing that masks gradients can mislead it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from marginkit.guard.answer import answer
from marginkit.logits import Labels, crossed, logit_margin
from marginkit.norms import L1, LINF, Vectors, along, column
from marginkit.types import Threat


@dataclass(frozen=True)
class RandomSearch:
    """Random windows of a displacement are redrawn; what lowers the logit margin stays.

    The idea of Square (Andriushchenko et al., arXiv 1912.00049), for every norm: a window takes random signs
    at twice the uniform height of the radius and the projection onto ball and box does the rest, which in
    Linf gives Square's proposals. Windows shrink as queries go. Every sample sees the same draws.

    Attributes:
        queries: forward passes a sample.
        seed: of the draws.
    """

    queries: int = 100
    seed: int = 0

    def __call__(
        self,
        model: nn.Module,
        x: Vectors,
        y: Labels,
        threat: Threat,
        radius: Float[Tensor, "n"],
        start: Vectors,
        enough: int | None = None,
    ) -> Bool[Tensor, "n"]:
        """Which samples have an adversarial input inside their radius, as far as this finds.

        Args:
            model, x, y, threat: as in `bracket`.
            radius: of each sample's ball.
            start: displacements to begin with; projected.
            enough: stop when so many samples have one; None for never.
        """
        generator = torch.Generator().manual_seed(self.seed)
        hit = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        low, high = threat.room(x)
        delta = threat.norm.project(start, radius, low, high)
        best = torch.full_like(radius, torch.inf)
        for query in range(self.queries):
            rows = (~hit).nonzero().squeeze(1)
            candidate, box = delta[rows], [None if end is None else end[rows] for end in (low, high)]
            if query:
                window = _window(x.shape[1:], 0.5 * (1 - query / self.queries) ** 2, generator).to(x)
                height = 2 * radius[rows] * (1 if threat.norm is LINF else _height(threat, window))
                drawn = along(height, window.expand_as(candidate))
                candidate = threat.norm.project(candidate + drawn, radius[rows], *box)
            with torch.no_grad():
                scores = answer(model, threat.clip(x[rows], x[rows] + candidate))
            lead = logit_margin(scores, y[rows])[0]
            better = lead < best[rows]
            delta[rows] = torch.where(column(better, candidate), candidate, delta[rows])
            best[rows] = torch.where(better, lead, best[rows])
            hit[rows] = crossed(scores, y[rows])
            if hit.all() or (enough is not None and int(hit.sum()) >= enough):
                break
        return hit


def _height(threat: Threat, window: Tensor) -> float:
    """Of a window of signs whose length is 1."""
    size = float(window.abs().sum())
    return 1 / size if threat.norm is L1 else 1 / math.sqrt(size)


def _window(shape: torch.Size, part: float, generator: torch.Generator) -> Float[Tensor, "*d"]:
    """Signs in a random square of the last two axes, one a channel; of flat inputs, in a random run."""
    window = torch.zeros(shape)
    sides = shape[-2:]
    for_image = len(shape) > 1
    corner: list[slice] = []
    for side in sides:
        length = max(1, round(side * (math.sqrt(part) if for_image else part)))
        first = int(torch.randint(side - length + 1, (), generator=generator))
        corner.append(slice(first, first + length))
    drawn = (*shape[:-2], 1, 1) if for_image else shape
    signs = 2.0 * torch.randint(2, drawn, generator=generator) - 1
    window[(..., *corner)] = 1.0  # type: ignore[index]
    return window * signs
