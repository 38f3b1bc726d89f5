"""Which samples are compared, and which tables are refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_compare import only_column, table

from marginkit.comparison.compare import compare
from marginkit.errors import IncompatibleError
from marginkit.kinds import Kind

pytestmark = pytest.mark.quick


def test_samples_are_paired_by_index_in_any_order():
    a = table([1.0, 2.0, 3.0, 0.0], index=[10, 11, 12, 13])
    b = replace(table([5.0, 30.0, 20.0]), index=np.array([99, 12, 11]), label=np.array([0, 2, 1]))
    found = compare(a, b)
    assert found.n == 2
    assert found.only == (2, 1)
    assert only_column(found).mean == (2.5, 25.0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"meta": {"dataset": {"name": "d", "split": "test", "fingerprint": "g"}}},
            "fingerprint differ: f against g",
        ),
        ({"meta": {"threat": {"low": 0, "high": None}}}, "the threat differ"),
        ({"options": {"steps": 7}}, "options of deepfool.l2 differ.*50.*7"),
        ({"name": "pgd"}, "share no column: deepfool.l2 against pgd.l2"),
        ({"index": [7, 8]}, "share no sample"),
    ],
)
def test_unlike_tables_are_refused_and_the_difference_named(change, message):
    with pytest.raises(IncompatibleError, match=message) as error:
        compare(table([1.0, 2.0]), table([1.0, 2.0], **change))
    assert error.value.exit_code == 4


def test_other_labels_are_refused():
    b = table([1.0, 2.0])
    with pytest.raises(IncompatibleError, match="different labels"):
        compare(table([1.0, 2.0]), replace(b, label=b.label + 1))


def test_samples_are_paired_by_what_is_in_them():
    """By hash: other indices, other orders, other files; the first of equal inputs with the first."""
    hashes = np.array([7, 8, 7, 9], np.uint64)
    a = replace(table([1.0, 2.0, 3.0, 4.0]), hash=hashes)
    b = table([30.0, 99.0, 10.0, 20.0], meta={"dataset": {"name": "e"}})
    b = replace(b, hash=np.array([7, 5, 7, 8], np.uint64), index=np.array([9, 1, 4, 2]))
    b = replace(b, label=np.array([2, 0, 0, 1]))
    found = compare(a, b)
    assert found.n == 3
    assert found.only == (1, 1)
    column = only_column(found)
    assert (column.mean, column.wins) == ((2.0, 20.0), 3)


def test_hashes_without_a_match_name_the_data_set():
    a = replace(table([1.0, 2.0]), hash=np.array([1, 2], np.uint64))
    b = replace(table([1.0, 2.0]), hash=np.array([3, 4], np.uint64))
    with pytest.raises(IncompatibleError, match=r"share no sample: .*prepared alike"):
        compare(a, b)
    other = b.with_meta({"dataset": {"fingerprint": "g"}, "threat": {"low": 0, "high": 1}})
    with pytest.raises(IncompatibleError, match="fingerprint differ: f against g"):
        compare(a, other)


def test_another_kind_is_refused():
    with pytest.raises(IncompatibleError, match=r"kind of deepfool\.l2 differ: upper against lower"):
        compare(table([1.0]), table([1.0], kind=Kind.LOWER))
