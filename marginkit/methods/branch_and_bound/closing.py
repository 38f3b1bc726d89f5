"""What methods share that go on from a known bracket: whom they concern, and what becomes of both ends."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from marginkit.activations import measuring
from marginkit.bounds.graph.graph import Graph, doubled
from marginkit.bounds.graph.order import in_order
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.errors import MethodError, UsageError
from marginkit.guard.answer import answer
from marginkit.kinds import Status
from marginkit.logits import Labels
from marginkit.methods.certify.certificate import ROUNDING, require_norm
from marginkit.methods.certify.faithful import REPORT, traced
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.verification import classify, require_inside
from marginkit.norms import Vectors
from marginkit.types import Bracket, Threat

Narrow = Callable[[nn.Module, Graph | None, Tensor, Tensor, Threat, Bracket | None], Bracket]


def closed(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, known: Bracket | None, narrow: Narrow
) -> Bracket:
    """Both ends by `narrow`, of the float64 copy of the model on the processor; no wider than known.

    Args:
        model, x, y, threat: as in `bracket`.
        known: of these samples, if anything is; its witness may be None or NaN.
        narrow: (model, graph, x, y, threat, known) -> brackets with witnesses; the graph is None where no
            sample is classified right. What it raises as Unsupported is told in the note.
    """
    with measuring(model, x, y) as given, torch.no_grad():
        model, x, y = given.model, given.x, given.y
        if not len(x):
            return Bracket.empty(x)
        require_inside(x, threat)
        status = classify(answer(model, x), y)
        right = status == Status.OK
        inputs, labels = x.detach().double().cpu(), y.cpu()
        try:
            require_norm(threat)
            double = doubled(model).cpu()
            graph = None
            if right.any():
                graph = in_order(traced(double, inputs[right.cpu()], threat), inputs)
            found = narrow(double, graph, inputs, labels, threat, known and _double(known))
        except Unsupported as reason:
            rough = Nearest("tight")(model, x, y, threat)
            unsupported = torch.where(right, int(Status.UNSUPPORTED), rough.status)
            rough = replace(rough, status=unsupported, note=f"no branch and bound for {reason}")
            return _no_wider(rough, known, right)
    return _no_wider(_at_home(found, status), known, right)


def require_limits(*seconds: float | None) -> None:
    """Refuses limits of time that are none."""
    for limit in seconds:
        if limit is not None and not limit >= 0:
            raise UsageError(f"a time limit of {limit} seconds is none: give at least 0")


def require_consistent(lower: Tensor, upper: Tensor) -> None:
    """Refuses a distance that was found below one that was proved."""
    if bool((lower * (1 - ROUNDING) > upper).any()):
        raise MethodError(f"a distance that was found is shorter than one that was proved: {REPORT}")


def _no_wider(found: Bracket, known: Bracket | None, right: Bool[Tensor, "n"]) -> Bracket:
    """With the ends that were nearer to each other already, of the samples classified right."""
    if known is None:
        return found
    known = _moved(known, right.device)
    nearer = right & (known.upper < found.upper)
    upper = torch.where(nearer, known.upper, found.upper)
    return replace(
        found,
        lower=torch.where(right, torch.maximum(found.lower, known.lower).minimum(upper), found.lower),
        upper=upper,
        rival=torch.where(nearer & (known.rival >= 0), known.rival, found.rival),
    )


def _double(known: Bracket) -> Bracket:
    """In float64, on the processor."""
    witness = None if known.witness is None else known.witness.double().cpu()
    return _moved(replace(known, witness=witness), torch.device("cpu"))


def _moved(found: Bracket, device: torch.device) -> Bracket:
    return Bracket(
        lower=found.lower.to(device),
        upper=found.upper.to(device),
        status=found.status.to(device),
        rival=found.rival.to(device),
        witness=None if found.witness is None else found.witness.to(device),
    )


def _at_home(found: Bracket, status: Tensor) -> Bracket:
    """On the model's device; the labels are those that the model itself gets right or wrong."""
    found = _moved(found, status.device)
    wrong = status == Status.MISCLASSIFIED
    vanished = (status == Status.OK) & (found.status == Status.MISCLASSIFIED)  # a tie but for rounding
    return replace(
        found,
        lower=torch.where(wrong, 0.0, found.lower),
        upper=torch.where(wrong, 0.0, found.upper),
        status=torch.where(status != Status.OK, status, torch.where(vanished, 0, found.status)),
    )
