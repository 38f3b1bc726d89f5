"""What all methods together know of each sample's distance: at least so far, at most so far."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from marginkit.kinds import INPUT, Kind, Status
from marginkit.table.summary import median
from marginkit.table.table import ENDS, Column, MarginTable

LIMIT = "eps"  # the option that says how far an attack looks: its radii
DECIDED = "radii"  # the option of a method that decides at radii
SILENT = (Status.UNSUPPORTED, Status.FAILED, Status.NONFINITE)  # the method has said nothing
CLOSED = 1.01e-5  # brackets no wider than this share of their upper end are closed: `exact` stops at 1e-5
ROUNDING = 1e-6  # share by which a proved distance may exceed one found


@dataclass(frozen=True)
class Ends:
    """Each sample's bracket in one norm at the input, in raw input units.

    Attributes:
        lower: the largest distance certified; 0 where none is.
        upper: the smallest distance at which an adversarial input was found; inf where none was.
        pessimistic: `upper`, but where every search failed what is sure: the limit up to which it looked
            where it has one, else `lower`.
        searched, certified: whether any column speaks of that end, and has answered.
        radii: at which a method was asked to decide, smallest first.
    """

    lower: np.ndarray
    upper: np.ndarray
    pessimistic: np.ndarray
    searched: bool
    certified: bool
    radii: tuple[float, ...] = ()


def has_end(column: Column, end: str) -> bool:
    """Whether the column bounds the true distance at the input on that side: `lower` or `upper`."""
    if column.layer != INPUT:
        return False
    if column.kind is Kind.EXACT:  # one column an end, or one for both where they meet
        return column.end in ("", end)
    return str(column.kind) == end


def at_input(column: Column) -> bool:
    """Whether its distances are distances at the input."""
    return column.layer == INPUT


def answered(column: Column) -> bool:
    """Whether the method has answered for any sample that it had to look at."""
    silent = np.isin(column.status, SILENT)
    return not silent.any() or not (silent | (column.status == Status.MISCLASSIFIED)).all()


def unclosed(table: MarginTable, column: Column) -> np.ndarray:
    """On which samples the two ends of an `exact` column do not meet; on none for other kinds: bool [n]."""
    if not column.end:
        return np.zeros(len(table), bool)
    same = (column.method, column.norm)
    both = {c.end: c.distance for c in table.columns if (c.method, c.norm) == same}
    lower, upper = (both.get(end) for end in ENDS)
    if lower is None or upper is None:
        return np.ones(len(table), bool)
    return np.asarray(~(lower >= (1 - CLOSED) * upper))


def contradictory(found: Ends) -> np.ndarray:
    """On which samples something was found nearer than is proved, so that a method is wrong: bool [n]."""
    return np.asarray(found.lower > found.upper * (1 + ROUNDING) + 1e-12)


def ends(table: MarginTable, norm: str, among: Iterable[str] | None = None) -> Ends:
    """The intersection of all brackets in one norm, of the named columns only where `among` is given."""
    chosen = None if among is None else set(among)
    named = [c for c in table.columns if c.norm == norm and (chosen is None or c.name in chosen)]
    columns = [column for column in named if answered(column)]
    lowers = [c for c in columns if has_end(c, "lower")]
    uppers = [c for c in columns if has_end(c, "upper")]
    lower = np.max([_known(c, 0.0) for c in lowers], axis=0) if lowers else np.zeros(len(table))
    upper = np.min([_known(c, np.inf) for c in uppers], axis=0) if uppers else np.full(len(table), np.inf)
    looked = max((limit(c) or 0.0 for c in uppers), default=0.0)
    sure = np.maximum(lower, looked)
    radii = sorted({float(r) for c in columns for r in np.atleast_1d(c.options.get(DECIDED, []))})
    pessimistic = np.where(np.isinf(upper), sure, upper)
    return Ends(lower, upper, pessimistic, bool(uppers), bool(lowers), tuple(radii))


def norms(table: MarginTable, among: Iterable[str]) -> list[str]:
    """The norms in which the named columns bound distances at the input, in their order."""
    bounding = (table[name] for name in among)
    return list(dict.fromkeys(c.norm for c in bounding if has_end(c, "upper") or has_end(c, "lower")))


def limit(column: Column) -> float | None:
    """How far the search looked, where one of its options says so."""
    radii = np.atleast_1d(column.options.get(LIMIT, []))
    return float(max(radii)) if len(radii) else None


def closed(found: Ends) -> float:
    """The share of the bracket closed: the median of certified / found, where a distance was found."""
    reached = np.isfinite(found.upper) & (found.upper > 0)
    return median(found.lower[reached] / found.upper[reached])


def robust(distances: np.ndarray, radii: np.ndarray) -> np.ndarray:
    """The share of samples farther than each radius."""
    ordered = np.sort(distances)
    return np.asarray(1 - np.searchsorted(ordered, radii, side="right") / max(len(ordered), 1))


def _known(column: Column, vacuous: float) -> np.ndarray:
    return np.where(np.isnan(column.distance), vacuous, column.distance)
