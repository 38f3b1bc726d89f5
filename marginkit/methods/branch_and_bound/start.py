"""The bracket that `exact` starts from: what is known already, completed by a search and a certificate."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from marginkit.activations import evaluating, measuring
from marginkit.guard.answer import answer
from marginkit.kinds import Status
from marginkit.logits import Labels
from marginkit.methods.crown import Crown
from marginkit.methods.nearest import Effort, Nearest
from marginkit.methods.search.polishing import UNITS, polish
from marginkit.methods.search.verification import bracket, classify
from marginkit.norms import Vectors, column
from marginkit.types import Bracket, Threat


def begin(model: nn.Module, x: Vectors, y: Labels, threat: Threat, known: Bracket | None) -> Bracket:
    """Both ends: those of `searched`, and a proof by `crown` where the lower one is 0."""
    found = searched(model, x, y, threat, known, "tight")
    sought = (found.status != Status.MISCLASSIFIED) & (found.status != Status.NONFINITE)
    lower, blank = found.lower.clone(), (sought & (found.lower <= 0)).nonzero().squeeze(1)
    if len(blank):
        lower[blank] = Crown()(model, x[blank], y[blank], threat).lower
    return replace(found, lower=lower)


def searched(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, known: Bracket | None, effort: Effort
) -> Bracket:
    """What is known, with a verified witness where there is any.

    Args:
        model: in float64.
        x, y, threat: as in `bracket`.
        known: of these samples; witnesses are verified, and `nearest` searches where none holds. An upper end
            without witness is believed.
        effort: of `nearest`.
    """
    if known is None:
        none = torch.zeros(len(x), dtype=torch.float64)
        known = Bracket(none, none + torch.inf, torch.zeros_like(y), torch.full_like(y, -1))
    found = _found(model, x, y, threat, known.witness, effort)
    sought = (found.status != Status.MISCLASSIFIED) & (found.status != Status.NONFINITE)
    believed = sought & (known.upper < found.upper)
    return replace(
        found,
        lower=torch.where(sought, known.lower, 0.0),
        upper=torch.where(believed, known.upper, found.upper),
        rival=torch.where(believed & (known.rival >= 0), known.rival, found.rival),
    )


def _found(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Tensor | None, effort: Effort
) -> Bracket:
    """The witnesses that hold; where none does, those of a search."""
    if witness is None:
        return Nearest(effort)(model, x, y, threat)
    given = threat.clip(x, witness)
    with evaluating(model):  # with gradients
        polished = polish(model, x, y, threat, given, UNITS)
    found = nearer(verified(model, x, y, threat, given), verified(model, x, y, threat, polished))
    missing = (found.status == Status.EXHAUSTED).nonzero().squeeze(1)
    if not len(missing):
        return found
    sought = Nearest(effort)(model, x[missing], y[missing], threat)
    assert found.witness is not None
    assert sought.witness is not None
    return replace(
        found,
        upper=found.upper.index_copy(0, missing, sought.upper),
        status=found.status.index_copy(0, missing, sought.status),
        rival=found.rival.index_copy(0, missing, sought.rival),
        witness=found.witness.index_copy(0, missing, sought.witness),
    )


def verified(model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors) -> Bracket:
    """The bracket of witnesses that come from elsewhere."""
    with measuring(model, x, y) as given, torch.no_grad():
        right = classify(answer(given.model, given.x), y) == Status.OK
    return bracket(model, x, y, threat, lambda *_: witness[right])


def nearer(one: Bracket, other: Bracket) -> Bracket:
    """Of two searches' answers each sample's smaller upper end; `one` where they are equal."""
    kept = one.upper <= other.upper
    assert one.witness is not None
    assert other.witness is not None
    return replace(
        one,
        upper=torch.where(kept, one.upper, other.upper),
        status=torch.where(kept, one.status, other.status),
        rival=torch.where(kept, one.rival, other.rival),
        witness=torch.where(column(kept, one.witness), one.witness, other.witness),
    )
