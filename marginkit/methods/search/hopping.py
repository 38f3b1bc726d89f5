"""Iterated local search in a ball: the best points found are disturbed in part, and descend again.

Gradients lead to the next pit of the margin, and a ball of a convolutional network has thousands. Redrawing a
patch of a good point and descending from there keeps what is good elsewhere: basin hopping (Wales and Doye,
arXiv cond-mat/9803344), with a pool as in a genetic search. It finds adversarial inputs that neither restarts
of gradient attacks nor branching come across (those of Zhang et al., arXiv 2206.03727, ICML 2022).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from marginkit.logits import Scores, crossed, differences
from marginkit.methods.search.descent import dense
from marginkit.norms import LINF, along
from marginkit.types import Threat

POOL, ROWS, GIVEN = 12, 32, 4  # points that are kept, that descend at a time, that others may give
STEPS, MOMENTUM = 40, 0.75  # of a descent
FAR, NEAR = 0.2, 0.1  # its first step in shares of the radius: from anywhere, from a disturbed point at most
PATIENCE = 15  # rounds without gain, before all begins again
GAIN, SAME = 1e-4, 1e-4  # shares of the first margin
PATCH = 0.5  # of each side, at most


@dataclass(frozen=True, eq=False)
class Pool:
    """Points of the ball, the best first.

    Attributes:
        delta: from the input [p, *d].
        value: f_y - f_j there [p].
        rival: j [p].
    """

    delta: Tensor
    value: Float[Tensor, "p"]
    rival: Int[Tensor, "p"]

    def __len__(self) -> int:
        return len(self.value)

    def __getitem__(self, rows: Tensor | slice) -> Pool:
        return Pool(self.delta[rows], self.value[rows], self.rival[rows])

    def with_others(self, others: Pool, apart: float) -> Pool:
        """The best of both; of those whose values are no farther apart one is kept."""
        both = Pool(
            torch.cat([self.delta, others.delta]), torch.cat([self.value, others.value]),
            torch.cat([self.rival, others.rival]),
        )  # fmt: skip
        both = both[both.value.argsort()]
        fresh = torch.ones_like(both.rival, dtype=torch.bool)
        fresh[1:] = both.value.diff() > apart
        return both[fresh.nonzero().squeeze(1)[:POOL]]


@dataclass(eq=False)
class Hopping:
    """The search of one sample's ball, round by round.

    Attributes:
        scores: the model, of points [m, *d], with gradients.
        x: the input [1, *d].
        y: its label [1].
        threat: norm, box and mask.
        radius: of the ball.
        seed: of all that is drawn.
        pool: the best points so far.
        unit: the first margin, by which gains are judged.
        since: rounds without gain.
    """

    scores: Callable[[Tensor], Scores]
    x: Tensor
    y: Tensor
    threat: Threat
    radius: float
    seed: int = 0
    pool: Pool | None = None
    unit: float = 1.0
    since: int = 0
    drawn: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        """All numbers are drawn on the processor, so that they are the same everywhere."""
        self.drawn = torch.Generator().manual_seed(self.seed)

    def round(self, rivals: Int[Tensor, "k"], points: Tensor, theirs: Int[Tensor, "p"]) -> Tensor:
        """The adversarial inputs met [m, *d], by the scores' own precision.

        Args:
            rivals: classes to cross to; what the pool has of others is forgotten.
            points: to descend from as well, a few of the first [p, *d].
            theirs: whom these are to cross to [p].
        """
        start, toward, sizes = self._starts(rivals)
        few = min(len(points), GIVEN)
        start[:few], toward[:few] = points[:few] - self.x, theirs[:few]
        found, met = self._descended(start, toward, sizes)
        best = float(self.pool.value[0]) if self.pool is not None and len(self.pool) else torch.inf
        self.pool = found[found.value.argsort()][:POOL] if self.pool is None else self.pool
        self.pool = self.pool.with_others(found, SAME * self.unit)
        gained = float(self.pool.value[0]) < best - GAIN * self.unit
        self.since = 0 if gained else self.since + 1
        return met

    def _starts(self, rivals: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Displacements, whom they are to cross to, and their first steps in shares of the radius."""
        anywhere = self._anywhere(ROWS)
        if self.pool is not None:
            self.pool = self.pool[torch.isin(self.pool.rival, rivals).nonzero().squeeze(1)]
        if self.pool is None or not len(self.pool) or self.since > PATIENCE:
            self.pool, self.since = None, 0
            toward = rivals[torch.arange(ROWS, device=rivals.device) % len(rivals)]
            return anywhere, toward, self.x.new_full((ROWS,), FAR)
        rows = torch.randint(len(self.pool), (ROWS,), generator=self.drawn).to(rivals.device)
        patches = torch.stack([self._patch() for _ in range(ROWS)]).to(self.x.device)
        sizes = NEAR * 10 ** -torch.rand(ROWS, generator=self.drawn)
        return torch.where(patches, anywhere, self.pool.delta[rows]), self.pool.rival[rows], sizes.to(self.x)

    def _anywhere(self, count: int) -> Tensor:
        """Points of the ball; in Linf all of them as likely."""
        u = torch.rand(count, *self.x.shape[1:], generator=self.drawn, dtype=torch.float64).to(self.x)
        low, high = self.threat.room(self.x.expand_as(u))
        radius, norm = self.x.new_full((count,), self.radius), self.threat.norm
        if norm is LINF:
            down, up = torch.full_like(u, -self.radius), torch.full_like(u, self.radius)
            if low is not None and high is not None:
                down, up = down.maximum(low), up.minimum(high)
            return torch.lerp(down, up, u)
        return norm.project(along(radius / norm.length(u - 0.5), u - 0.5), radius, low, high)

    def _patch(self) -> Tensor:
        """Which entries to draw anew: a rectangle of an image, any entries of other inputs [*d]."""
        shape = self.x.shape[1:]
        if len(shape) < 3:
            share = PATCH * PATCH * torch.rand((), generator=self.drawn)
            return torch.rand(shape, generator=self.drawn) < share
        inside = torch.ones(shape, dtype=torch.bool)
        for axis, side in enumerate(shape[1:], 1):
            length = int(torch.randint(2, max(3, int(PATCH * side) + 1), (), generator=self.drawn))
            first = int(torch.randint(0, max(1, side - length + 1), (), generator=self.drawn))
            within = torch.zeros(side, dtype=torch.bool)
            within[first : first + length] = True
            inside &= within.view(-1, *[1] * (len(shape) - axis - 1))
        return inside

    def _descended(self, delta: Tensor, toward: Tensor, sizes: Tensor) -> tuple[Pool, Tensor]:
        """Where each was lowest; and all that are adversarial, of the first step on which any is."""
        norm, radius = self.threat.norm, sizes.new_full((len(sizes),), self.radius)
        x, y = self.x.expand_as(delta), self.y.expand(len(delta))
        low, high = self.threat.room(x)
        speed, delta = torch.zeros_like(delta), norm.project(delta, radius, low, high)
        best, value = delta, torch.full_like(radius, torch.inf)
        for step in range(STEPS + 1):
            point = self.threat.clip(x, x + delta).detach().requires_grad_()
            with torch.enable_grad():
                scores = self.scores(point)
                here = differences(scores, y, toward.unsqueeze(1)).squeeze(1)
                (gradient,) = torch.autograd.grad(here.sum(), point, materialize_grads=True)
            lower = (here < value).detach()
            best = torch.where(lower.view(-1, *[1] * (delta.ndim - 1)), delta, best)
            value = torch.where(lower, here.detach(), value)
            over = crossed(scores.detach(), y)
            if step == STEPS or over.any():
                break
            size = along(1 / gradient.flatten(1).abs().mean(1).clamp(min=1e-30), gradient)
            speed = MOMENTUM * speed + size
            moved = along(sizes * (1 - step / STEPS) * self.radius, dense(norm, speed))
            delta = norm.project(delta - moved, radius, low, high)
        if self.pool is None:
            self.unit = max(float(value.amin()), 1e-30)
        return Pool(best, value, toward), point.detach()[over]
