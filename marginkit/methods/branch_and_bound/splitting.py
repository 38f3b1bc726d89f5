"""Which unit a part is split at."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from marginkit.bounds.graph.relaxations import LinearRelaxation
from marginkit.bounds.linear.passes import backward
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains

TINY = 1e-6  # of a bound's rise: a half without any does not void the other's


def split(relaxed: Relaxed, parts: Subdomains) -> Subdomains:
    """With the `pick` both of whose halves should have the best bounds, -1 where all units are decided.

    How much a half raises the bound is judged where the bound is taken, by the step from the unit's line to
    the half's own; the largest product of both steps wins, as in mixed-integer solvers (Achterberg, 2007). Of
    all units' halves bounded one by one, the best product was this estimate's choice in nearly every part
    looked at.
    """
    if not relaxed.units or not len(parts):
        return parts
    lines = relaxed.lines(parts, parts.alpha)
    here = backward(relaxed, parts, lines, parts.beta)
    point = here.before.clamp(parts.low, parts.high)
    now = _heights(lines, here.passed, point) + parts.weight * here.above
    above, below = (
        here.passed * (_heights(relaxed.lines(half), here.passed, point) - now)
        for half in relaxed.both(parts)
    )
    matters = relaxed.bent(parts) & (here.passed != 0)
    worth = (above.clamp(min=TINY) * below.clamp(min=TINY)).masked_fill(~matters, -1)
    best, pick = worth.max(1)
    return replace(parts, pick=torch.where(best < 0, -1, pick))


def _heights(lines: LinearRelaxation, passed: Tensor, point: Tensor) -> Tensor:
    """Of those lines that a bound with these coefficients takes [m, units]."""
    low = lines.lower_slope * point + lines.lower_offset
    high = lines.upper_slope * point + lines.upper_offset
    return torch.where(passed > 0, low, high)
