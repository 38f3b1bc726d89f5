"""Checks of what was found: against a search without gradients, more effort, no limits, 8 bits."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.methods.fixed_radius import FixedPGD
from marginkit.methods.search.verification import is_adversarial, rounded_to_grid, shorten
from marginkit.norms import Vectors, column
from marginkit.reliability.probe import Probe, share, unlimited
from marginkit.reliability.random_search import RandomSearch
from marginkit.types import Threat

RADII = (0.5, 1.0, 2.0, 4.0, 8.0)  # times the median distance found
EIGHT_BIT_STRETCHES = (1.0, 1.05, 1.1, 1.2, 1.35, 1.5)  # displacements tried when rounding to 8 bits


def gradient_free_wins(p: Probe) -> dict[str, float]:
    """Looks inside the radius that the searches claim to be free."""
    answers = {}
    for norm, threat in p.threats.items():
        if threat.levels is not None:
            continue
        start, reached = _toward_another_class(p, threat)
        claimed = p.claimed[norm]
        lost = reached < claimed
        open_ = ~lost & claimed.isfinite() & (claimed > 0)
        if open_.any():
            here = (p.x[open_], p.y[open_], threat, claimed[open_].to(p.x), start[open_])
            lost[open_] |= RandomSearch(seed=p.seed)(p.model, *here)
        if (claimed > 0).any():
            answers[norm] = share(lost)
    return answers


def not_converged(p: Probe) -> dict[str, float]:
    """Compares each search with itself at twice the effort."""
    return {name: share(_gain(p.before[name], answer.upper)) for name, answer in p.again.items()}


def unbounded_fails(p: Probe) -> dict[str, float]:
    """Searches without a box: nothing can be out of reach."""
    search = unlimited(p.searches)
    answers = {}
    for norm, threat in p.threats.items():
        free = replace(threat, low=None, high=None, mask=None, levels=None)
        answers[norm] = share(search(p.model, p.x, p.y, free).upper.isinf())  # type: ignore[union-attr]
    return answers


def not_monotone(p: Probe) -> float:
    """Attacks at rising radii, each by itself, in the first norm."""
    known = p.found[p.threat.norm.name]
    known = known[known.isfinite()]
    if not len(known) or not (scale := float(known.quantile(0.5))):
        return torch.nan
    threat = replace(p.threat, levels=None)
    robust = []
    for radius in RADII:
        attack = FixedPGD(eps=(radius * scale,), steps=20, seed=p.seed)
        robust.append(share(attack(p.model, p.x, p.y, threat).upper.isinf()))
    return max(later - earlier for earlier, later in pairwise(robust))


def eight_bit(p: Probe) -> dict[str, float]:
    """Rounds the adversarial inputs to 255 steps of the box, at up to 1.5 times their displacement."""
    answers = {}
    for name, answer in p.again.items():
        threat = p.threats[name.rpartition(".")[2]]
        grid = replace(threat, levels=255)
        boxed = isinstance(threat.low, float | int) and isinstance(threat.high, float | int)
        given = torch.isfinite(answer.upper)
        if threat.levels is not None or not boxed or answer.witness is None or not given.any():
            continue
        rounded = rounded_to_grid(
            p.model, p.x[given], p.y[given], grid, answer.witness[given], EIGHT_BIT_STRETCHES
        )
        answers[name] = share(rounded.flatten(1).isnan().any(1))
    return answers


def _gain(before: Float[Tensor, "n"], after: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The share of each distance that more effort takes away; 1 where only it found anything."""
    gain = torch.where(before.isinf() & after.isinf(), 0.0, 1 - after / before)
    return gain.nan_to_num(nan=0.0).clamp(min=0)


def _toward_another_class(p: Probe, threat: Threat) -> tuple[Vectors, Float[Tensor, "n"]]:
    """Displacements to the boundary on the way to the nearest sample of another label, and their lengths.

    Bisection needs scores only. Inf where every sample has the same label, or the mask keeps them apart.
    """
    apart = threat.norm.length((p.x.unsqueeze(1) - p.x.unsqueeze(0)).flatten(0, 1)).view(len(p.x), -1)
    other = apart.masked_fill(p.y.unsqueeze(1) == p.y.unsqueeze(0), torch.inf).argmin(1)
    target = threat.clip(p.x, p.x[other])
    over = is_adversarial(p.model, target, p.y)
    witness = torch.where(column(over, p.x), target, torch.nan)
    witness = shorten(p.model, p.x, p.y, threat, witness, 2**-6)
    delta = torch.where(column(over, p.x), witness - p.x, 0.0)
    return delta, torch.where(over, threat.norm.length(delta.double()), torch.inf)
