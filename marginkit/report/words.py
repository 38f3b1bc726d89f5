"""Plain words that claim no more than the statistics do."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import TypeVar

from marginkit.comparison.columns import ColumnComparison
from marginkit.comparison.compare import Comparison
from marginkit.comparison.groups import GroupColumn, GroupComparison
from marginkit.kinds import Kind
from marginkit.report.rows import interval, number, p_value

C = TypeVar("C", ColumnComparison, GroupColumn)
SIGNIFICANT = 0.05
WHAT = {
    Kind.UPPER: "distances",
    Kind.LOWER: "certified distances",
    Kind.EXACT: "exact distances",
    Kind.SMOOTHED: "smoothed classifier's certified distances",
}
TWO_CHECKPOINTS = (
    "This compares two checkpoints, not two ways of training: that would take several seeds of each."
)


def sentences(c: Comparison) -> Iterator[str]:
    """One a column that bounds something, one for what the brackets decide, and how far the claim goes."""
    for row in c.bounding:
        yield _column(row)
    for found in c.brackets:
        if found.baseline or found.other:
            yield (
                f"{found.norm}: proved beyond doubt, B is farther on {found.other} samples and nearer on"
                f" {found.baseline}; on {found.undecided} the brackets overlap."
            )
    yield TWO_CHECKPOINTS


class Judgement(StrEnum):
    """What the statistics allow to be said of two models' distances, the other's against the baseline's."""

    SILENT = "silent"
    NOTHING = "nothing"
    IDENTICAL = "identical"
    EQUAL = "practically equal"
    UNESTABLISHED = "unestablished"
    INSIGNIFICANT = "insignificant"
    LARGER = "larger"
    SMALLER = "smaller"


def judged(row: ColumnComparison) -> Judgement:
    """The interval and the adjusted p must both speak for a difference."""
    low, high = row.interval
    if row.silent:
        return Judgement.SILENT
    if not row.n:
        return Judgement.NOTHING
    if row.wilcoxon is None:
        return Judgement.IDENTICAL
    if row.rope and -row.rope < low <= high < row.rope:
        return Judgement.EQUAL
    if low <= 0 <= high:
        return Judgement.UNESTABLISHED
    if not _significant(row.adjusted):
        return Judgement.INSIGNIFICANT
    return Judgement.LARGER if low > 0 else Judgement.SMALLER


def _column(row: ColumnComparison) -> str:
    means = f"{number(row.mean[0])} for A, {number(row.mean[1])} for B"
    within = interval(row.interval)
    match judged(row):
        case Judgement.SILENT:
            models = " and ".join(row.silent)
            return f"{row.name}: nothing is compared, the method has no answer for any sample of {models}."
        case Judgement.NOTHING:
            return f"{row.name}: no sample has a number in both."
        case Judgement.IDENTICAL:
            unknown = ", as far as searches found any" if row.extremes[0] < row.extremes[1] else ""
            return f"{row.name}: the two models' distances are identical{unknown}."
        case Judgement.EQUAL:
            return (
                f"{row.name}: practically equal (mean distance {means}; the interval {within}"
                f" lies within {number(row.rope)} of 0)."
            )
        case Judgement.UNESTABLISHED:
            return (
                f"{row.name}: no difference is established (mean distance {means}; the interval"
                f" {within} holds 0)."
            )
        case Judgement.INSIGNIFICANT:
            return (
                f"{row.name}: no difference is established (mean distance {means}; after Holm's adjustment"
                f" p = {p_value(row.adjusted)})."
            )
        case verb:
            share = f" ({row.difference / row.mean[0]:+.0%})" if row.mean[0] > 0 else ""
            won = f"farther on {row.wins} of {row.n} samples"
            unsure = ", unless what exhausted searches missed turns it round" if _undecided(row) else ""
            return f"{row.name}: B's {WHAT[row.answer]} are {verb} on average: {means}{share}; {won}{unsure}."


def _undecided(row: ColumnComparison) -> bool:
    """Whether the difference's sign depends on the fate of exhausted searches."""
    return row.extremes[0] < 0 < row.extremes[1]


def _significant(p: float | None) -> bool:
    return p is not None and p < SIGNIFICANT


def strongest(columns: Sequence[C], norm: str) -> C | None:
    """The column that says most of a norm's distances: the nearest search, else the best proof."""
    there = [row for row in columns if row.norm == norm and row.n and row.bounding]
    found = [row for row in there if row.answer in (Kind.UPPER, Kind.EXACT)]
    proved = [row for row in there if row.answer is Kind.LOWER]
    if found:
        return min(found, key=lambda row: sum(row.mean))
    return max(proved, key=lambda row: sum(row.mean), default=None)


def in_short(c: Comparison, norm: str, letter: str = "B") -> str:
    """What is to be said of the difference in a norm, in a line; empty where nothing is compared."""
    row = strongest(c.columns, norm)
    if row is None:
        return ""
    what = f"{letter}'s {WHAT[row.answer]}"
    sure = f"(95 %: {number(row.interval[0], 3)} to {number(row.interval[1], 3)})"
    match judged(row):
        case Judgement.LARGER | Judgement.SMALLER as found:
            low, high = sorted(map(abs, row.interval))
            by = f"{number(abs(row.difference), 3)} (95 %: {number(low, 3)} to {number(high, 3)})"
            return f"{norm}: {what} are {found} than A's by {by}."
        case Judgement.EQUAL:
            return f"{norm}: {what} and A's are practically equal {sure}."
        case Judgement.IDENTICAL:
            return f"{norm}: {what} and A's are identical."
        case _:
            return f"{norm}: no difference between {letter} and A is established {sure}."


def group_in_short(c: GroupComparison, norm: str) -> str:
    """The same of two groups, by the sentence of the strongest column."""
    row = strongest(c.columns, norm)
    return _group_column(row, c) if row else ""


def group_sentences(c: GroupComparison) -> Iterator[str]:
    """One a column that bounds something, and how far the claim goes."""
    for row in c.columns:
        if row.kind is not Kind.ESTIMATE:
            yield _group_column(row, c)
    models = min(map(len, c.files))
    if models < 2:
        yield "A group of one model says nothing about its way of training: measure several seeds."
    elif models < 5:
        yield f"With {models} models in a group, how much models vary is hardly more than a guess."


def _group_column(row: GroupColumn, c: GroupComparison) -> str:
    low, high = row.interval
    means = f"{number(row.mean[0])} for {c.baseline}, {number(row.mean[1])} for {c.other}"
    if not row.n:
        return f"{row.name}: no sample has a number in all models."
    if row.n < 2:
        return f"{row.name}: no difference is established ({means}; on one sample)."
    if low == high == 0:
        return f"{row.name}: the two groups' distances are identical."
    if row.rope and -row.rope < low <= high < row.rope:
        return (
            f"{row.name}: practically equal ({means}; the interval {interval(row.interval)} lies within"
            f" {number(row.rope)} of 0)."
        )
    if low <= 0 <= high:
        return f"{row.name}: no difference is established ({means}; {interval(row.interval)} holds 0)."
    if min(map(len, c.files)) < 2:
        return f"{row.name}: {means}, a difference between these models."
    if not _significant(row.adjusted):
        return f"{row.name}: no difference is established ({means}; Welch's p {p_value(row.adjusted)})."
    verb = "larger" if low > 0 else "smaller"
    how_sure = f"interval {interval(row.interval)}, Welch's p {p_value(row.adjusted)}"
    return f"{row.name}: {c.other}'s {WHAT[row.kind]} are {verb} on average: {means}; {how_sure}."


def verdict(comparisons: Sequence[Comparison]) -> str:
    """One line for the top of a report: how many differences are established."""
    rows = [row for c in comparisons for row in c.bounding]
    sure = [r for r in rows if _significant(r.adjusted) and not r.interval[0] <= 0 <= r.interval[1]]
    larger = sum(r.difference > 0 for r in sure)
    return (
        f"{len(rows)} measures of distance compared: significantly larger than the baseline's on {larger},"
        f" smaller on {len(sure) - larger}, not established on {len(rows) - len(sure)}."
    )
