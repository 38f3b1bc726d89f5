"""The shortest displacement within one linear region of a ReLU network, solved exactly."""

from __future__ import annotations

from contextlib import ExitStack

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.activations import capture
from marginkit.kinds import INPUT
from marginkit.logits import Labels, differences, gap, rivals
from marginkit.methods.search.polytope import Region
from marginkit.methods.search.verification import is_adversarial
from marginkit.norms import Vectors
from marginkit.types import Threat

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
    for share in CLOSER:
        found = (~witness.flatten(1).isnan().any(1)).nonzero().squeeze(1)
        if not len(found):
            break
        origin, labels = x[found], y[found]
        regions = _regions(model, origin, labels, threat, origin + share * (witness[found] - origin), units)
        if regions is None:
            break
        points = origin.clone()
        for i, region in enumerate(regions):
            displacement = region.shortest(threat.norm)
            if displacement is not None:
                points[i] += torch.from_numpy(displacement).to(x).view(x.shape[1:])
        points = threat.clip(origin, points)
        nearer = threat.norm.length(points - origin) < threat.norm.length(witness[found] - origin)
        nearer &= is_adversarial(model, points, labels)
        witness[found[nearer]] = points[nearer]
    return witness


def _regions(
    model: nn.Module, x: Vectors, y: Labels, threat: Threat, point: Vectors, units: int
) -> list[Region] | None:
    relus = [module for module in model.modules() if isinstance(module, nn.ReLU)]
    before: list[Tensor] = []
    with ExitStack() as hooks:
        for module in relus:
            hooks.callback(
                module.register_forward_pre_hook(lambda _, args: before.append(args[0] + 0)).remove
            )
        scores, (here,) = capture(model, point, (INPUT,))
    if not before or sum(part[0].numel() for part in before) > units:
        return None
    rival = rivals(scores, y, 1)
    lead = differences(scores, y, rival)
    values = torch.cat([-lead, *[part.flatten(1) for part in before]], 1)
    jacobian = _jacobian(values, here).double()
    values = values.detach().double()
    sign = torch.where(values >= 0, 1.0, -1.0)
    sign[:, 0] = 1
    wanted = torch.zeros_like(values)
    wanted[:, 0] = 2 * gap(scores.detach(), y, rival).squeeze(1).double()
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
