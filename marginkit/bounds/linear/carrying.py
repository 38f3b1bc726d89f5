"""Parts of a ball as parts of a smaller one."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from marginkit.bounds.linear.clipping import narrowed
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains


def carried(parts: Subdomains, old: Relaxed, new: Relaxed) -> Subdomains:
    """What these parts are in a smaller ball around the same sample, without those that are empty there.

    What holds in a part holds in the smaller one: its bound, its intervals, and that it is no part of
    another. So parts that were proved stay so, and these are all that has to be looked at.

    Args:
        parts: of the larger ball.
        old, new: the network over both balls; what is decided in the larger one is so in the smaller one.
    """
    low, high = _intervals(old, new)
    parts = narrowed(parts, parts.low.maximum(low.to(parts.low)), parts.high.minimum(high.to(parts.high)))
    parts = parts[parts.bound != torch.inf]
    columns = _columns(old, new)
    kept = {name: getattr(parts, name)[:, columns] for name in ("low", "high", "split", "alpha", "beta")}
    return replace(parts, **kept, pick=torch.full_like(parts.pick, -1))


def _intervals(old: Relaxed, new: Relaxed) -> tuple[Tensor, Tensor]:
    """In the smaller ball, of the larger one's undecided units [1, units]."""
    none = old.ball.x.new_zeros(1, 0)
    found: tuple[list[Tensor], list[Tensor]] = ([none], [none])
    for j, units in old.undecided.items():
        for side, end in zip(found, new.intervals[new.graph.nodes[j].inputs[0]], strict=True):
            side.append(end.flatten(1)[:, units.index])
    return torch.cat(found[0], 1), torch.cat(found[1], 1)


def _columns(old: Relaxed, new: Relaxed) -> Tensor:
    """Where the smaller ball's undecided units are among the larger one's."""
    found = [torch.zeros(0, dtype=torch.long, device=old.ball.x.device)]
    for j, units in new.undecided.items():
        was = old.undecided[j]
        found.append(was.place.start + torch.searchsorted(was.index, units.index))
    return torch.cat(found)
