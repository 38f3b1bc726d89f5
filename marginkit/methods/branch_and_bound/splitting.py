"""Which unit a part is split at."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from marginkit.bounds.graph.relaxations import LinearRelaxation
from marginkit.bounds.linear.passes import Passage, backward
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains

CANDIDATES = 8  # units of which both halves are looked at before one is split
CORNER = 0.1  # of a line's height over a ReLU's corner, beside its error at the point
TINY = 1e-6  # of a bound's rise: a half without any rise does not void the other's


def split(relaxed: Relaxed, parts: Subdomains) -> Subdomains:
    """With the `pick` whose halves have the best bounds, -1 where all units are decided.

    Candidates are those whose lines are farthest from the activation where the bound is taken, and at a
    ReLU's corner (Bunel et al., arXiv 1909.06588); of each the halves are bounded once (De Palma et al.,
    arXiv 2104.06718) and the largest product of both rises wins.
    """
    if not relaxed.units or not len(parts):
        return parts
    lines = relaxed.lines(parts, parts.alpha)
    here = backward(relaxed, parts, lines, parts.beta)
    score, best = _error(relaxed, parts, lines, here).topk(min(CANDIDATES, relaxed.units), dim=1)
    tried = Subdomains.join([replace(parts, pick=column) for column in best.T])
    halves = relaxed.halves(tried)
    bound = backward(relaxed, halves, relaxed.lines(halves, halves.alpha), halves.beta).planes.value
    before = here.planes.value.clamp(max=0).repeat(2 * best.shape[1])
    rise = (bound.clamp(max=0) - before).clamp(min=TINY)
    worth = rise.view(2, best.shape[1], len(parts)).prod(0).masked_fill(score.T <= 0, -1)
    pick = best.gather(1, worth.argmax(0).unsqueeze(1)).squeeze(1)
    return replace(parts, pick=torch.where(score[:, 0] <= 0, -1, pick))


def _error(relaxed: Relaxed, parts: Subdomains, lines: LinearRelaxation, here: Passage) -> Tensor:
    """How much each undecided unit's line costs the bound [m, units]; 0 where it costs nothing."""
    inside = torch.maximum(torch.minimum(here.before, parts.high), parts.low)
    values = torch.cat(
        [inside[:, :0], *(units.op(inside[:, units.place]) for units in relaxed.undecided.values())], 1
    )
    below = values - (lines.lower_slope * inside + lines.lower_offset)
    above = lines.upper_slope * inside + lines.upper_offset - values
    corner = torch.where(relaxed.rectifying(parts), lines.upper_offset, 0)
    error = torch.where(here.passed > 0, below, above).clamp(min=0) + CORNER * corner
    bent = relaxed.rectifying(parts) | ~relaxed.rectifiers
    return torch.where(bent, here.passed.abs() * error, 0)
