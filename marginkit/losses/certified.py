"""Certified training: lower a bound of the loss over a whole ball."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.bounds.graph.graph import Graph, trace
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Propagation
from marginkit.errors import MarginkitError
from marginkit.logits import Labels, scored
from marginkit.norms import NORMS, Vectors


@dataclass(frozen=True)
class Certified:
    """natural * cross-entropy + (1 - natural) * cross-entropy of the worst scores that bounds allow.

    The worst scores within `radius` are the lower bounds of f_y - f_j, negated. Training begins with plain
    cross-entropy; then the radius grows in a straight line, the share of plain cross-entropy falls to
    `natural`, and with `crown-ibp` the bounds change from linear ones to intervals (Zhang et al.,
    arXiv 1906.06316; `ibp`: Gowal et al., arXiv 1810.12715). BatchNorm counts with its running statistics.

    Attributes:
        radius: of the ball, in raw input units.
        norm: that measures it.
        bounds: `crown-ibp` or `ibp`.
        low, high: the box inputs live in; None for none.
        warm_up, ramp: the shares of training with radius 0, and in which the radius grows.
        natural: the share of plain cross-entropy at the end.
        intervals: with `crown-ibp`, the share of interval bounds at the end.
    """

    radius: float = 0.1
    norm: Literal["l1", "l2", "linf"] = "linf"
    bounds: Literal["crown-ibp", "ibp"] = "crown-ibp"
    low: float | None = 0.0
    high: float | None = 1.0
    warm_up: float = 0.1
    ramp: float = 0.5
    natural: float = 0.5
    intervals: float = 1.0

    def at(self, share: float) -> Certified:
        """The loss when this share of training is done."""
        grown = (
            min(1.0, max(0.0, (share - self.warm_up) / self.ramp))
            if self.ramp
            else float(share >= self.warm_up)
        )
        return replace(
            self,
            radius=self.radius * grown,
            natural=1 - (1 - self.natural) * grown,
            intervals=self.intervals * grown,
        )

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`.

        Raises:
            MarginkitError: the model has an operation without bounds.
        """
        scores, y = scored(model, x, y)
        plain = F.cross_entropy(scores, y)
        if self.radius == 0 or self.natural == 1:
            return plain
        with evaluating(model):
            try:
                graph = trace(model, x.detach(), check=False)
            except Unsupported as found:
                raise MarginkitError(
                    f"this model can't be trained with bounds: there are none for {found}"
                ) from found
        worst = -self._margins(graph, x, y, scores.shape[1])
        return self.natural * plain + (1 - self.natural) * F.cross_entropy(worst, y)

    def _margins(self, graph: Graph, x: Tensor, y: Tensor, classes: int) -> Tensor:
        """Lower bounds of f_y - f_j."""
        low = None if self.low is None else (self.low - x).clamp(max=0)
        high = None if self.high is None else (self.high - x).clamp(min=0)
        ball = Ball(x, x.new_full((len(x),), self.radius), NORMS[self.norm], low, high)
        unit = torch.eye(classes, dtype=x.dtype, device=x.device)
        targets = unit[y].unsqueeze(1) - unit
        share = 1.0 if self.bounds == "ibp" else self.intervals
        margins = x.new_zeros(len(x), classes)
        if share > 0:
            margins = margins + share * Propagation("ibp")(graph, ball, targets)
        if share < 1:
            margins = margins + (1 - share) * Propagation("crown-ibp")(graph, ball, targets)
        return margins
