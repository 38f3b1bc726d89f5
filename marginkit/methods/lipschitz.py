"""The radius that a Lipschitz constant proves."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marginkit.bounds.graph.graph import Graph
from marginkit.bounds.graph.ops import Dense
from marginkit.bounds.lipschitz import LARGEST, metric, pulled_back, stages, stretches
from marginkit.bounds.reach import operator_norm
from marginkit.bounds.spectral import ABOVE
from marginkit.kinds import Kind
from marginkit.logits import Labels, differences, rivals
from marginkit.methods.certify.certificate import certificate, slack
from marginkit.norms import Norm, Vectors
from marginkit.types import Bracket, Threat


@dataclass(frozen=True)
class Lipschitz:
    """min_j (f_y - f_j) / L_j, with L_j a Lipschitz constant of f_y - f_j: a lower end, and nearly free.

    The same for all samples up to the gap of their scores, and without a box. Singular values are exact ones
    of the layers as they are, put upwards; layers too large for that have the geometric mean of their row
    and column sums.

    Attributes:
        bound: `product` is the product of the layers' operator norms (branches are summed). `layered` is the
            smallest product over groupings of layers (LipLT, arXiv 2310.00116) or, where that is smaller,
            the closed form of ECLipsE-Fast (arXiv 2404.04375), which is for L2 and for chains of affine
            layers and activations with slopes in [0, 1]; where neither can be had, the product.
        pairwise: the last layer's rows differ by w_y - w_j, whose length is what counts for the pair; without
            it, sqrt(2) (L2) or 2 times the last layer's norm does (Tsuzuku et al., arXiv 1802.04034).
    """

    bound: Literal["layered", "product"] = "layered"
    pairwise: bool = True
    kind: ClassVar[Kind] = Kind.LOWER

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The bracket [proved, inf]."""
        threat.require_fit(x)
        return certificate(model, x, y, threat, self._certify)

    def _certify(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        scores = graph(x)
        rival = rivals(scores, y, None)
        gap = differences(scores, y, rival) - slack(scores, y, rival)
        with x.device:  # matrices are made where the model is
            pairs = self._pairs(graph, scores.shape[1], threat)
            if self.bound == "layered" and self.pairwise:
                pairs = torch.minimum(pairs, _grouped(graph, scores.shape[1], threat.norm))
        radius, which = (gap.clamp(min=0) / pairs[y.unsqueeze(1), rival]).min(1)
        return radius.nan_to_num(nan=torch.inf, posinf=torch.inf), rival.gather(
            1, which.unsqueeze(1)
        ).squeeze(1)

    def _pairs(self, graph: Graph, classes: int, threat: Threat) -> Tensor:
        """A Lipschitz constant of f_i - f_j for each pair of classes."""
        matrices = stages(graph)
        if matrices is None:
            return self._by_nodes(graph, classes, threat.norm)
        *hidden, last = matrices
        if threat.mask is not None:
            free = threat.mask.expand(graph.nodes[0].shape).flatten()
            (hidden or [last])[0][:, ~free.to(last.device)] = 0
            *hidden, last = matrices
        if self.bound == "layered" and threat.norm.p == 2:
            root = torch.linalg.cholesky(metric(hidden, len(matrices[0][0])))
            whitened = torch.linalg.solve_triangular(root, last.T, upper=False).T
            return self._of_rows(whitened, threat.norm) * ABOVE
        stretch = prod(float(operator_norm(matrix, threat.norm)) for matrix in hidden)
        return self._of_rows(last, threat.norm) * stretch * ABOVE

    def _by_nodes(self, graph: Graph, classes: int, norm: Norm) -> Tensor:
        found, last = stretches(graph, norm), graph.nodes[-1]
        if self.pairwise and isinstance(last.op, Dense) and len(last.shape) == 1:
            return self._of_rows(last.op.weight, norm) * found[last.inputs[0]] * ABOVE
        rows = torch.eye(classes, dtype=torch.float64)
        return self._of_rows(rows, norm) * found[-1] * ABOVE

    def _of_rows(self, weight: Tensor, norm: Norm) -> Tensor:
        """How far the difference of each two rows' products can move with an input of length 1."""
        if self.pairwise:
            return torch.stack([norm.dual.length(row - weight) for row in weight])
        apart = {1.0: 1.0, 2.0: 2**0.5}.get(norm.p, 2.0)
        return operator_norm(weight, norm).expand(len(weight), len(weight)) * apart


def _grouped(graph: Graph, classes: int, norm: Norm) -> Tensor:
    """A Lipschitz constant of f_i - f_j for each pair of classes, inf where they are too many."""
    unit = torch.eye(classes, dtype=torch.float64)
    if classes**2 * max(prod(node.shape) for node in graph.nodes) > LARGEST:
        return torch.full_like(unit, torch.inf)
    rows = (unit.unsqueeze(1) - unit).view(-1, classes)
    return pulled_back(graph, norm, rows).view(classes, classes)
