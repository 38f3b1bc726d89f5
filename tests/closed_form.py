"""Classifiers whose distances are known, by a formula or by a solver that shares no code with marginkit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn

from marginkit.norms import Norm

SAMPLES, FEATURES, CLASSES = 12, 6, 4


class Function(nn.Module):
    """A model from a function of x to scores, with one parameter so that its dtype is known."""

    def __init__(self, scores: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.scores = scores
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x)


@dataclass(frozen=True)
class Case:
    """A model, correctly classified samples, their box, and their distances in each norm."""

    name: str
    model: nn.Module
    x: Tensor
    y: Tensor
    box: tuple[float | None, float | None]
    distance: Callable[[Norm], Tensor]

    def __repr__(self) -> str:
        return self.name


def linear_model(classes: int = CLASSES, seed: int = 0) -> nn.Linear:
    generator = torch.Generator().manual_seed(seed)
    model = nn.Linear(FEATURES, classes).double()
    with torch.no_grad():
        model.weight.copy_(torch.randn(classes, FEATURES, generator=generator, dtype=torch.float64))
        model.bias.copy_(torch.randn(classes, generator=generator, dtype=torch.float64))
    return model


def linear_distance(scores: Tensor, weight: Tensor, y: Tensor, norm: Norm) -> Tensor:
    """min_j (f_y - f_j) / |w_y - w_j|_q."""
    scores, weight = scores.detach(), weight.detach()
    n, classes = scores.shape
    normals = norm.dual.length((weight[y].unsqueeze(1) - weight).flatten(0, 1)).view(n, classes)
    ratios = (scores.gather(1, y.unsqueeze(1)) - scores) / normals  # NaN for the label itself
    return ratios.nan_to_num(nan=torch.inf).amin(1)


def between(distances: Tensor, share: float) -> float:
    """A radius that about that share of the distances lies within, and none lies at: halfway to the next."""
    ordered = distances.unique()
    place = int(share * (len(ordered) - 1))
    return float(ordered[place : place + 2].mean())


def linear(classes: int) -> Case:
    """Any number of classes, no box."""
    model = linear_model(classes)
    x = torch.rand(SAMPLES, FEATURES, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = model(x).argmax(1)

    def distance(norm: Norm) -> Tensor:
        return linear_distance(model(x), model.weight, y, norm)

    return Case(f"linear{classes}", model, x, y, (None, None), distance)


def linear_in_box(classes: int) -> Case:
    """The same within [0, 1], where the box binds: solved as an LP (L1, Linf) or a QP (L2)."""
    case = linear(classes)
    weight, bias = case.model.weight.detach().numpy(), case.model.bias.detach().numpy()

    def distance(norm: Norm) -> Tensor:
        found = []
        for x, y in zip(case.x.numpy(), case.y.tolist(), strict=True):
            rivals = [j for j in range(classes) if j != y]
            found.append(min(SOLVE[norm.name](x, weight[j] - weight[y], bias[y] - bias[j]) for j in rivals))
        return torch.tensor(found, dtype=torch.float64)

    return Case(f"linear{classes}-in-box", case.model, case.x, case.y, (0.0, 1.0), distance)


def _solve_linf(x: np.ndarray, a: np.ndarray, b: float) -> float:
    """min t: a z >= b, |z - x| <= t, 0 <= z <= 1."""
    n, eye, ones = len(x), np.eye(len(x)), np.ones((len(x), 1))
    return (
        optimize.linprog(
            np.r_[np.zeros(n), 1],
            A_ub=np.block([[-a, np.zeros(1)], [eye, -ones], [-eye, -ones]]),
            b_ub=np.r_[-b, x, -x],
            bounds=[(0, 1)] * n + [(0, None)],
        ).fun
        or np.inf
    )


def _solve_l1(x: np.ndarray, a: np.ndarray, b: float) -> float:
    """min sum(u + v): a (x + u - v) >= b, 0 <= x + u - v <= 1."""
    n, eye = len(x), np.eye(len(x))
    return (
        optimize.linprog(
            np.ones(2 * n),
            A_ub=np.block([[-a, a], [eye, -eye], [-eye, eye]]),
            b_ub=np.r_[-(b - a @ x), 1 - x, x],
        ).fun
        or np.inf
    )


def _solve_l2(x: np.ndarray, a: np.ndarray, b: float) -> float:
    """min |z - x|: a z >= b, 0 <= z <= 1, by sequential quadratic programming."""
    if np.maximum(a, 0).sum() < b:
        return np.inf
    solved = optimize.minimize(
        lambda z: 0.5 * (z - x) @ (z - x),
        (a > 0).astype(float),
        jac=lambda z: z - x,
        bounds=[(0, 1)] * len(x),
        constraints={"type": "ineq", "fun": lambda z: a @ z - b, "jac": lambda z: a},
        method="SLSQP",
        options={"ftol": 1e-14, "maxiter": 500},
    )
    return float(np.linalg.norm(solved.x - x))


SOLVE = {"l1": _solve_l1, "l2": _solve_l2, "linf": _solve_linf}


def polytope() -> Case:
    """Inside {a_j x <= b_j}: the nearest facet; one class inside, one beyond each facet."""
    generator = torch.Generator().manual_seed(2)
    normal = torch.randn(9, FEATURES, generator=generator, dtype=torch.float64)
    offset = 1 + torch.rand(9, generator=generator, dtype=torch.float64)
    x = 0.1 * torch.randn(SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    model = nn.Linear(FEATURES, 10).double()
    with torch.no_grad():
        model.weight.copy_(torch.cat([torch.zeros(1, FEATURES), normal]))
        model.bias.copy_(torch.cat([torch.zeros(1), -offset]))

    def distance(norm: Norm) -> Tensor:
        return ((offset - x @ normal.T) / norm.dual.length(normal)).amin(1)

    return Case("polytope", model, x, torch.zeros(SAMPLES, dtype=torch.long), (None, None), distance)


def from_origin(name: str, level: Callable[[Tensor], Tensor], distances: dict[str, float]) -> Case:
    """Level sets around the origin, where every gradient is zero."""
    model = Function(lambda z: torch.stack([1 - level(z), torch.zeros(len(z), dtype=z.dtype)], 1))
    x = torch.zeros(3, FEATURES, dtype=torch.float64)
    return Case(
        name, model, x, torch.zeros(3, dtype=torch.long), (None, None),
        lambda norm: torch.full((3,), distances[norm.name], dtype=torch.float64),
    )  # fmt: skip


LINEAR = [linear(2), linear(CLASSES), polytope()]
BOXED = [linear_in_box(2), linear_in_box(CLASSES)]
CURVED = [
    from_origin("sphere", lambda z: z.square().sum(1), {"l1": 1.0, "l2": 1.0, "linf": FEATURES**-0.5}),
    from_origin(
        "cross-polytope", lambda z: z.abs().sum(1), {"l1": 1.0, "l2": FEATURES**-0.5, "linf": 1 / FEATURES}
    ),
]
