"""Checks of gradients: whether they are there, and whether they tell what a step does."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.guard.answer import answer
from marginkit.kinds import INPUT
from marginkit.logits import differences
from marginkit.methods.first_order import FirstOrder
from marginkit.norms import along, dot
from marginkit.reliability.probe import Probe, share

SHORT = 0.1  # a step's length, as a share of the distance found
HONEST = (0.5, 2.0)  # how far a step's effect may be from what the gradient says
RIVALS = 4  # those of largest logit, where the table does not estimate


def no_gradient(p: Probe) -> float:
    """Zero or not finite."""
    size = p.slope[1].flatten(1).abs().amax(1)
    return share((size == 0) | ~size.isfinite())


def misleading_gradient(p: Probe) -> float:
    """Takes a short steepest step inside the box."""
    rival, gradient = p.slope
    length = SHORT * _scale(p)
    usable = (
        length.isfinite() & (gradient.flatten(1).abs().amax(1) > 0) & gradient.flatten(1).isfinite().all(1)
    )
    if not usable.any():
        return torch.nan
    x, y, rival, gradient = p.x[usable], p.y[usable], rival[usable], gradient[usable]
    step = along(-length[usable].to(x), p.threat.norm.steepest(gradient))
    moved = p.threat.clip(x, x + step)
    said = -dot(gradient, moved - x)
    with torch.no_grad():
        after = differences(answer(p.model, moved), y, rival)
    fell = (differences(p.scores[usable], y, rival) - after).squeeze(1)
    said, fell = said[said > 0], fell[said > 0]
    return 1 - share((fell >= HONEST[0] * said) & (fell <= HONEST[1] * said))


def optimistic_first_order(p: Probe) -> dict[str, float]:
    """Compares the estimate at the input, the table's where it has one, with what was found."""
    answers = {}
    for norm, threat in p.threats.items():
        found, estimate = p.found[norm], p.estimated.get(norm)
        if estimate is None:
            found, method = found[p.few], FirstOrder(layers=(INPUT,), top_k=RIVALS)
            estimate = method(p.model, p.x[p.few], p.y[p.few], threat).distance[:, 0]
        ratio = (estimate / found)[found.isfinite()]
        answers[norm] = float(ratio.quantile(0.5)) if len(ratio) else torch.nan
    return answers


def _scale(p: Probe) -> Float[Tensor, "n"]:
    """The distance found in the first norm; the others' median where none was."""
    found = p.found[p.threat.norm.name]
    known = found[found.isfinite()]
    return torch.where(found.isfinite(), found, known.quantile(0.5) if len(known) else torch.nan)
