"""The radius that linear bound propagation proves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from marginkit.bounds.graph.graph import Graph
from marginkit.bounds.graph.unpooled import unpooled
from marginkit.bounds.linear.ball import Ball
from marginkit.bounds.linear.crown import Given, Propagation, Tightness
from marginkit.bounds.linear.rooted import lowest
from marginkit.bounds.linear.surroundings import Surroundings, affordable, large
from marginkit.bounds.lipschitz import own_stretches
from marginkit.errors import UsageError
from marginkit.kinds import Kind
from marginkit.logits import Labels, ahead, differences, rivals
from marginkit.methods.certify.certificate import certificate, predicted, slack
from marginkit.methods.certify.farther import farther
from marginkit.methods.certify.largest_radius import Prove, largest_proved
from marginkit.methods.pgd import length_of_box
from marginkit.norms import LINF, Norm, Vectors
from marginkit.types import Bracket, Threat

FAR = 0.125  # of the first radius to try: a proof by intervals that reaches it needs no better ones


@dataclass(frozen=True)
class Crown:
    """The largest radius within which linear bounds keep every f_y - f_j above 0: a lower end.

    No input within the radius and inside the box is misclassified, by the float64 copy of the model in eval
    mode. Zhang et al., arXiv 1811.00866; `slopes="same"` is the bound of Wong and Kolter, arXiv 1711.00851.
    A radius is inf where the whole box is proved.

    Attributes:
        bounds: of hidden layers: `crown` by lines back to the input, `crown-ibp` by intervals, `ibp` by
            intervals for the scores as well; each is cheaper and looser than the one before.
        slopes: of the lower line of an unstable ReLU: 0 or 1, whichever fits, or the upper line's.
        ascents: steps by which the lower lines on the way back from the scores are chosen, for each sample.
        climbs: in L2, steps by which slopes and multipliers of the bound by balls and intervals are chosen,
            for samples that are still open; 0 leaves it at its start.
        planes: in Linf, so many further proofs of each sample, at radii beyond what lines prove, in which
            units have lines of their own choice and rectifiers planes with a slope for each entry of the
            input; each costs as much as 10 to 50 others. Not where `bounds` or `slopes` ask for looser ones.
        precision: a radius larger by this share of itself was not proved; of networks with more than 2^16
            units, or balls in which too many of these change sides were not tried (`forwards.py`).
        memory: at most so many numbers in one tensor of coefficients.
    """

    bounds: Tightness = "crown"
    slopes: Literal["adaptive", "same"] = "adaptive"
    ascents: int = 3
    climbs: int = 20
    planes: int = 0
    precision: float = 2**-10
    memory: int = 2**20
    kind: ClassVar[Kind] = Kind.LOWER

    def __post_init__(self) -> None:
        """Refuses less than no proofs."""
        if self.planes < 0:
            raise UsageError(f"planes = {self.planes} proofs: give 0 for none, or a few, such as 3")

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The bracket [proved, inf]."""
        return certificate(model, x, y, threat, self._certify)

    def proves(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat, radius: Tensor) -> Bool[Tensor, "n"]:
        """Whether one proof at each sample's radius [n] holds, in float64."""
        holds = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        if self._large(graph):
            holds = self._by_intervals.proves(graph, x, y, threat, radius)
            if not affordable(graph):
                return holds
            graph = unpooled(graph, x)
        left = (~holds).nonzero().squeeze(1)
        for part in (left[some] for some in self._parts(graph, left)):
            prove, rival, _ = self._prover(
                graph, x[part], y[part], threat, self._forwards(graph, x[part], threat)
            )
            everyone = torch.arange(len(part), device=x.device)
            every = torch.arange(rival.shape[1], device=x.device).expand(len(part), -1)
            holds[part] = (prove(everyone, radius[part], every) > 0).all(1)
        return holds

    def _certify(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        found = [self._search(graph, x[part], y[part], threat) for part in self._parts(graph, x)]
        return torch.cat([radius for radius, _ in found]), torch.cat([rival for _, rival in found])

    def _parts(self, graph: Graph, x: Tensor) -> Sequence[Tensor]:
        """Positions of samples, as many at a time as the memory allows."""
        widest = max(prod(node.shape) for node in graph.nodes)
        return torch.split(torch.arange(len(x), device=x.device), max(1, self.memory // (16 * widest)))

    def _search(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        """Of a large network by intervals alone where these go far, or nothing else can be paid for."""
        if not self._large(graph):
            return self._searched(graph, x, y, threat)
        far = torch.ones_like(y, dtype=torch.bool)
        if affordable(graph):
            far = self._by_intervals.proves(graph, x, y, threat, _guess(graph, x, y, threat.norm) * FAR)
        radius, rival = x.new_zeros(len(x)), torch.full_like(y, -1)
        for how, within, which in ((self._by_intervals, graph, far), (self, unpooled(graph, x), ~far)):
            if (rows := which.nonzero().squeeze(1)).numel():
                radius[rows], rival[rows] = how._searched(within, x[rows], y[rows], threat)
        return radius, rival

    def _searched(self, graph: Graph, x: Tensor, y: Tensor, threat: Threat) -> tuple[Tensor, Tensor]:
        forwards = self._forwards(graph, x, threat)
        prove, rival, margin = self._prover(graph, x, y, threat, forwards)
        end, guess = length_of_box(x, threat), _guess(graph, x, y, threat.norm)
        limit = end if forwards is None else torch.minimum(end, forwards.farthest)
        if forwards is not None:  # mostly all of it is proved
            guess = torch.where(limit.isfinite(), limit, guess)
        radius, blocking = largest_proved(prove, margin, guess, limit, self.precision)
        radius = torch.where(radius.isinf() & (limit < end), limit, radius)
        if self.planes and forwards is None and threat.norm is LINF and self._best:
            radius = torch.cat([
                self._farther(graph, x[i : i + 1], y[i : i + 1], threat, radius[i : i + 1], float(end[i]))
                for i in range(len(x))
            ])  # fmt: skip
        in_the_way = rival.gather(1, blocking.clamp(min=0).unsqueeze(1))[:, 0]
        return radius, torch.where((blocking < 0) | radius.isinf(), -1, in_the_way)

    def _farther(
        self, graph: Graph, x: Tensor, y: Tensor, threat: Threat, radius: Tensor, end: float
    ) -> Tensor:
        """One sample's radius by planes."""
        graph, scores = unpooled(graph, x), graph(x)
        rival = rivals(scores, y, None)
        lost, targets = slack(scores, y, rival)[0], ahead(y, rival, scores)[0]

        def proves(at: float) -> bool:
            ball = Ball(x, x.new_tensor([at]), threat.norm, *threat.room(x))
            return bool((lowest(graph, ball, targets, float(2 * lost.amax())) > lost).all())

        found = farther(proves, float(radius), end, self.planes)
        return x.new_tensor([torch.inf if found >= end else found])

    @property
    def _best(self) -> bool:
        """Whether nothing looser was asked for."""
        return self.bounds == "crown" and self.slopes == "adaptive"

    def _large(self, graph: Graph) -> bool:
        return self._best and large(graph)

    @property
    def _by_intervals(self) -> Crown:
        """The cheaper proof, which asks nothing of single hidden units."""
        return replace(self, bounds="crown-ibp")

    def _forwards(self, graph: Graph, x: Tensor, threat: Threat) -> Surroundings | None:
        """The samples' surroundings, where hidden units are too many to be bounded one by one."""
        return Surroundings.of(graph, x, threat) if self._large(graph) else None

    def _prover(
        self, graph: Graph, x: Tensor, y: Tensor, threat: Threat, forwards: Surroundings | None
    ) -> tuple[Prove, Tensor, Tensor]:
        """Bounds of f_y - f_j less what rounding costs; the rivals j; and these at radius 0."""
        by_balls = threat.norm.p == 2 and self._best
        with x.device:  # matrices are made where the model is
            stretches = own_stretches(graph, threat.norm) if by_balls and forwards is None else None
        propagation = Propagation(
            self.bounds, self.slopes == "same", self.memory, self.ascents, stretches, self.climbs
        )
        scores = graph(x)
        rival = rivals(scores, y, None)
        lost = slack(scores, y, rival)
        targets = ahead(y, rival, scores)
        low, high = threat.room(x)

        def bounds(samples: Tensor, radius: Tensor, wanted: Tensor, given: Given = None) -> Tensor:
            box = (None, None) if low is None or high is None else (low[samples], high[samples])
            return propagation(graph, Ball(x[samples], radius, threat.norm, *box), wanted, given)

        def prove(samples: Tensor, radius: Tensor, chosen: Tensor) -> Tensor:
            wanted = targets[samples.unsqueeze(1), chosen]
            if forwards is None:
                found = bounds(samples, radius, wanted)
            else:
                found = wanted.new_full(wanted.shape[:2], -torch.inf)
                near, given = forwards.intervals(samples, radius)
                if len(near):
                    found[near] = bounds(samples[near], radius[near], wanted[near], given)
            return found - lost[samples.unsqueeze(1), chosen]

        return prove, rival, differences(scores, y, rival) - lost


def _guess(graph: Graph, x: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """Half of what the linearised classifier predicts; 1 where it predicts nothing."""
    distance = predicted(graph, x, y, norm)
    return torch.where(distance.isfinite() & (distance > 0), distance / 2, 1.0)
