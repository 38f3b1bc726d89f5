"""Checks of gradients: whether they are there, and whether they tell what a step does."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from marginkit.guard.answer import answer
from marginkit.logits import differences
from marginkit.methods.first_order import FirstOrder
from marginkit.methods.search.linearisation import linearise
from marginkit.norms import Vectors, along, dot
from marginkit.reliability.probe import Probe, share

SHORT = 0.1  # a step's length, as a share of the distance found
HONEST = (0.5, 2.0)  # how far a step's effect may be from what the gradient says


def no_gradient(p: Probe) -> float:
    """Zero or not finite."""
    size = _slope(p)[1].flatten(1).abs().amax(1)
    return share((size == 0) | ~size.isfinite())


def misleading_gradient(p: Probe) -> float:
    """Takes a short steepest step inside the box."""
    rival, gradient = _slope(p)
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
        fell = (
            differences(answer(p.model, x), y, rival) - differences(answer(p.model, moved), y, rival)
        ).squeeze(1)
    said, fell = said[said > 0], fell[said > 0]
    return 1 - share((fell >= HONEST[0] * said) & (fell <= HONEST[1] * said))


def optimistic_first_order(p: Probe) -> dict[str, float]:
    """Compares the estimate at the input with what was found."""
    answers = {}
    for norm, threat in p.threats.items():
        estimate = FirstOrder(layers=("input",))(p.model, p.x, p.y, threat).distance[:, 0]
        ratio = (estimate / p.found[norm])[p.found[norm].isfinite()]
        answers[norm] = float(ratio.quantile(0.5)) if len(ratio) else torch.nan
    return answers


def _slope(p: Probe) -> tuple[Int[Tensor, "n 1"], Vectors]:
    """The runner-up at each sample, and the gradient of the logit margin over it."""
    rival, _, gradient = linearise(p.model, p.x, p.y, 1)
    return rival, gradient.squeeze(1)


def _scale(p: Probe) -> Float[Tensor, "n"]:
    """The distance found in the first norm; the others' median where none was."""
    found = p.found[p.threat.norm.name]
    known = found[found.isfinite()]
    return torch.where(found.isfinite(), found, known.quantile(0.5) if len(known) else torch.nan)
