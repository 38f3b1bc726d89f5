"""Attacks at given radii: FGSM, BIM (I-FGSM) and PGD, on the logit margin or on cross-entropy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from marginkit.activations import capture, measuring
from marginkit.errors import UsageError
from marginkit.kinds import INPUT, Kind, Status
from marginkit.logits import Labels
from marginkit.methods.search.descent import Objective, descend, likelihood, margin, steepest
from marginkit.methods.search.verification import bracket
from marginkit.norms import Vectors, along
from marginkit.types import Bracket, Threat

Goal = Literal["margin", "cross_entropy"]
EPS = (0.1, 0.2, 0.3)


@dataclass(frozen=True)
class FGSM:
    """One steepest step of each length eps, from the input (Goodfellow et al., arXiv 1412.6572).

    An upper end of a special sort: the share of samples with a distance above eps is the robust accuracy
    under this attack at the radii up to eps, the protocol of Elsayed et al., arXiv 1803.05598; between the
    radii it says nothing. Where the gradient at the input is exactly zero, an attack that failed has
    status ZERO_GRADIENT: a saturated model looks robust and is not.

    Attributes:
        eps: radii, in the norm's units; each is tried on the samples that withstood the smaller ones.
        objective: `margin` attacks the logit margin, `cross_entropy` what the paper attacked.
    """

    eps: tuple[float, ...] = EPS
    objective: Goal = "margin"
    kind: ClassVar[Kind] = Kind.UPPER

    def __post_init__(self) -> None:
        """Refuses radii that are none."""
        _require_radii(self.eps)

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The verified bracket [0, found]."""
        return _at_radii(model, x, y, threat, self.eps, self.objective, [1.0], ())


@dataclass(frozen=True)
class BIM:
    """Several steps from the input at each length eps (I-FGSM; Kurakin et al., arXiv 1607.02533).

    Attributes:
        eps, objective: as for `FGSM`.
        steps: of descent, projected onto ball and box.
        step_size: of each, as a share of eps.
    """

    eps: tuple[float, ...] = EPS
    objective: Goal = "margin"
    steps: int = 20
    step_size: float = 0.1
    kind: ClassVar[Kind] = Kind.UPPER

    def __post_init__(self) -> None:
        """Refuses radii that are none."""
        _require_radii(self.eps)

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The verified bracket [0, found]."""
        sizes = [self.step_size] * self.steps
        return _at_radii(model, x, y, threat, self.eps, self.objective, sizes, ())


@dataclass(frozen=True)
class FixedPGD:
    """`BIM` from random points of the ball, the same for every sample (Madry et al., arXiv 1706.06083).

    Attributes:
        eps, objective, steps, step_size: as for `BIM`.
        starts: random points tried at each radius.
        seed: of those points.
    """

    eps: tuple[float, ...] = EPS
    objective: Goal = "margin"
    steps: int = 40
    step_size: float = 0.1
    starts: int = 1
    seed: int = 0
    kind: ClassVar[Kind] = Kind.UPPER

    def __post_init__(self) -> None:
        """Refuses radii that are none."""
        _require_radii(self.eps)

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The verified bracket [0, found]."""
        seeds = tuple(range(self.seed, self.seed + self.starts))
        sizes = [self.step_size] * self.steps
        return _at_radii(model, x, y, threat, self.eps, self.objective, sizes, seeds)


def _require_radii(eps: tuple[float, ...]) -> None:
    if not eps or min(eps) <= 0:
        raise UsageError(f"eps = {list(eps)}: give at least one radius, all of them above 0")


def _at_radii(
    model: nn.Module,
    x: Vectors,
    y: Labels,
    threat: Threat,
    eps: tuple[float, ...],
    objective: Goal,
    sizes: list[float],
    seeds: tuple[int, ...],
) -> Bracket:
    """The radii in rising order, from the input or from each seed's random point, until one succeeds."""
    goals = {"margin": margin, "cross_entropy": likelihood}

    def search(model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Vectors:
        found = torch.full_like(x, torch.nan)
        for radius in sorted(eps):
            for seed in seeds or (None,):
                left = found.flatten(1).isnan().any(1).nonzero().squeeze(1)
                if not len(left):
                    return found
                start = x[left]
                radii = radius - _rounding(start, threat)
                delta = torch.zeros_like(start) if seed is None else _random(start, threat, radius, seed)
                goal = goals[objective](y[left])
                found[left] = descend(model, start, y[left], threat, radii, delta, goal, sizes, steepest)
        return found

    answer = bracket(model, x, y, threat, search)
    failed = answer.status == Status.EXHAUSTED
    if not failed.any():
        return answer
    stuck = failed & _flat(model, x, y, goals[objective])
    return replace(answer, status=torch.where(stuck, int(Status.ZERO_GRADIENT), answer.status))


def _rounding(x: Vectors, threat: Threat) -> Float[Tensor, "n"]:
    """How much x + delta may be longer than delta: kept in hand, or half of all witnesses were beyond eps."""
    return torch.finfo(x.dtype).eps * threat.norm.length(x.abs().clamp(min=1))


def _random(x: Vectors, threat: Threat, radius: float, seed: int) -> Vectors:
    generator = torch.Generator().manual_seed(seed)
    drawn = 2 * torch.rand(x.shape[1:], generator=generator, dtype=torch.float64) - 1
    direction = drawn.to(x).expand_as(x)
    return along(radius / threat.norm.length(direction), direction)


def _flat(model: nn.Module, x: Vectors, y: Labels, goal: Callable[[Labels], Objective]) -> Bool[Tensor, "n"]:
    with measuring(model, x, y) as given:
        scores, here = capture(given.model, given.x, (INPUT,))
        everyone = torch.arange(len(x), device=x.device)
        (gradient,) = torch.autograd.grad(goal(given.y)(scores, everyone).sum(), here, materialize_grads=True)
    return gradient.flatten(1).abs().amax(1) == 0
