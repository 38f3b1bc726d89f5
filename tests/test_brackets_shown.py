"""What a table's own summary says of its brackets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up import column, table

from marginkit.comparison.compare import compare
from marginkit.comparison.radii import bands
from marginkit.comparison.settings import Settings
from marginkit.comparison.summary import figures
from marginkit.kinds import Kind
from marginkit.report import summary
from marginkit.report.rows import of_comparison

pytestmark = pytest.mark.quick


def test_the_share_of_the_bracket_closed_is_the_median_of_certified_over_found():
    both = table(
        column([1.0, 2.0, 4.0, 0.0, np.inf]),
        column([0.5, 0.2, 1.0, 0.0, 3.0], "crown", Kind.LOWER),
        column([0.1, 1.8, 1.0, 0.0, 0.0], "lipschitz", Kind.LOWER),
        column([9.0, 9.0, 9.0, 9.0, 9.0], "smoothing", Kind.SMOOTHED),
    )
    assert figures(both)["brackets"] == {"l2": {"certified": 1.0, "found": 2.0, "closed": 0.5}}
    assert figures(table(column([1.0])))["brackets"] == {}


def test_robust_accuracy_is_a_band_between_certified_and_found():
    """The ends of the difference are the worst and the best case of both bands."""
    one = table(column([1.0, 2.0, 3.0, 4.0]), column([0.5, 1.6, 3.0, 3.0], "crown", Kind.LOWER))
    other = table(column([2.0, 2.0, 3.0, 4.0]), column([2.0, 1.0, 3.0, 3.0], "crown", Kind.LOWER))
    found = compare(one, other, settings=Settings(radii={"l2": [1.5]}))
    assert bands(found.robust) == [("l2", 1.5, (0.75, 0.75), (0.75, 1.0), (0.0, 0.25))]
    shown = next(rows for rows in of_comparison(found) if "from certified to found" in rows.title)
    assert shown.rows == (("l2", "1.5", "75.0% to 75.0%", "75.0% to 100.0%", "0.0% to 25.0%"),)
    alone = compare(table(column([1.0, 2.0])), table(column([1.0, 2.0])))
    assert bands(alone.robust) == []


@pytest.mark.parametrize("note", ["no bounds for Softmax", "given in float16, measured in float32"])
def test_a_note_is_in_the_summary_as_it_is(note):
    noted = table(replace(column([0.0, 0.0], "crown", Kind.LOWER), note=note))
    assert f"crown.l2: {note}" in list(summary(noted))
