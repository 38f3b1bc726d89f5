"""Layers whose weights are kept such that they stretch no displacement, in L2.

Each is an ordinary layer with a parametrisation (`torch.nn.utils.parametrize`) of its weight, for training;
`plain_state` writes down the weights themselves, with which the same network of ordinary layers is filled.
"""

from __future__ import annotations

import copy
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import handle_torch_function, has_torch_function_unary

Kept = Literal["cayley", "aol"]


def maxmin(x: Float[Tensor, "n channels *d"]) -> Float[Tensor, "n channels *d"]:
    """The larger of each two entries in the first half of the channels, the smaller in the second.

    Entry i of the first half goes with entry i of the second; an odd last channel stays as it is. It only
    changes the order, so no displacement grows, in any norm (GroupSort of Anil et al., arXiv 1811.05381).
    """
    if has_torch_function_unary(x):  # tracing sees one function, and so knows that it stretches nothing
        found: Tensor = handle_torch_function(maxmin, (x,), x)
        return found
    half = x.shape[1] // 2
    a, b = x[:, :half], x[:, half : 2 * half]
    rest = [x[:, -1:]] if x.shape[1] % 2 else []
    return torch.cat([torch.maximum(a, b), torch.minimum(a, b), *rest], 1)


class MaxMin(nn.Module):
    """`maxmin` as a layer."""

    def forward(self, x: Tensor) -> Tensor:
        """The activations."""
        return maxmin(x)


class AOL(nn.Module):
    """W diag(d)^-1/2 with d_j = sum_i |W^T W|_ji: almost orthogonal, never longer (arXiv 2208.03160).

    Of a convolution the sum goes over its kernel's correlation with itself; padding and stride only take
    terms away.
    """

    def forward(self, weight: Tensor) -> Tensor:
        """The weight of a layer."""
        with torch.autocast(weight.device.type, enabled=False):
            if weight.ndim == 2:
                sums = (weight.T @ weight).abs().sum(1)
            else:
                kernel = weight.transpose(0, 1)
                reach = [size - 1 for size in weight.shape[2:]]
                sums = F.conv2d(kernel, kernel, padding=reach).abs().sum((1, 2, 3))
            return weight / sums.clamp(min=1e-12).sqrt().view(1, -1, *[1] * (weight.ndim - 2))

    def right_inverse(self, weight: Tensor) -> Tensor:
        """To start from: the kernels' centres are orthogonal, the rest small noise."""
        start = 1e-3 * torch.randn_like(weight)
        middle = start
        for size in weight.shape[2:]:
            middle = middle.select(2, size // 2)
        nn.init.orthogonal_(middle)
        return start


class Cayley(nn.Module):
    """A matrix with orthonormal rows or columns, whichever are fewer, of any matrix (arXiv 2104.07167).

    Of the upper square U and the rest V: (I + A)^-1 (I - A) above -2 V (I + A)^-1, A = U - U^T + V^T V.
    """

    def forward(self, free: Tensor) -> Tensor:
        """The weight of a layer."""
        with torch.autocast(free.device.type, enabled=False):
            return cayley(free) if free.shape[0] >= free.shape[1] else cayley(free.T).T

    def right_inverse(self, weight: Tensor) -> Tensor:
        """To start from, at random."""
        return _random(weight, *weight.shape)


class CayleyKernel(nn.Module):
    """A convolution's kernel that is orthogonal on a torus, and padded with zeros no longer.

    A product of an orthogonal matrix and, for each step of the kernel's size, of (P, I - P), P a projection
    on half of the channels: block convolutions as in BCOP (Li et al., arXiv 1911.00937), with the matrices of
    Cayley's transform. Made on the larger side's channels.
    """

    def __init__(self, weight: Tensor) -> None:
        """For kernels of this one's size."""
        super().__init__()
        self.out, self.into, *self.size = weight.shape

    def forward(self, matrix: Tensor, projections: Tensor) -> Tensor:
        """The kernel [out, in, height, width]."""
        with torch.autocast(matrix.device.type, enabled=False):
            kernel = cayley(matrix)[None, None]
            halves = cayley(projections)
            place = 0
            for axis, size in enumerate(self.size):
                for _ in range(size - 1):
                    half, place = halves[place], place + 1
                    late = F.pad(kernel, (0, 0, 0, 0, *((0, 0, 1, 0) if axis == 0 else (1, 0))))
                    soon = F.pad(kernel, (0, 0, 0, 0, *((0, 0, 0, 1) if axis == 0 else (0, 1))))
                    kernel = late + half @ (half.mT @ (soon - late))
            return kernel.permute(2, 3, 0, 1) if self.out >= self.into else kernel.permute(3, 2, 0, 1)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """To start from, at random."""
        most, least = max(self.out, self.into), min(self.out, self.into)
        steps = sum(size - 1 for size in self.size)
        return _random(weight, most, least), _random(weight, steps, most, max(1, most // 2))


class UnitRows(nn.Module):
    """Rows of length 1, for the scores."""

    def forward(self, weight: Tensor) -> Tensor:
        """The weight of a layer."""
        return F.normalize(weight, dim=1)


def cayley(free: Float[Tensor, "*k rows columns"]) -> Float[Tensor, "*k rows columns"]:
    """Orthonormal columns, no more of them than rows."""
    columns = free.shape[-1]
    upper, rest = free[..., :columns, :], free[..., columns:, :]
    skew = upper - upper.mT + rest.mT @ rest
    one = torch.eye(columns, dtype=free.dtype, device=free.device)
    inverse = torch.linalg.inv_ex(one + skew).inverse  # it always has one; asking would stop a GPU
    return torch.cat([(one - skew) @ inverse, -2 * rest @ inverse], -2)


def constrain(model: nn.Module, layer: Kept) -> None:
    """Parametrises every convolution and dense layer of a model that ends with a dense one, in place.

    The weights start anew, from the global generator; the last layer gets rows of length 1.
    """
    found = [module for module in model.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    for module in found[:-1]:
        if module.bias is not None:
            nn.init.zeros_(module.bias)
        kernel = CayleyKernel(module.weight) if isinstance(module, nn.Conv2d) else Cayley()
        parametrize.register_parametrization(module, "weight", AOL() if layer == "aol" else kernel)
    parametrize.register_parametrization(found[-1], "weight", UnitRows())


def is_constrained(model: nn.Module) -> bool:
    """Whether `constrain` has seen it: then what comes in front of the scores stretches nothing in L2."""
    return any(isinstance(module, AOL | Cayley | CayleyKernel | UnitRows) for module in model.modules())


def plain_state(model: nn.Module) -> dict[str, Tensor]:
    """The state of the same network of ordinary layers, on the CPU; their weights are found in float64."""
    found = {name: value.detach().cpu().clone() for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        if parametrize.is_parametrized(module):
            prefix = f"{name}.parametrizations."
            free = [key for key in found if key.startswith(prefix)]
            (kind,) = {found.pop(key).dtype for key in free}
            exact = copy.deepcopy(module.get_submodule("parametrizations.weight")).cpu().double()
            with torch.no_grad():
                found[f"{name}.weight"] = exact().to(kind).contiguous()
    return found


def _random(like: Tensor, *shape: int) -> Tensor:
    found: Tensor = torch.randn(shape, dtype=like.dtype, device=like.device) / float(shape[-2]) ** 0.5
    return found
