"""Labelled samples with an index and a fingerprint."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from marginkit.errors import MarginkitError

Bounds = tuple[float | None, float | None]
Batch = tuple[Int[Tensor, "n"], Float[Tensor, "n *d"], Int[Tensor, "n"]]
SAME = 1e-6  # by which radii may differ that were meant to be equal


@dataclass(frozen=True)
class Properties:
    """That each sample keeps its label within a cube around it.

    A box that was rounded when it was written down, or clipped, is a cube up to its last digits only.

    Attributes:
        files: which say so.
        inner: half the side of a cube that, within the bounds, lies inside the box.
        outer: half the side of one that the box lies inside.
    """

    files: tuple[str, ...]
    inner: tuple[float, ...]
    outer: tuple[float, ...]

    @property
    def radii(self) -> tuple[float, ...]:
        """The outer ones, the largest alone of those that differ by rounding."""
        found: list[float] = []
        for radius in sorted(self.outer):
            if found and radius <= (1 + SAME) * found[-1]:
                found.pop()
            found.append(radius)
        return tuple(found)


@dataclass(frozen=True)
class Data:
    """One split of a data set.

    Attributes:
        name, split: what the user asked for.
        inputs: float inputs [n, *d] for a list of positions.
        labels: int64 labels [n].
        shape: of one input.
        classes: how many there are; 1 + the largest label where the data does not say.
        fingerprint: SHA-256 of inputs and labels (for image folders: of names, sizes and labels).
        class_names: in the order of the labels, where they have names.
        remarks: what the user should know of how it was read.
        properties: what is asked of each sample, where that is said.
    """

    name: str
    split: str
    inputs: Callable[[list[int]], Tensor]
    labels: np.ndarray
    shape: tuple[int, ...]
    classes: int
    fingerprint: str
    class_names: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    properties: Properties | None = None

    def about(self) -> dict[str, Any]:
        """What checkpoints and tables record of it."""
        found: dict[str, Any] = {"name": self.name, "split": self.split, "fingerprint": self.fingerprint}
        if self.class_names:
            found["classes"] = list(self.class_names)
        if self.properties is not None:
            found["properties"] = asdict(self.properties)
        return found

    def __len__(self) -> int:
        return len(self.labels)


def refuse_empty(data: Data) -> None:
    """Refuses a split without samples."""
    if not len(data):
        raise MarginkitError(f"{data.name} has no samples in its {data.split} split: give at least one")


@dataclass(frozen=True)
class Source:
    """Where and how to find a data set.

    Attributes:
        argument: what follows the colon in `npz:FILE` and `imagefolder:DIR`.
        split: `train` or `test`.
        root: the folder torchvision's data sets lie in.
        download: fetch what is missing there.
        image_size: resize and crop the images of a folder to squares of this size.
        array_keys: the names of arrays in an .npz file, by `x` and `y`.
        class_names: the model's, in the order of its scores; a folder's classes are found by them.
        fresh: a model is made for the data, so that classes may be numbered anew.
        bounds: the box that inputs live in.
        model: the name of the model's file, for lists that say which file goes with which.
    """

    argument: str = ""
    split: str = "test"
    root: Path = Path("data")
    download: bool = False
    image_size: int | None = None
    array_keys: Mapping[str, str] = field(default_factory=dict)
    class_names: tuple[str, ...] = ()
    fresh: bool = False
    bounds: Bounds = (0.0, 1.0)
    model: str = ""


def batches(
    data: Data, batch_size: int, *, positions: Sequence[int] | None = None, workers: int = 0
) -> Iterator[Batch]:
    """(index, x, y) in order of `positions`, by default the data set's own.

    Args:
        data: to read from.
        batch_size: samples at a time.
        positions: which samples, in which order; their positions are the batches' index.
        workers: processes that load ahead; for image folders.
    """
    order = list(range(len(data))) if positions is None else list(positions)
    groups = [order[i : i + batch_size] for i in range(0, len(order), batch_size)]
    yield from grouped(data, groups, workers=workers)


def grouped(data: Data, groups: Iterable[Sequence[int]], *, workers: int = 0) -> Iterator[Batch]:
    """(index, x, y) for each group of positions, asked for as they are needed."""
    yield from DataLoader(
        _Grouped(data),
        sampler=groups,
        batch_size=None,
        num_workers=workers,
        generator=torch.Generator(),  # else it would draw from the global one
    )


class _Grouped(Dataset[Batch]):
    """Fetches a whole group of positions at once."""

    def __init__(self, data: Data) -> None:
        self.data = data

    def __getitem__(self, group: Sequence[int]) -> Batch:
        positions = list(group)
        labels = torch.from_numpy(self.data.labels[positions])
        return torch.tensor(positions), self.data.inputs(positions), labels
