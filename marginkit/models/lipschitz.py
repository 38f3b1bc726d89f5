"""Networks that stretch no displacement but by the scale of their inputs: their margins are distances."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from math import prod
from typing import Protocol, runtime_checkable

from torch import nn

from marginkit.models.one_lipschitz import Kept, MaxMin, constrain
from marginkit.models.stages import Normalize, Shape, image_size, staged


@runtime_checkable
class Constrained(Protocol):
    """An architecture whose weights are held in a set while it is trained, and are ordinary ones after."""

    def constrain(self, model: nn.Module) -> None:
        """Parametrises a new model in place; `plain_state` gives what `__call__`'s model loads."""
        ...


@dataclass(frozen=True)
class LipschitzMLP:
    """Dense layers of norm 1 with MaxMin, and rows of length 1 for the scores.

    Attributes:
        hidden: their widths.
        layer: `cayley`, orthogonal (arXiv 2104.07167), or `aol`, cheaper (arXiv 2208.03160).
    """

    hidden: tuple[int, ...] = (256, 256)
    layer: Kept = "cayley"

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, flatten, hidden1, hidden2, ..., scores: as they are after training."""
        return staged(Normalize(shape, together=True), **_dense(prod(shape), self.hidden, classes))

    def constrain(self, model: nn.Module) -> None:
        """The same for training."""
        constrain(model, self.layer)


@dataclass(frozen=True)
class LipschitzCNN:
    """Convolutions of norm 1 with MaxMin, and rows of length 1 for the scores.

    Each stage folds squares of 2x2 pixels into four times the channels, which loses nothing, and has `depth`
    convolutions.

    Attributes:
        channels: of the stages, each of which halves the image.
        depth: convolutions in each stage.
        kernel: their size; odd.
        hidden: widths of dense layers behind them.
        layer: `cayley`, orthogonal (arXiv 2104.07167, 1911.00937), or `aol`, cheaper (arXiv 2208.03160).
    """

    channels: tuple[int, ...] = (32, 64)
    depth: int = 2
    kernel: int = 3
    hidden: tuple[int, ...] = (128,)
    layer: Kept = "cayley"

    def __call__(self, shape: Shape, classes: int) -> nn.Sequential:
        """normalize, stage1, stage2, ..., flatten, hidden1, ..., scores: as they are after training."""
        height, width = image_size(shape, "lipschitz-cnn", 2 ** len(self.channels))
        into, stages = shape[0], dict[str, nn.Module]()
        for i, out in enumerate(self.channels, 1):
            parts: list[nn.Module] = []
            if height % 2 or width % 2:
                parts.append(nn.ZeroPad2d((0, width % 2, 0, height % 2)))
            height, width = (height + 1) // 2, (width + 1) // 2
            parts.append(nn.PixelUnshuffle(2))
            for a in [4 * into, *[out] * (self.depth - 1)]:
                parts += [nn.Conv2d(a, out, self.kernel, padding=self.kernel // 2), MaxMin()]
            stages[f"stage{i}"] = nn.Sequential(*parts)
            into = out
        dense = _dense(into * height * width, self.hidden, classes)
        return staged(Normalize(shape, together=True), **stages, **dense)

    def constrain(self, model: nn.Module) -> None:
        """The same for training."""
        constrain(model, self.layer)


def _dense(entries: int, hidden: tuple[int, ...], classes: int) -> dict[str, nn.Module]:
    """flatten, hidden1, hidden2, ..., scores."""
    widths = [entries, *hidden]
    layers = {
        f"hidden{i}": nn.Sequential(nn.Linear(a, b), MaxMin()) for i, (a, b) in enumerate(pairwise(widths), 1)
    }
    return {"flatten": nn.Flatten(), **layers, "scores": nn.Linear(widths[-1], classes)}
