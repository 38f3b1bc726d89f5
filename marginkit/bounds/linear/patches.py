"""Coefficients that are zero outside a patch of an image, of which only the patch is kept."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from marginkit.bounds.graph.ops import Convolution, Shape

Patch = tuple[slice, slice]


@dataclass(frozen=True, eq=False)
class Coefficients:
    """Linear functions of a value.

    Attributes:
        a: [b, rows, *shape], b = 1 where all samples share them; or of an image [c, h, w] the patch.
        patch: where that is; None for all of it.
    """

    a: Tensor
    patch: Patch | None = None

    def of(self, values: Tensor) -> Tensor:
        """The part of values [n, *shape] that is kept."""
        return values if self.patch is None else values[(..., *self.patch)]

    def whole(self, shape: Shape) -> Tensor:
        """With the zeros."""
        if self.patch is None:
            return self.a
        (top, left), (high, wide) = (part.start for part in self.patch), shape[1:]
        return F.pad(self.a, (left, wide - self.patch[1].stop, top, high - self.patch[0].stop))

    def plus(self, other: Coefficients, shape: Shape) -> Coefficients:
        """The sum."""
        if self.patch == other.patch:
            return Coefficients(self.a + other.a, self.patch)
        return Coefficients(self.whole(shape) + other.whole(shape))

    def through(self, convolution: Convolution, shape: Shape) -> Coefficients:
        """The transposed convolution of a patch, of the inputs' shape."""
        assert self.patch is not None
        starts, sizes = [], []
        for axis, part in enumerate(self.patch):
            reach = convolution.dilation[axis] * (convolution.weight.shape[2 + axis] - 1)
            starts.append(part.start * convolution.stride[axis] - convolution.padding[axis])
            sizes.append((part.stop - part.start - 1) * convolution.stride[axis] + reach + 1)
        size = (self.a.shape[0] * self.a.shape[1], shape[0], *sizes)
        back = convolution.transpose_to(size, self.a.flatten(0, 1), (0, 0))
        back = back.view(*self.a.shape[:2], *back.shape[1:])
        inside = [slice(max(0, -s), min(w, h - s)) for s, w, h in zip(starts, sizes, shape[1:], strict=True)]
        top, left = (
            slice(max(0, s), min(h, s + w)) for s, w, h in zip(starts, sizes, shape[1:], strict=True)
        )
        return Coefficients(back[..., inside[0], inside[1]], (top, left))


def single_entries(
    matters: Tensor, shape: Shape, most: int, dtype: torch.dtype
) -> Iterator[tuple[Coefficients, Tensor]]:
    """The entries of values [n, *shape] that matter, a few at a time, as linear functions of one entry each.

    Those of an image are shared by the samples, and taken from small tiles, so that their coefficients stay
    in a patch; those of other shapes are each sample's own, where one with fewer repeats others of its own.

    Args:
        matters: [n, entries].
        shape: of one sample's value.
        most: so many at a time.
        dtype: of the coefficients.

    Yields:
        Coefficients of k entries, and the entries' positions [n, k].
    """
    if len(shape) == 3:
        yield from _tiles(matters, shape, most, dtype)
        return
    most_of_one = int(matters.sum(1).amax())
    order = matters.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :most_of_one]
    for chosen in torch.split(order, most, dim=1):
        yield Coefficients(_one_hot(chosen, matters.shape[1], dtype).view(*chosen.shape, *shape)), chosen


def _tiles(
    matters: Tensor, shape: Shape, most: int, dtype: torch.dtype, side: int = 2
) -> Iterator[tuple[Coefficients, Tensor]]:
    positions = torch.arange(matters.shape[1], device=matters.device).view(shape)
    union = matters.any(0).view(shape)
    for top in range(0, shape[1], side):
        for left in range(0, shape[2], side):
            patch = (slice(top, min(top + side, shape[1])), slice(left, min(left + side, shape[2])))
            tile = union[(..., *patch)]
            for chosen in torch.split(tile.flatten().nonzero().T, most, dim=1):
                if chosen.numel():
                    rows = _one_hot(chosen, tile.numel(), dtype).view(*chosen.shape, *tile.shape)
                    found = positions[(..., *patch)].flatten()[chosen]
                    yield Coefficients(rows, patch), found.expand(len(matters), -1)


def _one_hot(chosen: Tensor, entries: int, dtype: torch.dtype) -> Tensor:
    rows = torch.zeros(*chosen.shape, entries, dtype=dtype, device=chosen.device)
    return rows.scatter_(2, chosen.unsqueeze(2), 1)
