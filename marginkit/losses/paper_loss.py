"""The large-margin loss as it was published: a function of differences of scores and of gradient norms."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.logits import linearised_distance

Aggregate = Literal["min", "sum", "mean"]


def paper_loss(
    difference: Float[Tensor, "n k #layers"],
    length: Float[Tensor, "n k layers"],
    *,
    gamma: float | Float[Tensor, "layers"] = 1.0,
    alpha: float = 4.0,
    aggregate: Aggregate = "min",
    weights: float | Float[Tensor, "layers"] = 1.0,
    epsilon: float = 1e-6,
    unit: float | Float[Tensor, "layers"] = 1.0,
) -> Float[Tensor, ""]:
    """Elsayed et al., arXiv 1803.05598, and the authors' `margin_loss.py`.

    With D_i the difference to rival i, and G_{l,i} the length of its gradient at layer l, the distance is
    d_{l,i} = D_i / (G_{l,i} / w_l + epsilon). It costs max(0, gamma - max(d, gamma (1 - alpha))) - gamma,
    that is -clip(d, gamma (1 - alpha), gamma): computed like that, nothing cancels, whatever gamma. Rivals
    are aggregated, then costs averaged over the batch and over layers. (The authors clip after taking the
    nearest rival; equal, as clipping is monotone.)

    Args:
        difference: D, of logits or of the probabilities that the authors compare.
        length: G, in the norm dual to the distances'; whether it is a constant in backprop is the caller's
            business.
        gamma: the distance beyond which nothing is gained.
        alpha: distances below gamma (1 - alpha) cost no more.
        aggregate: `min` counts the nearest rival only, `sum` and `mean` all.
        weights: w.
        epsilon: added to the length.
        unit: what distances are measured in, gamma as well; 1 in the paper.
    """
    distance = linearised_distance(difference, length / weights, epsilon) / unit
    far = torch.as_tensor(gamma, dtype=distance.dtype, device=distance.device)
    cost = -torch.minimum(torch.maximum(distance, far * (1 - alpha)), far)
    if aggregate == "min":
        return cost.amax(1).mean()
    return cost.mean() * (cost.shape[1] if aggregate == "sum" else 1)
