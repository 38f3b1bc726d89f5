"""What architectures are made of: named stages, the first of which brings raw inputs to a common scale."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.errors import MarginkitError

Shape = tuple[int, ...]


@runtime_checkable
class Architecture(Protocol):
    """A frozen dataclass of options, called with the shape of one input and the number of classes."""

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """An untrained model with named stages, `normalize` first."""
        ...


class Normalize(nn.Module):
    """(x - mean) / std for each channel of images, or for each feature of flat inputs."""

    mean: Tensor
    std: Tensor

    def __init__(self, shape: Shape, together: bool = False) -> None:
        """The identity, until `fit` or a checkpoint sets it; `together` gives all channels one deviation."""
        super().__init__()
        self.together = together
        size = (shape[0], *[1] * (len(shape) - 1))
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("std", torch.ones(size))

    def forward(self, x: Float[Tensor, "n *d"]) -> Float[Tensor, "n *d"]:
        """The normalised inputs."""
        return (x - self.mean) / self.std

    def fit(self, batches: Iterable[Tensor]) -> None:
        """Takes mean and standard deviation from data; a constant feature keeps a deviation of 1."""
        count, total, square = 0, torch.zeros(len(self.mean)).double(), torch.zeros(len(self.mean)).double()
        for x in batches:
            entries = x.double().transpose(0, 1).flatten(1)
            count += entries.shape[1]
            total += entries.sum(1).cpu()
            square += entries.square().sum(1).cpu()
        mean = total / count
        variance = (square / count - mean.square()).clamp(min=0)
        std = (variance.mean().expand_as(variance) if self.together else variance).sqrt()
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0).view_as(self.std))


def staged(normalize: Normalize, **stages: nn.Module) -> nn.Sequential:
    """`normalize` and then the stages, by name."""
    return nn.Sequential(OrderedDict(normalize=normalize, **stages))


def image_size(shape: Shape, name: str, smallest: int) -> tuple[int, int]:
    """Height and width of images of at least `smallest` squared, which the architecture takes.

    Raises:
        MarginkitError: the inputs are no images, or smaller.
    """
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise MarginkitError(
            f"{name} takes images [channels, height, width] of at least {smallest}x{smallest};"
            f" these inputs are {list(shape)}: use mlp or linear"
        )
    return shape[1], shape[2]
