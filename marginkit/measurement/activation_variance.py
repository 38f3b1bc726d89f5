"""How much a layer's activations vary: the scale by which its margins are divided."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.guard.precision import precise


def activation_variance(
    model: nn.Module, inputs: Iterator[Tensor], layers: Sequence[str]
) -> dict[str, float]:
    """Each layer's total variance: the variances over samples of its features, summed.

    Jiang et al. 2019, arXiv 1810.00113. In the layer's raw units, squared; biased (over n), in float64.
    """
    count = 0
    sums: list[Tensor] = []
    squares: list[Tensor] = []
    for x in inputs:
        better = precise(model, x)
        _, activations = capture(better.model, better.x, layers)
        flat = [h.detach().flatten(1).double().cpu() for h in activations]
        if not count:
            sums, squares = ([torch.zeros_like(h[0]) for h in flat] for _ in range(2))
        count += len(x)
        for h, total, square in zip(flat, sums, squares, strict=True):
            total += h.sum(0)
            square += h.square().sum(0)
    return {
        layer: float((square / count - (total / count).square()).clamp(min=0).sum())
        for layer, total, square in zip(layers, sums, squares, strict=True)
    }
