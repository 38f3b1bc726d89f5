"""CIFAR-10 as JPEG files in folders DIR/cifar10/{train,test}/CLASS, read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from marginkit.data.dataset import Data, Source
from marginkit.data.in_memory import InMemory
from marginkit.data.sources import load

NAME = "imagefolder:cifar10"  # to record; where the folder lies doesn't matter


def cifar10(root: Path, split: str) -> Data:
    """A split, in memory as bytes."""
    found = load(f"imagefolder:{root / 'cifar10'}", Source(split=split, root=root))
    groups = torch.arange(len(found)).split(1000)
    pixels = torch.cat([(255 * found.inputs(group.tolist())).round().byte() for group in groups])
    return replace(found, name=NAME, inputs=InMemory(pixels.numpy()))
