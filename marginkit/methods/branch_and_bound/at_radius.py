"""Branch and bound on whether a ball holds an adversarial input."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from math import prod

import torch
from jaxtyping import Float
from torch import Tensor

from marginkit.bounds.graph.unpooled import unpooled
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.ball_ascent import Enclosure
from marginkit.bounds.linear.ball_parts import lowest
from marginkit.bounds.linear.carrying import carried, met
from marginkit.bounds.linear.climbing import climbed, proved
from marginkit.bounds.linear.crown import Propagation
from marginkit.bounds.linear.hidden import Tightened, tightened
from marginkit.bounds.linear.relaxed import Relaxed
from marginkit.bounds.linear.rooted import FIRST, HIDDEN
from marginkit.bounds.linear.separating import separated
from marginkit.bounds.linear.surroundings import large
from marginkit.bounds.lipschitz import own_stretches
from marginkit.bounds.subdomains import Subdomains
from marginkit.logits import ahead, rivals
from marginkit.methods.branch_and_bound.attack import Attack, Sample
from marginkit.methods.branch_and_bound.splitting import split
from marginkit.methods.certify.certificate import slack
from marginkit.norms import L2, LINF

STEPS, LONG = 8, 60  # of ascent: for a part, and one without undecided units
ROUGH, CLIMBS = 3, 20  # for each hidden unit at first, and by balls in L2
LOOKS = 0.1  # parts for each undecided unit with rough bounds of the hidden ones: as long as better ones take
BATCHES = 32, 128  # parts that are halved at a time: the fewest, and in small networks the most
CACHED = 2**18  # numbers of a batch's passes that a processor keeps near
PARTS = 1_000_000  # that are bounded in all
MEMORY = 2**31  # bytes of open parts; with more the nearest to a proof come first, so that few are added

EAGER, EVERY = 24, 4  # first turns on which adversarial inputs are looked for, and then each so many


@dataclass(frozen=True, eq=False)
class Decision:
    """What became of a ball.

    Attributes:
        proved: whether it holds no adversarial input.
        witness: one that was found [1, *d], or None.
        parts: that were bounded.
        left: what was neither proved nor looked through when the time was up.
    """

    proved: bool
    witness: Tensor | None = None
    parts: int = 0
    left: Left | None = None


@dataclass(frozen=True, eq=False)
class Left:
    """The open parts of a ball: in a smaller one nothing else has to be proved.

    Attributes:
        radius: of the ball.
        relaxed: the network over it.
        parts: of it.
    """

    radius: float
    relaxed: Relaxed
    parts: Subdomains


def decide(
    sample: Sample, radius: float, deadline: float, left: Left | None = None, eager: int = EAGER
) -> Decision:
    """Whether the ball of that radius holds an adversarial input.

    Args:
        sample: at its centre.
        radius: of the ball.
        deadline: by `time.monotonic`.
        left: of a ball around the same sample; it counts where that is no smaller.
        eager: turns on all of which adversarial inputs are looked for.
    """
    graph, x, y, threat = sample.graph, sample.x, sample.y, sample.threat
    scores = graph(x)
    rival = rivals(scores, y, None)
    if large(graph):  # whose parts would take minutes
        attack = Attack.of(sample, radius, rival[0])
        return Decision(proved=False, witness=attack.alone(deadline))
    ball = Ball(x, x.new_tensor([radius]), threat.norm, *threat.room(x))
    balls = None
    if threat.norm is L2:  # in which balls hold max-pooling more tightly
        balls = Propagation("crown", stretches=own_stretches(graph, L2)).enclosure(graph, ball)
    else:
        graph = unpooled(graph, x)
    intervals = Propagation("crown").intervals(graph, ball) if balls is None else balls.intervals
    left = left if left is not None and left.radius >= radius else None
    if left is not None:
        intervals = met(intervals, left.relaxed.intervals)
    relaxed = Relaxed(graph, ball, len(graph.nodes) - 1, ahead(y, rival, scores)[0], intervals)
    attack = Attack.of(sample, radius, rival[0])
    search = AtRadius(relaxed, slack(scores, y, rival)[0], attack, deadline, balls, left, eager)
    return search.decide(radius)


@dataclass(eq=False)
class AtRadius:
    """The search of one sample's ball.

    Attributes:
        relaxed: the network over the ball, its targets f_y - f_j for all rivals j.
        lost: what rounding may cost each of these [k].
        attack: looks for adversarial inputs.
        deadline: by `time.monotonic`.
        balls: in L2, around every node's values.
        left: the open parts of a larger ball.
        eager: turns on all of which adversarial inputs are looked for.
    """

    relaxed: Relaxed
    lost: Float[Tensor, "k"]
    attack: Attack
    deadline: float
    balls: Enclosure | None = None
    left: Left | None = None
    eager: int = EAGER
    witness: Tensor | None = None
    parts: int = 0
    turns: int = 0

    def batch(self, relaxed: Relaxed) -> int:
        """Parts that are halved at a time."""
        numbers = sum(prod(node.shape) for node in relaxed.graph.nodes)
        numbers += sum(envelope.slope.numel() for envelope in relaxed.envelopes.values())
        least, most = BATCHES
        return min(most, max(least, CACHED // numbers))

    def decide(self, radius: float) -> Decision:
        """Until nothing is left, an adversarial input is found, or time or parts are up.

        Most balls that hold are proved by a few parts, or by none, with rough bounds of the hidden units.
        """
        if self.left is None:
            self.left = self._searched(radius, ROUGH, LOOKS)
            self.relaxed = replace(self.left.relaxed, envelopes={})
        left = self._searched(radius, HIDDEN) if self._going(self.left.parts) else self.left
        proved = self.witness is None and not len(left.parts)
        return Decision(proved, self.witness, self.parts, left if len(left.parts) else None)

    def _going(self, open_: Subdomains, most: float = PARTS) -> bool:
        undone = len(open_) > 0 and self.witness is None
        return undone and self.parts < most and time.monotonic() < self.deadline

    def _searched(self, radius: float, steps: int, share: float = torch.inf) -> Left:
        """What is left, the worst parts first, after so many parts for each undecided unit.

        Hidden units are bounded in so many steps.
        """
        network = tightened(self.relaxed, steps, self.deadline)
        open_, batch = self._begun(network), self.batch(network.relaxed)
        network, most = network.trimmed(open_), min(PARTS, self.parts + share * network.relaxed.units)
        while self._going(open_, most):
            order = open_.bound.argsort(descending=_size(open_) > MEMORY, stable=True)
            taken = split(network.single, open_[order[:batch]])
            whole = taken.pick < 0
            others = open_[order[batch:]]
            if whole.any() and len(self._linear(network, taken[whole], others)):
                break  # a part in which the network is linear, and nothing left to split
            halves = network.single.halves(taken[~whole])
            open_ = Subdomains.join([others, self._examined(network, halves, STEPS, others)])
        return Left(radius, network.relaxed, open_)

    def _begun(self, network: Tightened) -> Subdomains:
        """The ball once for each rival, or what was left of a larger one; what is not proved."""
        if self.left is None:
            root = network.single.root()
            return self._examined(network, root, FIRST, root[:0])
        open_ = carried(self.left.parts, self.left.relaxed, network.relaxed)
        done = list[Subdomains]()
        for some in torch.split(torch.arange(len(open_)), 2 * self.batch(network.relaxed)):
            if self.witness is not None or time.monotonic() >= self.deadline:
                done.append(open_[some])
            else:
                done.append(self._examined(network, open_[some], STEPS, open_))
        return Subdomains.join(done) if done else open_

    def _linear(self, network: Tightened, parts: Subdomains, others: Subdomains) -> Subdomains:
        """Of parts in which the network is linear, those that may hold an adversarial input."""
        parts = self._examined(network, parts, LONG, others)
        if self.witness is not None or not len(parts) or network.relaxed.ball.norm is not LINF:
            return parts
        free = replace(parts, beta=torch.zeros_like(parts.beta))  # the splits are constraints of their own
        planes, lost = proved(network.relaxed, free), self.lost[parts.rival]
        planes = replace(planes, level=planes.level - lost)
        empty, points = separated(network.layers, network.relaxed.ball, parts, planes)
        parts, points = parts[~empty], points[~empty]
        if len(parts):
            self.witness = self.attack(points, parts.rival, torch.unique(parts.rival))
        return parts

    def _examined(self, network: Tightened, parts: Subdomains, steps: int, others: Subdomains) -> Subdomains:
        """Those that are not proved, in tighter intervals; adversarial inputs are looked for."""
        if not len(parts):
            return parts
        self.parts += len(parts)
        lost = self.lost[parts.rival]
        parts = climbed(network.single, parts, steps, float(2 * self.lost.amax()))
        planes = proved(network.relaxed, parts)
        value = planes.value
        if self.balls is not None:
            value = value.maximum(lowest(network.relaxed, self.balls, parts, CLIMBS) - lost)
            parts = replace(parts, bound=value.to(parts.bound))
        left = (~(value > lost)).nonzero().squeeze(1)
        parts, planes, lost = parts[left], planes[left], lost[left]
        self.turns += 1
        looking = self.turns <= self.eager or self.turns % EVERY == 0 or steps == LONG
        if len(left) and looking:
            worst = planes.value.argsort()
            rivals = torch.unique(torch.cat([parts.rival, others.rival]))
            self.witness = self.attack(planes.point[worst], parts.rival[worst], rivals)
        parts = network.beyond(parts, replace(planes, level=planes.level - lost))
        return parts[parts.bound != torch.inf]


def _size(parts: Subdomains) -> int:
    """Bytes."""
    names = ("low", "high", "split", "alpha", "beta", "weight", "toward")
    return sum(getattr(parts, name).nbytes for name in names)
