"""From a graph of operations to layers of ReLUs as matrices."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.bounds.graph.graph import Graph, Node, affine
from marginkit.bounds.graph.ops import Affine, Shape
from marginkit.bounds.graph.pooling import MaxPool
from marginkit.bounds.graph.relaxations import Rectifier
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.bounds.relu.network import ReLUNetwork

UNITS = 2000  # ReLUs, and classes, that are worth a dense matrix


@dataclass(frozen=True, eq=False)
class Value:
    """An affine function of the input and the hidden layers.

    Attributes:
        constant: [1, *shape].
        parts: of each source, its units' coefficients [units, *shape].
    """

    constant: Tensor
    parts: dict[int, Tensor]

    def map(self, linear: Callable[[Tensor], Tensor]) -> Value:
        """A linear operation's result."""
        return Value(linear(self.constant), {j: linear(part) for j, part in self.parts.items()})

    def __getitem__(self, rows: slice) -> Value:
        return self.map(lambda part: part[:, rows])

    def padded(self, before: int, after: int) -> Value:
        """With rows of zeros."""
        return self.map(lambda part: F.pad(part, (0, 0, before, after)))

    def plus(self, other: Value, sign: float = 1.0) -> Value:
        """The sum, or the difference."""
        parts = dict(self.parts)
        for j, part in other.parts.items():
            parts[j] = parts[j] + sign * part if j in parts else sign * part
        return Value(self.constant + sign * other.constant, parts)


@dataclass(frozen=True, eq=False)
class _Layers:
    """The layers met so far."""

    units: int
    weights: list[dict[int, Tensor]] = field(default_factory=list)
    biases: list[Tensor] = field(default_factory=list)
    slopes: list[float] = field(default_factory=list)

    def append(self, value: Value) -> None:
        """One more layer of values to be known."""
        bias = value.constant.flatten()
        if sum(map(len, self.biases)) + len(bias) > self.units:
            raise Unsupported(f"more than {self.units} ReLUs, too many to split")
        self.biases.append(bias)
        self.weights.append({j: part.flatten(1).T.contiguous() for j, part in value.parts.items()})

    def rectified(self, value: Value, slope: float) -> Value:
        """Behind a ReLU, or a LeakyReLU of that slope."""
        self.append(value)
        self.slopes.append(slope)
        eye = torch.eye(len(self.biases[-1]), dtype=torch.float64)
        shape = value.constant.shape[1:]
        return Value(torch.zeros_like(value.constant), {len(self.slopes): eye.view(-1, *shape)})

    def bent(self, value: Value, slope: float) -> Value:
        """max(value, slope value); below 0 its slope makes it slope value + (1 - slope) relu(value)."""
        if slope >= 0:
            return self.rectified(value, slope)
        return value.map(lambda part: slope * part).plus(self.rectified(value, 0.0), 1 - slope)

    def pooled(self, value: Value, pool: MaxPool, shape: Shape) -> Value:
        """The largest of each window, by max(a, b) = b + relu(a - b) in as many rounds as it takes."""
        index = pool.entries(tuple(value.constant.shape[1:]))
        left = value.map(lambda part: part.flatten(1)[:, index])
        while (count := left.constant.shape[1]) > 1:
            pairs = count // 2
            one, other, rest = left[:pairs], left[pairs : 2 * pairs], left[2 * pairs :]
            larger = other.plus(self.rectified(one.plus(other, -1.0), 0.0))
            left = larger.padded(0, count % 2).plus(rest.padded(pairs, 0)) if count % 2 else larger
        return left.map(lambda part: part.view(-1, *shape))


def relu_network(graph: Graph, units: int = UNITS) -> ReLUNetwork:
    """The graph as matrices.

    Raises:
        Unsupported: it has another nonlinear operation than ReLU, LeakyReLU or max-pooling, or more than
            `units` ReLUs, those of max-pooling counted, or scores.
    """
    first = graph.nodes[0]
    width = prod(first.shape)
    eye = torch.eye(width, dtype=torch.float64).view(-1, *first.shape)
    values = [Value(torch.zeros_like(eye[:1]), {0: eye})]
    layers = _Layers(units)
    for node in graph.nodes[1:]:
        inputs = [values[i] for i in node.inputs]
        if isinstance(node.op, Rectifier):
            values.append(layers.bent(inputs[0], node.op.negative))
        elif isinstance(node.op, MaxPool):
            values.append(layers.pooled(inputs[0], node.op, node.shape))
        elif affine(node.op):
            values.append(_mapped(node.op, inputs, node, units))
        else:
            raise Unsupported(f"{type(node.op).__name__}, which is not piecewise linear or can't be split")
    layers.append(values[-1])
    return ReLUNetwork(tuple(layers.weights), tuple(layers.biases), tuple(layers.slopes), width=width)


def _mapped(op: Affine, inputs: list[Value], node: Node, units: int) -> Value:
    """An affine operation's result: its linear part for each source."""
    if prod(node.shape) > 16 * units:
        raise Unsupported(f"a layer of {prod(node.shape)} values, too many for a matrix")
    zeros = [torch.zeros_like(value.constant) for value in inputs]
    shift = op(*zeros)
    parts = {}
    for j, size in {j: len(part) for value in inputs for j, part in value.parts.items()}.items():
        mine = [
            value.parts[j] if j in value.parts else zero.expand(size, *zero.shape[1:])
            for value, zero in zip(inputs, zeros, strict=True)
        ]
        parts[j] = op(*mine) - shift
    return Value(op(*(value.constant for value in inputs)), parts)
