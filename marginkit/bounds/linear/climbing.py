"""Slopes and multipliers of parts, climbing in float32 to better bounds; and what they prove in float64."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from marginkit.bounds.ascent import adam
from marginkit.bounds.linear.cube import in_cube
from marginkit.bounds.linear.passes import Passage, Planes, backward
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.subdomains import Subdomains

RATE, DECAY = 0.3, 0.9  # of the ascent, in shares of a slope's range, and from step to step
FAR = 2.0  # how far points where planes are low go, along each side of the cube: farther nothing changes
FREE = ("alpha", "beta", "weight", "toward")  # what climbs


def climbed(relaxed: Relaxed, parts: Subdomains, steps: int, enough: float = torch.inf) -> Subdomains:
    """The parts with the best slopes, multipliers, planes and bounds met on so many steps of ascent.

    The bound's gradient is read off the values at the point where it is taken. Planes that are low at that
    point raise it: the points met add up (dual averaging), and shares follow their sum.

    Args:
        relaxed: the network.
        parts: whose slopes and multipliers are the start.
        steps: at most; no more than it takes for all bounds to pass `enough`.
        enough: a bound.
    """
    lines, now, kept = relaxed.lines(parts), parts, parts
    best, scale = torch.full_like(parts.bound, -torch.inf), None
    state = {name: [torch.zeros_like(getattr(parts, name)) for _ in range(2)] for name in FREE[:3]}
    for step in range(steps + 1):
        here = backward(relaxed, now, relaxed.sloped(parts, lines, now.alpha), now.beta)
        value = here.planes.value
        better = (value > best).unsqueeze(1)
        kept = replace(
            kept, **{name: torch.where(better, getattr(now, name), getattr(kept, name)) for name in FREE}
        )
        best = torch.maximum(best, value)
        if step == steps or bool((best > enough).all()):
            break
        scale = here.passed.abs().mean(1, keepdim=True) if scale is None else scale
        now = _stepped(here, now, scale, state, step)
    return replace(kept, bound=torch.maximum(parts.bound, best))


def _stepped(
    here: Passage, now: Subdomains, scale: Tensor, state: dict[str, list[Tensor]], step: int
) -> Subdomains:
    """One step uphill of all that is free."""
    relaxed, rise = here.relaxed, RATE * DECAY**step
    uphill = torch.where(relaxed.rectifying(now) & (here.passed > 0), here.passed * here.before, 0)
    alpha = now.alpha + rise * adam(uphill, state["alpha"], step)
    beta = now.beta + rise * scale * adam(-now.split * here.before, state["beta"], step)
    found = replace(now, alpha=torch.maximum(alpha.clamp(max=1), relaxed.least), beta=beta.clamp(min=0))
    if not relaxed.envelopes:
        return found
    weight = now.weight + rise * adam(here.passed * here.above, state["weight"], step)
    toward = now.toward + rise * in_cube(relaxed.ball, here.planes.point)
    return replace(found, weight=weight.clamp(0, 1), toward=toward.clamp(-FAR, FAR))


def proved(exact: Relaxed, parts: Subdomains) -> Planes:
    """The planes of parts whose slopes and multipliers are those of a climb in float32, in float64."""
    wide = parts.double()
    return backward(exact, wide, exact.lines(wide, wide.alpha), wide.beta).planes
