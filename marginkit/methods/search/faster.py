"""Searching in a copy of the model that computes faster, and believing the model as given."""

from __future__ import annotations

from torch import Tensor, nn

from marginkit.guard.folding import folded
from marginkit.guard.sharing import once
from marginkit.logits import Labels
from marginkit.methods.search.verification import FARTHER, WitnessSearch, is_adversarial
from marginkit.norms import Vectors
from marginkit.types import Threat


def through_folded(search: WitnessSearch) -> WitnessSearch:
    """The search in the folded copy, where there is one; as it is where there is none.

    What it finds is adversarial for the model as given: a hair farther where that takes it across, and
    searched again in that model where no hair does.
    """

    def found(model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Tensor:
        copy = once(("folded", x.shape[1:]), model, (), lambda: folded(model, x.shape[1:]))
        if copy is None:
            return search(model, x, y, threat)
        witness = search(copy, x, y, threat)
        lost = _taken_across(model, x, y, threat, witness)
        if len(lost):
            witness[lost] = search(model, x[lost], y[lost], threat)
        return witness

    return found


def _taken_across(model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors) -> Tensor:
    """Moves, in place, the witnesses that the model classifies right; rows of those that stay so."""
    left = (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1)
    for share in (1.0, *FARTHER):
        point = witness[left]
        if share > 1:
            point = threat.clip(x[left], x[left] + share * (point - x[left]))
        over = is_adversarial(model, point, y[left])
        witness[left[over]] = point[over]
        left = left[~over]
        if not len(left):
            break
    return left
