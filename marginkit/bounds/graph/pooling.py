"""Max-pooling, and the lines that enclose it."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.bounds.graph.ops import Interval, Shape


@dataclass(frozen=True)
class MaxPool:
    """The largest entry of each window of an image [channels, height, width], or [channels, length].

    Lower line: the entry whose own lower bound is highest. Upper line: with l that bound, the better at the
    windows' middles of the constant max_i u_i and of l + sum_i relu(x_i - l), each relu by its chord.
    """

    size: Shape
    stride: Shape
    padding: Shape
    dilation: Shape
    piecewise: ClassVar[bool] = False

    def __call__(self, x: Tensor) -> Tensor:
        """The value."""
        largest = F.max_pool2d(_image(x), self.size, self.stride, self.padding, self.dilation)
        return largest.squeeze(2) if x.ndim == 3 else largest

    def interval(self, x: Interval) -> Interval:
        """Monotone."""
        return self(x[0]), self(x[1])

    def lines(self, low: Tensor, high: Tensor, same: bool) -> PoolingRelaxation:
        """Lines over each window's entries; there are no parallel ones, whatever `same`."""
        shape = _image(low).shape[1:]
        low, high = self.windows(low), self.windows(high)
        best = low.amax(2, keepdim=True)
        top = high.amax(2)
        chord = ((high - best) / torch.where(high > low, high - low, 1)).clamp(min=0, max=1)
        chord = torch.where(high > best, torch.where(low >= best, 1, chord), 0)
        start = torch.where(chord > 0, low, 0)
        offset = (best - torch.where(low >= best, chord * best, chord * start)).sum(2) - best.squeeze(2) * (
            low.shape[2] - 1
        )
        middle = torch.where(chord > 0, (low + high) / 2, 0)
        sloped = (chord * middle).sum(2) + offset < top
        lower = F.one_hot(low.argmax(2), low.shape[2]).transpose(2, 3).to(low)
        upper = torch.where(sloped.unsqueeze(2), chord, 0)
        return PoolingRelaxation(self, shape, lower, upper, torch.where(sloped, offset, top))

    def windows(self, x: Tensor) -> Tensor:
        """[n, c, h, w] -> [n, c, entries of a window, windows]; -inf outside the image."""
        high, wide = self.padding
        padded = F.pad(_image(x), (wide, wide, high, high), value=-torch.inf)
        entries = F.unfold(padded, self.size, self.dilation, 0, self.stride)
        return entries.view(len(x), x.shape[1], -1, entries.shape[2])

    def entries(self, shape: Shape) -> Tensor:
        """Positions in an image of that shape of each window's entries [entries, channels * windows].

        In the place of those outside the image others of the window are repeated.
        """
        positions = torch.arange(prod(shape), dtype=torch.float64).view(1, *shape)
        where = self.windows(positions)[0]
        where = torch.where(where.isfinite(), where, where.amax(1, keepdim=True))
        return where.transpose(0, 1).flatten(1).long()

    def scatter(self, entries: Tensor, shape: Shape) -> Tensor:
        """The transpose of taking windows: [m, c, entries, windows] -> [m, c, h, w]."""
        high, wide = self.padding
        size = (shape[1] + 2 * high, shape[2] + 2 * wide)
        whole = F.fold(entries.flatten(1, 2), size, self.size, self.dilation, 0, self.stride)
        return whole[:, :, high : size[0] - high, wide : size[1] - wide]


@dataclass(frozen=True, eq=False)
class PoolingRelaxation:
    """Lines of a max-pooling, their slopes [n, c, entries, windows]; the lower ones have no offset."""

    pool: MaxPool
    shape: Shape
    lower: Tensor
    upper: Tensor
    offset: Tensor

    def backward(self, a: Tensor) -> tuple[Tensor, Tensor]:
        """Positive coefficients take the lower line, negative ones the upper."""
        flat = a.flatten(3).unsqueeze(3)  # [n, rows, c, 1, windows]
        up, down = flat.clamp(min=0), flat.clamp(max=0)
        entries = up * self.lower.unsqueeze(1) + down * self.upper.unsqueeze(1)
        back = self.pool.scatter(entries.flatten(0, 1), self.shape)
        offset = (down.squeeze(3) * self.offset.unsqueeze(1)).sum((2, 3))
        shape = self.shape if a.ndim == 5 else (self.shape[0], self.shape[2])
        return back.reshape(*entries.shape[:2], *shape), offset


def _image(x: Tensor) -> Tensor:
    return x.unsqueeze(2) if x.ndim == 3 else x
