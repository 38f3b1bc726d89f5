"""Which unit to split."""

from __future__ import annotations

from dataclasses import replace

import torch

from marginkit.bounds.relu.relaxation import Relaxation
from marginkit.bounds.subdomains import Subdomains

CANDIDATES = 4  # units of which both halves are looked at before one is split


def chosen(space: Relaxation, nodes: Subdomains) -> Subdomains:
    """Chooses the unit to split: of those that loosen the bound most, the one whose halves are farthest.

    How much a unit loosens it is seen at the hyperplane's nearest point, and by the line's offset (Bunel
    et al., arXiv 1909.06588); a few are then tried (De Palma et al., arXiv 2104.06718).
    """
    lines = space.lines(nodes)
    if not space.network.units:
        return nodes
    _, planes, a = space.distance(nodes, lines, nodes.alpha, nodes.beta)
    h = space.values(planes.point, a, lines, nodes.alpha)
    value = torch.maximum(h, space.slopes(h) * h)
    error = torch.where(a > 0, value - nodes.alpha * h, lines.chord * h + lines.offset - value)
    score = a.abs() * (error.clamp(min=0) + 0.1 * lines.offset)
    score = torch.where(lines.undecided, score, -1)
    found, best = score.topk(min(CANDIDATES, space.network.units), dim=1)
    pick, most = best[:, 0], torch.full_like(nodes.bound, -torch.inf)
    for k in range(best.shape[1] if len(nodes) else 0):
        halves = replace(nodes, pick=best[:, k]).halves()
        length, _, _ = space.distance(halves, space.lines(halves), halves.alpha, halves.beta)
        on, off = torch.maximum(length, halves.bound).view(2, -1)
        worth = torch.minimum(on, off) + 0.1 * torch.maximum(on, off).minimum(2 * nodes.bound)
        better = (worth > most) & (found[:, k] >= 0)
        pick, most = torch.where(better, best[:, k], pick), torch.where(better, worth, most)
    return replace(nodes, pick=torch.where(found[:, 0] < 0, -1, pick))
