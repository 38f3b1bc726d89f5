"""A ReLU network as matrices: affine, ReLU, affine, ..., affine."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph import Graph, affine
from marginkit.bounds.relaxations import Rectifier
from marginkit.bounds.unsupported import Unsupported

UNITS = 2000  # ReLUs, and classes, that are worth a dense matrix


@dataclass(frozen=True, eq=False)
class Chain:
    """h_1 = W_1 x + b_1, h_(l+1) = W_(l+1) max(h_l, slope_l h_l) + b_(l+1); the last one gives the scores.

    Attributes:
        weights: [units, units before] of each layer; the input is flat.
        biases: [units] of each.
        slopes: below 0, of the nonlinear layer behind each layer but the last.
    """

    weights: tuple[Float[Tensor, "_ _"], ...]
    biases: tuple[Float[Tensor, "_"], ...]
    slopes: tuple[float, ...]

    @property
    def sizes(self) -> list[int]:
        """The units of each hidden layer."""
        return [len(bias) for bias in self.biases[:-1]]

    @property
    def units(self) -> int:
        """All hidden units."""
        return sum(self.sizes)

    def hidden(self, x: Float[Tensor, "n f"]) -> tuple[Float[Tensor, "n units"], Float[Tensor, "n classes"]]:
        """What goes into the hidden units, side by side, and the scores."""
        before = []
        value = x @ self.weights[0].T + self.biases[0]
        for weight, bias, slope in zip(self.weights[1:], self.biases[1:], self.slopes, strict=True):
            before.append(value)
            value = torch.maximum(value, slope * value) @ weight.T + bias
        return torch.cat([value[:, :0], *before], 1), value

    def around(self, origin: Float[Tensor, "1 f"]) -> Chain:
        """The same of displacements from `origin`."""
        first = self.biases[0] + (origin @ self.weights[0].T)[0]
        return replace(self, biases=(first, *self.biases[1:]))

    def rotated(self) -> tuple[Chain, Float[Tensor, "f into"]]:
        """The same of a point's coordinates in the span of the first layer's rows, and that basis.

        Nothing outside that span moves a score, and in it lengths in L2 stay what they are.
        """
        basis, triangle = torch.linalg.qr(self.weights[0].T)
        return replace(self, weights=(triangle.T.contiguous(), *self.weights[1:])), basis

    def jacobian(self, active: Float[Tensor, "units"]) -> tuple[Tensor, Tensor]:
        """Of one linear region: hidden units and scores [units + classes] as rows of a matrix, and at zero.

        Args:
            active: 1 where a unit is on, 0 where it is off.
        """
        rows, offsets = [self.weights[0]], [self.biases[0]]
        parts = torch.split(active, self.sizes)
        for weight, bias, on, slope in zip(
            self.weights[1:], self.biases[1:], parts, self.slopes, strict=True
        ):
            kept = on + (1 - on) * slope
            offsets.append(weight @ (kept * offsets[-1]) + bias)
            rows.append(weight @ (kept.unsqueeze(1) * rows[-1]))
        return torch.cat(rows), torch.cat(offsets)


def chain(graph: Graph, units: int = UNITS) -> Chain:
    """The graph as matrices.

    Raises:
        Unsupported: it branches, has another nonlinear operation than ReLU or LeakyReLU, or more than
            `units` of them or of scores.
    """
    first = graph.nodes[0]
    eye = torch.eye(prod(first.shape), dtype=torch.float64)
    value = torch.cat([eye.new_zeros(1, len(eye)), eye]).view(-1, *first.shape)
    weights: list[Tensor] = []
    biases: list[Tensor] = []
    slopes: list[float] = []
    last = 0
    for i, node in enumerate(graph.nodes[1:], start=1):
        if node.inputs != (last,):
            raise Unsupported("a network that branches, which can't be split yet")
        last = i
        if isinstance(node.op, Rectifier):
            weight, bias = _matrix(value)
            if sum(map(len, biases)) + len(bias) > units:
                raise Unsupported(f"more than {units} ReLUs, too many to split")
            weights.append(weight)
            biases.append(bias)
            slopes.append(node.op.negative)
            eye = torch.eye(len(bias), dtype=torch.float64)
            value = torch.cat([eye.new_zeros(1, len(eye)), eye]).view(-1, *node.shape)
        elif affine(node.op):
            if prod(node.shape) > 16 * units:
                raise Unsupported(f"a layer of {prod(node.shape)} values, too many for a matrix")
            value = node.op(value)
        else:
            raise Unsupported(
                f"{type(node.op).__name__}, which is not piecewise linear or can't be split yet"
            )
    weight, bias = _matrix(value)
    return Chain((*weights, weight), (*biases, bias), tuple(slopes))


def _matrix(value: Tensor) -> tuple[Tensor, Tensor]:
    flat = value.flatten(1)
    return (flat[1:] - flat[0]).T.contiguous(), flat[0].clone()
