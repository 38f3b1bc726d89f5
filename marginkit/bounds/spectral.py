"""Largest singular values of affine operations, from above."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import torch
from torch import Tensor

from marginkit.bounds.graph.ops import Convolution, Dense, Shape
from marginkit.norms import Norm

ABOVE = 1 + 1e-9  # for the rounding of singular values


def matrix_norm(matrix: Tensor) -> Tensor:
    """The largest singular value of each [..., m, n], by the smaller of its Gram matrices."""
    tall = matrix.shape[-2] > matrix.shape[-1]
    gram = matrix.mH @ matrix if tall else matrix @ matrix.mH
    squares: Tensor = torch.linalg.eigvalsh(gram)[..., -1]
    return squares.clamp(min=0).sqrt() * ABOVE


def convolution_norm(op: Convolution, shape: Shape) -> Tensor:
    """That of a convolution padded with zeros, on inputs [channels, *shape].

    It is a part of the same convolution on a torus large enough for nothing to wrap around: the inputs fill
    some of its places, the outputs are some of its outputs. On the torus Fourier modes are mixed only with
    those that the stride can't tell apart (after Sedghi et al., arXiv 1805.10408, who leave out padding and
    stride): one small matrix a mode, whose largest singular value is the torus's norm over sqrt(prod stride).
    """
    weight, axes = _ungrouped(op), range(2, op.weight.ndim)
    sizes = []
    for axis, size, stride, dilation in zip(axes, shape[1:], op.stride, op.dilation, strict=True):
        reach = size + (op.weight.shape[axis] - 1) * dilation
        sizes.append(-(-reach // stride) * stride)
    spread = weight.new_zeros(*weight.shape[:2], *sizes)
    taps = [slice(0, d * (k - 1) + 1, d) for d, k in zip(op.dilation, weight.shape[2:], strict=True)]
    spread[(slice(None), slice(None), *taps)] = weight
    modes: Tensor = torch.fft.fftn(spread, dim=tuple(axes))
    for axis, stride in zip(axes, op.stride, strict=True):
        split = (*modes.shape[:axis], stride, -1, *modes.shape[axis + 1 :])
        modes = modes.reshape(split).movedim(axis, 1).flatten(1, 2)
    largest = matrix_norm(modes.flatten(2).movedim(2, 0)).amax()
    found: Tensor = largest / float(prod(op.stride)) ** 0.5
    return found


def _ungrouped(op: Convolution) -> Tensor:
    """The weight between all channels: zero between groups."""
    out, into = op.weight.shape[0] // op.groups, op.weight.shape[1]
    whole = op.weight.new_zeros(out * op.groups, into * op.groups, *op.weight.shape[2:])
    for group in range(op.groups):
        rows, columns = slice(group * out, (group + 1) * out), slice(group * into, (group + 1) * into)
        whole[rows, columns] = op.weight[rows]
    return whole


def row_lengths(op: object, shapes: Sequence[Shape], norm: Norm) -> Tensor | None:
    """How far each output [1, *out] moves with inputs that move by 1 in the norm, where weights tell.

    In L2 and Linf by sums of the weights' powers; in L1 by the largest one, whether or not padding hides it.
    """
    if not isinstance(op, Dense | Convolution):
        return None
    ones = torch.ones(1, *shapes[0], dtype=op.weight.dtype, device=op.weight.device)
    if norm.p == 1:
        largest = op.weight.abs().flatten(1).amax(1)
        return largest.view(1, -1, *[1] * (op.weight.ndim - 2)).expand(op(ones).shape)
    if norm.p == 2:
        return replace(op, weight=op.weight.square(), bias=None)(ones).sqrt()
    return replace(op, weight=op.weight.abs(), bias=None)(ones)
