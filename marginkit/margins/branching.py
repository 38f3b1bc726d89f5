"""Branch and bound on one sample's distance to the decision boundary."""

from __future__ import annotations

import heapq
import itertools
import time
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from marginkit.bounds.branch import Relaxation
from marginkit.bounds.nodes import Nodes
from marginkit.bounds.splitting import chosen
from marginkit.logits import gap, rivals
from marginkit.margins.region import Region

BATCH = 32  # parts that are halved at a time
FIRST, STEPS = 24, 8  # steps of ascent for the whole ball, and for a part
SLACK = 2.5  # gaps by which a point leads here, so that the network itself agrees that it does
LONGER = (1.0, 1 + 1e-12, 1 + 1e-9, 1 + 1e-7)


class Search:
    """The best-first search: all parts that may hold a nearer adversarial input, the nearest bound first.

    Attributes:
        upper: the distance of `point`.
        point: a displacement to an adversarial input.
    """

    def __init__(self, relaxation: Relaxation, point: Tensor, tolerance: float) -> None:
        """Starts from the displacement to an adversarial input."""
        self.relaxation = relaxation
        self.point = point
        self.upper = float(relaxation.norm.length(point[None]))
        self.tolerance = tolerance
        self.queue: list[tuple[float, int, Nodes]] = []
        self.counter = itertools.count()
        self.settled = float("inf")  # the least bound of what has left the queue for good

    @property
    def enough(self) -> float:
        """A part whose bound is no less needs no more work."""
        return self.upper * (1 - self.tolerance / 2)

    @property
    def lower(self) -> float:
        """No adversarial input is nearer."""
        return min(self.upper, self.settled, self.queue[0][0] if self.queue else float("inf"))

    def run(self, deadline: float) -> None:
        """Until the bracket is closed or the time is up (`time.monotonic`)."""
        self.settled = 0.0
        if time.monotonic() >= deadline:
            return
        space, label = self.relaxation, self.relaxation.label
        classes = torch.arange(len(space.chain.biases[-1]))
        nodes, points = space.bounded(space.root(classes[classes != label], self.upper), FIRST)
        self.settled = float("inf")
        self._try(nodes, points)
        self._push(nodes)
        while self.queue and self.queue[0][0] < self.enough and time.monotonic() < deadline:
            self._step(deadline)

    def _step(self, deadline: float) -> None:
        taken: list[Nodes] = []
        while self.queue and len(taken) < BATCH and self.queue[0][0] < self.enough:
            taken.append(heapq.heappop(self.queue)[2])
        nodes = Nodes.join(taken)
        whole = nodes.pick < 0
        for leaf in nodes[whole].each():
            self._solve(leaf, deadline)
        nodes = nodes[~whole]
        if not len(nodes):
            return
        halves, picks = nodes.halves(), torch.cat([nodes.pick, nodes.pick])
        sizes = self.relaxation.chain.sizes
        for k in range(len(sizes) - 1):  # a split tightens the layers behind it
            mine = (picks >= sum(sizes[:k])) & (picks < sum(sizes[: k + 1]))
            if mine.any():
                tight = self.relaxation.tightened(
                    halves[mine], self.upper, range(k + 1, len(sizes)), quick=True
                )
                halves = Nodes.join([halves[~mine], tight])
                picks = torch.cat([picks[~mine], picks[mine]])
        halves = halves[halves.bound < torch.inf]
        if len(halves):
            found, points = self.relaxation.bounded(halves, STEPS)
            self._try(found, points)
            self._push(found)

    def _push(self, nodes: Nodes) -> None:
        done = nodes.bound >= self.enough
        if done.any():
            self.settled = min(self.settled, float(nodes.bound[done].amin()))
        if not done.all():
            for node in chosen(self.relaxation, nodes[~done]).each():
                heapq.heappush(self.queue, (float(node.bound), next(self.counter), node))

    def _solve(self, leaf: Nodes, deadline: float) -> None:
        """A part in which the network is linear, by its multipliers and no solver's word."""
        if time.monotonic() >= deadline:
            heapq.heappush(self.queue, (float(leaf.bound), next(self.counter), leaf))
            return
        on = (leaf.low[0] >= 0).double()
        region, slack = self._region(on, leaf.split[0], int(leaf.rival))
        point, multiplier = region.solved(self.relaxation.norm)
        if point is not None:
            self._offer(torch.from_numpy(point))
        level = multiplier @ region.level - multiplier[0] * slack
        normal = torch.from_numpy(-(multiplier @ region.normal))
        length, _ = self.relaxation.away(normal[None], torch.tensor([level], dtype=torch.float64))
        self.settled = min(self.settled, max(float(length), float(leaf.bound)))

    def _try(self, nodes: Nodes, points: Tensor) -> None:
        """Looks for a nearer input where the boundary seems nearest: in that point's linear region."""
        best = int(nodes.bound.argmin())
        if float(nodes.bound[best]) >= self.enough:
            return
        self.look_around(points[best])

    def look_around(self, point: Tensor) -> None:
        """Solves the linear region of a displacement."""
        hidden, scores = self.relaxation.chain.hidden(point[None])
        rival = int(rivals(scores, torch.tensor([self.relaxation.label]), 1))
        on = (hidden[0] >= 0).double()
        found, _ = self._region(on, 2 * on - 1, rival)[0].solved(self.relaxation.norm)
        if found is not None:
            self._offer(torch.from_numpy(found))

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
            _, scores = self.relaxation.chain.hidden(moved)
            label = self.relaxation.label
            others = scores[0].clone()
            others[label] = -torch.inf
            if float(others.amax() - scores[0, label]) > SLACK * float(gap(scores)):
                self.upper, self.point = length, moved[0]
                return

    def _region(self, on: Tensor, sign: Tensor, rival: int) -> tuple[Region, float]:
        """Where the units are so and the rival leads, and by how much it is asked to lead."""
        chain, label = self.relaxation.chain, self.relaxation.label
        normal, offset = chain.jacobian(on)
        units = sign.nonzero().squeeze(1)
        side = sign[units]
        base = chain.units
        rows = torch.cat([(normal[base + rival] - normal[base + label])[None], side[:, None] * normal[units]])
        slack = (SLACK + 0.5) * float(gap(offset[None, base:]))
        level = torch.cat(
            [(slack + offset[base + label] - offset[base + rival])[None], -side * offset[units]]
        )
        free = np.full(rows.shape[1], np.inf)
        low, high = (end if end is None else end[0].numpy() for end in self.relaxation.room)
        low, high = (-free if low is None else low), (free if high is None else high)
        return Region(rows.numpy(), level.numpy(), low, high), slack


def search(relaxation: Relaxation, point: Tensor, tolerance: float, deadline: float) -> tuple[float, Tensor]:
    """The lower end and the nearest adversarial displacement known when the time is up.

    Args:
        relaxation: of the sample's network.
        point: the displacement to an adversarial input.
        tolerance: the lower end may be smaller by this share.
        deadline: by `time.monotonic`.
    """
    chain = relaxation.chain
    flat = relaxation.norm.p == 2 and relaxation.room == (None, None)
    if not flat or len(chain.weights[0]) >= chain.weights[0].shape[1]:
        found = Search(relaxation, point, tolerance)
        found.run(deadline)
        return found.lower, found.point
    narrow, basis = chain.rotated()
    found = Search(replace(relaxation, chain=narrow), point @ basis, tolerance)
    found.run(deadline)
    return found.lower, basis @ found.point
