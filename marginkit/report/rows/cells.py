"""What every table of a report is made of: text cells."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """A table: the first column is text, the others are numbers.

    Attributes:
        title: what it shows.
        note: how to read it; may be empty.
        headings: one a column.
        rows: cells, already text.
    """

    title: str
    note: str
    headings: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def number(value: float | None, digits: int = 4) -> str:
    """Short, and a dash where nothing is known."""
    return "-" if value is None or value != value else f"{value:.{digits}g}"


def interval(pair: tuple[float, float]) -> str:
    """`[low, high]`."""
    return f"[{number(pair[0], 3)}, {number(pair[1], 3)}]"


def percents(pair: tuple[float, float]) -> str:
    """`[low, high]` in percent, signed."""
    return "[-, -]" if pair[0] != pair[0] else f"[{pair[0]:+.1%}, {pair[1]:+.1%}]"


def p_value(p: float | None) -> str:
    """`1` is no evidence at all; `same` where there was nothing to test."""
    if p is None or p < 1e-99:
        return "same" if p is None else "<1e-99"
    return "1" if p >= 0.9995 else f"{p:.1e}" if p < 0.001 else f"{p:.3f}"


def percent(share: float) -> str:
    """With one decimal."""
    return "-" if share != share else f"{share:.1%}"
