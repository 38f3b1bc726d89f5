"""Parts of a ball as parts of a smaller one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from marginkit.bounds.graph.ops import Interval
from marginkit.bounds.linear.clipping import narrowed
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains


def met(some: Sequence[Interval], others: Sequence[Interval]) -> list[Interval]:
    """Both at once, node by node."""
    return [
        (torch.maximum(low, other[0]), torch.minimum(high, other[1]))
        for (low, high), other in zip(some, others, strict=True)
    ]


def carried(parts: Subdomains, old: Relaxed, new: Relaxed) -> Subdomains:
    """What these parts are in a smaller ball around the same sample, without those that are empty there.

    What holds in a part holds in the smaller one: its bound, its intervals, and that it is no part of
    another. So parts that were proved stay so, and these are all that has to be looked at.

    Args:
        parts: of the larger ball.
        old, new: the network over both balls; the smaller one's intervals have `met` the larger one's.
    """
    low, high = old.entering(new.intervals)
    parts = narrowed(parts, parts.low.maximum(low.to(parts.low)), parts.high.minimum(high.to(parts.high)))
    parts = parts[parts.bound != torch.inf]
    columns = _columns(old, new)
    names = ("low", "high", "split", "alpha", "beta", "weight")
    kept = {name: getattr(parts, name)[:, columns] for name in names}
    return replace(parts, **kept, pick=torch.full_like(parts.pick, -1))


def _columns(old: Relaxed, new: Relaxed) -> Tensor:
    """Where the smaller ball's undecided units are among the larger one's."""
    found = [torch.zeros(0, dtype=torch.long, device=old.ball.x.device)]
    for j, units in new.undecided.items():
        was = old.undecided[j]
        found.append(was.place.start + torch.searchsorted(was.index, units.index))
    return torch.cat(found)
