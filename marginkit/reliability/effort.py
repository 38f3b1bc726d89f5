"""A search with more effort than it had in the table."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from marginkit.logits import Labels
from marginkit.methods.branch_and_bound.start import verified
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.refinement import Attempts, refine
from marginkit.methods.search.starts import RATES
from marginkit.methods.search.verification import shorten
from marginkit.methods.torchattacks import TorchAttack
from marginkit.norms import Vectors
from marginkit.types import Bracket, Method, Threat

SHORTEST, LONGEST = 20, 80  # steps of `nearest`: twice those of `fast`; what `thorough` ends with, and more


def more(method: Method) -> Method | None:
    """The same search with twice the steps; None where it has no steps.

    `nearest` takes twice the steps from one of the starts it had and from a new one: what the others give,
    the table knows.
    """
    if isinstance(method, TorchAttack):
        given = dict(method.arguments)
        if not isinstance(given.get("steps"), int):
            return None
        return replace(method, arguments=tuple(sorted({**given, "steps": 2 * given["steps"]}.items())))
    if isinstance(method, Nearest):
        stages = ((2 * method.stages[0][0], 1, 1.0), (longer(method), 1, 1.0))
        return replace(method, starts=("own:0", "noise:8"), stages=stages, l1_stages=(), rivals=1, units=0)
    steps = getattr(method, "steps", None)
    return replace(method, steps=2 * steps) if isinstance(steps, int) else None  # type: ignore[type-var]


def longer(method: Nearest) -> int:
    """Twice the steps of the stages after the first, or of a single one, within limits."""
    steps = [steps for steps, _, _ in method.stages]
    return min(LONGEST, max(SHORTEST, 2 * sum(steps[1:] or steps)))


def onward(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors, method: Nearest
) -> Bracket:
    """The search goes on from adversarial inputs that it found, with twice the steps.

    Args:
        model: in eval mode.
        x, y, threat: as in `bracket`.
        witness: one a sample, NaN rows where there is none: they answer that nothing was found.
        method: whose steps count.
    """
    rows = (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1)
    delta = witness[rows] - x[rows]
    length = threat.norm.length(delta)
    rate, across = torch.full_like(length, RATES[threat.norm.name]), torch.zeros_like(rows, dtype=torch.bool)
    begun = Attempts(rows, delta, length, rate, across, length, delta)
    found = refine(model, x, y, threat, begun, longer(method))
    nearer = torch.full_like(x, torch.nan)
    nearer[rows] = threat.clip(x[rows], x[rows] + found.shortest)
    nearer = shorten(model, x, y, threat, nearer, method.precision, first=2**-5)
    return verified(model, x, y, threat, nearer)


def gain(before: Tensor, after: Tensor) -> Tensor:
    """The share of each distance that more effort takes away; 1 where only it found anything."""
    taken = torch.where(before.isinf() & after.isinf(), 0.0, 1 - after / before)
    return taken.nan_to_num(nan=0.0).clamp(min=0)
