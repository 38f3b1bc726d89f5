"""How well margin distributions rank models by their generalisation gap, beside simpler figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from scipy import stats

from marginkit.comparison.generalisation import features, left_out
from marginkit.comparison.layers import signatures
from marginkit.errors import MarginkitError
from marginkit.kinds import INPUT
from marginkit.table.summary import accuracy, median
from marginkit.table.table import MarginTable

LEAST = 5  # models: fewer have no rank to speak of


@dataclass(frozen=True)
class Ranking:
    """How predictions go with the gaps, each model predicted by a line through the others.

    Attributes:
        predictor: what the line is of.
        features: how many numbers that is.
        spearman, kendall: rank correlations; NaN where a prediction does not vary.
        r2: share of the gaps' variance explained (at most 1, below 0 where guessing the mean is better).
        predicted: each model's gap.
    """

    predictor: str
    features: int
    spearman: float
    kendall: float
    r2: float
    predicted: tuple[float, ...]


@dataclass(frozen=True)
class Prediction:
    """Of a pool of models.

    Attributes:
        models: their names.
        gaps: accuracy in training minus in test.
        rankings: the signatures' first, then simpler ones.
    """

    models: tuple[str, ...]
    gaps: tuple[float, ...]
    rankings: tuple[Ranking, ...]


def predict(tables: Mapping[str, MarginTable], norm: str = "l2", ridge: float = 1e-3) -> Prediction:
    """Pairs each model's tables of the training and the test split, and ranks the pool's gaps.

    The predictor of Jiang et al. (arXiv 1810.00113) is a line of every layer's five fences (`features`);
    beside it stand lines of the input's fences alone, and of one number each: the medians of the first-order
    distance at the input, of the normalised one at the last layer and of the logit margin, and the accuracy
    in training. All are of training samples.

    Args:
        tables: by name, two a model, told apart by their data set's split.
        norm: of the first-order distances.
        ridge: as in `generalisation.fit`.

    Raises:
        MarginkitError: fewer than five models have both tables, two tables are of the same model and split,
            or as `features`.
    """
    pairs = _pairs(tables)
    if len(pairs) < LEAST:
        raise MarginkitError(
            f"{len(pairs)} of {len(tables)} tables' models are measured on both their training and test"
            f" samples; expected at least {LEAST} models: measure each with --split train and --split test"
        )
    train = {name: one for name, (one, _) in pairs.items()}
    gaps = np.array([accuracy(one) - accuracy(other) for one, other in pairs.values()])
    layers = tuple(s.layer for s in signatures(next(iter(train.values()))) if s.norm == norm)
    rankings = []
    for predictor, of in _predictors(norm, layers).items():
        x = np.array([of(table) for table in train.values()], float).reshape(len(gaps), -1)
        rankings.append(_ranking(predictor, x, gaps, ridge))
    return Prediction(tuple(pairs), tuple(map(float, gaps)), tuple(rankings))


def _predictors(norm: str, layers: tuple[str, ...]) -> dict[str, Callable[[MarginTable], float | np.ndarray]]:
    def middle(layer: str) -> Callable[[MarginTable], float | np.ndarray]:
        return lambda table: features(table, norm, (layer,))[2]

    found: dict[str, Callable[[MarginTable], float | np.ndarray]] = {
        "margins at every layer": lambda table: features(table, norm, layers),
    }
    if INPUT in layers:
        found["margins at the input"] = lambda table: features(table, norm, (INPUT,))
        found["median margin at the input"] = middle(INPUT)
    if len(layers) > 1:
        found[f"median margin at {layers[-1]}"] = middle(layers[-1])
    found["median logit margin"] = lambda table: median(table.logit_margin)
    found["accuracy in training"] = accuracy
    return found


def _ranking(predictor: str, x: np.ndarray, gaps: np.ndarray, ridge: float) -> Ranking:
    predicted = left_out(x, gaps, ridge)
    spread = float(((gaps - gaps.mean()) ** 2).sum())
    varied = np.ptp(predicted) > 0 and np.ptp(gaps) > 0
    return Ranking(
        predictor,
        x.shape[1],
        float(stats.spearmanr(predicted, gaps).statistic) if varied else np.nan,
        float(stats.kendalltau(predicted, gaps).statistic) if varied else np.nan,
        1 - float(((gaps - predicted) ** 2).sum()) / spread if spread else np.nan,
        tuple(map(float, predicted)),
    )


def _pairs(tables: Mapping[str, MarginTable]) -> dict[str, tuple[MarginTable, MarginTable]]:
    """Of each model measured on both splits, its tables of training and test, by the first one's name."""
    found: dict[str, dict[str, str]] = {}
    for name, table in tables.items():
        about = table.provenance
        model = about.checkpoint.sha256 or about.model or name
        splits = found.setdefault(model, {})
        split = about.dataset.split or "test"
        if split in splits:
            raise MarginkitError(
                f"{splits[split]} and {name} are both of the {split} split of one model: give one of them"
            )
        splits[split] = name
    return {
        splits["train"]: (tables[splits["train"]], tables[splits["test"]])
        for splits in found.values()
        if {"train", "test"} <= set(splits)
    }
