"""Slopes and multipliers of parts, climbing in float32 to better bounds; and what they prove in float64."""

from __future__ import annotations

from dataclasses import replace

import torch

from marginkit.bounds.ascent import adam
from marginkit.bounds.linear.passes import Planes, backward
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains

RATE, DECAY = 0.3, 0.9  # of the ascent, in shares of a slope's range, and from step to step


def climbed(relaxed: Relaxed, parts: Subdomains, steps: int, enough: float = torch.inf) -> Subdomains:
    """The parts with the best slopes, multipliers and bounds met on so many steps of ascent.

    The bound's gradient is read off the values at the point where it is taken.

    Args:
        relaxed: the network.
        parts: whose slopes and multipliers are the start.
        steps: at most; no more than it takes for all bounds to pass `enough`.
        enough: a bound.
    """
    lines, free = relaxed.lines(parts), relaxed.rectifying(parts)
    alpha, beta = kept_alpha, kept_beta = parts.alpha, parts.beta
    best, scale = torch.full_like(parts.bound, -torch.inf), None
    state = [torch.zeros_like(alpha) for _ in range(4)]
    for step in range(steps + 1):
        here = backward(relaxed, parts, relaxed.sloped(parts, lines, alpha), beta)
        value = here.planes.value
        better = (value > best).unsqueeze(1)
        kept_alpha, kept_beta = torch.where(better, alpha, kept_alpha), torch.where(better, beta, kept_beta)
        best = torch.maximum(best, value)
        if step == steps or bool((best > enough).all()):
            break
        scale = here.passed.abs().mean(1, keepdim=True) if scale is None else scale
        rise = RATE * DECAY**step
        uphill = torch.where(free & (here.passed > 0), here.passed * here.before, 0)
        alpha = torch.maximum((alpha + rise * adam(uphill, state[:2], step)).clamp(max=1), relaxed.least)
        beta = (beta + rise * scale * adam(-parts.split * here.before, state[2:], step)).clamp(min=0)
    return replace(parts, alpha=kept_alpha, beta=kept_beta, bound=torch.maximum(parts.bound, best))


def proved(exact: Relaxed, parts: Subdomains) -> Planes:
    """The planes of parts whose slopes and multipliers are those of a climb in float32, in float64."""
    wide = parts.double()
    return backward(exact, wide, exact.lines(wide, wide.alpha), wide.beta).planes
