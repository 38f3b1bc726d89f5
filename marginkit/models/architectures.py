"""Classifiers built from an input's shape and the number of classes; they take raw inputs.

Each is an `nn.Sequential` of named stages whose first, `normalize`, brings raw inputs to mean 0 and standard
deviation 1, so that distances in front of it are in raw units. The stages are the layers to train and
measure at.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

from torch import nn

from marginkit.models.lipschitz import LipschitzCNN, LipschitzMLP
from marginkit.models.residual import ResNet, ResNet18
from marginkit.models.stages import Architecture, Normalize, Shape, image_size, staged

__all__ = ["ARCHITECTURES", "CNN", "MLP", "Architecture", "Elsayed", "LinearClassifier", "Normalize", "Shape"]


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
        height, width = image_size(shape, "cnn", 2 ** len(self.channels))
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
        height, width = image_size(shape, "elsayed", 4)

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


ARCHITECTURES: dict[str, type[Architecture]] = {
    "linear": LinearClassifier,
    "mlp": MLP,
    "cnn": CNN,
    "elsayed": Elsayed,
    "resnet": ResNet,
    "resnet18": ResNet18,
    "lipschitz-mlp": LipschitzMLP,
    "lipschitz-cnn": LipschitzCNN,
}


def _stages(shape: Shape, **stages: nn.Module) -> nn.Sequential:
    return staged(Normalize(shape), **stages)


def _dense(a: int, b: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(a, b), nn.ReLU())
