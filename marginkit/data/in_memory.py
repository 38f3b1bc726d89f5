"""Inputs as one array."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from marginkit.data.dataset import Bounds, Data


@dataclass(frozen=True)
class InMemory:
    """Numbers as they are; bytes divided so that the largest is `unit`.

    Attributes:
        array: [n, ...].
        unit: what 255 stands for, where they are bytes.
        box: what a rounding error reaches beyond is clipped to; None where nothing does.
    """

    array: np.ndarray
    unit: float = 1.0
    box: Bounds | None = None

    def __call__(self, positions: list[int]) -> Tensor:
        """Float inputs [n, ...]."""
        chosen = torch.from_numpy(self.array[positions])
        if chosen.dtype == torch.uint8 and self.unit != 255:
            return chosen.float() * self.unit / 255
        return chosen.float() if self.box is None else chosen.float().clamp(*self.box)


def in_memory(spec: str, split: str, x: np.ndarray, y: np.ndarray, classes: int | None = None) -> Data:
    """A data set of inputs [n, ...] and labels [n]; its fingerprint is that of their bytes."""
    x = _native(x)
    digest = hashlib.sha256(f"{x.dtype.str}{x.shape}".encode())
    digest.update(np.ascontiguousarray(x).data)
    labels = y.astype(np.int64)
    digest.update(labels.data)
    known = classes if classes is not None else int(labels.max(initial=-1)) + 1
    return Data(spec, split, InMemory(x), labels, x.shape[1:], known, digest.hexdigest())


def _native(x: np.ndarray) -> np.ndarray:
    """The same numbers in a type that torch has: of this machine's byte order, and at most 64 bits."""
    if x.dtype.kind == "f" and x.dtype.itemsize > 8:
        return x.astype(np.float64)
    return x.astype(x.dtype.newbyteorder("="), copy=False)
