"""Several models an arm (training seeds): is one way of training better than another?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from scipy import stats

from marginkit.comparison.alignment import Aligned, align
from marginkit.comparison.bootstrap import LEVEL, NORMAL_FROM, resampled_means
from marginkit.comparison.columns import bounds_input
from marginkit.comparison.hypothesis_tests import holm
from marginkit.comparison.radii import both_ends
from marginkit.comparison.settings import Settings
from marginkit.errors import UsageError
from marginkit.kinds import Kind
from marginkit.table.brackets import Ends, answered, at_input, limit
from marginkit.table.summary import accuracy
from marginkit.table.table import ENDS, Column, MarginTable

Pair = tuple[float, float]
RESAMPLES = 4000


@dataclass(frozen=True)
class GroupColumn:
    """One column of two groups of models; pairs are (baseline, other).

    Attributes:
        name, kind, norm, layer, tau, rope: as for two tables.
        n: samples with a number in all.
        means: each model's mean of min(d, tau), for every group.
        mean: the groups'.
        difference: other minus baseline.
        interval: its 95 % cluster bootstrap interval: models and samples are drawn anew.
        welch: two-sided p of Welch's t-test on the models' means; None where it can't be had.
        adjusted: after Holm's adjustment over the columns and groups.
    """

    name: str
    kind: Kind
    norm: str
    layer: str
    n: int
    tau: float
    rope: float
    means: tuple[tuple[float, ...], tuple[float, ...]]
    mean: Pair
    difference: float
    interval: Pair
    welch: float | None
    adjusted: float | None = None

    @property
    def bounding(self) -> bool:
        """As of a column of two tables."""
        return bounds_input(self.kind, self.layer)

    @property
    def answer(self) -> Kind:
        """What its distances are: of `exact`, one end where there are two."""
        return Kind(self.layer) if self.kind is Kind.EXACT and self.layer in ENDS else self.kind


@dataclass(frozen=True)
class GroupRobust:
    """Robust accuracy of two groups of models at a radius; pairs are (baseline, other).

    Attributes:
        norm, radius, end: as for two tables.
        means: each model's, for every group.
        mean, difference, interval, welch, adjusted: as of a column.
    """

    norm: str
    radius: float
    end: str
    means: tuple[tuple[float, ...], tuple[float, ...]]
    mean: Pair
    difference: float
    interval: Pair
    welch: float | None
    adjusted: float | None = None


@dataclass(frozen=True)
class GroupComparison:
    """Two groups of models, each on the samples that all tables share."""

    baseline: str
    other: str
    files: tuple[tuple[str, ...], tuple[str, ...]]
    n: int
    accuracy: tuple[tuple[float, ...], tuple[float, ...]]
    columns: tuple[GroupColumn, ...]
    robust: tuple[GroupRobust, ...]


def compare_groups(
    groups: Mapping[str, Mapping[str, MarginTable]], settings: Settings | None = None
) -> list[GroupComparison]:
    """Compares every group with the first.

    Args:
        groups: by name, the tables by file.
        settings: radii, cuts, ties, seed.

    Raises:
        IncompatibleError: as for two tables.
        UsageError: fewer than two groups, or a setting for a norm that they do not have.
    """
    if len(groups) < 2:
        raise UsageError("one group can't be compared: give a second --group NAME=FILES")
    (first, baseline), *others = groups.items()
    settings = settings or Settings()
    both = [align([*baseline, *other], [*baseline.values(), *other.values()]) for _, other in others]
    settings.require_norms({norm for models in both for norm in models.norms})
    found = [
        _compare((first, name), models, len(baseline), settings)
        for (name, _), models in zip(others, both, strict=True)
    ]
    adjusted = iter(holm([row.welch for c in found for rows in (c.columns, c.robust) for row in rows]))

    def after(rows: Sequence[Any]) -> tuple[Any, ...]:
        return tuple(replace(row, adjusted=next(adjusted)) for row in rows)

    return [replace(c, columns=after(c.columns), robust=after(c.robust)) for c in found]


def _compare(names: tuple[str, str], models: Aligned, first: int, settings: Settings) -> GroupComparison:
    """The first so many models against the rest."""
    sizes = (first, len(models.tables) - first)
    right = [accuracy(table) for table in models.tables]
    return GroupComparison(
        baseline=names[0],
        other=names[1],
        files=(models.labels[:first], models.labels[first:]),
        n=len(models),
        accuracy=(tuple(right[:first]), tuple(right[first:])),
        columns=tuple(_column(models.columns(name), sizes, settings) for name in models.shared),
        robust=tuple(
            row for norm, found in models.brackets.items() for row in _robust(norm, found, sizes, settings)
        ),
    )


def _cut(columns: Sequence[Column], taus: Mapping[str, float]) -> tuple[float, np.ndarray]:
    """The cut tau, and min(d, tau): [samples, models], without samples that some model has no number for.

    Nothing is left where a method has answered for no sample of some model.
    """
    distances = np.column_stack([column.distance for column in columns])
    distances = distances if all(map(answered, columns)) else distances[:0]
    distances = distances[~np.isnan(distances).any(1)]
    stated = [found for column in columns if (found := limit(column)) is not None]
    largest = float(np.abs(distances[np.isfinite(distances)]).max(initial=0.0))
    given = taus.get(columns[0].norm) if at_input(columns[0]) else None
    tau = min(stated, default=largest) if given is None else given
    return tau, np.clip(distances, -tau, tau)


def _column(columns: Sequence[Column], sizes: tuple[int, int], settings: Settings) -> GroupColumn:
    tau, values = _cut(columns, settings.taus)
    first = columns[0]
    return GroupColumn(
        name=first.name,
        kind=first.kind,
        norm=first.norm,
        layer=first.place,
        n=len(values),
        tau=tau,
        rope=settings.ropes.get(first.norm, 0.0) if at_input(first) else 0.0,
        **_contrast(values, sizes, settings.seed),
    )


def _robust(
    norm: str, found: Sequence[Ends], sizes: tuple[int, int], settings: Settings
) -> Iterator[GroupRobust]:
    """By both ends that all models have."""
    for end, radius, beyond in both_ends(found, settings.radii.get(norm)):
        yield GroupRobust(norm, radius, end, **_contrast(beyond, sizes, settings.seed, shares=True))


def _contrast(values: np.ndarray, sizes: tuple[int, int], seed: int, shares: bool = False) -> dict[str, Any]:
    """The models' means, the groups' and their difference."""
    means = values.mean(0) if len(values) else np.full(sum(sizes), np.nan)
    a, b = means[: sizes[0]], means[sizes[0] :]
    return {
        "means": (tuple(map(float, a)), tuple(map(float, b))),
        "mean": (float(a.mean()), float(b.mean())),
        "difference": float(b.mean() - a.mean()),
        "interval": cluster_interval(values, sizes, seed, shares),
        "welch": welch(a, b) if len(values) else None,
    }


def cluster_interval(values: np.ndarray, sizes: tuple[int, int], seed: int, shares: bool = False) -> Pair:
    """The 95 % interval of the groups' difference of means: models and samples are drawn with replacement.

    A few models look less varied than the many they stand for: what drawing them contributes is widened by
    sqrt(k / (k - 1)) t / z, with k the smaller group and t for the models' degrees of freedom (in the spirit
    of Hesterberg 2015, arXiv 1411.5279). With one model in a group only the samples vary. Fewer than two
    samples have no interval.

    Args:
        values: [samples, models], the baseline's models first.
        sizes: of the groups.
        seed: of the resamples.
        shares: the values are answers, so that the samples' differences are in [-1, 1]. Two more samples then
            stand for those not seen, one with each largest difference (Bonett and Price 2012, doi
            10.3102/1076998611411915): samples that all agree are no proof that others do.
    """
    if len(values) < 2:
        return (np.nan, np.nan)
    generator = np.random.default_rng([seed, 1])
    a, b = np.split(values, [sizes[0]], axis=1)
    delta = b.mean(1) - a.mean(1)
    delta = np.r_[delta, 1.0, -1.0] if shares else delta
    drawn = np.zeros(RESAMPLES)
    if min(sizes) > 1:
        first, second = (_redrawn(part.mean(0), generator) for part in (a, b))
        drawn = (second - first) * _widening(min(sizes), sum(sizes) - 2)
    if len(delta) < NORMAL_FROM:
        drawn += resampled_means(delta[:, None], seed, RESAMPLES)[:, 0] - delta.mean()
    else:
        drawn += generator.normal(0, delta.std() / np.sqrt(len(delta)), RESAMPLES)
    low, high = delta.mean() + np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return (max(float(low), -1.0), min(float(high), 1.0)) if shares else (float(low), float(high))


def _redrawn(means: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """How far the mean of as many models, drawn with replacement, is from theirs."""
    return np.asarray(generator.choice(means, (RESAMPLES, len(means))).mean(1) - means.mean())


def welch(a: np.ndarray, b: np.ndarray) -> float | None:
    """Two-sided p of Welch's t-test on the models' means; None where they do not vary or a group has one.

    What Colas et al. 2018 (arXiv 1806.08295) recommend for a few seeds.
    """
    if min(len(a), len(b)) < 2 or max(np.ptp(a), np.ptp(b)) <= 1e-12 * np.abs(np.r_[a, b]).max():
        return None
    (m, s), (n, t) = ((part.mean(), part.std(ddof=1)) for part in (a, b))
    return float(stats.ttest_ind_from_stats(m, s, len(a), n, t, len(b), equal_var=False).pvalue)


def _widening(k: int, freedom: int) -> float:
    tail = (1 + LEVEL) / 2
    return float(np.sqrt(k / (k - 1)) * stats.t.ppf(tail, freedom) / stats.norm.ppf(tail))
