"""What training data is made of it: a stratified fraction, flipped labels, augmented images."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from marginkit.data.dataset import Data
from marginkit.errors import MarginkitError

Augmentation = Literal["shift", "flip", "crop"]

AUGMENTATIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "shift": lambda x: _shifted(x),
    "flip": lambda x: torch.where(_drawn(x) < 0.5, x.flip(3), x),
    "crop": lambda x: _cropped(x),
}


@dataclass(frozen=True)
class _Chosen:
    """The inputs of some positions, counted anew."""

    inputs: Callable[[list[int]], Tensor]
    positions: np.ndarray

    def __call__(self, positions: list[int]) -> Tensor:
        return self.inputs(self.positions[positions].tolist())


def limited(data: Data, fraction: float, label_noise: float, seed: int) -> tuple[Data, dict[str, Any]]:
    """The data with fewer samples and wrong labels, and a record of both.

    `round(fraction n)` samples are kept, each class's share of them to within one, no class less than one.
    Of these, `round(label_noise n)` get another label, any other class with the same chance. The same seed
    chooses the same samples and labels.

    Args:
        data: what to take from; `name` and `fingerprint` stay.
        fraction: of the samples to keep.
        label_noise: share of the kept samples whose label is flipped.
        seed: of the choices.

    Returns:
        The data, and lists of positions in the original data: `kept` where there is a fraction, `flipped`
        with `flipped_to` where there is noise.

    Raises:
        MarginkitError: the fraction leaves fewer samples than there are classes with any.
    """
    record: dict[str, Any] = {}
    original = np.arange(len(data))
    if fraction < 1:
        original = _stratified(data, fraction, np.random.default_rng([seed, 0]))
        data = replace(data, inputs=_Chosen(data.inputs, original), labels=data.labels[original])
        record["kept"] = original.tolist()
    if label_noise > 0:
        random = np.random.default_rng([seed, 1])
        wrong = np.sort(random.permutation(len(data))[: round(label_noise * len(data))])
        labels = data.labels.copy()
        labels[wrong] = (labels[wrong] + random.integers(1, data.classes, len(wrong))) % data.classes
        data = replace(data, labels=labels)
        record |= {"flipped": original[wrong].tolist(), "flipped_to": labels[wrong].tolist()}
    return data, record


def _stratified(data: Data, fraction: float, random: np.random.Generator) -> np.ndarray:
    """Whole shares first, then those with the largest remainders."""
    present, counts = np.unique(data.labels, return_counts=True)
    total = round(fraction * len(data))
    if total < len(present):
        raise MarginkitError(
            f"--fraction {fraction:g} leaves {total} of {len(data)} samples for the {len(present)} classes of"
            f" {data.name}: give at least {len(present) / len(data):.2g}"
        )
    shares = fraction * counts
    take = np.maximum(1, np.floor(shares)).astype(int)
    for i in np.argsort(take - shares, kind="stable")[: max(0, total - take.sum())]:
        take[i] += 1
    chosen = [
        random.permutation(np.flatnonzero(data.labels == label))[:count]
        for label, count in zip(present, take, strict=True)
    ]
    return np.sort(np.concatenate(chosen))


def augmented(x: Float[Tensor, "n *d"], names: tuple[Augmentation, ...]) -> Float[Tensor, "n *d"]:
    """Each image changed on its own, with the global generator.

    `shift` moves it by up to a tenth of its size, what comes in is 0; `flip` mirrors left and right, half of
    the time; `crop` takes .7 to 1 of its area and scales that up again.

    Raises:
        MarginkitError: the inputs are no images.
    """
    if not names:
        return x
    if x.ndim != 4:
        raise MarginkitError(f"--augment is for images; these inputs have the shape {list(x.shape[1:])}")
    for name in names:
        x = AUGMENTATIONS[name](x)
    return x


def _drawn(x: Tensor) -> Tensor:
    """A number in [0, 1) for each image [n, 1, 1, 1], the same whatever the device."""
    return torch.rand(len(x), 1, 1, 1).to(x)


def _shifted(x: Tensor) -> Tensor:
    """By whole pixels, up to a tenth of the size."""
    for axis in (2, 3):
        most = x.shape[axis] // 10
        by = ((2 * most + 1) * _drawn(x)).long() - most
        place = torch.arange(x.shape[axis], device=x.device).view(-1, *[1] * (3 - axis)) - by
        inside = (place >= 0) & (place < x.shape[axis])
        moved = x.gather(axis, place.clamp(0, x.shape[axis] - 1).expand_as(x))
        x = torch.where(inside, moved, 0)
    return x


def _cropped(x: Tensor) -> Tensor:
    """A part of .7 to 1 of the area, its sides in a ratio of 3/4 to 4/3, in the image's size."""
    area, ratio = 0.7 + 0.3 * _drawn(x), torch.exp(math.log(4 / 3) * (2 * _drawn(x) - 1))
    sides = [(area * ratio).sqrt().clamp(max=1), (area / ratio).sqrt().clamp(max=1)]
    middles = [(1 - side) * (2 * _drawn(x) - 1) for side in sides]
    rows, columns = (
        middle + side * _centres(x, axis) for side, middle, axis in zip(sides, middles, (2, 3), strict=True)
    )
    grid = torch.stack([columns.expand(-1, -1, *x.shape[2:]), rows.expand(-1, -1, *x.shape[2:])], -1)
    return F.grid_sample(x, grid.squeeze(1), padding_mode="border", align_corners=False)


def _centres(x: Tensor, axis: int) -> Tensor:
    """Of the pixels along an axis, where the image reaches from -1 to 1."""
    size = x.shape[axis]
    return ((torch.arange(size).to(x) + 0.5) * 2 / size - 1).view(-1, *[1] * (3 - axis))
