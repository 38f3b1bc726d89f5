"""What the linearised classifier predicts, at the input and at hidden layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from marginkit.activations import capture, evaluating
from marginkit.kinds import INPUT, Kind, Status
from marginkit.layers import resolve_layers
from marginkit.logits import Labels, differences, gradients, linearised_distance, rivals
from marginkit.methods.search.verification import classify
from marginkit.norms import Norm, Vectors
from marginkit.types import Estimate, Threat


@dataclass(frozen=True)
class FirstOrder:
    """min_j (f_y - f_j) / |grad_h (f_y - f_j)|_q over rivals j, signed, at each layer's activations h.

    Exact for a linear classifier without a box; elsewhere a prediction that bounds nothing. The logits'
    differences are used, not the probabilities': on a binary linear model the latter give sinh(margin)
    in place of the margin. Where every gradient is zero the answer is inf, with status EXHAUSTED. The
    box is ignored; a mask holds at the input.
    Source: Elsayed et al., arXiv 1803.05598; Matyasko and Chau 2017.

    Attributes:
        layers: module names, `input`, `hidden` or `all`; distances are in each layer's own units.
        top_k: how many rivals, those of largest logit; None for all.
    """

    layers: tuple[str, ...] = ("all",)
    top_k: int | None = 10
    kind: ClassVar[Kind] = Kind.ESTIMATE

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Estimate:
        """One column a layer."""
        threat.require_fit(x)
        layers = resolve_layers(model, self.layers, x)
        with evaluating(model):
            scores, activations = capture(model, x, layers)
            status = classify(scores, y)
            rival = rivals(scores, y, self.top_k)
            difference = differences(scores, y, rival)
            lengths = [
                torch.stack([_dual_length(threat, *pair) for pair in zip(layers, grads, strict=True)], 1)
                for grads in gradients(difference, activations)
            ]
            every = linearised_distance(difference.detach().unsqueeze(2), torch.stack(lengths, 1))
            distance, which = every.double().min(1)
        learned = torch.where(distance.isinf(), int(Status.EXHAUSTED), int(Status.OK))
        return Estimate(
            distance=torch.where((status == Status.NONFINITE).unsqueeze(1), torch.nan, distance),
            layers=layers,
            rival=rival.gather(1, which),
            status=torch.where((status == Status.OK).unsqueeze(1), learned, status.unsqueeze(1)),
        )


def _dual_length(threat: Threat, layer: str, gradient: Tensor) -> Tensor:
    if layer == INPUT and threat.mask is not None:
        gradient = gradient * threat.mask.to(gradient.device)
    norm: Norm = threat.norm.dual
    return norm.length(gradient)
