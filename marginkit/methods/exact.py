"""The distance itself, for small ReLU networks: what is proved and what is found, until they meet."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from marginkit.bounds.graph.graph import Graph
from marginkit.bounds.graph.unsupported import Unsupported
from marginkit.bounds.relu.from_graph import relu_network
from marginkit.bounds.relu.relaxation import Relaxation
from marginkit.errors import UsageError
from marginkit.kinds import Kind, Status
from marginkit.logits import Labels
from marginkit.methods.branch_and_bound.anytime import search
from marginkit.methods.branch_and_bound.attack import Sample
from marginkit.methods.branch_and_bound.closing import closed, require_consistent, require_limits
from marginkit.methods.branch_and_bound.growing import grown
from marginkit.methods.branch_and_bound.milp import solve
from marginkit.methods.branch_and_bound.start import begin, nearer, verified
from marginkit.methods.certify.certificate import ROUNDING
from marginkit.norms import L2, Vectors
from marginkit.types import Bracket, Threat

MATRICES = 0.1  # of the time
Narrow = Callable[[Tensor, tuple[float, float], float], tuple[float, Tensor]]


@dataclass(frozen=True)
class Exact:
    """Branch and bound on the distance: both ends, which meet where the time suffices.

    Piecewise-linear networks with at most 2000 ReLUs are searched as matrices first; what that leaves open,
    and larger and smooth networks, by deciding growing balls as `verify` does. The upper end starts as
    `nearest` with effort `tight`, the lower one as `crown`. Both are those of the float64 copy of the model.
    Status OK where the bracket is closed, TIMEOUT where not; it holds either way. Samples with the fewest
    undecided units come first.

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
        require_limits(self.time_limit, self.total_time_limit)

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
        start = begin(model, x, y, threat, known)
        sought = (start.status == Status.OK) | (start.status == Status.EXHAUSTED)
        assert start.witness is not None
        nearest, lower = start.witness.clone(), start.lower.clone()
        open_ = sought & self._open(start) & start.upper.isfinite() & ~nearest.flatten(1).isnan().any(1)
        if graph is not None:
            for i, narrow, deadline in self._jobs(model, graph, x, y, threat, start.upper, open_):
                proved, moved = narrow(nearest[i : i + 1], (float(lower[i]), float(start.upper[i])), deadline)
                lower[i] = max(float(lower[i]), proved * (1 - ROUNDING))
                nearest[i] = threat.clip(x[i : i + 1], moved)[0]
        shown = verified(model, x, y, threat, nearest)
        require_consistent(lower, shown.upper)
        found = nearer(start, shown)
        found = replace(found, lower=torch.minimum(lower, found.upper))
        status = torch.where(sought, int(Status.OK), start.status)
        return replace(found, status=torch.where(sought & self._open(found), int(Status.TIMEOUT), status))

    def _open(self, found: Bracket) -> Bool[Tensor, "n"]:
        near = found.upper.isfinite() & (found.upper - found.lower <= self.tolerance * found.upper)
        return ~(near | (found.lower == found.upper))

    def _jobs(
        self,
        model: nn.Module,
        graph: Graph,
        x: Tensor,
        y: Tensor,
        threat: Threat,
        upper: Tensor,
        open_: Tensor,
    ) -> Iterator[tuple[int, Narrow, float]]:
        """Position, search and deadline of what is open, the fewest undecided units first."""
        try:
            network = relu_network(graph)
        except Unsupported:
            if self.solver == "milp":
                raise
            network = None
        jobs = dict[int, tuple[int, Narrow]]()
        for i in open_.nonzero().squeeze(1).tolist():
            origin, label = x[i : i + 1], y[i : i + 1]
            sample = Sample(model, graph, origin, label, threat)
            if network is None:
                jobs[i] = 0, partial(grown, sample, self.tolerance)
            else:
                low, high = (None if end is None else end.reshape(1, -1) for end in threat.room(origin))
                around = network.around(origin.reshape(1, -1))
                space = Relaxation(around, int(label), threat.norm, (low, high))
                undecided = int(space.root(label, float(upper[i])).undecided.sum())
                jobs[i] = undecided, partial(self._searched, space, sample)
        end = torch.inf if self.total_time_limit is None else time.monotonic() + self.total_time_limit
        for i in sorted(jobs, key=lambda i: jobs[i][0]):
            if (now := time.monotonic()) >= end:
                return
            yield i, jobs[i][1], min(end, now + self.time_limit)

    def _searched(
        self,
        space: Relaxation,
        sample: Sample,
        witness: Tensor,
        known: tuple[float, float],
        deadline: float,
    ) -> tuple[float, Tensor]:
        """By the network as matrices; what that does not close by deciding balls."""
        x, now = sample.x, time.monotonic()
        displacement = (witness - x).reshape(-1)
        if self.solver == "milp":
            proved, moved = solve(space, displacement, self.tolerance, deadline, known)
            return proved, x + moved.view_as(x)
        first = now + MATRICES * (deadline - now)
        proved, moved = search(space, displacement, self.tolerance, first, known)
        ends = max(known[0], proved), min(known[1], float(sample.threat.norm.length(moved[None])))
        return grown(sample, self.tolerance, x + moved.view_as(x), ends, deadline)
