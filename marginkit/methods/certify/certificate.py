"""What every certificate shares: whom it concerns, and what its answer looks like."""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.activations import measuring
from marginkit.bounds.graph.graph import Graph, doubled
from marginkit.bounds.graph.order import in_order
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.guard.answer import answer
from marginkit.kinds import Status
from marginkit.logits import Labels, Scores, differences, gradients, linearised_distance, logit_margin, rivals
from marginkit.methods.certify.faithful import require_kept, traced
from marginkit.methods.search.verification import classify, require_inside
from marginkit.norms import COUNTS, Norm, Vectors
from marginkit.types import Bracket, Threat

Certify = Callable[[Graph, Tensor, Tensor, Threat], tuple[Tensor, Tensor]]
ROUNDING = 1e-9  # of a radius, and of the scores' range: far more than float64 loses on the way
MASKED = 1e4  # times the least difference: farther away most classes are masked
LAST_DIGITS = 2**-46  # of the scores themselves: 64 roundings


def certificate(model: nn.Module, x: Vectors, y: Labels, threat: Threat, certify: Certify) -> Bracket:
    """Certifies the correctly classified samples, in float64.

    Args:
        model: gives logits.
        x: inputs inside the box.
        y: labels.
        threat: norm, box and mask.
        certify: (graph, x, y, threat) -> radius, and the rival that stands in the way (-1 for none).

    Returns:
        Brackets [radius, inf]. Where the model has an operation without bounds all are [0, inf] with status
        UNSUPPORTED, and the note names it.

    Raises:
        MethodError: a proof turned out not to hold.
    """
    with measuring(model, x, y) as given, torch.no_grad():
        model, x, y = given.model, given.x, given.y
        if not len(x):
            return Bracket.empty(x)
        require_inside(x, threat)
        scores = answer(model, x)
        status = classify(scores, y)
        wrong = status == Status.MISCLASSIFIED
        radius = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        rival = torch.where(wrong, logit_margin(scores, y)[1], -1)
        sought = (status == Status.OK).nonzero().squeeze(1)
        note, unsupported = given.note, False
        try:
            require_norm(threat)
            if len(sought):
                inputs = x[sought].detach().double()
                double = doubled(model)
                graph = traced(double, inputs, threat)
                still = logit_margin(graph(inputs), y[sought])[0] > 0
                sought, inputs = sought[still], inputs[still]
                if len(sought):
                    proved, blocking = certify(in_order(graph, inputs), inputs, y[sought], threat)
                    require_kept(graph, double, inputs, y[sought], threat, proved * (1 - ROUNDING))
                    radius[sought] = proved
                    rival[sought] = torch.where(blocking < scores.shape[1], blocking, -1)
        except Unsupported as found:
            note, unsupported = f"no bounds for {found}", True
    unproved = int(Status.UNSUPPORTED if unsupported else Status.EXHAUSTED)
    return Bracket(
        lower=radius * (1 - ROUNDING),
        upper=torch.where(wrong, 0.0, torch.inf).double(),
        status=torch.where((status == Status.OK) & (radius == 0), unproved, status),
        rival=rival,
        note=note,
    )


def require_norm(threat: Threat) -> None:
    """Proofs are about balls of a norm.

    Raises:
        Unsupported: the threat counts changes.
    """
    if not threat.norm.is_norm:
        raise Unsupported(f"distances in {threat.norm} ({COUNTS})")


def predicted(graph: Graph, x: Tensor, y: Tensor, norm: Norm) -> Float[Tensor, "n"]:
    """The distance that the linearised classifier predicts, among the nearest ten rivals by score."""
    with torch.enable_grad():
        inputs = x.clone().requires_grad_()
        scores = graph(inputs)
        difference = differences(scores, y, rivals(scores, y, 10))
        lengths = [norm.dual.length(g) for (g,) in gradients(difference, [inputs])]
    return linearised_distance(difference.detach(), torch.stack(lengths, 1)).amin(1)


def slack(scores: Scores, y: Labels, rival: Int[Tensor, "n k"]) -> Float[Tensor, "n k"]:
    """How far a proved f_y - f_j has to stay above 0: by what rounding can have cost.

    A share of that difference and of the usual one, and a few units in the last places of both scores: a
    constant added to all scores, or classes that are masked by a huge one, cost others nothing.
    """
    apart = differences(scores, y, rival).abs()
    usual = apart.median(1, keepdim=True).values.minimum(MASKED * apart.amin(1, keepdim=True))
    size = scores.gather(1, y.unsqueeze(1)).abs() + scores.gather(1, rival).abs()
    return ROUNDING * (apart + usual) + LAST_DIGITS * size
