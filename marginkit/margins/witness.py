"""What every search shares: which samples to search, and how what it found is verified."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.errors import MarginkitError
from marginkit.kinds import Status
from marginkit.logits import Labels, check_scores, crossed, logit_margin
from marginkit.norms import Vectors, along, column
from marginkit.types import Bracket, Threat

Search = Callable[[nn.Module, Tensor, Tensor, Threat], Tensor]


def classify(scores: Tensor, y: Labels) -> Int[Tensor, "n"]:
    """The `Status` of the clean samples: OK, MISCLASSIFIED (ties included) or NONFINITE."""
    check_scores(scores, y)
    margin, _ = logit_margin(scores, y)
    status = torch.where(margin > 0, int(Status.OK), int(Status.MISCLASSIFIED))
    return torch.where(scores.isfinite().all(1), status, int(Status.NONFINITE))


def is_adversarial(model: nn.Module, x: Vectors, y: Labels) -> Bool[Tensor, "n"]:
    """Which samples the model misclassifies by more than rounding."""
    with torch.no_grad():
        return crossed(model(x), y)


def require_inside(x: Vectors, threat: Threat) -> None:
    """Refuses inputs outside the box."""
    if not bool(threat.contains(x).all()):
        raise MarginkitError(
            f"inputs run from {float(x.min()):.4g} to {float(x.max()):.4g}, outside the box"
            f" [{threat.low}, {threat.high}]: scale the data, or give the box they live in (--bounds)"
        )


def bracket(model: nn.Module, x: Vectors, y: Labels, threat: Threat, search: Search) -> Bracket:
    """Runs a search on the correctly classified samples and verifies every witness it returns.

    Args:
        model: gives logits.
        x: inputs inside the box.
        y: labels.
        threat: norm, box and mask.
        search: (model, x, y, threat) -> adversarial inputs, NaN rows where none was found.
    """
    require_inside(x, threat)
    with evaluating(model):
        with torch.no_grad():
            status = classify(model(x), y)
        witness = torch.full_like(x, torch.nan)
        witness[status == Status.MISCLASSIFIED] = x[status == Status.MISCLASSIFIED]
        sought = status == Status.OK
        if sought.any():
            witness[sought] = search(model, x[sought].detach(), y[sought], threat).detach()
        return _verified(model, x, y, threat, witness, status)


def _verified(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors, status: Int[Tensor, "n"]
) -> Bracket:
    """Judges the witnesses as stored: inside the box, and misclassified in a pass at another batch size."""
    given = ~witness.isnan().flatten(1).any(1)
    witness = torch.where(column(given, x), threat.clip(x, witness), torch.nan)
    with torch.no_grad():
        tried = torch.where(column(given, x), witness, x)
        scores = torch.cat([model(part) for part in _regroup(tried)])[: len(x)]
    holds = (status == Status.OK) & given & crossed(scores, y)
    clean = status == Status.MISCLASSIFIED
    distance = threat.norm.length(witness.double() - x.double())
    return Bracket(
        lower=torch.zeros_like(distance),
        upper=torch.where(holds, distance, torch.where(clean, 0.0, torch.inf)),
        status=torch.where(holds | (status != Status.OK), status, int(Status.EXHAUSTED)),
        rival=torch.where(holds | clean, logit_margin(scores, y)[1], -1),
        witness=torch.where(column(holds | clean, x), witness, torch.nan),
    )


def _regroup(x: Vectors) -> tuple[Tensor, ...]:
    """The batch in pieces of another size than its own."""
    return (torch.cat([x, x]),) if len(x) == 1 else torch.split(x, max(1, len(x) // 2))


def shorten(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors, precision: float
) -> Vectors:
    """Bisects each segment from x to its witness; returns the nearest point seen to be adversarial.

    Args:
        model, x, y, threat: as in `bracket`.
        witness: adversarial inputs, NaN rows where there is none (they stay).
        precision: the distance along the segment is known to this share of itself.
    """
    nearest = witness.clone()
    inner, outer = x.new_zeros(len(x)), x.new_ones(len(x))
    outer[witness.flatten(1).isnan().any(1)] = 0
    for _ in range(64):
        open_ = (outer - inner > precision * outer).nonzero().squeeze(1)
        if not len(open_):
            break
        middle = (inner[open_] + outer[open_]) / 2
        start = x[open_]
        point = threat.clip(start, start + along(middle, witness[open_] - start))
        over = is_adversarial(model, point, y[open_])
        nearest[open_[over]] = point[over]
        outer[open_[over]] = middle[over]
        inner[open_[~over]] = middle[~over]
    return nearest
