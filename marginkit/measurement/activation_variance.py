"""How much a layer's activations vary: the scale by which its margins are divided."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.events import OnEvent, unheard
from marginkit.guard.precision import precise
from marginkit.measurement.memory import halving

Sums = list[tuple[Tensor, Tensor]]  # of each layer's features, and of their squares, in float64


def activation_variance(
    model: nn.Module, inputs: Iterable[Tensor], layers: Sequence[str], on_event: OnEvent = unheard
) -> dict[str, float]:
    """Each layer's total variance: the variances over samples of its features, summed.

    Jiang et al. 2019, arXiv 1810.00113. In the layer's raw units, squared; biased (over n), in float64. A
    batch that does not fit into memory is done in halves.
    """
    count = 0
    sums: Sums = []
    for x in inputs:
        for part in _pieces(model, x, layers, on_event):
            sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, part, strict=True)] if sums else part
        count += len(x)
    return {
        layer: float((square / count - (total / count).square()).clamp(min=0).sum())
        for layer, (total, square) in zip(layers, sums, strict=True)
    }


def _pieces(model: nn.Module, x: Tensor, layers: Sequence[str], on_event: OnEvent) -> list[Sums]:
    return halving(lambda rows: _sums(model, x[rows], layers), len(x), "activation variance", on_event)


def _sums(model: nn.Module, x: Tensor, layers: Sequence[str]) -> Sums:
    better = precise(model, x)
    _, activations = capture(better.model, better.x, layers)
    flat = [h.detach().flatten(1).double().cpu() for h in activations]
    return [(h.sum(0), h.square().sum(0)) for h in flat]
