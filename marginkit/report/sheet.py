"""A table in a terminal: words stay whole, whatever the width."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table

from marginkit.files.untrusted import printable
from marginkit.report.rows import Rows

GAP = 2


@dataclass(frozen=True)
class Sheet:
    """Rows, the first column left and the others right. Where they are too wide, columns go on below."""

    rows: Rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """A table, or several with the first column in each."""
        widths = column_widths(self.rows)
        for chosen in _parts(widths, options.max_width):
            table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, GAP, 0, 0))
            for i in chosen:
                table.add_column(
                    printable(self.rows.headings[i]), justify="right" if i else "left", no_wrap=i > 0,
                    overflow="fold",
                )  # fmt: skip
            for row in self.rows.rows:
                table.add_row(*(printable(row[i]) for i in chosen))
            yield table


def column_widths(rows: Rows) -> list[int]:
    """How many cells each column takes."""
    return [
        max(cell_len(printable(text)) for text in column)
        for column in zip(rows.headings, *rows.rows, strict=True)
    ]


def total(widths: Sequence[int]) -> int:
    """How many cells these columns take side by side."""
    return sum(widths) + GAP * (len(widths) - 1)


def wrapped(text: str, width: int) -> list[str]:
    """Lines that break between words; only what no line holds is broken."""
    return textwrap.wrap(printable(text), width, break_on_hyphens=False)


def _parts(widths: Sequence[int], width: int) -> Iterator[list[int]]:
    """The columns of each table: the first one always, and as many more as fit."""
    part = [0]
    for i in range(1, len(widths)):
        if len(part) > 1 and total([widths[j] for j in (*part, i)]) > width:
            yield part
            part = [0]
        part.append(i)
    yield part
