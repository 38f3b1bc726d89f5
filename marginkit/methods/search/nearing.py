"""Witnesses brought nearer by iterated local search in balls that end just before them."""

from __future__ import annotations

import torch
from torch import nn

from marginkit.activations import capture
from marginkit.guard.answer import answer
from marginkit.logits import Labels, rivals
from marginkit.methods.search.hopping import Hopping
from marginkit.methods.search.verification import is_adversarial, shorten
from marginkit.norms import Vectors
from marginkit.types import Threat

CLOSER = 2**-9  # of the distance that is known: by so much the ball is smaller


def nearing(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors, idle: int, precision: float
) -> Vectors:
    """The nearest adversarial inputs that are met, sample by sample.

    Args:
        model, x, y, threat: as in `bracket`.
        witness: adversarial inputs, NaN rows where there is none (they stay).
        idle: rounds of the search that bring a sample nothing, after which it ends.
        precision: of the bisection of what is met, relative to the distance.
    """
    nearest = witness.clone()
    for i in (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1).tolist():
        row = slice(i, i + 1)
        nearest[row] = _of_one(model, x[row], y[row], threat, witness[row], idle, precision)
    return nearest


def _of_one(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors, idle: int, precision: float
) -> Vectors:
    ranked = rivals(answer(model, x).detach(), y, None)[0]
    toward = rivals(answer(model, witness).detach(), y, 1)[0]
    search, since = Hopping(lambda point: capture(model, point, ())[0], x, y, threat, 0.0), 0
    length = threat.norm.length(witness - x)
    while since < idle and float(length) > 0:
        search.radius = float(length) * (1 - CLOSER)
        met, since = search.round(ranked, witness, toward), since + 1
        if len(met):
            many, theirs = x.expand_as(met), y.expand(len(met))
            met = shorten(model, many, theirs, threat, met, precision, first=2**-5)
            lengths = threat.norm.length(met - many)
            lengths = torch.where(is_adversarial(model, met, theirs), lengths, torch.inf)
            if bool(lengths.amin() < length):
                witness, length, since = met[lengths.argmin()].unsqueeze(0), lengths.amin().view(1), 0
    return witness
