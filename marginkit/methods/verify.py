"""Whether samples are robust at given radii: attacked, proved or open."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from marginkit.bounds.graph.graph import Graph
from marginkit.errors import UsageError
from marginkit.kinds import Kind, Status
from marginkit.logits import Labels
from marginkit.methods.branch_and_bound.at_radius import decide
from marginkit.methods.branch_and_bound.attack import Sample
from marginkit.methods.branch_and_bound.closing import closed, require_consistent, require_limits
from marginkit.methods.branch_and_bound.start import nearer, searched, verified
from marginkit.methods.certify.certificate import ROUNDING
from marginkit.methods.crown import Crown
from marginkit.methods.nearest import Nearest
from marginkit.norms import Vectors
from marginkit.types import Bracket, Threat

BEYOND = 1e-6  # of a radius: what is proved reaches a hair farther, so that the distance is larger than it


@dataclass(frozen=True)
class Verify:
    """Decides at each radius whether an adversarial input is that near: the question of published tables.

    First a search, by more effort where the proof fails; then one proof by linear bounds; then branch and
    bound (Wang et al., arXiv 2103.06624), which also attacks. The lower end is the largest radius that was
    proved, and a millionth more; the upper one the nearest adversarial input that was found: both hold, and
    are not meant to meet. Status OK where no radius lies between them, TIMEOUT where one does. Both ends are
    those of the float64 copy of the model.

    Attributes:
        radii: in the norm's units.
        time_limit: seconds of branching a sample, for all radii; 0 for none.
        total_time_limit: seconds of branching for all samples of a call; None for no limit.
    """

    radii: tuple[float, ...] = (0.1, 0.3)
    time_limit: float = 10.0
    total_time_limit: float | None = None
    kind: ClassVar[Kind] = Kind.EXACT

    def __post_init__(self) -> None:
        """Refuses radii and limits that are none."""
        if not self.radii or not all(0 < radius < float("inf") for radius in self.radii):
            raise UsageError(f"radii = {list(self.radii)}: give at least one radius, all of them above 0")
        require_limits(self.time_limit, self.total_time_limit)

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The bracket [proved, found]."""
        return self.close(model, x, y, threat)

    def close(
        self, model: nn.Module, x: Vectors, y: Labels, threat: Threat, known: Bracket | None = None
    ) -> Bracket:
        """The same from what is known: a bracket of these samples, whose witness may be None or NaN."""
        return closed(model, x, y, threat, known, self._narrowed)

    def _narrowed(
        self,
        model: nn.Module,
        graph: Graph | None,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        known: Bracket | None,
    ) -> Bracket:
        found = searched(model, x, y, threat, known, "balanced")
        sought = (found.status == Status.OK) | (found.status == Status.EXHAUSTED)
        if graph is not None:
            found = self._proved(graph, x, y, threat, found, sought)
            open_ = (sought & (self._next(found) < torch.inf)).nonzero().squeeze(1)
            if len(open_) and self.time_limit > 0:
                harder = Nearest("tight")(model, x[open_], y[open_], threat)
                found = found.placed(nearer(found.part(open_), harder), open_)
                found = self._branched(model, graph, x, y, threat, found, sought)
        require_consistent(found.lower, found.upper)
        found = replace(found, lower=torch.minimum(found.lower, found.upper))
        undone = torch.where(self._next(found) < torch.inf, int(Status.TIMEOUT), int(Status.OK))
        return replace(found, status=torch.where(sought, undone, found.status))

    def _next(self, found: Bracket) -> Tensor:
        """Each sample's smallest radius that is neither proved nor attacked; inf where there is none."""
        radii = torch.tensor(sorted(self.radii), dtype=torch.float64)
        between = (found.lower.unsqueeze(1) <= radii) & (found.upper.unsqueeze(1) > radii)
        return torch.where(between, radii, torch.inf).amin(1)

    def _proved(
        self, graph: Graph, x: Tensor, y: Tensor, threat: Threat, found: Bracket, sought: Tensor
    ) -> Bracket:
        """By one proof a radius, until one fails."""
        lower, rows = found.lower.clone(), sought.nonzero().squeeze(1)
        while len(rows):
            radius = self._next(replace(found, lower=lower))[rows]
            rows, radius = rows[radius < torch.inf], radius[radius < torch.inf]
            if len(rows):
                farther = (1 + BEYOND) * radius
                holds = Crown().proves(graph, x[rows], y[rows], threat, farther)
                rows = rows[holds]
                lower[rows] = farther[holds] * (1 - ROUNDING)
        return replace(found, lower=lower)

    def _branched(
        self,
        model: nn.Module,
        graph: Graph,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        found: Bracket,
        sought: Tensor,
    ) -> Bracket:
        """The open radii one by one, the smallest first."""
        assert found.witness is not None
        lower, witness, began = found.lower.clone(), found.witness.clone(), time.monotonic()
        end = torch.inf if self.total_time_limit is None else began + self.total_time_limit
        upper = found.upper.clone()
        for i in (sought & (self._next(found) < torch.inf)).nonzero().squeeze(1):
            row, deadline = i.unsqueeze(0), min(end, time.monotonic() + self.time_limit)
            while (radius := float(self._next(replace(found, lower=lower, upper=upper))[i])) < torch.inf:
                if time.monotonic() >= deadline:
                    break
                farther = (1 + BEYOND) * radius
                answer = decide(Sample(model, graph, x[row], y[row], threat), farther, deadline)
                if answer.witness is not None:
                    witness[row] = answer.witness
                    upper[i] = radius
                elif answer.proved:
                    lower[i] = farther * (1 - ROUNDING)
                else:
                    break
        shown = nearer(found, verified(model, x, y, threat, witness))
        return replace(shown, lower=lower)
