"""On which samples the brackets alone decide which model is farther from its boundary."""

from __future__ import annotations

from dataclasses import dataclass

from marginkit.table.brackets import Ends, contradictory


@dataclass(frozen=True)
class Decided:
    """Samples on which the brackets do not overlap, so that the farther model is sure.

    Attributes:
        norm: of the distances.
        baseline, other: samples on which that model is certainly farther from its boundary.
        undecided: the rest.
        contradictions: brackets whose lower end exceeds the upper one, (baseline, other): a method is wrong,
            and the sample is undecided.
    """

    norm: str
    baseline: int
    other: int
    undecided: int
    contradictions: tuple[int, int]


def decided(norm: str, a: Ends, b: Ends) -> Decided:
    """Counts the samples whose brackets do not overlap."""
    wrong = contradictory(a), contradictory(b)
    sound = ~(wrong[0] | wrong[1])
    first, second = (int(((x.lower > y.upper) & sound).sum()) for x, y in ((a, b), (b, a)))
    contradictions = int(wrong[0].sum()), int(wrong[1].sum())
    return Decided(norm, first, second, len(a.lower) - first - second, contradictions)
