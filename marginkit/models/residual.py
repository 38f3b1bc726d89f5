"""Residual networks for small images."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from marginkit.models.stages import Normalize, Shape, image_size, staged


class Block(nn.Module):
    """relu(branch(x) + shortcut(x)), the branch two 3x3 convolutions."""

    def __init__(self, a: int, b: int, stride: int, norm: bool) -> None:
        """From `a` to `b` channels, the first convolution with that stride; with BatchNorm or without."""
        super().__init__()
        self.branch = nn.Sequential(_conv(a, b, 3, stride, norm), nn.ReLU(), _conv(b, b, 3, 1, norm))
        straight = a == b and stride == 1
        self.shortcut = nn.Identity() if straight else _conv(a, b, 1, stride, norm)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """The activations."""
        found: Tensor = self.relu(self.branch(x) + self.shortcut(x))
        return found


@dataclass(frozen=True)
class ResNet:
    """The residual network for small images of He et al., section 4.2 (arXiv 1512.03385).

    Shortcuts that change the size are 1x1 convolutions.

    Attributes:
        width: channels of the first stage; each later one has twice as many on images of half the size.
        blocks: of each stage; 2,2,2 are 14 layers, 3,3,3 are 20.
        stride: of the first convolution; 2 takes a quarter of the time and of the activations to bound.
        norm: BatchNorm behind each convolution, or none.
    """

    width: int = 16
    blocks: tuple[int, ...] = (2, 2, 2)
    stride: int = 1
    norm: Literal["batch", "none"] = "batch"

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, stem, stage1, stage2, ..., pool, flatten, scores."""
        image_size(shape, "resnet", self.stride * 2 ** (len(self.blocks) - 1))
        batch = self.norm == "batch"
        stages: dict[str, nn.Module] = {
            "stem": nn.Sequential(_conv(shape[0], self.width, 3, self.stride, batch), nn.ReLU())
        }
        into = self.width
        for i, count in enumerate(self.blocks):
            out = self.width * 2**i
            blocks = []
            for j in range(count):
                blocks.append(Block(into, out, 2 if i and not j else 1, batch))
                into = out
            stages[f"stage{i + 1}"] = nn.Sequential(*blocks)
        return staged(
            Normalize(shape),
            **stages,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            scores=nn.Linear(into, classes),
        )


@dataclass(frozen=True)
class ResNet18:
    """torchvision's ResNet-18 with the stem for small images: 3x3, stride 1, no max-pooling."""

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, conv1, bn1, relu, layer1 .. layer4, avgpool, flatten, fc."""
        from torchvision.models import resnet18

        image_size(shape, "resnet18", 8)
        network = resnet18(num_classes=classes)
        network.conv1 = nn.Conv2d(shape[0], 64, 3, padding=1, bias=False)
        stages = dict(network.named_children())
        del stages["maxpool"]
        head = stages.pop("fc")
        return staged(Normalize(shape), **stages, flatten=nn.Flatten(), fc=head)


def _conv(a: int, b: int, kernel: int, stride: int, norm: bool) -> nn.Sequential:
    conv = nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=not norm)
    return nn.Sequential(OrderedDict(conv=conv, **({"norm": nn.BatchNorm2d(b)} if norm else {})))
