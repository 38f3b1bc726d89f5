"""The statistics: by hand, by simulation, and where they degenerate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from marginkit.compare import bootstrap_interval, compare, median
from marginkit.errors import IncompatibleError
from marginkit.kinds import Kind, Status
from marginkit.report import figures, overview, sentences, summary
from marginkit.table import Column, MarginTable


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
        meta={**about, **(meta or {})},
    )


def only_column(comparison):
    (column,) = comparison.columns
    return column


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
    a, b = (table(generator.gamma(2, size=60) * (generator.random(60) > 0.1)) for _ in range(2))
    there, back = only_column(compare(a, b)), only_column(compare(b, a))
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
        assert column.interval == (0, 0)
        assert column.wilcoxon is None
        assert column.ties == len(distance)
    for text in (*sentences(found), *map(str, overview(found))):
        assert "nan" not in text
    assert any("identical" in text for text in sentences(found))


def test_the_intervals_coverage_is_right():
    """Of 400 samples from a skewed population of known mean, about 95 % of the intervals hold it."""
    generator = np.random.default_rng(1)
    hits = 0
    for trial in range(400):
        low, high = bootstrap_interval(generator.gamma(2, size=150) - 2, seed=trial, resamples=600)
        hits += low <= 0 <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_the_bootstrap_is_scipys():
    delta = np.random.default_rng(2).normal(0.3, 1, 200)
    ours = bootstrap_interval(delta, seed=0, resamples=20_000)
    scipys = stats.bootstrap(
        (delta,), np.mean, method="percentile", n_resamples=20_000, rng=3
    ).confidence_interval
    assert ours == pytest.approx((scipys.low, scipys.high), abs=0.01)


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


def test_robust_accuracy_is_the_share_beyond_the_radius():
    found = compare(table([0.0, 1.0, 2.0, np.inf]), table([0.5, 0.5, 3.0, 3.0]), radii={"l2": [0.75, 2.0]})
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


def with_proofs(found, *proved):
    base = table(found)
    proofs = [table(p, name=f"proof{i}", kind=Kind.LOWER).columns[0] for i, p in enumerate(proved)]
    smoothed = table([9.0] * len(found), name="smoothing", kind=Kind.SMOOTHED).columns[0]
    return replace(base, columns=(*base.columns, *proofs, smoothed))


def test_certified_accuracy_is_the_share_proved_by_the_best_proof_and_not_by_smoothing():
    a = with_proofs([1.0, 2.0, 3.0, 4.0], [0.1, 1.6, 1.0, 1.0], [0.2, 0.2, 0.2, 1.7])
    b = with_proofs([1.0, 2.0, 3.0, 4.0], [0.1, 0.1, 0.1, 1.6], [0.2, 0.2, 0.2, 0.2])
    (row,) = compare(a, b, radii={"l2": [1.5]}).robust
    assert row.certified == (0.5, 0.25)
    assert (row.baseline, row.other) == (0.75, 0.75)
    assert compare(table([1.0, 2.0]), table([1.0, 2.0]), radii={"l2": [1.5]}).robust[0].certified is None


def test_the_share_of_the_bracket_closed_is_the_median_of_proved_over_found():
    found = figures(
        with_proofs([1.0, 2.0, 4.0, 0.0, np.inf], [0.5, 0.2, 1.0, 0.0, 3.0], [0.1, 1.8, 1.0, 0.0, 0.0])
    )
    assert found["brackets"] == {"l2": {"proved": 1.0, "found": 2.0, "closed": 0.5}}
    assert figures(table([1.0]))["brackets"] == {}


def test_an_unsupported_operation_is_named_in_the_summary():
    unsupported = table([1.0, 2.0], note="no bounds for Softmax")
    assert "deepfool.l2: unsupported, no bounds for Softmax" in list(summary(unsupported))
