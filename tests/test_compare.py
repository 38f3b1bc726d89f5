"""The statistics: by hand, by simulation, and where they degenerate."""

from __future__ import annotations

import io
import json
from dataclasses import asdict, replace

import numpy as np
import pytest
from scipy import stats

from marginkit.comparison.alignment import align
from marginkit.comparison.compare import compare, compare_all
from marginkit.comparison.settings import Settings
from marginkit.kinds import Kind, Status
from marginkit.report import overview, sentences, summary
from marginkit.table.summary import median
from marginkit.table.table import Column, MarginTable
from marginkit.table.writing import write

pytestmark = pytest.mark.quick


def table(distance, *, index=None, name="deepfool", kind=Kind.UPPER, meta=None, estimate=None, **changes):
    distance = np.asarray(distance, float)
    n = len(distance)
    status = np.select(
        [distance == 0, np.isinf(distance)], [Status.MISCLASSIFIED, Status.EXHAUSTED], Status.OK
    )
    columns = [Column(name, "l2", "input", kind, {"steps": 50}, distance, status, np.zeros(n, int))]
    if estimate is not None:
        values = np.asarray(estimate, float)
        columns.append(
            Column("first_order", "l2", "conv", Kind.ESTIMATE, {}, values, status, np.zeros(n, int))
        )
    about = {"dataset": {"name": "d", "split": "test", "fingerprint": "f"}, "threat": {"low": 0, "high": 1}}
    label = np.arange(n) % 3
    return MarginTable(
        index=np.arange(n) if index is None else np.asarray(index),
        label=label,
        predicted=np.where(distance == 0, label + 1, label),
        logit_margin=np.ones(n),
        columns=tuple(replace(column, **changes) for column in columns),
    ).with_meta({**about, **(meta or {})})


def plain(comparison):
    """What a terminal shows of it."""
    from rich.console import Console

    console = Console(width=80, record=True, file=io.StringIO())
    for renderable in overview(comparison):
        console.print(renderable)
    yield from console.export_text().splitlines()


def only_column(comparison):
    (column,) = comparison.columns
    return column


def test_tables_and_their_files_are_compared_alike(tmp_path):
    tables = table([1.0, 2.0, 0.0, 4.0]), table([1.5, 1.0, 0.0, 5.0])
    for name, one in zip("ab", tables, strict=True):
        write(one, tmp_path / f"{name}.h5")
    found = compare(tmp_path / "a.h5", str(tmp_path / "b.h5"), labels=("a", "b"))
    assert json.dumps(asdict(found)) == json.dumps(asdict(compare(*tables, labels=("a", "b"))))


def test_by_hand():
    found = compare(table([1.0, 2.0, 0.0, 4.0]), table([1.5, 1.0, 0.0, 5.0]))
    column = only_column(found)
    assert column.n == 4
    assert column.misclassified == (1, 1)
    assert column.median == (1.5, 1.25)
    assert column.tau == 5.0
    assert column.mean == (7 / 4, 7.5 / 4)
    assert column.difference == pytest.approx(0.125)
    assert (column.wins, column.ties, column.losses) == (2, 1, 1)
    assert column.wilcoxon == pytest.approx(stats.wilcoxon([0.5, -1.0, 0.0, 1.0], zero_method="pratt").pvalue)
    assert found.accuracy == (0.75, 0.75)


def test_zeros_are_ranked_as_by_pratt():
    generator = np.random.default_rng(5)
    delta = np.round(generator.normal(0.2, 1, 80), 1) * (generator.random(80) > 0.4)
    base = np.full(80, 10.0)
    found = only_column(compare(table(base), table(base + delta))).wilcoxon
    pratt, wilcox = (stats.wilcoxon(delta, zero_method=rule).pvalue for rule in ("pratt", "wilcox"))
    assert found == pytest.approx(pratt, rel=1e-6)
    assert found != pytest.approx(wilcox, rel=1e-2)


def test_failed_searches_count_as_tau_and_are_never_subtracted():
    column = only_column(compare(table([1.0, np.inf, np.inf, 3.0]), table([2.0, np.inf, 1.0, np.inf])))
    assert column.tau == 3.0
    assert column.exhausted == (2, 2)
    assert column.mean == ((1 + 3 + 3 + 3) / 4, (2 + 3 + 1 + 3) / 4)
    assert (column.wins, column.ties, column.losses) == (1, 2, 1)
    assert column.median == (np.inf, np.inf)


def test_it_is_antisymmetric():
    generator = np.random.default_rng(0)
    draws = (generator.gamma(2, size=60) * (generator.random(60) > 0.1) for _ in range(2))
    a, b = (table(np.where(generator.random(60) < 0.1, np.inf, draw)) for draw in draws)
    forth, reverse = compare(a, b), compare(b, a)
    there, back = only_column(forth), only_column(reverse)
    assert there.shift == pytest.approx(-back.shift)
    assert there.extremes == pytest.approx(tuple(-end for end in reversed(back.extremes)))
    assert there.adjusted == pytest.approx(back.adjusted)
    for one, two in zip(forth.robust, reverse.robust, strict=True):
        assert (one.difference, one.mcnemar) == pytest.approx((-two.difference, two.mcnemar))
        assert one.interval == pytest.approx(tuple(-end for end in reversed(two.interval)))
        assert (one.only_baseline, one.only_other) == (two.only_other, two.only_baseline)
    assert [(-r.difference, r.norm) for r in reverse.classes] == [
        (r.difference, r.norm) for r in forth.classes
    ]
    assert there.difference == pytest.approx(-back.difference)
    assert there.interval == pytest.approx(tuple(-end for end in reversed(back.interval)))
    assert (there.wins, there.losses) == (back.losses, back.wins)
    assert there.wilcoxon == pytest.approx(back.wilcoxon)
    assert there.mean == tuple(reversed(back.mean))


@pytest.mark.parametrize(
    "distance",
    [[1.0, 2.0, 3.0], [0.0, 0.0], [np.inf, np.inf, np.inf], [0.0], [2.0], [0.0, np.inf]],
    ids=["ordinary", "all wrong", "all exhausted", "one wrong", "one", "mixed"],
)
def test_identical_tables_do_not_differ_whatever_they_hold(distance):
    a = table(distance, estimate=np.minimum(distance, 9))
    found = compare(a, a)
    for column in found.columns:
        assert column.difference == 0
        assert column.interval == ((0, 0) if len(distance) > 1 else pytest.approx((np.nan,) * 2, nan_ok=True))
        assert column.shift == 0
        assert column.extremes[0] <= 0 <= column.extremes[1]
        assert column.wilcoxon is None
        assert column.adjusted is None
        assert column.ties == len(distance)
    assert all((row.difference, row.mcnemar) == (0, 1) for row in found.robust)
    for text in (*sentences(found), *plain(found)):
        assert "nan" not in text.lower()
    assert any("identical" in text for text in sentences(found))


def test_robust_accuracy_is_the_share_beyond_the_radius():
    found = compare(
        table([0.0, 1.0, 2.0, np.inf]),
        table([0.5, 0.5, 3.0, 3.0]),
        settings=Settings(radii={"l2": [0.75, 2.0]}),
    )
    assert [(r.radius, r.baseline, r.other) for r in found.robust] == [(0.75, 0.75, 0.5), (2.0, 0.25, 0.5)]
    default = compare(table(np.linspace(0.1, 1, 50)), table(np.linspace(0.1, 1, 50))).robust
    assert [r.radius for r in default] == [0.3, 0.6, 0.8]


def test_estimates_never_enter_robust_accuracy():
    found = compare(table([1.0, 2.0], estimate=[9.0, 9.0]), table([1.0, 2.0], estimate=[9.0, 9.0]))
    assert all(r.baseline == (np.array([1.0, 2.0]) > r.radius).mean() for r in found.robust)


def test_faithfulness_is_rank_correlation_and_ratio_where_both_are_known():
    distance = np.array([1.0, 2.0, 3.0, 4.0, 0.0, np.inf])
    a = table(distance, estimate=[2.0, 4.0, 6.0, 8.0, -3.0, 1.0])
    b = table(distance, estimate=[4.0, 3.0, 2.0, 1.0, -3.0, 1.0])
    (line,) = compare(a, b).faithfulness
    assert line.layer == "conv"
    assert line.spearman == pytest.approx((1, -1))
    assert line.ratio == (2.0, median(np.array([4.0, 1.5, 2 / 3, 0.25])))


def test_the_median_never_averages_an_infinity_away():
    assert median(np.array([1.0, 3.0])) == 2.0
    assert median(np.array([1.0, np.inf])) == np.inf
    assert median(np.array([np.inf, np.inf])) == np.inf
    assert median(np.array([1.0, 2.0, np.inf])) == 2.0
    assert np.isnan(median(np.array([])))


def test_words_claim_what_the_interval_allows():
    generator = np.random.default_rng(3)
    base = generator.gamma(4, size=300)
    clear = " ".join(sentences(compare(table(base), table(base * 1.2))))
    unclear = " ".join(sentences(compare(table(base), table(base + generator.normal(0, 1e-3, 300)))))
    worse = " ".join(sentences(compare(table(base), table(base * 0.8))))
    assert "larger on average" in clear
    assert "(+20%)" in clear
    assert "no difference is established" in unclear
    assert "smaller on average" in worse
    assert all("two checkpoints" in text for text in (clear, unclear, worse))


def test_the_report_fits_eighty_columns(capsys):
    from rich.console import Console

    wide = replace(table(np.arange(500.0) / 7, estimate=np.arange(500.0)), complete=True)
    other = table(np.arange(500.0) / 6, estimate=np.arange(500.0) * 2)
    console = Console(width=80)
    for renderable in (*overview(compare(wide, other)), *summary(wide)):
        console.print(renderable)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("deepfool.l2" in line and "upper" in line for line in lines), "nothing is folded"


def test_one_sample_claims_nothing():
    found = compare(table([1.0]), table([2.0]))
    assert only_column(found).wilcoxon == 1
    assert "no difference is established" in next(sentences(found))
    assert [flag.code for flag in found.flags] == ["few-samples"]


def test_differences_within_the_rope_are_ties():
    base = np.linspace(1, 2, 200)
    settings = Settings(ropes={"l2": 0.1})
    found = only_column(compare(table(base), table(base + 0.05), settings=settings))
    assert (found.wins, found.ties, found.losses) == (0, 200, 0)
    assert found.difference == pytest.approx(0.05)
    assert "practically equal" in next(sentences(compare(table(base), table(base + 0.05), settings=settings)))
    far = compare(table(base), table(base + 0.5), settings=settings)
    assert "larger on average" in next(sentences(far))


def test_tau_is_the_given_one_else_the_smaller_limit_else_the_largest_found():
    a, b = table([1.0, np.inf, 3.0]), table([2.0, 5.0, np.inf])
    assert (only_column(compare(a, b)).tau, only_column(compare(a, b)).tau_is) == (5.0, "largest found")
    given = only_column(compare(a, b, settings=Settings(taus={"l2": 2.5})))
    assert (given.tau, given.tau_is, given.mean) == (2.5, "given", (2.0, pytest.approx(7 / 3)))
    limited = {"options": {"eps": [4.0]}}
    found = only_column(compare(replace_columns(a, **limited), replace_columns(b, **limited)))
    assert (found.tau, found.tau_is) == (4.0, "search limit")
    assert found.extremes == (found.difference, found.difference), "nothing within the limit was missed"


def replace_columns(before, **changes):
    return replace(before, columns=tuple(replace(column, **changes) for column in before.columns))


def test_what_exhausted_searches_may_hide_is_told():
    a, b = table([1.0, 1.0, 1.0, 1.0]), table([1.5, 1.5, np.inf, np.inf])
    found = compare(a, b)
    assert only_column(found).extremes == (-0.25, 0.5)
    assert "exhausted-decides" in {flag.code for flag in found.flags}


def test_p_values_are_adjusted_for_the_whole_run():
    generator = np.random.default_rng(4)
    base = generator.gamma(3, size=80)
    others = [table(base + generator.normal(0.05 * i, 0.3, 80)) for i in range(1, 4)]
    pairs = [align(("base", name), (table(base), other)) for name, other in zip("xyz", others, strict=True)]
    found = compare_all(pairs)
    tests = sum(len(c.columns) + len(c.robust) for c in found)
    assert {c.tests for c in found} == {tests}
    smallest = min(found[i].columns[0].wilcoxon for i in range(3))
    assert min(found[i].columns[0].adjusted for i in range(3)) == pytest.approx(smallest * tests)


def test_words_are_guarded_where_failures_could_decide():
    base = np.linspace(1, 2, 200)
    better = np.where(np.arange(200) < 20, np.inf, base * 1.05)
    found = compare(table(base), table(better))
    assert only_column(found).extremes[0] < 0 < only_column(found).interval[0]
    assert "larger on average" in next(sentences(found))
    assert "unless what exhausted searches missed turns it round" in next(sentences(found))
