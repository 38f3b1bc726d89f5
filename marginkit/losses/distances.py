"""The large-margin loss of distances, whatever divides the differences of scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.distributed import gathered
from marginkit.errors import MarginkitError
from marginkit.logits import linearised_distance
from marginkit.losses.paper_loss import Aggregate, paper_loss

Gamma = float | Sequence[float] | Literal["auto"]


def of_distances(
    difference: Float[Tensor, "n k #layers"],
    length: Float[Tensor, "n k layers"],
    *,
    gamma: Gamma,
    reach: float,
    alpha: float,
    aggregate: Aggregate,
    weights: Float[Tensor, "layers"],
    epsilon: float,
) -> Float[Tensor, ""]:
    """`paper_loss`, in units of what each layer reaches where gamma is `auto`.

    Args:
        difference: of scores.
        length: what divides them: of the gradient, or a Lipschitz constant.
        gamma, reach, alpha, aggregate, weights, epsilon: as in `large_margin`.
    """
    unit: float | Tensor = 1.0
    if gamma == "auto":
        unit, gamma = typical(linearised_distance(difference, length / weights, epsilon), reach), 1.0
    far = difference.new_tensor(per_layer("gamma", gamma, weights))
    return paper_loss(
        difference, length, gamma=far, alpha=alpha, aggregate=aggregate, weights=weights, epsilon=epsilon,
        unit=unit,
    )  # fmt: skip


def typical(distance: Float[Tensor, "n k layers"], reach: float) -> Float[Tensor, "layers"]:
    """`reach` times the median distance of the samples right at that layer; 1 where none is. A constant.

    Of the whole batch, where several processes have a share of it each.
    """
    nearest = gathered(distance.detach().amin(1))
    median = torch.where(nearest > 0, nearest, torch.nan).nanmedian(0).values
    return torch.where(median > 0, reach * median, 1.0)


def per_layer(
    name: str, value: float | Sequence[float], activations: Sequence[Tensor] | Tensor
) -> list[float]:
    """One number for each layer.

    Raises:
        MarginkitError: there are others.
    """
    values = [value] * len(activations) if isinstance(value, int | float) else list(value)
    if len(values) != len(activations):
        raise MarginkitError(
            f"{name} has {len(values)} entries for {len(activations)} layers: give one number, or one a layer"
        )
    return values
