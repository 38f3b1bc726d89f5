"""Lipschitz-margin training: rivals get a head start that the wanted radius calls for."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.bounds.graph.graph import Graph, affine, trace
from marginkit.bounds.graph.ops import Affine, Shape
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.errors import MarginkitError
from marginkit.logits import Labels, scored
from marginkit.norms import Vectors


@dataclass(frozen=True)
class LipschitzMargin:
    """Cross-entropy with sqrt(2) radius L added to every score but the label's (arXiv 1802.04034).

    L is the product of the layers' spectral norms (sums over branches): where the label still wins, an L2
    ball of that radius is certified. Norms are estimated by power iteration from a fixed start, from below:
    good for training, not a proof (`lipschitz` proves). BatchNorm counts with its running statistics.

    Attributes:
        radius: the L2 radius wanted, in raw input units.
        steps: of power iteration.
        ramp: the share of training in which the radius grows.
    """

    radius: float = 0.1
    steps: int = 5
    ramp: float = 0.5

    def at(self, share: float) -> LipschitzMargin:
        """The loss when this share of training is done."""
        grown = min(1.0, share / self.ramp) if self.ramp else 1.0
        return LipschitzMargin(self.radius * grown, self.steps, self.ramp)

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`.

        Raises:
            MarginkitError: the model has an operation without bounds.
        """
        scores, y = scored(model, x, y)
        with evaluating(model):
            try:
                graph = trace(model, x.detach(), check=False)
            except Unsupported as found:
                raise MarginkitError(f"no Lipschitz constant: there are no bounds for {found}") from found
        head_start = 2**0.5 * self.radius * self._constant(graph, x)
        return F.cross_entropy(scores + head_start * (1 - F.one_hot(y, scores.shape[1])), y)

    def _constant(self, graph: Graph, x: Tensor) -> Tensor:
        found = [x.new_ones(())]
        for node in graph.nodes[1:]:
            before = sum((found[j] for j in node.inputs[1:]), start=found[node.inputs[0]])
            if affine(node.op) and len(node.inputs) == 1:
                before = before * self._spectral_norm(node.op, graph.nodes[node.inputs[0]].shape, x)
            found.append(before)
        return found[-1]

    def _spectral_norm(self, op: Affine, shape: Shape, x: Tensor) -> Tensor:
        zero = op(x.new_zeros(1, *shape))
        start = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(x)
        with torch.no_grad():
            for _ in range(self.steps):
                (back,) = op.transpose(op(start) - zero, [shape])
                start = back / back.norm().clamp(min=1e-30)
        length: Tensor = (op(start) - zero).norm()
        return length
