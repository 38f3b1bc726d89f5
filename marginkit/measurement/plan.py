"""Which samples are measured, in which batches: the same in every process, shard and resumed run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from marginkit.errors import UsageError

Shard = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """Samples 0..count, or chosen ones, in batches; a shard is a run of whole batches.

    Attributes:
        count: samples of the whole measurement.
        batch_size: samples in each batch but the last.
        shard: (i, n), the i-th of n shards, counted from 1.
        chosen: their positions in the data set, in order; None for the first.
    """

    count: int
    batch_size: int
    shard: Shard = (1, 1)
    chosen: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        """Refuses shards that do not exist, or would be empty."""
        which, of = self.shard
        if not 1 <= which <= of:
            raise UsageError(f"there is no shard {which}/{of}: give i/n with 1 <= i <= n")
        if not self.groups:
            raise UsageError(
                f"{self.count} samples in batches of {self.batch_size} leave nothing for shard {which} of"
                f" {of}: give fewer shards, or a smaller --batch-size"
            )

    @cached_property
    def groups(self) -> dict[int, Sequence[int]]:
        """The shard's batches: their numbers, and their samples' positions in the data set."""
        which, of = self.shard
        total = -(-self.count // self.batch_size)
        size = self.batch_size
        whole: Sequence[int] = range(self.count) if self.chosen is None else self.chosen
        return {
            number: whole[number * size : (number + 1) * size]
            for number in range(total * (which - 1) // of, total * which // of)
        }

    @property
    def positions(self) -> list[int]:
        """The shard's samples."""
        return [position for group in self.groups.values() for position in group]

    def number(self, first: int) -> int:
        """The batch that begins with this sample."""
        return self._numbers[first]

    @cached_property
    def _numbers(self) -> dict[int, int]:
        return {group[0]: number for number, group in self.groups.items()}

    def rows(self, number: int) -> slice:
        """Where a batch stands in the shard's table."""
        start = (number - min(self.groups)) * self.batch_size
        return slice(start, start + len(self.groups[number]))


def shard(text: str) -> Shard:
    """`i/n` as numbers.

    Raises:
        UsageError: it is not of that form.
    """
    which, slash, of = text.partition("/")
    if not (slash and which.isdecimal() and of.isdecimal()):
        raise UsageError(f"{text!r} is not a shard: give i/n, such as 1/8")
    return int(which), int(of)
