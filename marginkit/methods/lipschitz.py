"""The radius that Lipschitz constants prove."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marginkit.bounds.graph.graph import Graph
from marginkit.bounds.graph.ops import Dense
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.undecided import moved
from marginkit.bounds.lipschitz import LARGEST, metric, own_stretches, pulled_back, stages, stretches
from marginkit.bounds.reach import operator_norm
from marginkit.bounds.spectral import ABOVE
from marginkit.kinds import Kind
from marginkit.logits import Labels, ahead, differences, rivals
from marginkit.methods.certify.certificate import certificate, predicted, slack
from marginkit.methods.certify.largest_radius import largest_kept
from marginkit.methods.pgd import length_of_box
from marginkit.norms import Norm, Vectors
from marginkit.types import Bracket, Threat

ENTRIES = 2**20  # coefficients at a time
CARRIED = 2**18  # of a layer's undecided units: more of them cost more than they gain
AT_MOST = 2**18  # rivals times entries of all nodes: beyond it a sample takes tenths of a second, for little


@dataclass(frozen=True)
class Lipschitz:
    """min_j (f_y - f_j) / L_j, with L_j a Lipschitz constant of f_y - f_j: a lower end, and cheap.

    First L_j is one everywhere: the same for all samples, and without a box. Then, with `local`, one within a
    radius: units that no point within it and the box takes across zero leave the norms. It proves r where
    min_j (f_y - f_j) / L_j(r) >= r, and the largest such r is looked for. Singular values are exact
    ones of the layers as they are, put upwards; layers too large for that have the geometric mean of their
    row and column sums.

    Attributes:
        bound: `product` is the product of the layers' operator norms (branches are summed). `layered` is the
            smallest product over groupings of layers (LipLT, arXiv 2310.00116) or, where that is smaller,
            the closed form of ECLipsE-Fast (arXiv 2404.04375), which is for L2 and for chains of affine
            layers and activations with slopes in [0, 1]; where neither can be had, the product.
        pairwise: the last layer's rows differ by w_y - w_j, whose length is what counts for the pair; without
            it, sqrt(2) (L2) or 2 times the last layer's norm does (Tsuzuku et al., arXiv 1802.04034).
        local: constants within a radius too; radii are never smaller for it. Left out where `bound` or
            `pairwise` ask for something looser, and on networks too large for it.
    """

    bound: Literal["layered", "product"] = "layered"
    pairwise: bool = True
    local: bool = True
    kind: ClassVar[Kind] = Kind.LOWER

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The bracket [proved, inf]."""
        threat.require_fit(x)
        return certificate(model, x, y, threat, self._certify)

    def _certify(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        scores = graph(x)
        rival = rivals(scores, y, None)
        gap = differences(scores, y, rival) - slack(scores, y, rival)
        best = self.bound == "layered" and self.pairwise
        with x.device:  # matrices are made where the model is
            matrices = stages(graph)
            own = own_stretches(graph, threat.norm) if best or matrices is None else ()
            pairs = self._pairs(graph, matrices, own, threat)
            if best:
                pairs = torch.minimum(pairs, _grouped(graph, own, scores.shape[1], threat.norm))
        radius, which = _proved(gap, pairs[y.unsqueeze(1), rival])
        if self.local and best:
            known = radius, which
            radius, which = _within(graph, own, x, y, threat, ahead(y, rival, scores), gap, known)
        return radius, rival.gather(1, which.unsqueeze(1)).squeeze(1)

    def _pairs(
        self, graph: Graph, matrices: list[Tensor] | None, own: Sequence[float], threat: Threat
    ) -> Tensor:
        """A Lipschitz constant of f_i - f_j for each pair of classes."""
        if matrices is None:
            return self._by_nodes(graph, own, threat.norm)
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

    def _by_nodes(self, graph: Graph, own: Sequence[float], norm: Norm) -> Tensor:
        found, last = stretches(graph, own), graph.nodes[-1]
        if self.pairwise and isinstance(last.op, Dense) and len(last.shape) == 1:
            return self._of_rows(last.op.weight, norm) * found[last.inputs[0]] * ABOVE
        rows = torch.eye(*last.shape, dtype=torch.float64)
        return self._of_rows(rows, norm) * found[-1] * ABOVE

    def _of_rows(self, weight: Tensor, norm: Norm) -> Tensor:
        """How far the difference of each two rows' products can move with an input of length 1."""
        if self.pairwise:
            return torch.stack([norm.dual.length(row - weight) for row in weight])
        apart = {1.0: 1.0, 2.0: 2**0.5}.get(norm.p, 2.0)
        return operator_norm(weight, norm).expand(len(weight), len(weight)) * apart


def _proved(gap: Tensor, constants: Tensor) -> tuple[Tensor, Tensor]:
    """The radius [n], and which pair stands in the way."""
    radius, which = (gap.clamp(min=0) / constants).nan_to_num(nan=torch.inf, posinf=torch.inf).min(1)
    return radius, which


def _within(
    graph: Graph,
    own: Sequence[float],
    x: Tensor,
    y: Tensor,
    threat: Threat,
    targets: Tensor,
    gap: Tensor,
    known: tuple[Tensor, Tensor],
) -> tuple[Tensor, Tensor]:
    """The radius and the pair that stands in the way, by constants within a radius where these prove more.

    Where no box ends near, none of them is below the gradient at the sample, so none proves more than the
    linearised distance: nothing beyond it is tried.
    """
    sizes = [prod(node.shape) for node in graph.nodes]
    if gap.shape[1] * sum(sizes) > AT_MOST:
        return known
    low, high = threat.room(x)

    def prove(samples: Tensor, radius: Tensor) -> tuple[Tensor, Tensor]:
        found = []
        for some, at in zip(torch.split(samples, at_once), torch.split(radius, at_once), strict=True):
            box = (None, None) if low is None or high is None else (low[some], high[some])
            far = moved(graph, Ball(x[some], at, threat.norm, *box), own, targets[some], CARRIED)
            found.append(_proved(gap[some], far / at.unsqueeze(1)))
        return torch.cat([radius for radius, _ in found]), torch.cat([which for _, which in found])

    at_once = max(1, ENTRIES // (16 * max(sizes)))
    most = predicted(graph, x, y, threat.norm).clamp(min=0)
    return largest_kept(prove, *known, most, length_of_box(x, threat))


def _grouped(graph: Graph, own: Sequence[float], classes: int, norm: Norm) -> Tensor:
    """A Lipschitz constant of f_i - f_j for each pair of classes, inf where they are too many."""
    unit = torch.eye(classes, dtype=torch.float64)
    if classes**2 * max(prod(node.shape) for node in graph.nodes) > LARGEST:
        return torch.full_like(unit, torch.inf)
    rows = (unit.unsqueeze(1) - unit).view(-1, classes)
    return pulled_back(graph, norm, own, rows).view(classes, classes)
