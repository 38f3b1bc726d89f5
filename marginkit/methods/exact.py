"""The distance itself, for small ReLU networks: what is proved and what is found, until they meet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from marginkit.activations import measuring
from marginkit.bounds.graph.graph import doubled
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.bounds.relu.from_graph import relu_network
from marginkit.bounds.relu.network import ReLUNetwork
from marginkit.bounds.relu.relaxation import Relaxation
from marginkit.errors import MethodError, UsageError
from marginkit.guard.answer import answer
from marginkit.kinds import Kind, Status
from marginkit.logits import Labels
from marginkit.methods.branch_and_bound.anytime import search
from marginkit.methods.branch_and_bound.milp import solve
from marginkit.methods.branch_and_bound.start import begin, nearer, verified
from marginkit.methods.certify.certificate import ROUNDING
from marginkit.methods.certify.faithful import REPORT, traced
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.verification import classify, require_inside
from marginkit.norms import L2, Vectors
from marginkit.types import Bracket, Threat


@dataclass(frozen=True)
class Exact:
    """Branch and bound on the distance: both ends, which meet where the time suffices.

    Of piecewise-linear networks with at most 2000 ReLUs. The upper end starts as `nearest` with effort
    `tight`, the lower one as `crown`. Both are those of the float64 copy of the model. Status OK where the
    bracket is closed, TIMEOUT where not; it holds either way. Samples with the fewest undecided units come
    first.

    Attributes:
        tolerance: closed where upper - lower is at most this share of upper.
        time_limit: seconds a sample, after `nearest` and `crown`.
        total_time_limit: seconds for all samples of a call, after `nearest` and `crown`; None for no limit.
        solver: `branch`, or `milp` for HiGHS's mixed-integer solver (L1 and Linf only), to check against: its
            proofs are worth its own tolerances, so the lower end stays a margin below them.
    """

    tolerance: float = 1e-5
    time_limit: float = 10.0
    total_time_limit: float | None = None
    solver: Literal["branch", "milp"] = "branch"
    kind: ClassVar[Kind] = Kind.EXACT

    def __post_init__(self) -> None:
        """Refuses what would never end or never close."""
        if not 0 < self.tolerance < 1:
            raise UsageError(f"a tolerance of {self.tolerance} closes no bracket: give a share such as 1e-5")
        for seconds in (self.time_limit, self.total_time_limit):
            if seconds is not None and not seconds >= 0:
                raise UsageError(f"a time limit of {seconds} seconds is none: give at least 0")

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The bracket [proved, found]."""
        return self.close(model, x, y, threat)

    def close(
        self, model: nn.Module, x: Vectors, y: Labels, threat: Threat, known: Bracket | None = None
    ) -> Bracket:
        """The same from what is known already: a bracket of these samples, whose witness may be None or NaN.

        Neither end gets worse. A bracket that is closed already is returned as it is.
        """
        if self.solver == "milp" and threat.norm is L2:
            raise UsageError("solver=milp answers in L1 and Linf only: leave l2 away, or take solver=branch")
        with measuring(model, x, y) as given, torch.no_grad():
            model, x, y = given.model, given.x, given.y
            if not len(x):
                return Bracket.empty(x)
            require_inside(x, threat)
            status = classify(answer(model, x), y)
            right = status == Status.OK
            inputs, labels = x.detach().double().cpu(), y.cpu()
            try:
                double = doubled(model).cpu()
                network = relu_network(traced(double, inputs[right.cpu()], threat)) if right.any() else None
            except Unsupported as found:
                rough = Nearest("tight")(model, x, y, threat)
                unsupported = torch.where(right, int(Status.UNSUPPORTED), rough.status)
                rough = replace(rough, status=unsupported, note=f"no exact distances for {found}")
                return _no_wider(rough, known, right)
            closed = self._closed(double, network, inputs, labels, threat, known and _double(known))
        return _no_wider(_at_home(closed, status), known, right)

    def _closed(
        self,
        model: nn.Module,
        network: ReLUNetwork | None,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        known: Bracket | None,
    ) -> Bracket:
        start = begin(model, x, y, threat, known)
        sought = (start.status == Status.OK) | (start.status == Status.EXHAUSTED)
        nearest, lower = start.witness, start.lower.clone()
        assert nearest is not None
        nearest = nearest.clone()
        if network is not None:
            for i, space, deadline in self._jobs(network, x, y, threat, start, sought & self._open(start)):
                displacement = (nearest[i] - x[i]).reshape(-1)
                step = solve if self.solver == "milp" else search
                proved, moved = step(
                    space, displacement, self.tolerance, deadline, (float(lower[i]), float(start.upper[i]))
                )
                lower[i] = max(float(lower[i]), proved * (1 - ROUNDING))
                nearest[i] = threat.clip(x[i : i + 1], (x[i].reshape(1, -1) + moved).view(1, *x.shape[1:]))[0]
        shown = verified(model, x, y, threat, nearest)
        if bool((lower * (1 - ROUNDING) > shown.upper).any()):
            raise MethodError(f"a distance that was found is shorter than one that was proved: {REPORT}")
        found = nearer(start, shown)
        found = replace(found, lower=torch.minimum(lower, found.upper))
        status = torch.where(sought, int(Status.OK), start.status)
        return replace(found, status=torch.where(sought & self._open(found), int(Status.TIMEOUT), status))

    def _open(self, found: Bracket) -> Bool[Tensor, "n"]:
        near = found.upper.isfinite() & (found.upper - found.lower <= self.tolerance * found.upper)
        return ~(near | (found.lower == found.upper))

    def _jobs(
        self,
        network: ReLUNetwork,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        start: Bracket,
        open_: Bool[Tensor, "n"],
    ) -> Iterator[tuple[int, Relaxation, float]]:
        """Position, network and deadline of what is open, the fewest undecided units first."""
        assert start.witness is not None
        spaces = {}
        for i in (open_ & start.upper.isfinite()).nonzero().squeeze(1).tolist():
            origin = x[i].reshape(1, -1)
            low, high = (None if end is None else end.reshape(1, -1) for end in threat.room(x[i : i + 1]))
            if not start.witness[i].isnan().any():
                spaces[i] = Relaxation(network.around(origin), int(y[i]), threat.norm, (low, high))
        order = list(spaces)
        if len(order) > 1:
            order.sort(key=lambda i: int(spaces[i].root(y[i : i + 1], float(start.upper[i])).undecided.sum()))
        end = torch.inf if self.total_time_limit is None else time.monotonic() + self.total_time_limit
        for i in order:
            yield i, spaces[i], min(end, time.monotonic() + self.time_limit)


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
