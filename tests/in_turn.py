"""Fewer combinations where not all of them interact."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product


def in_turn(*whole: Iterable[object], turns: Iterable[object]) -> list[tuple[object, ...]]:
    """Every combination of some lists, each with the next entry of another: every pair of entries occurs.

    The entry's position is the sum of the others' positions, so that it moves on with each of them; for
    pairs with one of the lists the others need as many entries as `turns` together.
    """
    lists, entries = [list(values) for values in whole], list(turns)
    positions = product(*(range(len(values)) for values in lists))
    return [
        (*(values[i] for values, i in zip(lists, at, strict=True)), entries[sum(at) % len(entries)])
        for at in positions
    ]
