"""Which properties of a table's samples hold, by what all methods together know of them. Imports no torch."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum

import numpy as np

from marginkit.table.brackets import ends
from marginkit.table.table import MarginTable

NORM = "linf"  # of the cubes


class Answer(StrEnum):
    """What is known of a property."""

    HOLDS = "holds"
    VIOLATED = "violated"
    OPEN = "open"


def answers(table: MarginTable) -> dict[str, Answer]:
    """Whether the label stays within each sample's cube, by the property's file; nothing where none is asked.

    It holds where the distance is proved to be beyond the larger radius, and is violated where an adversarial
    input was found within the smaller one.
    """
    asked, threat = table.provenance.dataset.properties, table.provenance.threat
    if asked is None or threat.mask or threat.subspace or threat.levels:
        return {}
    known = ends(table, NORM)
    holds = known.lower > np.array(asked.outer)[table.index]
    violated = known.upper <= np.array(asked.inner)[table.index]
    chosen = np.select([violated, holds], [Answer.VIOLATED, Answer.HOLDS], Answer.OPEN)
    return {asked.files[i]: Answer(answer) for i, answer in zip(table.index, chosen, strict=True)}


def counted(found: dict[str, Answer]) -> Iterator[str]:
    """One line on them all, and one on each where they are few."""
    if not found:
        return
    counts = ", ".join(f"{sum(a is which for a in found.values())} {which}" for which in Answer)
    yield f"of {len(found)} properties: {counts}"
    if len(found) <= FEW:
        yield from (f"  {answer:9} {file}" for file, answer in found.items())


FEW = 20
