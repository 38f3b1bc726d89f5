"""Classifiers built from an input's shape and the number of classes; they take raw inputs.

Each is an `nn.Sequential` of named stages whose first, `normalize`, brings raw inputs to mean 0 and standard
deviation 1, so that distances in front of it are in raw units. The stages are the layers to train and
measure at.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from math import prod
from typing import Literal, Protocol, runtime_checkable

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

    def __init__(self, shape: Shape) -> None:
        """The identity, until `fit` or a checkpoint sets it."""
        super().__init__()
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
            total += entries.sum(1)
            square += entries.square().sum(1)
        mean = total / count
        std = (square / count - mean.square()).clamp(min=0).sqrt()
        self.mean.copy_(mean.view_as(self.mean))
        self.std.copy_(torch.where(std > 1e-6, std, 1.0).view_as(self.std))


@dataclass(frozen=True)
class LinearClassifier:
    """One affine map: every distance to its boundary is known in closed form."""

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, flatten, scores."""
        return _stages(shape, flatten=nn.Flatten(), scores=nn.Linear(prod(shape), classes))


@dataclass(frozen=True)
class MLP:
    """Fully connected layers with ReLUs.

    Attributes:
        hidden: their widths.
    """

    hidden: tuple[int, ...] = (100, 100)

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, flatten, hidden1, hidden2, ..., scores."""
        widths = [prod(shape), *self.hidden]
        stages = {
            f"hidden{i}": _dense(a, b) for i, (a, b) in enumerate(zip(widths, self.hidden, strict=False), 1)
        }
        return _stages(shape, flatten=nn.Flatten(), **stages, scores=nn.Linear(widths[-1], classes))


@dataclass(frozen=True)
class CNN:
    """Convolutions with ReLU and pooling, then one hidden layer.

    Attributes:
        channels: of the convolutions, each of which halves the image.
        kernel: their size; odd.
        hidden: width of the hidden layer.
        halve: images by max-pooling, or by the convolution's stride, which certificates bound far faster.
    """

    channels: tuple[int, ...] = (16, 32)
    kernel: int = 5
    hidden: int = 128
    halve: Literal["pool", "stride"] = "pool"

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, conv1, conv2, ..., flatten, hidden, scores."""
        height, width = _image(shape, "cnn", 2 ** len(self.channels))
        ins = [shape[0], *self.channels]
        pooled = self.halve == "pool"
        stages = {}
        for i, (a, b) in enumerate(zip(ins, self.channels, strict=False), 1):
            conv = nn.Conv2d(a, b, self.kernel, 1 if pooled else 2, self.kernel // 2)
            stages[f"conv{i}"] = nn.Sequential(conv, nn.ReLU(), *([nn.MaxPool2d(2)] if pooled else []))
            height, width = ((size + (not pooled)) // 2 for size in (height, width))
        features = ins[-1] * height * width
        return _stages(
            shape,
            **stages,
            flatten=nn.Flatten(),
            hidden=_dense(features, self.hidden),
            scores=nn.Linear(self.hidden, classes),
        )


@dataclass(frozen=True)
class Elsayed:
    """The MNIST network of the large-margin paper's code: 2 convolutions, BatchNorm, 512 hidden units."""

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, conv1, conv2, flatten, hidden, scores."""
        height, width = _image(shape, "elsayed", 4)

        def conv(a: int, b: int) -> nn.Sequential:
            return nn.Sequential(
                nn.Conv2d(a, b, 5, padding=2, bias=False), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(b)
            )

        return _stages(
            shape,
            conv1=conv(shape[0], 32),
            conv2=conv(32, 64),
            flatten=nn.Flatten(),
            hidden=_dense(64 * (height // 4) * (width // 4), 512),
            scores=nn.Linear(512, classes),
        )


@dataclass(frozen=True)
class ResNet18:
    """torchvision's ResNet-18 with the stem for small images: 3x3, stride 1, no max-pooling."""

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, conv1, bn1, relu, layer1 .. layer4, avgpool, flatten, fc."""
        from torchvision.models import resnet18

        _image(shape, "resnet18", 8)
        network = resnet18(num_classes=classes)
        network.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        stages = dict(network.named_children())
        del stages["maxpool"]
        head = stages.pop("fc")
        return _stages(shape, **stages, flatten=nn.Flatten(), fc=head)


ARCHITECTURES: dict[str, type[Architecture]] = {
    "linear": LinearClassifier,
    "mlp": MLP,
    "cnn": CNN,
    "elsayed": Elsayed,
    "resnet18": ResNet18,
}


def _stages(shape: Shape, **stages: nn.Module) -> nn.Sequential:
    return nn.Sequential(OrderedDict(normalize=Normalize(shape), **stages))


def _dense(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(a, b), nn.ReLU())


def _image(shape: Shape, name: str, smallest: int) -> tuple[int, int]:
    if len(shape) != 3 or min(shape[1:]) < smallest:
        raise MarginkitError(
            f"{name} takes images [channels, height, width] of at least {smallest}x{smallest};"
            f" these inputs are {list(shape)}: use mlp or linear"
        )
    return shape[1], shape[2]
