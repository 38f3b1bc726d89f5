"""The answer first: one small table and a sentence a norm, in at most twelve lines of a terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from io import StringIO
from itertools import product

import numpy as np
from rich.console import Console, ConsoleOptions, RenderableType
from rich.text import Text

from marginkit.comparison.flags import Flag, table_flags
from marginkit.comparison.standing import Standing, of_table
from marginkit.comparison.study import Study
from marginkit.report.rows import Rows
from marginkit.report.rows.standing import of_standings
from marginkit.report.sheet import GAP, Sheet, column_widths, total, wrapped
from marginkit.report.words import group_in_short, in_short
from marginkit.table.table import MarginTable

LINES = 12
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
BARS = "▁▂▃▄▅▆▇█"
CURVE = 8, 32  # the fewest and the most characters of a curve
UNBOUNDED = "No distance was found or proved; --details tells what was measured."
CHECKPOINTS = "These are single checkpoints, not ways of training: that takes several seeds."


@dataclass(frozen=True)
class Answer:
    """What a person wants to know first. Renders in at most twelve lines of 60 columns or more.

    Attributes:
        standings: norm by norm, the models in one order.
        findings: by norm, what is to be said of the differences.
        doubts: what to know before believing it.
        remark: how far the claim goes; may be empty.
    """

    standings: tuple[Standing, ...]
    findings: Mapping[str, tuple[str, ...]]
    doubts: tuple[Flag, ...]
    remark: str = ""

    @staticmethod
    def of_study(study: Study) -> Answer:
        """Of models compared, or of groups of them."""
        findings: dict[str, tuple[str, ...]] = {}
        for norm in dict.fromkeys(s.norm for s in study.standings):
            said = [in_short(c, norm, LETTERS[(i + 1) % 26]) for i, c in enumerate(study.comparisons)]
            said += [group_in_short(group, norm) for group in study.groups]
            findings[norm] = tuple(filter(None, said))
        return Answer(study.standings, findings, study.flags, CHECKPOINTS if study.comparisons else "")

    @staticmethod
    def of_table(table: MarginTable) -> Answer:
        """Of one model."""
        name = table.provenance.checkpoint.file or "model"
        return Answer(tuple(of_table(name, table)), {}, tuple(table_flags(table, "the table")))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        """As much as twelve lines hold: all models in one norm rather than one model in all norms."""
        width = options.max_width
        norms = list(dict.fromkeys(s.norm for s in self.standings))
        for k, remark in product(range(len(norms), 0, -1), (self.remark, "")):
            parts = self._parts(norms[:k], norms[k:], remark, width)
            if len(parts.lines) + len(parts.rows.rows) + 1 <= LINES:
                break
        yield from parts.rendered(width, _draws_bars(console))

    def _parts(self, norms: Sequence[str], hidden: Sequence[str], remark: str, width: int) -> _Parts:
        chosen = [s for s in self.standings if s.norm in norms]
        models = list(dict.fromkeys(s.model for s in chosen))
        letters = {name: LETTERS[i % 26] for i, name in enumerate(models)} if len(models) > 1 else {}
        titles = [f"{letters[s.model]} {s.model}" if letters else s.model for s in chosen]
        rows, above = of_standings(chosen, titles), []
        if total(column_widths(rows)) > width:
            short = [letters.get(s.model, "") for s in chosen]
            rows = of_standings(chosen, short)
            if total(column_widths(rows)) > width:
                rows = of_standings([replace(s, robust=s.robust[:1]) for s in chosen], short)
            above = wrapped("; ".join(f"{letters.get(name, '')} {name}".strip() for name in models), width)
        texts = [text for norm in norms for text in self.findings.get(norm, ())]
        texts += [UNBOUNDED] if norms == [""] else []
        texts += [remark] if remark and texts else []
        below = [line for text in texts for line in wrapped(text, width)]
        return _Parts(rows, chosen, above, below, self._end(hidden, width))

    def _end(self, hidden: Sequence[str], width: int) -> list[str]:
        sizes = sorted({s.n for s in self.standings})
        many = f"{sizes[0]} samples." if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} samples."
        more = f"{', '.join([*hidden, 'everything else']).capitalize()}: --details."
        if not self.doubts:
            return wrapped(f"{many} Doubts: none. {more}", width)
        others = f" And {len(self.doubts) - 1} more." if len(self.doubts) > 1 else ""
        room = 3 * width - len(many + others + more) - 40
        said = textwrap.shorten(self.doubts[0].text, room, placeholder=" ...")
        return wrapped(f"{many} Doubts: {said}{others} {more}", width)

    def __str__(self) -> str:
        """As in a terminal of 80 columns without colours."""
        console = Console(width=80, file=StringIO(), color_system=None)
        with console.capture() as said:
            console.print(self)
        return said.get()


@dataclass(frozen=True)
class _Parts:
    """What stands above the table, its rows, and what stands below."""

    rows: Rows
    standings: Sequence[Standing]
    above: Sequence[str]
    below: Sequence[str]
    end: Sequence[str]

    @property
    def lines(self) -> list[str]:
        return [*self.above, *self.below, *self.end]

    def rendered(self, width: int, bars: bool) -> Iterator[Text | Sheet]:
        """Of too many models the first are shown; the legend where there is room."""
        room = LINES - 1 - len(self.above) - len(self.end)
        rows, below = self.rows, list(self.below)
        if len(rows.rows) + len(below) > room:
            below = below[: max(0, room - len(rows.rows))]
            rows = replace(rows, rows=rows.rows[: max(room, 1)])
        legend = [line for text in rows.note.split("\n") if text for line in wrapped(text, width)]
        if len(rows.rows) + len(below) + len(legend) > room:
            legend = []
        drawn = width - total(column_widths(rows)) - GAP
        if bars and drawn >= CURVE[0] and any(s.curve for s in self.standings):
            rows = _with_curves(rows, self.standings, min(drawn, CURVE[1]))
        yield from map(Text, self.above)
        yield Sheet(rows)
        yield from map(Text, [*legend, *below, *self.end])


def _draws_bars(console: Console) -> bool:
    """Whether block characters will show."""
    plain = console.is_dumb_terminal or console.legacy_windows
    return console.is_terminal and not plain and console.encoding.startswith("utf")


def _with_curves(rows: Rows, standings: Sequence[Standing], width: int) -> Rows:
    cells = ((*row, spark(s.curve, width)) for row, s in zip(rows.rows, standings, strict=False))
    return replace(rows, headings=(*rows.headings, "curve".ljust(width)), rows=tuple(cells))


def spark(shares: Sequence[float], width: int) -> str:
    """Shares in [0, 1] as so many bars."""
    if not shares:
        return ""
    at = np.interp(np.linspace(0, 1, width), np.linspace(0, 1, len(shares)), shares)
    return "".join(BARS[min(int(share * len(BARS)), len(BARS) - 1)] for share in at)
