"""Tables of the samples that they share, and what they know of them: made once, read by all that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from marginkit.comparison.pairing import paired
from marginkit.table.brackets import Ends, at_input, ends, norms
from marginkit.table.table import Column, MarginTable, names


@dataclass(frozen=True)
class Aligned:
    """Tables of the same samples in the same order.

    Attributes:
        labels: what the tables are called, the baseline first.
        tables: with the samples that all have, and no others.
        shared: the columns that all have, in the first one's order.
        brackets: for each norm in which these bound distances at the input, every table's.
        only: for each table, how many of its samples some other lacks.
        left_out: columns that not all have.
    """

    labels: tuple[str, ...]
    tables: tuple[MarginTable, ...]
    shared: tuple[str, ...]
    brackets: dict[str, tuple[Ends, ...]]
    only: tuple[int, ...]
    left_out: tuple[str, ...]

    def __len__(self) -> int:
        """How many samples they share."""
        return len(self.tables[0])

    @property
    def norms(self) -> tuple[str, ...]:
        """Those of the shared columns that speak of distances at the input, estimates too."""
        columns = (self.tables[0][name] for name in self.shared)
        return tuple(dict.fromkeys(column.norm for column in columns if at_input(column)))

    def columns(self, name: str) -> tuple[Column, ...]:
        """The column of that name, of every table."""
        return tuple(table[name] for table in self.tables)

    def searched(self) -> dict[str, tuple[Ends, ...]]:
        """The brackets in the norms in which every table has a search."""
        return {norm: found for norm, found in self.brackets.items() if all(e.searched for e in found)}


def align(labels: Sequence[str], tables: Sequence[MarginTable]) -> Aligned:
    """The tables on the samples that they share.

    Args:
        labels: what to call them.
        tables: the baseline first.

    Raises:
        IncompatibleError: as `paired`.
    """
    found = paired(tables)
    shared = names(found)
    return Aligned(
        labels=tuple(labels),
        tables=tuple(found),
        shared=tuple(shared),
        brackets={norm: tuple(ends(t, norm, shared) for t in found) for norm in norms(found[0], shared)},
        only=tuple(len(before) - len(after) for before, after in zip(tables, found, strict=True)),
        left_out=tuple(sorted({c.name for table in found for c in table.columns} - set(shared))),
    )
