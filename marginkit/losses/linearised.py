"""Differences of scores linearised at activations: what the large-margin loss is a function of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.errors import MarginkitError
from marginkit.logits import Labels, differences, gradients, rivals
from marginkit.losses.double_backward import require_double_backward
from marginkit.losses.shared_backward import Owner, with_shared_backward
from marginkit.norms import Norm, dot


@dataclass(frozen=True)
class Shortcuts:
    """Ways to the same gradients in less time, where a model allows them.

    Attributes:
        owners: of all parameters, where these are to share one backward pass with the norms, of one rival.
        together, entry: as in `gradients`.
    """

    owners: Sequence[Owner] = ()
    together: bool = False
    entry: Tensor | None = None


NONE = Shortcuts()


def linearised(
    scores: Float[Tensor, "n classes"],
    y: Labels,
    activations: Sequence[Tensor],
    norm: Norm,
    top_k: int | None,
    *,
    moved: Sequence[Tensor] | None = None,
    differentiate_norm: bool = False,
    shortcuts: Shortcuts = NONE,
) -> tuple[Float[Tensor, "n k #layers"], Float[Tensor, "n k layers"]]:
    """D_i = s_y - s_i for the top_k rivals i, and |grad_h D_i|_q at each layer's activations h, q dual.

    Args:
        scores, y, activations, norm, top_k: as in `large_margin`.
        moved: each activation's displacement from the point whose distance is wanted: D_i is then what the
            tangent plane at the activations says there, D_i - <grad_h D_i, moved>.
        differentiate_norm: keep the graph of the lengths; they are constants otherwise.
        shortcuts: to the gradients.

    Raises:
        MarginkitError: top_k is not 1 with owners; an operation can't be differentiated twice and is to be.
    """
    owners = shortcuts.owners
    if owners and top_k != 1:
        raise MarginkitError(f"top_k is {top_k}, but owners share the backward pass of one rival: give 1")
    difference = differences(scores, y, rivals(scores, y, top_k))
    lengths, shifts = [], []
    for grads in gradients(
        difference,
        [*activations, *(owner.output for owner in owners)],
        differentiable=differentiate_norm,
        keep_graph=True,
        together=shortcuts.together,
        entry=shortcuts.entry,
    ):
        here, at_owners = grads[: len(activations)], grads[len(activations) :]
        lengths.append(torch.stack([norm.dual.length(g) for g in here], 1))
        if moved is not None:
            shifts.append(torch.stack([dot(g, m) for g, m in zip(here, moved, strict=True)], 1))
    length = torch.stack(lengths, 1)
    if differentiate_norm:
        require_double_backward(length)
    if owners:
        difference = with_shared_backward(difference, owners, at_owners)
    difference = difference[:, :, None]
    return difference - torch.stack(shifts, 1) if shifts else difference, length
