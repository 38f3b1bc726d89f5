"""DeepFool with a box: step to the nearest linearised boundary until the class changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from marginkit.kinds import Kind
from marginkit.logits import Labels
from marginkit.methods.search.faster import through_folded
from marginkit.methods.search.linearisation import linearise, nudge, steps_to_boundaries
from marginkit.methods.search.verification import bracket, is_adversarial, shorten
from marginkit.norms import Vectors, column
from marginkit.types import Bracket, Threat


@dataclass(frozen=True)
class DeepFool:
    """Moosavi-Dezfooli et al., arXiv 1511.04599, for all three norms and inside the box.

    Each step goes to the nearest of the rivals' linearised boundaries *within the box*, and from the second
    on a little over it; a sample leaves as soon as it has crossed. Where every gradient is zero, a small
    fixed step leads away. At last the segment back to x is
    bisected. The answer is an upper end: an adversarial input was found there.

    Attributes:
        steps: at most so many linearisations.
        overshoot: the share of the step beyond the linearised boundary.
        top_k: rivals, those of largest logit at the current point; None for all.
        precision: of the last bisection, relative to the distance.
    """

    steps: int = 50
    overshoot: float = 0.02
    top_k: int | None = 10
    precision: float = 2**-12
    kind: ClassVar[Kind] = Kind.UPPER

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The verified bracket [0, found]."""
        return bracket(model, x, y, threat, through_folded(self._search))

    def _search(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Vectors:
        point, witness = x.clone(), torch.full_like(x, torch.nan)
        active = torch.arange(len(x), device=x.device)
        for count in range(self.steps):
            here, labels = point[active], y[active]
            _, drop, gradient = linearise(model, here, labels, self.top_k)
            beyond = 1 + self.overshoot if count else 1  # a linear classifier needs no overshoot
            step, length = steps_to_boundaries(beyond * drop, gradient, here, threat)
            step = step[torch.arange(len(step), device=x.device), length.argmin(1)]
            flat = gradient.flatten(1).abs().amax(1) == 0
            step = torch.where(column(flat, step), nudge(here, threat), step)
            here = threat.clip(x[active], here + step)
            over = is_adversarial(model, here, labels)
            point[active] = here
            witness[active[over]] = here[over]
            active = active[~over]
            if not len(active):
                break
        return shorten(model, x, y, threat, witness, self.precision)
