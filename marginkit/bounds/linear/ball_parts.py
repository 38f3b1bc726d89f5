"""Bounds in L2 of parts of a ball: those of balls and intervals together, in the parts' own intervals."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.ball_ascent import Enclosure, largest_bound
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains


def lowest(relaxed: Relaxed, whole: Enclosure, parts: Subdomains, steps: int) -> Tensor:
    """A lower bound of each part's target [m].

    Args:
        relaxed: the network over a ball in L2; its intervals hold.
        whole: where its nodes' values are.
        parts: of the ball; a split changes an interval and nothing else.
        steps: of ascent.
    """
    return largest_bound(_enclosure(relaxed, whole, parts), relaxed.targets[parts.rival].unsqueeze(1), steps)[
        :, 0
    ]


def _enclosure(relaxed: Relaxed, whole: Enclosure, parts: Subdomains) -> Enclosure:
    count, ball = len(parts), relaxed.ball
    intervals = [
        (low.expand(count, *low.shape[1:]), high.expand(count, *high.shape[1:]))
        for low, high in relaxed.intervals
    ]
    for j, units in relaxed.undecided.items():
        i = relaxed.graph.nodes[j].inputs[0]
        low, high = (end.flatten(1).clone() for end in intervals[i])
        low[:, units.index] = low[:, units.index].maximum(parts.low[:, units.place].double())
        high[:, units.index] = high[:, units.index].minimum(parts.high[:, units.place].double())
        intervals[i] = low.view_as(intervals[i][0]), high.view_as(intervals[i][1])
    ends = (None if end is None else end.expand(count, *end.shape[1:]) for end in (ball.low, ball.high))
    spread = Ball(ball.x.expand(count, *ball.x.shape[1:]), ball.radius.expand(count), ball.norm, *ends)
    centres = [centre.expand(count, *centre.shape[1:]) for centre in whole.centres]
    radii = [radius.expand(count) for radius in whole.radii]
    same = torch.zeros(count, dtype=torch.long, device=ball.x.device)
    secants = {j: of.part(same) for j, of in whole.secants.items()}
    return replace(whole, ball=spread, centres=centres, radii=radii, intervals=intervals, secants=secants)
