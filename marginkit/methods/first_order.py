"""What the linearised classifier predicts, at the input and at hidden layers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from marginkit.activations import Guarded, capture, measuring
from marginkit.guard.precision import in_float64
from marginkit.guard.sharing import once
from marginkit.kinds import INPUT, Kind, Status
from marginkit.layers import resolve_layers
from marginkit.logits import (
    Labels,
    check_scores,
    differences,
    gradients,
    linearised_distance,
    rivals,
    too_coarse,
)
from marginkit.methods.search.verification import classify
from marginkit.norms import COUNTS, NORMS, Vectors
from marginkit.types import Estimate, Threat


@dataclass(frozen=True)
class FirstOrder:
    """min_j (f_y - f_j) / |grad_h (f_y - f_j)|_q over rivals j, signed, at each layer's activations h.

    Exact for a linear classifier without a box; elsewhere a prediction that bounds nothing. The logits'
    differences are used, not the probabilities': on a binary linear model the latter give sinh(margin)
    in place of the margin. Where every gradient is zero the answer is inf, with status EXHAUSTED. The
    box is ignored; a mask holds at the input.
    Source: Elsayed et al., arXiv 1803.05598; Matyasko and Chau 2017.

    Attributes:
        layers: module names, `input`, `hidden` or `all`; distances are in each layer's own units.
        top_k: how many rivals, those of largest logit; None for all.
    """

    layers: tuple[str, ...] = ("all",)
    top_k: int | None = 10
    kind: ClassVar[Kind] = Kind.ESTIMATE

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Estimate:
        """One column a layer."""
        with measuring(model, x, y) as given:
            threat.require_fit(given.x)
            layers = resolve_layers(given.model, self.layers, given.x)
            if not len(given.x):
                none = torch.zeros(0, len(layers), dtype=torch.float64, device=given.x.device)
                return Estimate(none, layers, none.long(), none.long(), given.note)
            return self._estimate(given, threat, layers)

    def _estimate(self, given: Guarded, threat: Threat, layers: tuple[str, ...]) -> Estimate:
        y = given.y
        if not threat.norm.is_norm:
            return _uncounted(given, layers)
        scores, rival, lengths = once(
            ("first order", layers, self.top_k),
            given.model,
            (given.x, y, *(() if threat.mask is None else (threat.mask,))),
            lambda: _linearised(given, threat.mask, layers, self.top_k),
        )
        status = classify(scores, y)
        difference = differences(scores, y, rival)
        every = linearised_distance(difference.unsqueeze(2), lengths[threat.norm.dual.name])
        distance, which = every.double().min(1)
        learned = torch.where(distance.isinf(), int(Status.EXHAUSTED), int(Status.OK))
        found = Estimate(
            distance=torch.where((status == Status.NONFINITE).unsqueeze(1), torch.nan, distance),
            layers=layers,
            rival=rival.gather(1, which),
            status=torch.where((status == Status.OK).unsqueeze(1), learned, status.unsqueeze(1)),
            note=given.note,
        )
        return self._finer(given, threat, found, too_coarse(scores, y) & (status != Status.NONFINITE))

    def _finer(self, given: Guarded, threat: Threat, found: Estimate, coarse: Bool[Tensor, "n"]) -> Estimate:
        """The same, with samples in float64 whose scores leave rounding too large a share of the margin."""
        double = in_float64(given.model, given.x, coarse)
        rows = double.rows.nonzero().squeeze(1)
        if not len(rows):
            return replace(found, note="; ".join(note for note in (found.note, double.note) if note))
        part = Guarded(double.model, given.x[rows].double(), given.y[rows])
        finer = self._estimate(part, threat, found.layers)
        return replace(
            found,
            distance=found.distance.index_copy(0, rows, finer.distance),
            rival=found.rival.index_copy(0, rows, finer.rival),
            status=found.status.index_copy(0, rows, finer.status),
        )


def _uncounted(given: Guarded, layers: tuple[str, ...]) -> Estimate:
    """A gradient says nothing of how many features have to change."""
    scores, _ = capture(given.model, given.x, ())
    status = classify(scores, given.y)
    status = torch.where(status == Status.NONFINITE, status, int(Status.UNSUPPORTED))
    distance = torch.full((len(given.x), len(layers)), torch.inf, dtype=torch.float64, device=given.x.device)
    every = torch.where(status == Status.NONFINITE, torch.nan, 0.0).double().unsqueeze(1)
    none = torch.full_like(distance, -1, dtype=torch.long)
    return Estimate(distance + every, layers, none, status.unsqueeze(1).expand_as(none).clone(), COUNTS)


def _linearised(
    given: Guarded, mask: Tensor | None, layers: tuple[str, ...], top_k: int | None
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """The scores, the rivals, and the gradients' lengths [n, rivals, layers] in every norm."""
    scores, activations = capture(given.model, given.x, layers)
    check_scores(scores, given.y)
    rival = rivals(scores, given.y, top_k)
    lengths: dict[str, list[Tensor]] = {name: [] for name in NORMS}
    for grads in gradients(differences(scores, given.y, rival), activations):
        grads = tuple(_free(mask, layer, gradient) for layer, gradient in zip(layers, grads, strict=True))
        for name, norm in NORMS.items():
            lengths[name].append(torch.stack([norm.length(gradient) for gradient in grads], 1))
    return scores.detach(), rival, {name: torch.stack(found, 1) for name, found in lengths.items()}


def _free(mask: Tensor | None, layer: str, gradient: Tensor) -> Tensor:
    return gradient if layer != INPUT or mask is None else gradient * mask.to(gradient.device)
