"""MaxMin, which sorts pairs of entries: as a ReLU of their difference, and with what that leaves unsaid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.bounds.graph.call import Call, Node
from marginkit.bounds.graph.ops import Interval, Shape
from marginkit.bounds.graph.relaxations import Rectifier


@dataclass(frozen=True)
class PairDifference:
    """B - a for the first two halves a, b of the channels; an odd last one takes no part."""

    mixes: ClassVar[int] = 1

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        a, b = _halves(inputs[0])
        return b - a

    def interval(self, *inputs: Interval) -> Interval:
        """The ends of a change places."""
        (less, low), (more, high) = (_halves(end) for end in inputs[0])
        return low - more, high - less

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """Each half its sign."""
        return (_filled(torch.cat([-a, a], 1), shapes[0]),)


@dataclass(frozen=True)
class Sorted:
    """(a + r, b - r), where r = relu(b - a) moves the larger of each pair into the first half.

    As a function of the pairs alone it only changes their order: `moved_by` says so.
    """

    mixes: ClassVar[int] = 2

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The value."""
        x, rise = inputs
        return x + _filled(torch.cat([rise, -rise], 1), tuple(x.shape[1:]))

    def interval(self, *inputs: Interval) -> Interval:
        """The ends of r change places in the second half."""
        (low, high), (least, most) = inputs
        shape = tuple(low.shape[1:])
        return (
            low + _filled(torch.cat([least, -most], 1), shape),
            high + _filled(torch.cat([most, -least], 1), shape),
        )

    def transpose(self, a: Tensor, shapes: Sequence[Shape]) -> Sequence[Tensor]:
        """The pairs as they are, and the halves' difference."""
        first, second = _halves(a)
        return a, first - second


def maxmin(call: Call) -> int:
    """`marginkit.models.one_lipschitz.maxmin`."""
    if call.shape[0] < 2:
        return call.x
    ahead = call.add(PairDifference(), call.x, shape=(call.shape[0] // 2, *call.shape[1:]))
    return call.last(Sorted(), call.x, call.add(Rectifier(), ahead))


def moved_by(node: Node) -> tuple[int, ...]:
    """The inputs whose changes together are no smaller, in any norm, than those of what the node computes.

    Of a node that adds, all; of sorted pairs those pairs.
    """
    return node.inputs[:1] if isinstance(node.op, Sorted) else node.inputs


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    half = x.shape[1] // 2
    return x[:, :half], x[:, half : 2 * half]


def _filled(x: Tensor, shape: Shape) -> Tensor:
    """With a channel of zeros where there is an odd last one."""
    return F.pad(x, (*[0] * (2 * len(shape) - 1), 1)) if x.shape[1] < shape[0] else x
