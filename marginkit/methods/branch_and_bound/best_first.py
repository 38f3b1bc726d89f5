"""Branch and bound on one sample's distance to the decision boundary."""

from __future__ import annotations

import heapq
import itertools
import time

import numpy as np
import torch
from torch import Tensor

from marginkit.bounds.relu.branching_rule import chosen
from marginkit.bounds.relu.relaxation import Relaxation
from marginkit.bounds.relu.subproblems import Hyperplanes
from marginkit.bounds.subdomains import Subdomains
from marginkit.logits import crossed, gap, rivals
from marginkit.methods.search.polytope import Region

BATCH, PARTS = 64, 1_000_000  # parts that are halved at a time, and in all
FIRST, STEPS, LONG = 24, 20, 40  # steps of ascent: for the whole ball, a part, one without undecided units
SLACK = 2.5  # gaps by which a point leads here, so that the network itself agrees that it does
MOMENT = 0.1  # seconds of a solver that starts just before the time is up
LONGER = (1.0, 1 + 1e-12, 1 + 1e-9, 1 + 1e-7)


class Search:
    """The best-first search: all parts that may hold a nearer adversarial input, the nearest bound first.

    Attributes:
        upper: the distance of `point`.
        point: a displacement to an adversarial input.
    """

    def __init__(
        self, relaxation: Relaxation, point: Tensor, tolerance: float, limit: float = float("inf")
    ) -> None:
        """Starts from the displacement to an adversarial input, and looks no farther than `limit`."""
        self.relaxation = relaxation
        self.point = point
        self.upper = float(relaxation.norm.length(point[None]))
        self.tolerance = tolerance
        self.limit = limit
        self.queue: list[tuple[float, int, Subdomains]] = []
        self.counter = itertools.count()
        self.seen: set[tuple[int, bytes]] = set()  # linear regions that were solved
        self.settled = float("inf")  # the least bound of what has left the queue for good
        self.deadline = float("inf")
        self.halved = 0

    @property
    def enough(self) -> float:
        """A part whose bound is no less needs no more work."""
        return min(self.limit, self.upper * (1 - self.tolerance / 2))

    @property
    def radius(self) -> float:
        """Of the ball that is searched."""
        return min(self.limit, self.upper)

    @property
    def lower(self) -> float:
        """No adversarial input is nearer."""
        return min(self.radius, self.settled, self.queue[0][0] if self.queue else float("inf"))

    def run(self, deadline: float) -> None:
        """Until the bracket is closed, the time is up (`time.monotonic`), or `PARTS` were halved."""
        self.settled, self.deadline = 0.0, deadline
        if time.monotonic() >= deadline:
            return
        space, label = self.relaxation, self.relaxation.label
        classes = torch.arange(len(space.network.biases[-1]))
        self.settled = float("inf")
        self._examine(space.root(classes[classes != label], self.radius), FIRST)
        most = BATCH
        while self.queue and self.queue[0][0] < self.enough and most and self.halved < PARTS:
            started = time.monotonic()
            count = self._step(most)
            self.halved += count
            now = time.monotonic()
            most = int(min(BATCH, max(0.0, (deadline - now) * count / max(now - started, 1e-9))))

    def _step(self, most: int) -> int:
        """Halves or solves so many parts, those of the least bounds."""
        taken: list[Subdomains] = []
        while self.queue and len(taken) < most and self.queue[0][0] < self.enough:
            taken.append(heapq.heappop(self.queue)[2])
        nodes = Subdomains.join(taken)
        whole = nodes.pick < 0
        if whole.any():
            leaves, _ = self._drop(*self.relaxation.bounded(nodes[whole], LONG))
            for leaf in leaves.each():
                self._solve(leaf)
        if not bool(whole.all()):
            self._examine(nodes[~whole].halves(), STEPS)
        return len(taken)

    def _examine(self, nodes: Subdomains, steps: int) -> None:
        """Bounds parts; then their units beyond the hyperplanes found, and them once more."""
        nodes, planes = self._drop(*self.relaxation.bounded(nodes, steps // 2))
        if not len(nodes):
            return
        layers = range(len(self.relaxation.network.sizes))
        nodes = self.relaxation.tightened(nodes, self.radius, layers, quick=True, beyond=planes)
        nodes, planes = self._drop(nodes, planes)
        if not len(nodes):
            return
        nodes, planes = self._drop(*self.relaxation.bounded(nodes, steps))
        if not len(nodes):
            return
        self._try(nodes, planes.point)
        for node in chosen(self.relaxation, nodes).each():
            heapq.heappush(self.queue, (float(node.bound), next(self.counter), node))

    def _drop(self, nodes: Subdomains, planes: Hyperplanes) -> tuple[Subdomains, Hyperplanes]:
        """Without the parts that need no more work."""
        done = nodes.bound >= self.enough
        if done.any():
            self.settled = min(self.settled, float(nodes.bound[done].amin()))
        return nodes[~done], planes[~done]

    def _solve(self, leaf: Subdomains) -> None:
        """A part in which the network is linear, by its multipliers and no solver's word."""
        if time.monotonic() >= self.deadline:
            heapq.heappush(self.queue, (float(leaf.bound), next(self.counter), leaf))
            return
        on = (leaf.low[0] >= 0).double()
        for sign in (leaf.split[0], 2 * on - 1):  # all units where the splits say too little
            region, slack = self._region(on, sign, int(leaf.rival))
            point, multiplier = region.solved(self.relaxation.norm, self._left())
            if point is not None:
                self._offer(torch.from_numpy(point))
            level = multiplier @ region.level - multiplier[0] * slack
            normal = torch.from_numpy(-(multiplier @ region.normal))
            length, _ = self.relaxation.away(normal[None], torch.tensor([level], dtype=torch.float64))
            if max(float(length), float(leaf.bound)) >= self.enough:
                break
        self.settled = min(self.settled, max(float(length), float(leaf.bound)))

    def _try(self, nodes: Subdomains, points: Tensor) -> None:
        """Looks for a nearer input where the boundary seems nearest: in that point's linear region."""
        self.look_around(points[int(nodes.bound.argmin())])

    def look_around(self, point: Tensor) -> None:
        """Solves the linear region of a displacement, where that can hold a nearer adversarial input."""
        hidden, scores = self.relaxation.network.hidden(point[None])
        rival = int(rivals(scores, torch.tensor([self.relaxation.label]), 1))
        on = (hidden[0] >= 0).double()
        seen = (rival, on.bool().numpy().tobytes())
        if seen in self.seen:
            return
        self.seen.add(seen)
        region, _ = self._region(on, 2 * on - 1, rival)
        normal, level = -torch.from_numpy(region.normal[:1]), torch.from_numpy(region.level[:1])
        if float(self.relaxation.away(normal, level)[0]) >= self.enough:
            return
        found, _ = region.solved(self.relaxation.norm, self._left())
        if found is not None:
            self._offer(torch.from_numpy(found))

    def _left(self) -> float:
        """Seconds, some at least: a solver without any may say nothing of what it has."""
        return max(MOMENT, self.deadline - time.monotonic())

    def _offer(self, point: Tensor) -> None:
        """Keeps a displacement that is shorter and adversarial."""
        low, high = self.relaxation.room
        for share in LONGER:
            moved = share * point[None]
            if low is not None and high is not None:
                moved = torch.minimum(torch.maximum(moved, low), high)
            length = float(self.relaxation.norm.length(moved))
            if length >= self.upper:
                return
            _, scores = self.relaxation.network.hidden(moved)
            if crossed(scores, torch.tensor([self.relaxation.label]), SLACK):
                self.upper, self.point = length, moved[0]
                return

    def _region(self, on: Tensor, sign: Tensor, rival: int) -> tuple[Region, float]:
        """Where the units are so and the rival leads, and by how much it is asked to lead."""
        network, label = self.relaxation.network, self.relaxation.label
        normal, offset = network.jacobian(on)
        units = sign.nonzero().squeeze(1)
        side = sign[units]
        base = network.units
        rows = torch.cat([(normal[base + rival] - normal[base + label])[None], side[:, None] * normal[units]])
        slack = (SLACK + 0.5) * float(
            gap(offset[None, base:], torch.tensor([label]), torch.tensor([[rival]]))
        )
        level = torch.cat(
            [(slack + offset[base + label] - offset[base + rival])[None], -side * offset[units]]
        )
        free = np.full(rows.shape[1], np.inf)
        low, high = (end if end is None else end[0].numpy() for end in self.relaxation.room)
        low, high = (-free if low is None else low), (free if high is None else high)
        return Region(rows.numpy(), level.numpy(), low, high), slack
