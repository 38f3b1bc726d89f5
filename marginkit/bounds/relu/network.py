"""A piecewise-linear network as matrices: layers of ReLUs, each affine in the input and the layers before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class ReLUNetwork:
    """h_l = b_l + sum over j < l of W_lj v_j, with v_0 the input and v_j = max(h_j, slope_j h_j).

    Most layers see one other alone; residual additions and max-pooling make some see several.

    Attributes:
        weights: of each layer [units, units of that source], by source: 0 the input, 1 the first hidden
            layer; the last layer gives the scores.
        biases: [units] of each.
        slopes: below 0, of the nonlinear layer behind each layer but the last.
    """

    weights: tuple[dict[int, Tensor], ...]
    biases: tuple[Float[Tensor, "_"], ...]
    slopes: tuple[float, ...]
    width: int = field(kw_only=True)

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
        values, before = [x], [x[:, :0]]
        for layer in range(len(self.slopes)):
            before.append(self.layer(layer, values))
            values.append(torch.maximum(before[-1], self.slopes[layer] * before[-1]))
        return torch.cat(before, 1), self.layer(len(self.slopes), values)

    def layer(self, layer: int, values: list[Tensor]) -> Float[Tensor, "n _"]:
        """What goes into that layer, from the values of the input and of the hidden layers before."""
        found = self.biases[layer].expand(len(values[0]), -1)
        for source, weight in self.weights[layer].items():
            found = found + values[source] @ weight.T
        return found

    def around(self, origin: Float[Tensor, "1 f"]) -> ReLUNetwork:
        """The same of displacements from `origin`."""
        biases = [
            bias + (origin @ weights[0].T)[0] if 0 in weights else bias
            for weights, bias in zip(self.weights, self.biases, strict=True)
        ]
        return replace(self, biases=tuple(biases))

    @property
    def rows(self) -> int:
        """The linear functions of the input that the network is made of."""
        return sum(len(weights[0]) for weights in self.weights if 0 in weights)

    def rotated(self) -> tuple[ReLUNetwork, Float[Tensor, "f into"]]:
        """The same of a point's coordinates in the span of those functions, and a basis of it.

        Nothing outside that span moves a score, and in it lengths in L2 stay what they are.
        """
        basis, _ = torch.linalg.qr(torch.cat([weights[0] for weights in self.weights if 0 in weights]).T)
        turned = [
            {source: weight @ basis if source == 0 else weight for source, weight in weights.items()}
            for weights in self.weights
        ]
        return replace(self, weights=tuple(turned), width=basis.shape[1]), basis

    def jacobian(self, active: Float[Tensor, "units"]) -> tuple[Tensor, Tensor]:
        """Of one linear region: hidden units and scores [units + classes] as rows of a matrix, and at zero.

        Args:
            active: 1 where a unit is on, 0 where it is off.
        """
        rows: list[Tensor] = []
        offsets: list[Tensor] = []
        kept = [
            (on + (1 - on) * slope).unsqueeze(1)
            for on, slope in zip(torch.split(active, self.sizes), self.slopes, strict=True)
        ]
        for weights, bias in zip(self.weights, self.biases, strict=True):
            row, offset = active.new_zeros(len(bias), self.width), bias
            for source, weight in weights.items():
                if source == 0:
                    row = row + weight
                else:
                    row = row + weight @ (kept[source - 1] * rows[source - 1])
                    offset = offset + weight @ (kept[source - 1][:, 0] * offsets[source - 1])
            rows.append(row)
            offsets.append(offset)
        return torch.cat(rows), torch.cat(offsets)
