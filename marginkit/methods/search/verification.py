"""What every search shares: which samples to search, and how what it found is verified."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn

from marginkit.activations import measuring
from marginkit.errors import MarginkitError
from marginkit.guard.answer import answer
from marginkit.guard.precision import in_float64
from marginkit.guard.sharing import once
from marginkit.kinds import Status
from marginkit.logits import Labels, Scores, answered, check_scores, crossed, logit_margin, too_coarse
from marginkit.norms import COUNTS, L2, Vectors, along, column
from marginkit.types import Bracket, Threat

FARTHER = (1 + 2**-12, 1 + 2**-10, 1 + 2**-8, 1 + 2**-6)  # displacements of what falls to rounding
LONGER = (0.9, 0.95, 1.0, 1.02, 1.05, 1.1, 1.15, 1.2, 1.3, 1.5, 2.0, 3.0)
WitnessSearch = Callable[[nn.Module, Tensor, Tensor, Threat], Tensor]


def classify(scores: Tensor, y: Labels) -> Int[Tensor, "n"]:
    """The `Status` of the clean samples: OK, MISCLASSIFIED (ties included) or NONFINITE (no class)."""
    check_scores(scores, y)
    margin, _ = logit_margin(scores, y)
    status = torch.where(margin > 0, int(Status.OK), int(Status.MISCLASSIFIED))
    return torch.where(answered(scores), status, int(Status.NONFINITE))


def clean_scores(model: nn.Module, x: Vectors) -> Tensor:
    """The model's answer to inputs as they came, without a graph; `classify` checks whether it is scores."""
    with torch.no_grad():
        scores: Tensor = once("scores", model, (x,), lambda: answer(model, x))
    return scores


def is_adversarial(model: nn.Module, x: Vectors, y: Labels) -> Bool[Tensor, "n"]:
    """Which samples the model misclassifies by more than rounding."""
    with torch.no_grad():
        return crossed(answer(model, x), y)


def require_inside(x: Vectors, threat: Threat) -> None:
    """Refuses inputs outside the box."""
    if not bool(threat.contains(x).all()):
        raise MarginkitError(
            f"inputs run from {float(x.min()):.4g} to {float(x.max()):.4g}, outside the box"
            f" [{threat.low}, {threat.high}]: scale the data, or give the box they live in (--bounds)"
        )


def bracket(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    search: WitnessSearch,
    *,
    counting: bool = False,
) -> Bracket:
    """Runs a search on the correctly classified samples and verifies every witness it returns.

    Args:
        model: gives logits.
        x: inputs inside the box.
        y: labels.
        threat: norm, box and mask.
        search: (model, x, y, threat) -> adversarial inputs, NaN rows where none was found.
        counting: whether it searches in L0 too; others answer UNSUPPORTED there.
    """
    with measuring(model, x, y) as given:
        x, note = given.x, given.note
        if not len(x):
            return Bracket.empty(x)
        require_inside(x, threat)
        if not threat.norm.is_norm and not counting:
            return _uncounted(given.model, x, given.y, threat)
        if not torch.allclose(threat.on_grid(x), x, rtol=0, atol=1e-5):
            raise MarginkitError(
                f"the inputs are not on the grid of {threat.levels} steps in [{threat.low}, {threat.high}]"
                " that witnesses shall lie on: leave the rounding (--quantize) away, or give data that was"
                " not resized"
            )
        found = _searched(given.model, x, given.y, threat, search)
        return replace(found, note="; ".join(part for part in (note, found.note) if part))


def _uncounted(model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
    """What a search says that follows a norm's geometry."""
    nothing = replace(threat, norm=L2)
    found = _searched(model, x, y, nothing, lambda _, part, *__: torch.full_like(part, torch.nan))
    status = torch.where(found.status == Status.EXHAUSTED, int(Status.UNSUPPORTED), found.status)
    return replace(found, status=status, note=COUNTS)


def _searched(model: nn.Module, x: Vectors, y: Labels, threat: Threat, search: WitnessSearch) -> Bracket:
    """The bracket; samples whose scores leave too much of the margin to rounding are searched in float64."""
    scores = clean_scores(model, x)
    status = classify(scores, y)
    double = in_float64(model, x, (status != Status.NONFINITE) & too_coarse(scores, y))
    witness = torch.full_like(x, torch.nan)
    witness[status == Status.MISCLASSIFIED] = x[status == Status.MISCLASSIFIED]
    sought = (status == Status.OK) & ~double.rows
    if sought.any():
        found = search(model, x[sought].detach(), y[sought], threat).detach()
        witness[sought] = rounded_to_grid(model, x[sought], y[sought], threat, found)
    verified = _verified(model, x, y, threat, witness, status)
    rows = double.rows.nonzero().squeeze(1)
    if not len(rows):
        return replace(verified, note=double.note)
    return verified.placed(_searched(double.model, x[rows].double(), y[rows], threat, search), rows)


def _verified(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors, status: Int[Tensor, "n"]
) -> Bracket:
    """Judges the witnesses as stored: inside the box, and misclassified in a pass at another batch size.

    One that falls to rounding there is taken a hair farther.
    """
    given = (status == Status.OK) & ~witness.isnan().flatten(1).any(1)
    witness = torch.where(column(given, x), threat.clip(x, witness), witness)
    scores = _once_more(model, torch.where(column(given, x), witness, x))
    holds = given & crossed(scores, y, 1.0)
    for share in FARTHER if threat.levels is None else ():
        lost = (given & ~holds).nonzero().squeeze(1)
        lost = lost[is_adversarial(model, witness[lost], y[lost])] if len(lost) else lost
        if not len(lost):
            break
        point = threat.clip(x[lost], x[lost] + share * (witness[lost] - x[lost]))
        scores[lost] = _once_more(model, point)
        over = crossed(scores[lost], y[lost], 1.0)
        witness[lost[over]], holds[lost[over]] = point[over], True
    clean = status == Status.MISCLASSIFIED
    distance = threat.norm.length(witness.double() - x.double())
    return Bracket(
        lower=torch.zeros_like(distance),
        upper=torch.where(holds, distance, torch.where(clean, 0.0, torch.inf)),
        status=torch.where(holds | (status != Status.OK), status, int(Status.EXHAUSTED)),
        rival=torch.where(holds | clean, logit_margin(scores, y)[1], -1),
        witness=torch.where(column(holds | clean, x), witness, torch.nan),
    )


def rounded_to_grid(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    witness: Vectors,
    stretches: Sequence[float] = LONGER,
) -> Vectors:
    """The nearest adversarial point of the grid along each witness's direction; NaN where none is met.

    Tries ever longer displacements, rounded to the nearest grid point and rounded away from x.

    Args:
        model, x, y, threat: as in `bracket`.
        witness: adversarial inputs, NaN rows where there is none (they stay).
        stretches: the displacements tried, as shares of the witness's.
    """
    if threat.levels is None:
        return witness
    best = torch.full_like(x, torch.nan)
    least = torch.full_like(threat.norm.length(x), torch.inf)
    given = (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1)
    start, labels, toward = x[given], y[given], (witness - x)[given]
    for share in stretches:
        for away in (None, toward):
            point = threat.clip(start, threat.on_grid(start + share * toward, away))
            point = torch.where(toward == 0, start, point)  # or rounding would change it
            length = threat.norm.length(point - start)
            better = (length < least[given]) & is_adversarial(model, point, labels)
            least[given[better]], best[given[better]] = length[better], point[better]
    return best


def _once_more(model: nn.Module, x: Vectors) -> Scores:
    with torch.no_grad():
        return torch.cat([answer(model, part) for part in _regroup(x)])[: len(x)]


def _regroup(x: Vectors) -> tuple[Tensor, ...]:
    """The batch in pieces of another size than its own."""
    return (torch.cat([x, x]),) if len(x) == 1 else torch.split(x, max(1, len(x) // 2))


def shorten(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    witness: Vectors,
    precision: float,
    *,
    passes: int = 64,
    first: float = 0.5,
) -> Vectors:
    """Bisects each segment from x to its witness; returns the nearest point seen to be adversarial.

    Args:
        model, x, y, threat: as in `bracket`.
        witness: adversarial inputs, NaN rows where there is none (they stay).
        precision: the distance along the segment is known to this share of itself.
        passes: at most so many forward passes.
        first: the share of the segment by which to step back at first; steps widen until one goes too far.
    """
    nearest = witness.clone()
    inner, outer = x.new_zeros(len(x)), x.new_ones(len(x))
    outer[witness.flatten(1).isnan().any(1)] = 0
    for count in range(passes):
        open_ = (outer - inner > precision * outer).nonzero().squeeze(1)
        if not len(open_):
            break
        back = 1 - min(0.5, first * 4**count)
        low, high = inner[open_], outer[open_]
        middle = torch.where(low > 0, (low + high) / 2, back * high)
        start = x[open_]
        point = threat.clip(start, start + along(middle, witness[open_] - start))
        over = is_adversarial(model, point, y[open_])
        nearest[open_[over]] = point[over]
        outer[open_[over]] = middle[over]
        inner[open_[~over]] = middle[~over]
    return nearest
