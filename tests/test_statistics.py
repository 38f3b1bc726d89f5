"""The statistics one by one, against values from statsmodels 0.15 and R 4.2, by hand, and by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from made_up import column, exact, model, table
from scipy import optimize, stats
from scipy.special import xlogy

from marginkit.comparison import paired_shares
from marginkit.comparison.bootstrap import intervals
from marginkit.comparison.compare import compare
from marginkit.comparison.decided import decided
from marginkit.comparison.generalisation import features, fit
from marginkit.comparison.groups import cluster_interval, compare_groups
from marginkit.comparison.hodges_lehmann import hodges_lehmann
from marginkit.comparison.hypothesis_tests import holm, mcnemar, wilcoxon
from marginkit.comparison.layers import fences, moments, signatures
from marginkit.comparison.settings import Settings
from marginkit.errors import MarginkitError, UsageError
from marginkit.kinds import Kind
from marginkit.report import group_sentences
from marginkit.table.brackets import ends, robust

# R's help on wilcox.test: Hollander and Wolfe's depression scores before and after a tranquilliser.
BEFORE = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30])
AFTER = np.array([0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29])
WAVES = np.sin(np.arange(1, 81) ** 2.0) + 0.2


def test_wilcoxon_is_rs():
    assert wilcoxon(AFTER - BEFORE) == pytest.approx(0.0390625, abs=1e-12)
    assert wilcoxon(WAVES) == pytest.approx(0.014634079334510901, rel=1e-9)


def test_wilcoxons_zeros_are_pratts():
    """Ranked with the others, then dropped; the value is of that formula, computed in R."""
    rounded = np.round(WAVES, 1)
    assert (rounded == 0).sum() == 5
    assert wilcoxon(rounded) == pytest.approx(0.014986543774274065, rel=1e-9)
    assert wilcoxon(np.zeros(9)) is None


@pytest.mark.parametrize(
    ("only", "p"),
    [
        ((3, 11), 0.057373046875),
        ((0, 5), 0.0625),
        ((7, 7), 1.0),
        ((61, 12), 4.802196531399105e-09),
        ((150, 210), 0.001834007417096482),
        ((0, 0), 1.0),
    ],
)
def test_mcnemar_is_statsmodels(only, p):
    first, second = only
    a = np.array([True] * first + [False] * second + [True] * 40 + [False] * 9)
    b = np.array([False] * first + [True] * second + [True] * 40 + [False] * 9)
    assert mcnemar(a, b) == (first, second, pytest.approx(p, rel=1e-12))
    assert mcnemar(b, a) == (second, first, pytest.approx(p, rel=1e-12))


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.5])
    assert holm([0.4, None, 0.6]) == [0.8, None, 0.8], "never falls, never above 1"
    assert holm([]) == []


# What R's contingencytables 3.0 prints (Fagerland, Lydersen, Laake, chapter 8: Bentur 2009, Cavo 2012).
@pytest.mark.parametrize(
    ("only_a", "only_b", "n", "low", "high"),
    [(7, 1, 21, -0.5172, -0.0260), (16, 6, 161, -0.1240, -0.0054), (6, 16, 161, 0.0054, 0.1240)],
)
def test_the_score_interval_is_rs(only_a, only_b, n, low, high):
    found = paired_shares.interval(only_a, only_b, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-5)
    assert found.method == "score"


@pytest.mark.parametrize(("only_a", "only_b", "n"), [(3, 11, 60), (1, 0, 44), (5, 3, 8), (400, 350, 5000)])
def test_the_score_interval_ends_where_its_test_rejects(only_a, only_b, n):
    """At either end the statistic of Tango's test is the normal quantile, its nuisance share by search."""
    found = paired_shares.interval(only_a, only_b, n)
    for end, sign in ((found.low, 1), (found.high, -1)):

        def fit(q, end=end):
            counts, shares = (only_a, only_b, n - only_a - only_b), (q, q + end, 1 - 2 * q - end)
            return -sum(xlogy(k, p) for k, p in zip(counts, shares, strict=True))

        least, most = max(0, -end), (1 - end) / 2
        q = optimize.minimize_scalar(fit, (least, most), bounds=(least, most), options={"xatol": 1e-12}).x
        variance = (2 * q + end - end**2) / n
        assert ((only_b - only_a) / n - end) / variance**0.5 == pytest.approx(sign * 1.959964, rel=1e-4)


@pytest.mark.parametrize("n", [2, 8, 100, 10_000])
def test_the_score_interval_has_width_where_all_agree(n):
    """z^2 / (n + z^2) either way where no sample differs; up to the end where all do."""
    none, all_of_them = paired_shares.interval(0, 0, n), paired_shares.interval(0, n, n)
    assert (none.low, none.high) == pytest.approx((-3.841459 / (n + 3.841459), 3.841459 / (n + 3.841459)))
    assert all_of_them.high == 1
    assert 1 - all_of_them.low > 0
    assert all_of_them.low < 1 - 1 / (n + 1)


@pytest.mark.parametrize("n", [10, 30, 80])
@pytest.mark.parametrize("shares", [(0.02, 0.02), (0.1, 0.05), (0.3, 0.1), (0.0, 0.3), (0.0, 0.01)])
def test_the_score_interval_covers(shares, n):
    """Exactly, over all tables of n samples, that models with these shares can give: 92.5 % and more."""
    only = np.arange(n + 1)
    a, b = (grid.ravel() for grid in np.meshgrid(only, only))
    a, b = a[a + b <= n], b[a + b <= n]
    chance = stats.multinomial.pmf(np.column_stack([a, b, n - a - b]), n, [*shares, 1 - sum(shares)])
    low, high = paired_shares.score_limits(a, b, n)
    truth = shares[1] - shares[0]
    assert chance.sum() == pytest.approx(1)
    assert chance[(low <= truth) & (truth <= high)].sum() >= 0.925


def test_hodges_lehmann_is_the_median_of_all_averages():
    assert hodges_lehmann(AFTER - BEFORE) == pytest.approx(-0.46, abs=1e-9)  # R
    generator = np.random.default_rng(0)
    for n in (1, 2, 3, 10, 101, 400):
        for values in (generator.gamma(2, size=n), np.round(generator.normal(size=n), 1)):
            i, j = np.triu_indices(n)
            assert hodges_lehmann(values) == pytest.approx(np.median((values[i] + values[j]) / 2), abs=1e-9)
    assert np.isnan(hodges_lehmann(np.array([])))


def test_hodges_lehmann_of_very_many_is_as_good():
    values = np.random.default_rng(1).gamma(2, size=30_000)
    few = hodges_lehmann(values)
    from marginkit.comparison import hodges_lehmann as location

    location.THINNED_FROM, before = 10**9, location.THINNED_FROM
    try:
        assert few == pytest.approx(hodges_lehmann(values), abs=2e-4)  # its standard error is 8e-3
    finally:
        location.THINNED_FROM = before


@pytest.mark.parametrize("draw", ["skewed", "normal", "cut", "mostly zero"])
def test_the_intervals_cover(draw):
    """Of 500 samples from a population of known mean, 93 to 97 % of the intervals hold it."""
    generator = np.random.default_rng(3)
    draws = {
        "skewed": lambda: generator.gamma(2, size=150) - 2,
        "normal": lambda: generator.normal(size=150),
        "cut": lambda: np.minimum(generator.exponential(size=150), 2) - (1 - np.exp(-2)),
        "mostly zero": lambda: generator.normal(size=50) * (generator.random(50) < 0.3),
    }
    found = [intervals(draws[draw]()[:, None], seed, resamples=800)[0] for seed in range(500)]
    assert {interval.method for interval in found} == {"BCa"}
    assert 0.93 <= np.mean([interval.low <= 0 <= interval.high for interval in found]) <= 0.97


def test_the_interval_is_scipys_bca_widened_to_hold_students():
    delta = np.random.default_rng(2).gamma(1, size=200)
    (ours,) = intervals(delta[:, None], 0, resamples=20_000)
    theirs = stats.bootstrap((delta,), np.mean, method="BCa", n_resamples=20_000, rng=3).confidence_interval
    student = stats.ttest_1samp(delta, 0).confidence_interval()
    hull = (min(theirs.low, student.low), max(theirs.high, student.high))
    assert (ours.low, ours.high) == pytest.approx(hull, abs=0.003)


def test_intervals_where_bca_degenerates_are_percentiles():
    same, unknown = np.full(20, 0.3), np.full(20, np.nan)
    first, second = intervals(np.column_stack([same, unknown]))
    assert (first.low, first.high, first.method) == (pytest.approx(0.3), first.low, "percentile")
    assert np.isnan(second.low)


@pytest.mark.parametrize("values", [[], [2.0], [2.0, np.nan], [np.nan] * 60_000, [2.0] + [np.nan] * 60_000])
def test_fewer_than_two_samples_have_no_interval(values):
    (found,) = intervals(np.array(values)[:, None])
    assert np.isnan([found.low, found.high]).all()
    assert found.method == "none"
    assert np.isnan(cluster_interval(np.ones((1, 6)), (3, 3), 0)).all()
    assert np.isnan(cluster_interval(np.ones((1, 2)), (1, 1), 0, shares=True)).all()


def test_very_many_samples_have_normal_intervals():
    values = np.random.default_rng(5).gamma(2, size=(60_000, 1))
    (many,) = intervals(values)
    assert many.method == "normal"
    (fewer,) = intervals(values[:10_000])
    assert many.high - many.low == pytest.approx((fewer.high - fewer.low) / 6**0.5, rel=0.08)


def test_brackets_are_the_tightest_of_all_columns():
    known = ends(
        table(
            column([0.2, 0.5, 0.0], "crown", Kind.LOWER),
            column([0.3, 0.1, 0.0], "lipschitz", Kind.LOWER),
            column([9.0, 9.0, 9.0], "smoothing", Kind.SMOOTHED),
            column([1.0, np.inf, 0.0]),
            column([0.9, np.inf, 0.0], "pgd", options={"eps": [1.0, 2.0]}),
            column([0.1, 0.1, 0.1], "nearest", layer="hidden"),
            column([0.1, 0.1, 0.1], "first_order", Kind.ESTIMATE),
        ),
        "l2",
    )
    assert known.lower.tolist() == [0.3, 0.5, 0.0]
    assert known.upper.tolist() == [0.9, np.inf, 0.0]
    assert known.pessimistic.tolist() == [0.9, 2.0, 0.0]
    assert (known.searched, known.certified) == (True, True)


def test_exact_pairs_close_brackets():
    known = ends(table(*exact([0.4, 0.0], [0.5, np.inf]), column([0.6, 2.0])), "l2")
    assert known.lower.tolist() == [0.4, 0.0]
    assert known.upper.tolist() == [0.5, 2.0]


def test_samples_are_decided_where_brackets_do_not_overlap():
    a = ends(table(column([1.0, 2.0, 3.0, 0.5], "crown", Kind.LOWER), column([1.5, 2.5, 3.5, 0.4])), "l2")
    b = ends(table(column([2.0, 1.0, 3.2, 0.1], "crown", Kind.LOWER), column([2.5, 1.5, 4.0, 0.4])), "l2")
    found = decided("l2", a, b)
    assert (found.baseline, found.other, found.undecided) == (1, 1, 2)
    assert found.contradictions == (1, 0), "0.5 is certified, and found broken at 0.4: it decides nothing"
    back = decided("l2", b, a)
    assert (back.baseline, back.other) == (found.other, found.baseline)


def test_a_contradiction_is_flagged():
    wrong = table(*(column([5.0] * 40, "crown", Kind.LOWER), column(np.linspace(1, 2, 40))))
    assert "contradiction" in {flag.code for flag in compare(wrong, wrong).flags}


def test_robust_accuracy_is_strictly_beyond_the_radius():
    assert robust(np.array([0.0, 1.0, np.inf]), np.array([0.0, 0.5, 1.0])) == pytest.approx(
        [2 / 3, 2 / 3, 1 / 3]
    )


def test_certified_and_found_robust_accuracy_never_mix():
    a, b = model(300, 1), model(300, 2, 1.3)
    rows = compare(a, b).robust
    assert {row.end for row in rows} == {"found", "certified"}
    for row in rows:
        same = [r for r in rows if (r.norm, r.radius) == (row.norm, row.radius)]
        shares = {r.end: r.baseline for r in same}
        assert shares["certified"] <= shares["found"]


def test_first_order_is_judged_at_the_layer_it_speaks_of():
    found = {(f.norm, f.layer, f.against): f for f in compare(model(300, 1), model(300, 2)).faithfulness}
    assert set(found) == {(n, *pair) for n in ("l2", "linf") for pair in (
        ("input", "input"), ("hidden", "input"), ("hidden", "hidden"))}  # fmt: skip
    assert found["l2", "hidden", "hidden"].ratio[0] == pytest.approx(5 / 6, rel=0.05)
    assert found["l2", "input", "input"].ratio[0] == pytest.approx(1.1, rel=0.05)


# Layers ----------------------------------------------------------------------------------------------


def test_signatures_are_scaled_by_the_activations_variance():
    values = np.array([1.0, 2.0, 3.0, 4.0, 100.0, -1.0])
    estimate = column(values, "first_order", Kind.ESTIMATE, layer="hidden")
    estimate.status[-1] = 1
    plain = table(estimate)
    scaled = table(estimate, meta={**plain.meta, "activation_variance": {"hidden": 4.0}})
    (raw,), (found,) = signatures(plain), signatures(scaled)
    assert (raw.n, raw.variance, found.variance) == (5, None, 4.0)
    assert raw.fences == (1.0, 2.0, 3.0, 4.0, 4.0), "100 lies beyond the fence"
    assert found.fences == pytest.approx([f / 2 for f in raw.fences])
    assert found.moments[2:] == pytest.approx(raw.moments[2:])


def test_moments_are_scipys():
    values = np.random.default_rng(0).gamma(2, size=50)
    _, deviation, skewness, kurtosis, fifth = moments(values)
    assert (skewness, kurtosis) == pytest.approx((stats.skew(values), stats.kurtosis(values, fisher=False)))
    assert fifth == pytest.approx(stats.moment(values, 5) / deviation**5)
    assert moments(np.ones(4)) == (1, 0, 0, 0, 0)
    assert np.isnan(moments(values[:0])).all()
    assert np.isnan(fences(values[:0])).all()


def test_a_gap_that_follows_the_margins_is_predicted():
    generator = np.random.default_rng(6)
    pool = [model(200, seed, better, of=seed) for seed, better in enumerate(generator.uniform(0.5, 2, 12))]
    gaps = [0.1 - 0.05 * features(t)[2] for t in pool]
    predictor = fit(pool, gaps)
    assert predictor.r2 > 0.95
    assert predictor.layers == ("input", "hidden")
    assert predictor(pool[3]) == pytest.approx(gaps[3], abs=0.01)
    assert fit(pool, generator.normal(size=12).tolist()).r2 < 0.5, "noise can't be predicted"


def test_a_gap_needs_a_pool_and_normalised_margins():
    tables = [model(50, seed) for seed in range(3)]
    with pytest.raises(MarginkitError, match="at least three"):
        fit(tables[:2], [0.1, 0.2])
    bare = table(column([1.0, 2.0], "first_order", Kind.ESTIMATE))
    with pytest.raises(MarginkitError, match=r"no normalised first_order\.l2 at 'input'"):
        features(bare)


# Groups ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "least"), [(3, 0.88), (8, 0.92)])
def test_cluster_intervals_cover(k, least):
    generator = np.random.default_rng(7)
    hits = 0
    for seed in range(150):
        common = generator.gamma(2, 0.5, (100, 1))
        values = common + generator.normal(0, 0.3, (100, 2 * k)) + generator.normal(0, 0.1, 2 * k)
        values[:, k:] += 0.2
        low, high = cluster_interval(values, (k, k), seed)
        hits += low <= 0.2 <= high
    assert least <= hits / 150


@pytest.mark.parametrize(("k", "n"), [(1, 8), (3, 8), (3, 40), (5, 200)])
@pytest.mark.parametrize(("a", "b"), [(0, 0), (1, 1), (0, 1), (1, 0)])
def test_the_groups_shares_have_an_interval_where_all_agree(a, b, k, n):
    values = np.repeat([[a] * k + [b] * k], n, axis=0).astype(float)
    low, high = cluster_interval(values, (k, k), 0, shares=True)
    assert -1 <= low < high <= 1
    assert low <= b - a <= high
    assert high - low > 1 / n
    assert cluster_interval(values, (k, k), 0) == (b - a, b - a), "distances are no shares"


@pytest.mark.parametrize("share", [0.02, 0.3])
@pytest.mark.parametrize("k", [1, 4])
def test_the_groups_intervals_of_shares_cover(share, k):
    """The truth is that of samples not seen; the models of a group do not differ: the hardest case."""
    generator = np.random.default_rng(11)
    hits = 0
    for seed in range(150):
        values = generator.random((60, 2 * k)) < share
        low, high = cluster_interval(values.astype(float), (k, k), seed, shares=True)
        hits += low <= 0 <= high
    assert hits / 150 >= 0.93


def test_groups_by_hand():
    def member(shift):
        return table(column(np.array([1.0, 2.0, 3.0]) + shift))

    a = {f"a{i}": member(s) for i, s in enumerate((0.0, 0.1, 0.2))}
    b = {f"b{i}": member(s) for i, s in enumerate((1.0, 1.2, 1.1))}
    (found,) = compare_groups({"a": a, "b": b})
    (row,) = found.columns
    assert row.mean == pytest.approx((2.1, (3.0 + 3.2 + 3.1) / 3))
    assert row.difference == pytest.approx(1.0)
    assert row.interval[0] < 1.0 < row.interval[1]
    assert row.welch == pytest.approx(stats.ttest_ind([2, 2.1, 2.2], [3, 3.2, 3.1], equal_var=False).pvalue)
    assert "b's distances are larger" in next(group_sentences(found))
    (back,) = compare_groups({"b": b, "a": a})
    assert back.columns[0].difference == pytest.approx(-row.difference)


def test_the_groups_robust_accuracy_by_hand():
    a = {f"a{i}": table(column([1.0, 2.0, 3.0, 4.0 + i])) for i in range(3)}
    b = {f"b{i}": table(column([2.6, 2.7, 3.0, 2.0 + i])) for i in range(3)}
    (found,) = compare_groups({"a": a, "b": b}, Settings(radii={"l2": [2.5]}))
    (row,) = found.robust
    assert (row.end, row.radius) == ("found", 2.5)
    assert row.means == ((0.5, 0.5, 0.5), (0.75, 1.0, 1.0))
    assert row.difference == pytest.approx(11 / 12 - 0.5)
    assert row.interval[0] < row.difference < row.interval[1]
    (back,) = compare_groups({"b": b, "a": a}, Settings(radii={"l2": [2.5]}))
    assert back.robust[0].difference == pytest.approx(-row.difference)


def test_groups_of_one_and_groups_alike():
    a = table(column([1.0, 2.0, 3.0]))
    (found,) = compare_groups({"a": {"x": a}, "b": {"y": a}})
    assert (found.columns[0].difference, found.columns[0].interval, found.columns[0].welch) == (
        0,
        (0, 0),
        None,
    )
    words = list(group_sentences(found))
    assert "identical" in words[0]
    assert "several seeds" in words[-1]
    with pytest.raises(UsageError, match="one group"):
        compare_groups({"a": {"x": a}})
