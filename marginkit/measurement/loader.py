"""Batches of a data set as a model takes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from marginkit.data.dataset import Batch, Data, grouped


@dataclass(frozen=True)
class Loader:
    """Groups of positions become batches.

    Attributes:
        data: where they come from.
        device: where they go.
        dtype: of inputs.
        workers: processes that load ahead.
    """

    data: Data
    device: torch.device | str = "cpu"
    dtype: torch.dtype = torch.float32
    workers: int = 0

    @staticmethod
    def of(data: Data, model: nn.Module, device: torch.device | str, workers: int = 0) -> Loader:
        """In the precision of the model's parameters, but no less than float32, which would round inputs."""
        dtypes = (p.dtype for p in model.parameters() if p.is_floating_point())
        dtype = torch.promote_types(next(dtypes, torch.float32), torch.float32)
        return Loader(data, device, dtype, workers)

    def __call__(self, groups: Iterable[Sequence[int]]) -> Iterator[Batch]:
        """(index, x, y) for each group, asked for as it is needed."""
        for index, x, y in grouped(self.data, groups, workers=self.workers):
            yield index, x.to(self.device, self.dtype), y.to(self.device)
