"""The shortest displacement within one linear region of a ReLU network, solved exactly."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from scipy import optimize
from torch import Tensor, nn

from marginkit.activations import INPUT, capture
from marginkit.logits import Labels, differences, gap, rivals
from marginkit.margins.witness import is_adversarial
from marginkit.norms import L1, L2, Norm, Vectors
from marginkit.types import Threat

CUTS = 16  # constraints that an L2 solve takes in at a time
CLOSER = (1.0, 0.999)  # where along the displacement the region is looked up, a round each


@dataclass(frozen=True)
class Region:
    """Of one sample: {z : normal z >= level, low <= z <= high}; the first row is the boundary to cross."""

    normal: Float[np.ndarray, "rows f"]
    level: Float[np.ndarray, "rows"]
    low: Float[np.ndarray, "f"]
    high: Float[np.ndarray, "f"]

    def shortest(self, norm: Norm) -> np.ndarray | None:
        """The point of least norm; None where there is none or the solver gives up."""
        if norm is L2:
            return self._shortest_l2()
        return self._shortest_l1() if norm is L1 else self._shortest_linf()

    def _shortest_l1(self) -> np.ndarray | None:
        f = len(self.low)
        bounds = [(0, h) for h in self.high] + [(0, -m) for m in self.low]
        found = optimize.linprog(
            np.ones(2 * f), -np.hstack([self.normal, -self.normal]), -self.level, bounds=bounds
        )
        return None if found.x is None else found.x[:f] - found.x[f:]

    def _shortest_linf(self) -> np.ndarray | None:
        """The bounds |z_i| <= t are rows beside the region's."""
        f = len(self.low)
        eye, ones = np.eye(f), np.ones((f, 1))
        rows = np.block([[-self.normal, np.zeros((len(self.level), 1))], [eye, -ones], [-eye, -ones]])
        bounds = [*zip(self.low, self.high, strict=True), (0, None)]
        found = optimize.linprog(
            np.r_[np.zeros(f), 1], rows, np.r_[-self.level, np.zeros(2 * f)], bounds=bounds
        )
        return None if found.x is None else found.x[:f]

    def _shortest_l2(self) -> np.ndarray | None:
        """Lawson and Hanson's least distance programming, with rows taken in as they are violated."""
        normal, level = self.normal[:1], self.level[:1]
        for _ in range(50):
            point = least_distance(normal, level)
            if point is None:
                return None
            rows, values = self._violated(point)
            if not len(values):
                return point
            normal, level = np.vstack([normal, rows]), np.r_[level, values]
        return None

    def _violated(self, point: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        tolerance = 1e-9 * (1 + np.abs(point).max())
        short = self.level - self.normal @ point
        worst = np.argsort(-short)[:CUTS]
        worst = worst[short[worst] > tolerance]
        outside = np.maximum(self.low - point, point - self.high)
        far = np.argsort(-outside)[:CUTS]
        far = far[outside[far] > tolerance]
        under = point[far] < self.low[far]
        sides = np.zeros((len(far), len(point)))
        sides[np.arange(len(far)), far] = np.where(under, 1, -1)
        return np.vstack([self.normal[worst], sides]), np.r_[
            self.level[worst], np.where(under, self.low[far], -self.high[far])
        ]


def least_distance(normal: np.ndarray, level: np.ndarray) -> np.ndarray | None:
    """The z of least Euclidean length with normal z >= level; None where there is none.

    By non-negative least squares (Lawson and Hanson, Solving Least Squares Problems, ch. 23).
    """
    scale = np.linalg.norm(normal, axis=1).clip(min=1e-30)
    size = np.abs(level / scale).max()
    if size == 0:
        return np.zeros(normal.shape[1])
    system = np.vstack([(normal / scale[:, None]).T, level / scale / size])
    target = np.zeros(len(system))
    target[-1] = 1
    try:
        multiplier, residual = optimize.nnls(system, target)
    except RuntimeError:
        return None
    rest = system @ multiplier - target
    return None if residual < 1e-10 else -size * rest[:-1] / rest[-1]


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
    wanted[:, 0] = 2 * gap(scores.detach()).double()
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
