"""The few figures that answer the question, a model and norm each: what a person wants to see first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from marginkit.comparison.radii import usual_radii
from marginkit.table.brackets import Ends, ends, norms, robust
from marginkit.table.summary import accuracy, mean, median
from marginkit.table.table import MarginTable

POINTS = 48  # of a curve
REACH = 0.95  # a curve ends at this quantile of the distances


@dataclass(frozen=True)
class AtRadius:
    """Robust accuracy at a radius: the share that no search broke, and the share proved; None: unknown."""

    radius: float
    found: float | None
    certified: float | None


@dataclass(frozen=True)
class Standing:
    """One model in one norm; of a group of models, the means of theirs.

    Attributes:
        model: its name.
        norm: empty where nothing bounds a distance at the input.
        n, accuracy: samples, and the share classified as labelled.
        found: median of the smallest distances found, inf included; None where no search has answered.
        certified: median of the largest distances proved; None where there is no proof.
        robust: at a few radii, in raw input units, smallest first.
        reach: the radius at which `curve` ends; it begins at 0.
        curve: robust accuracy on the way, by what was found, else by what was proved.
    """

    model: str
    norm: str
    n: int
    accuracy: float
    found: float | None
    certified: float | None
    robust: tuple[AtRadius, ...]
    reach: float
    curve: tuple[float, ...]


def of_table(model: str, table: MarginTable) -> list[Standing]:
    """A table's standings, a norm each, at the usual radii."""
    names = [column.name for column in table.columns]
    brackets = {norm: [[ends(table, norm)]] for norm in norms(table, names)}
    return standings([model], [len(table)], [accuracy(table)], brackets)


def standings(
    models: Sequence[str],
    sizes: Sequence[int],
    accuracies: Sequence[float],
    brackets: Mapping[str, Sequence[Sequence[Ends]]],
    radii: Mapping[str, Sequence[float]] | None = None,
) -> list[Standing]:
    """Norm by norm, every model's standing.

    Args:
        models: what they are called.
        sizes, accuracies: of each model.
        brackets: by norm, for each model: its table's, or those of a group's tables.
        radii: by norm.
    """
    if not brackets:
        return [
            Standing(name, "", n, right, None, None, (), 0.0, ())
            for name, n, right in zip(models, sizes, accuracies, strict=True)
        ]
    found = []
    for norm, groups in brackets.items():
        every = [e for group in groups for e in group]
        given = (radii or {}).get(norm) or usual_radii(every, [_distances(e) for e in every])
        reach = _reach(every)
        for name, n, right, group in zip(models, sizes, accuracies, groups, strict=True):
            found.append(_standing(name, norm, n, right, group, sorted(set(given)), reach))
    return found


def scalars(found: Sequence[Standing]) -> dict[str, float]:
    """One model's figures by name, for those who draw curves of runs; what is unknown is left out."""
    named: dict[str, float | None] = {"accuracy": found[0].accuracy} if found else {}
    for s in found:
        named |= {f"{s.norm}/found": s.found, f"{s.norm}/proved": s.certified}
        named |= {f"{s.norm}/robust at {r.radius:g}": r.found for r in s.robust}
        named |= {f"{s.norm}/proved robust at {r.radius:g}": r.certified for r in s.robust}
    return {name: value for name, value in named.items() if value is not None}


def _standing(
    name: str, norm: str, n: int, right: float, group: Sequence[Ends], radii: Sequence[float], reach: float
) -> Standing:
    searched, certified = all(e.searched for e in group), all(e.certified for e in group)
    uppers, lowers = [e.upper for e in group], [e.lower for e in group]
    known = [_distances(e) for e in group]
    at = np.linspace(0, reach, POINTS)
    return Standing(
        model=name,
        norm=norm,
        n=n,
        accuracy=right,
        found=_mean_median(uppers) if searched else None,
        certified=_mean_median(lowers) if certified else None,
        robust=tuple(
            AtRadius(r, _share(uppers, r) if searched else None, _share(lowers, r) if certified else None)
            for r in map(float, radii)
        ),
        reach=reach,
        curve=tuple(np.mean([robust(d, at) for d in known], axis=0).tolist()),
    )


def _distances(e: Ends) -> np.ndarray:
    """What was found, else what was proved."""
    return e.upper if e.searched else e.lower


def _reach(every: Sequence[Ends]) -> float:
    far = np.concatenate([_distances(e) for e in every])
    far = far[np.isfinite(far)]
    return float(np.quantile(far, REACH)) if len(far) else 0.0


def _mean_median(distances: Sequence[np.ndarray]) -> float:
    return mean(np.array([median(d) for d in distances]))


def _share(distances: Sequence[np.ndarray], radius: float) -> float:
    return mean(np.array([mean(d > radius) for d in distances]))
