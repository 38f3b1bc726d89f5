"""One backward pass for the norms of gradients and for the parameters.

The norms take the gradient of D, the difference to a rival, at some layers. The loss is a function of D, with
the norms held constant: where samples do not interact, its gradient at any activation is D's there, times one
number for each sample. So what the first pass found on its way down serves again, and what is left is each
module's own share.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from marginkit.activations import compiled
from marginkit.models.architectures import Normalize
from marginkit.norms import column

DENSE = (
    nn.Sequential, nn.Linear, nn.Flatten, nn.Identity, nn.Dropout, Normalize,
    nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh,
)  # fmt: skip
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
POOLS = (nn.MaxPool1d, nn.MaxPool2d, nn.AvgPool1d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)
SEPARATE = (*DENSE, *CONVOLUTIONS, *POOLS)


@dataclass(frozen=True)
class Owner:
    """A module's output in the graph, and the trainable parameters that are its own."""

    output: Tensor
    parameters: Sequence[Tensor]


def dense(model: nn.Module) -> bool:
    """Whether all its layers are dense, so that one vectorised pass for all rivals is faster than many."""
    return all(type(module) in DENSE for module in model.modules())


def owning(model: nn.Module) -> dict[str, list[Tensor]]:
    """The modules that have trainable parameters of their own, and these, where sharing is right and pays.

    It is right where a sample can be told from the others, and a parameter's part in the scores from
    another's: that is known of a sequence of certain modules, each of which runs once and has its parameters
    to itself. It pays with convolutions.
    """
    own = {
        name: [p for p in module.parameters(recurse=False) if p.requires_grad]
        for name, module in model.named_modules()
    }
    trained = [id(p) for parameters in own.values() for p in parameters]
    if not _plain(model) or len({*trained}) < len(trained):
        return {}
    return {name: parameters for name, parameters in own.items() if parameters}


def entrance(model: nn.Module) -> str | None:
    """The convolution that the input, of one channel and on a CPU, goes through first; None where unknown."""
    if not _plain(model):
        return None
    name, first = next(
        (n, m) for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))
    )
    gray = isinstance(first, nn.Conv2d) and first.in_channels == 1 and first.weight.device.type == "cpu"
    return name if gray else None


def _plain(model: nn.Module) -> bool:
    """Whether it is a sequence of certain modules as they are, each run once, with convolutions."""
    modules = [module for _, module in model.named_modules(remove_duplicate=False)]
    kinds = {type(module) for module in modules}
    altered = any(compiled(module) or getattr(module, "inplace", False) for module in modules)
    once = len({*map(id, modules)}) == len(modules)
    known = type(model) is nn.Sequential and kinds <= {*SEPARATE} and bool(kinds & {*CONVOLUTIONS})
    return known and once and not altered


def with_shared_backward(
    difference: Float[Tensor, "n 1"], owners: Sequence[Owner], gradients: Sequence[Tensor]
) -> Float[Tensor, "n 1"]:
    """The same differences, whose backward pass, once only, starts at the owners.

    Args:
        difference: to one rival.
        owners: of all parameters.
        gradients: of the differences at each owner's output.
    """
    parameters = [p for owner in owners for p in owner.parameters]
    shared: Tensor = _Shared.apply(difference.detach(), owners, gradients, *parameters)
    return shared


class _Shared(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, difference: Tensor, owners: Any, gradients: Any, *parameters: Tensor) -> Tensor:
        ctx.owners, ctx.gradients = owners, gradients
        return difference.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, weight: Float[Tensor, "n 1"]) -> tuple[Tensor | None, ...]:
        if ctx.owners is None:
            raise RuntimeError("this loss was differentiated before, which frees its graph: compute it anew")
        found: list[Tensor] = []
        for owner, gradient in zip(ctx.owners, ctx.gradients, strict=True):
            seed = gradient.mul_(column(weight.squeeze(1), gradient))
            found += torch.autograd.grad(owner.output, owner.parameters, seed)
        ctx.owners = ctx.gradients = None
        return None, None, None, *found
