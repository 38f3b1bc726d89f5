"""The distance itself, for small ReLU networks: what is proved and what is found, until they meet."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn

from marginkit.activations import evaluating
from marginkit.bounds.branch import Relaxation
from marginkit.bounds.chain import Chain, chain
from marginkit.bounds.graph import doubled, trace
from marginkit.bounds.unsupported import Unsupported
from marginkit.errors import UsageError
from marginkit.kinds import Kind, Status
from marginkit.logits import Labels
from marginkit.margins.branching import search
from marginkit.margins.certificate import ROUNDING
from marginkit.margins.crown import Crown
from marginkit.margins.integer import solve
from marginkit.margins.nearest import Nearest
from marginkit.margins.witness import bracket, classify, require_inside
from marginkit.norms import L2, Vectors
from marginkit.types import Bracket, Threat


@dataclass(frozen=True)
class Exact:
    """Branch and bound on the distance: both ends, which meet where the time suffices.

    Of chains of affine layers and ReLUs (LeakyReLUs too) with at most 2000 units. The upper end starts as
    `nearest` with effort `tight`, the lower one as `crown`. Both are those of the float64 copy of the model.
    Status OK where the bracket is closed, TIMEOUT where not; it holds either way.

    Attributes:
        tolerance: closed where upper - lower is at most this share of upper.
        time_limit: seconds a sample, after `nearest` and `crown`.
        solver: `branch`, or `milp` for HiGHS's mixed-integer solver (L1 and Linf only), to check against: its
            proofs are worth its own tolerances, so the lower end stays a margin below them.
    """

    tolerance: float = 1e-5
    time_limit: float = 10.0
    solver: Literal["branch", "milp"] = "branch"
    kind: ClassVar[Kind] = Kind.EXACT

    def __post_init__(self) -> None:
        """Refuses what would never end or never close."""
        if not 0 < self.tolerance < 1:
            raise UsageError(f"a tolerance of {self.tolerance} closes no bracket: give a share such as 1e-5")
        if not self.time_limit >= 0:
            raise UsageError(f"a time limit of {self.time_limit} seconds is none: give at least 0")

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The bracket [proved, found]."""
        if self.solver == "milp" and threat.norm is L2:
            raise UsageError("solver=milp answers in L1 and Linf only: leave l2 away, or take solver=branch")
        require_inside(x, threat)
        with evaluating(model), torch.no_grad():
            status = classify(model(x), y)
            right = status == Status.OK
            double, inputs, labels = doubled(model).cpu(), x.detach().double().cpu(), y.cpu()
            try:
                network = chain(trace(double, inputs[right.cpu()])) if right.any() else None
            except Unsupported as found:
                rough = Nearest("tight")(model, x, y, threat)
                unsupported = torch.where(right, int(Status.UNSUPPORTED), rough.status)
                return replace(rough, status=unsupported, note=f"no exact distances for {found}")
            closed = self._closed(double, network, inputs, labels, threat)
        return _at_home(closed, status)

    def _closed(
        self, model: nn.Module, network: Chain | None, x: Tensor, y: Tensor, threat: Threat
    ) -> Bracket:
        start = Nearest("tight")(model, x, y, threat)
        if network is None or not (start.status != Status.MISCLASSIFIED).any():
            return start
        lower = Crown()(model, x, y, threat).lower
        nearest = start.witness
        assert nearest is not None
        nearest = nearest.clone()
        for i in (start.upper > 0).nonzero().squeeze(1).tolist():
            found, nearest[i] = self._sample(network, x[i], int(y[i]), threat, start.upper[i], nearest[i])
            lower[i] = max(float(lower[i]), found * (1 - ROUNDING))
        sought = start.status != Status.MISCLASSIFIED
        again = bracket(model, x, y, threat, lambda *_: nearest[sought])
        kept = start.upper <= again.upper
        upper = torch.where(kept, start.upper, again.upper)
        assert again.witness is not None
        assert start.witness is not None
        tall = kept.view(-1, *[1] * (x.ndim - 1))
        lower = torch.minimum(lower, upper)
        open_ = ~((upper - lower <= self.tolerance * upper) | (lower == upper))
        status = torch.where(start.status == Status.EXHAUSTED, int(Status.OK), start.status)
        return Bracket(
            lower=lower,
            upper=upper,
            status=torch.where(open_ & (status == Status.OK), int(Status.TIMEOUT), status),
            rival=torch.where(kept, start.rival, again.rival),
            witness=torch.where(tall, start.witness, again.witness),
        )

    def _sample(
        self, network: Chain, x: Tensor, label: int, threat: Threat, upper: Tensor, nearest: Tensor
    ) -> tuple[float, Tensor]:
        """What is proved of one sample, and the nearest adversarial input seen."""
        deadline = time.monotonic() + self.time_limit
        origin = x.reshape(1, -1)
        low, high = (None if end is None else end.reshape(1, -1) for end in threat.room(x[None]))
        space = Relaxation(network.around(origin), label, threat.norm, (low, high))
        if not upper.isfinite():
            return 0.0, nearest
        displacement = (nearest - x).reshape(-1)
        step = solve if self.solver == "milp" else search
        lower, moved = step(space, displacement, self.tolerance, deadline)
        return lower, threat.clip(x[None], (origin + moved).view(1, *x.shape))[0]


def _at_home(found: Bracket, status: Tensor) -> Bracket:
    """On the model's device; the labels are those that the model itself gets right or wrong."""
    device = status.device
    found = Bracket(
        lower=found.lower.to(device),
        upper=found.upper.to(device),
        status=found.status.to(device),
        rival=found.rival.to(device),
        witness=None if found.witness is None else found.witness.to(device),
    )
    wrong = status == Status.MISCLASSIFIED
    vanished = (status == Status.OK) & (found.status == Status.MISCLASSIFIED)  # a tie but for rounding
    return replace(
        found,
        lower=torch.where(wrong, 0.0, found.lower),
        upper=torch.where(wrong, 0.0, found.upper),
        status=torch.where(status != Status.OK, status, torch.where(vanished, 0, found.status)),
    )
