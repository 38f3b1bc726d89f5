"""Which samples are measured, in which batches: the same in every process, shard and resumed run."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from marginkit.errors import UsageError

Shard = tuple[int, int]


@dataclass(frozen=True)
class Plan:
    """Samples 0..count in batches; a shard is a run of whole batches.

    Attributes:
        count: samples of the whole measurement.
        batch_size: samples in each batch but the last.
        shard: (i, n), the i-th of n shards, counted from 1.
    """

    count: int
    batch_size: int
    shard: Shard = (1, 1)

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
    def groups(self) -> dict[int, range]:
        """The shard's batches: their numbers, and their samples' positions in the data set."""
        which, of = self.shard
        total = -(-self.count // self.batch_size)
        size = self.batch_size
        return {
            number: range(number * size, min(self.count, (number + 1) * size))
            for number in range(total * (which - 1) // of, total * which // of)
        }

    @property
    def positions(self) -> range:
        """The shard's samples."""
        groups = list(self.groups.values())
        return range(groups[0].start, groups[-1].stop)

    def number(self, first: int) -> int:
        """The batch that begins with this sample."""
        return first // self.batch_size

    def rows(self, number: int) -> slice:
        """Where a batch stands in the shard's table."""
        group, first = self.groups[number], self.positions.start
        return slice(group.start - first, group.stop - first)


def shard(text: str) -> Shard:
    """`i/n` as numbers.

    Raises:
        UsageError: it is not of that form.
    """
    which, slash, of = text.partition("/")
    if not (slash and which.isdecimal() and of.isdecimal()):
        raise UsageError(f"{text!r} is not a shard: give i/n, such as 1/8")
    return int(which), int(of)
