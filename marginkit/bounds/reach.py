"""How far linear functions of a node's values can move, from above.

Let v be how far a node's values have moved. An activation makes D v of it, with D the slopes of its secants:
each lies in M - H .. M + H, and H is 0 where it is known. So for a matrix A after the activation

    |A D v|  <=  |A M v| + |A H| |v where H is not 0|.

The first part goes on backwards, through affine operations as they are, until the input or any node that all
of it passes through, where |A| times that node's own movement ends it: the least of these is taken. With
M = H = 1/2 everywhere it is the smallest product over groupings of layers of LipLT (Fazlyab et al., arXiv
2310.00116); secants known from a sample's own intervals make it a local one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, affine, nonlinear
from marginkit.bounds.spectral import ABOVE, matrix_norm
from marginkit.norms import Norm


@dataclass(frozen=True, eq=False)
class Secants:
    """What an activation makes of its inputs' movement.

    Attributes:
        least, most: slopes of its secants [n, *shape].
        radius: of a ball around the inputs whose secants are not known [n].
    """

    least: Tensor
    most: Tensor
    radius: Float[Tensor, "n"]

    def part(self, samples: Tensor) -> Secants:
        """Of some samples."""
        return Secants(self.least[samples], self.most[samples], self.radius[samples])

    @cached_property
    def undecided(self) -> Bool[Tensor, "n *shape"]:
        """Inputs whose secants are not known."""
        return self.least < self.most


def reach(
    graph: Graph,
    radii: Sequence[Float[Tensor, "n"]],
    secants: Mapping[int, Secants],
    i: int,
    rows: Float[Tensor, "n rows *shape"],
    norm: Norm,
) -> tuple[Float[Tensor, "n rows"], Float[Tensor, "n"]]:
    """The movement of each function by itself, and the norm of that of all of them.

    Args:
        graph: the operations.
        radii: how far the nodes up to i move, in the norm; inf where nothing is known.
        secants: of activations before i; nothing goes back through others.
        i: the node.
        rows: coefficients of its values.
        norm: of inputs and nodes.
    """
    nodes, pending = graph.nodes, {i: rows}
    passed = rows.new_zeros(len(rows), rows.shape[1] + 1)
    best = torch.full_like(passed, torch.inf)
    for j in range(i, -1, -1):
        if j not in pending:
            continue
        a, op = pending.pop(j), nodes[j].op
        blocked = nonlinear(op) and j not in secants
        if blocked or not pending:
            ended = passed + _moved(a, radii[j], norm)
            best = best if pending else torch.minimum(best, ended)
            passed = ended if blocked else passed
        if j in secants:
            known = secants[j]
            middle, half = (known.most + known.least) / 2, (known.most - known.least) / 2
            passed = passed + _moved(a * half.unsqueeze(1), known.radius, norm)
            parts = [a * middle.unsqueeze(1)]
        elif affine(op):
            shapes = [nodes[k].shape for k in nodes[j].inputs]
            back = op.transpose(a.flatten(0, 1), shapes)
            parts = [part.view(*a.shape[:2], *part.shape[1:]) for part in back]
        else:
            parts = []
        for k, part in zip(nodes[j].inputs, parts, strict=bool(parts)):
            pending[k] = pending[k] + part if k in pending else part
    return best[:, :-1], best[:, -1]


def _moved(a: Tensor, radius: Tensor, norm: Norm) -> Tensor:
    """Of each row, and of all of them [n, rows + 1], where the inputs move by the radius."""
    a = a.reshape(*a.shape[:2], -1)
    each = norm.dual.length(a.flatten(0, 1)).view(a.shape[:2]) * ABOVE
    together = operator_norm(a, norm)
    lengths = torch.cat([each, together.unsqueeze(1)], 1)
    return torch.where(lengths > 0, lengths * radius.unsqueeze(1), 0)


def operator_norm(matrix: Float[Tensor, "*n out into"], norm: Norm) -> Float[Tensor, "*n"]:
    """Max |W z| / |z| in the norm, from above: the largest singular value, column sum or row sum."""
    if norm.p == 2:
        return matrix_norm(matrix)
    found: Tensor = matrix.abs().sum(-2 if norm.p == 1 else -1).amax(-1)
    return found * ABOVE
