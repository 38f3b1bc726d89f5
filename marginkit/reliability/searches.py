"""Checks of what was found: against a search without gradients, more effort, no limits, 8 bits.

Each looks at a few samples only, stops as soon as its verdict is decided or its passes are spent, and asks
nothing that the table says already.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.guard.passes import FORWARD
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.descent import descend, margin, steepest
from marginkit.methods.search.verification import is_adversarial, rounded_to_grid, shorten
from marginkit.norms import LINF, Vectors, along, column
from marginkit.reliability.effort import gain, more, onward
from marginkit.reliability.probe import Probe, share, unlimited
from marginkit.reliability.random_search import RandomSearch
from marginkit.table.verdicts import CHECKS
from marginkit.types import Bracket, Threat

RADII, STEPS = (2.0, 4.0, 8.0), 20  # times each sample's distance; of PGD at each
EIGHT_BIT_STRETCHES = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5)  # displacements tried when rounding to 8 bits
LITTLE = 0.4  # of the threshold for gains: below it the first samples decide
TOGETHER = 4  # samples that a search is asked of at a time


def gradient_free_wins(p: Probe) -> dict[str, float]:
    """Looks inside the radius that the searches claim to be free.

    On the way to another class in every norm; by random search in the one that suits it best.
    """
    answers = {}
    known = {n: t for n, t in p.threats.items() if t.levels is None and (p.claimed[n] > 0).any()}
    by_chance = LINF.name if LINF.name in known else next(iter(known), "")
    for norm, threat in known.items():
        x, y, claimed = p.x[p.few], p.y[p.few], p.claimed[norm][p.few]
        start, reached = _toward_another_class(p, threat)
        lost = reached < claimed
        open_ = ~lost & claimed.isfinite() & (claimed > 0)
        if norm == by_chance and open_.any():
            decided = int(CHECKS["gradient-free-wins"].above * len(x)) + 1 - int(lost.sum())
            here = (x[open_], y[open_], threat, claimed[open_].to(x), start[open_])
            search = RandomSearch(p.meter.fitting(RandomSearch.queries, FORWARD * int(open_.sum())), p.seed)
            lost[open_] |= search(p.model, *here, enough=decided)
        answers[norm] = share(lost)
    return answers


def not_converged(p: Probe) -> dict[str, float]:
    """Compares each search with itself at more effort, a few samples at a time, each in one column.

    From the adversarial inputs that the table keeps, where it does.
    """
    asked = [name for name in p.before if more(p.searches[name.partition(".")[0]]) is not None]
    left = {name: p.few[i :: len(asked)] for i, name in enumerate(asked)}
    cheap = all(isinstance(method, Nearest) for method in p.searches.values())
    for size in ([] if cheap else [1, 3]) + [TOGETHER] * len(p.few):  # the first tells what one costs
        for name in asked:
            rows, left[name] = left[name][:size], left[name][size:]
            if len(rows) and not _decided(p, name) and p.meter.has(_cost(p) * len(rows)):
                answered = _harder(p, name, rows)
                if answered is not None:
                    p.again.setdefault(name, []).append((rows, answered))
    return {name: float(_gains(p, name).mean()) for name in p.again}


def unbounded_fails(p: Probe) -> dict[str, float]:
    """Searches without a box where the search inside it found nothing: nothing can be out of reach."""
    search = unlimited(p.searches)
    answers = {}
    for norm, threat in p.threats.items():
        free, lost = replace(threat, low=None, high=None, mask=None, levels=None), 0
        missing = p.few[p.found[norm][p.few].isinf()]
        for row in missing.unsqueeze(1):
            if p.meter.has(0) and not lost:
                found = search(p.model, p.x[row], p.y[row], free)
                assert isinstance(found, Bracket)
                lost += int(found.upper.isinf().sum())
        answers[norm] = lost / len(p.few)
    return answers


def not_monotone(p: Probe) -> float:
    """Attacks at rising multiples of each sample's distance, each by itself, in the first norm."""
    known = p.found[p.threat.norm.name]
    rows = p.few[(known.isfinite() & (known > 0))[p.few]]
    if not len(rows):
        return torch.nan
    x, y, threat = p.x[rows], p.y[rows], replace(p.threat, levels=None)
    drawn = torch.randn(x.shape[1:], generator=torch.Generator().manual_seed(p.seed)).to(x).expand_as(x)
    robust: list[float] = []
    for times in reversed(RADII):
        if times == min(RADII) and max(robust) <= CHECKS["not-monotone"].above:
            break  # no rise to there can be a doubt
        radius = (times * known[rows]).to(x)
        start = along(radius / threat.norm.length(drawn), drawn)
        found = descend(p.model, x, y, threat, radius, start, margin(y), [0.1] * STEPS, steepest)
        robust.append(share(found.flatten(1).isnan().any(1)))
    return max(later - earlier for later, earlier in pairwise(robust))


def eight_bit(p: Probe) -> dict[str, float]:
    """Rounds the adversarial inputs to 255 steps of the box, at up to 1.5 times their displacement."""
    answers = {}
    for name in p.before:
        threat = p.threats[name.rpartition(".")[2]]
        boxed = isinstance(threat.low, float | int) and isinstance(threat.high, float | int)
        rows, witness = _witnesses(p, name)
        if threat.levels is not None or not boxed or not len(rows):
            continue
        grid = replace(threat, levels=255)
        for stretch in EIGHT_BIT_STRETCHES:
            rounded = rounded_to_grid(p.model, p.x[rows], p.y[rows], grid, witness, (stretch,))
            lost = rounded.flatten(1).isnan().any(1)
            rows, witness = rows[lost], witness[lost]
            if not len(rows):
                break
        answers[name] = len(rows) / len(_witnesses(p, name)[0])
    return answers


def _witnesses(p: Probe, name: str) -> tuple[Tensor, Vectors]:
    """Samples' rows and adversarial inputs of a column: the table's, or those found with more effort."""
    if name in p.kept:
        rows, witness = p.few, p.kept[name][p.few]
    elif name in p.again:
        rows = torch.cat([rows for rows, _ in p.again[name]])
        parts = [found.witness for _, found in p.again[name] if found.witness is not None]
        witness = torch.cat(parts) if parts else torch.full_like(p.x[rows], torch.nan)
    else:
        return p.few[:0], p.x[:0]
    given = ~witness.flatten(1).isnan().any(1)
    return rows[given], witness[given].to(p.x)


def _harder(p: Probe, name: str, rows: Tensor) -> Bracket | None:
    """A search's answer at more effort."""
    method, threat = p.searches[name.partition(".")[0]], p.threats[name.rpartition(".")[2]]
    here = (p.model, p.x[rows], p.y[rows], threat)
    if isinstance(method, Nearest) and name in p.kept:
        return onward(*here, p.kept[name][rows], method)
    harder = more(method)
    answer = None if harder is None else harder(*here)
    return answer if isinstance(answer, Bracket) else None


def _gains(p: Probe, name: str) -> Float[Tensor, "k"]:
    return torch.cat([gain(p.before[name][rows], found.upper) for rows, found in p.again[name]])


def _cost(p: Probe) -> float:
    """Passes a sample, of those that were searched with more effort so far."""
    done = sum(len(rows) for answers in p.again.values() for rows, _ in answers)
    return p.meter.spent / done if done else 0.0


def _decided(p: Probe, name: str) -> bool:
    """Whether the first samples' gains are far below the threshold, or beyond it whatever the others have."""
    if name not in p.again:
        return False
    gains, above = _gains(p, name), CHECKS["not-converged"].above
    surely = float(gains.sum()) > above * len(p.few)
    return surely or (len(gains) >= TOGETHER and float(gains.mean()) < above * LITTLE)


def _toward_another_class(p: Probe, threat: Threat) -> tuple[Vectors, Float[Tensor, "k"]]:
    """Displacements to the boundary on the way to the nearest sample of another label, and their lengths.

    Bisection needs scores only. Inf where every sample has the same label, or the mask keeps them apart.
    """
    x, y = p.x[p.few], p.y[p.few]
    apart = threat.norm.length((x.unsqueeze(1) - p.x.unsqueeze(0)).flatten(0, 1)).view(len(x), -1)
    other = apart.masked_fill(y.unsqueeze(1) == p.y.unsqueeze(0), torch.inf).argmin(1)
    target = threat.clip(x, p.x[other])
    over = is_adversarial(p.model, target, y)
    witness = torch.where(column(over, x), target, torch.nan)
    witness = shorten(p.model, x, y, threat, witness, 2**-6)
    delta = torch.where(column(over, x), witness - x, 0.0)
    return delta, torch.where(over, threat.norm.length(delta.double()), torch.inf)
