"""The shortest displacement within one linear region of a ReLU network, solved exactly."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.kinds import INPUT
from marginkit.logits import Labels, differences, gap, rivals
from marginkit.methods.search.polytope import Region
from marginkit.methods.search.verification import is_adversarial
from marginkit.norms import Vectors
from marginkit.types import Threat

UNITS = 2000  # ReLUs of networks in which that is tried, where nothing else is said
CLOSER = (1.0, 0.999)  # where along the displacement the region is looked up, a round each


def polish(model: nn.Module, x: Vectors, y: Labels, threat: Threat, witness: Vectors, units: int) -> Vectors:
    """Replaces each witness by the shortest point of its linear region, where that is adversarial and nearer.

    Looks at the regions of `nn.ReLU` modules; a network with other kinks only gains less, for every point is
    tried on the network itself. Does nothing where there are more than `units` of them, or none.

    Args:
        model, x, y, threat: as in `bracket`.
        witness: adversarial inputs, NaN rows where there is none (they stay).
        units: ReLUs at most.
    """
    witness = witness.clone()
    solved: Tensor | None = None
    for share in CLOSER:
        found = (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1)
        if not len(found):
            break
        names = _look(model, x[found] + share * (witness[found] - x[found]), y[found]).names
        if not 1 < names.shape[1] <= units + 1:
            break
        if solved is None:
            solved = torch.full_like(names[:1], -1).repeat(len(x), 1)
        other = (names != solved[found]).any(1)  # a region solved before has the same shortest point
        found = found[other]
        solved[found] = names[other]
        origin, labels = x[found], y[found]
        points = origin.clone()
        point = origin + share * (witness[found] - origin)
        for i, region in enumerate(_regions(model, origin, labels, threat, point)):
            displacement = region.shortest(threat.norm)
            if displacement is not None:
                points[i] += torch.from_numpy(displacement).to(x).view(x.shape[1:])
        points = threat.clip(origin, points)
        nearer = threat.norm.length(points - origin) < threat.norm.length(witness[found] - origin)
        nearer &= is_adversarial(model, points, labels)
        witness[found[nearer]] = points[nearer]
    return witness


@dataclass(frozen=True)
class _Seen:
    """One pass: the scores, the rival, what the ReLUs were given, and the inputs it was computed from."""

    scores: Float[Tensor, "n classes"]
    rival: Int[Tensor, "n 1"]
    before: Float[Tensor, "n units"]
    here: Vectors

    @property
    def names(self) -> Int[Tensor, "n rows"]:
        """What tells linear regions, and boundaries, apart."""
        return torch.cat([self.rival, (self.before >= 0).long()], 1)


def _look(model: nn.Module, point: Vectors, y: Labels) -> _Seen:
    before: list[Tensor] = []
    with ExitStack() as hooks:
        for module in [module for module in model.modules() if isinstance(module, nn.ReLU)]:
            hooks.callback(
                module.register_forward_pre_hook(lambda _, args: before.append(args[0] + 0)).remove
            )
        scores, (here,) = capture(model, point, (INPUT,))
    units = torch.cat([part.flatten(1) for part in before], 1) if before else scores[:, :0]
    return _Seen(scores, rivals(scores, y, 1), units, here)


def _regions(model: nn.Module, x: Vectors, y: Labels, threat: Threat, point: Vectors) -> list[Region]:
    """Around the points, of displacements from x."""
    if not len(x):
        return []
    seen = _look(model, point, y)
    lead = differences(seen.scores, y, seen.rival)
    values = torch.cat([-lead, seen.before], 1)
    jacobian = _jacobian(values, seen.here).double()
    values = values.detach().double()
    sign = torch.where(values >= 0, 1.0, -1.0)
    sign[:, 0] = 1
    wanted = torch.zeros_like(values)
    wanted[:, 0] = 2 * gap(seen.scores.detach(), y, seen.rival).squeeze(1).double()
    normal = sign.unsqueeze(2) * jacobian
    moved = (point - x).flatten(1).double()
    level = wanted - sign * values + (normal @ moved.unsqueeze(2)).squeeze(2)
    low, high = threat.room(x)
    free = torch.full_like(moved, torch.inf)
    low, high = (-free, free) if low is None or high is None else (low.flatten(1), high.flatten(1))
    arrays = [part.double().cpu().numpy() for part in (normal, level, low, high)]
    return [Region(*parts) for parts in zip(*arrays, strict=True)]


def _jacobian(values: Float[Tensor, "n rows"], here: Vectors) -> Float[Tensor, "n rows f"]:
    rows = [
        torch.autograd.grad(values[:, k].sum(), here, retain_graph=True)[0].flatten(1)
        for k in range(values.shape[1])
    ]
    return torch.stack(rows, 1)
