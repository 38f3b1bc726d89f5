"""The distance as a mixed-integer linear programme, for HiGHS."""

from __future__ import annotations

import time

import numpy as np
import torch
from scipy import optimize, sparse
from torch import Tensor

from marginkit.bounds.relu.relaxation import Relaxation
from marginkit.bounds.subdomains import Subdomains
from marginkit.methods.branch_and_bound.best_first import FIRST, Search
from marginkit.norms import L1

NODES = 1_000_000  # of the solver's own search
MARGIN = 4e-6  # a solver's proof is believed up to this share: it satisfies constraints to 1e-7 or so


def solve(
    relaxation: Relaxation, point: Tensor, tolerance: float, deadline: float, known: tuple[float, float]
) -> tuple[float, Tensor]:
    """As `anytime.search`, one rival after the other; in L1 and Linf."""
    found = Search(relaxation, point, tolerance)
    found.deadline = deadline
    if time.monotonic() >= deadline:
        return 0.0, point
    classes = torch.arange(len(relaxation.network.biases[-1]))
    roots = relaxation.root(classes[classes != relaxation.label], found.upper)
    lower = float("inf")
    roots, _ = relaxation.bounded(roots, FIRST)  # rivals that stay beyond need no programme
    for root in roots[roots.bound < found.upper].each():
        proved, moved = programme(relaxation, root, found.upper, deadline - time.monotonic())
        lower = min(lower, proved * (1 - MARGIN))
        if moved is not None:
            found.look_around(torch.from_numpy(moved))
    return min(lower, found.upper), found.point


def programme(
    relaxation: Relaxation, root: Subdomains, radius: float, seconds: float
) -> tuple[float, np.ndarray | None]:
    """The solver's bound on one rival's distance, inf beyond `radius`; and its best displacement.

    min |z| over the displacement z, each unit's value before (h) and after (v), and whether it is on (d):
    h <= v, slope h <= v, v <= h - (1 - slope) low (1 - d), v <= slope h + (1 - slope) high d.
    """
    if seconds <= 0:
        return 0.0, None
    network, norm, rival = relaxation.network, relaxation.norm, int(root.rival)
    f, units = network.width, network.units
    moves = 2 * f if norm is L1 else f
    width = moves + 3 * units + 1  # z, h, v, d, and the length in Linf
    slope = np.repeat(np.array(network.slopes), network.sizes) if units else np.zeros(0)
    low, high = root.low[0].numpy(), root.high[0].numpy()
    eye_f = np.eye(f)
    unit = np.hstack([eye_f, -eye_f]) if norm is L1 else eye_f
    rows: list[optimize.LinearConstraint] = []

    def add(blocks: dict[int, np.ndarray], least: np.ndarray, most: np.ndarray) -> None:
        whole = np.zeros((len(least), width))
        for start, block in blocks.items():
            whole[:, start : start + block.shape[1]] = block
        rows.append(optimize.LinearConstraint(sparse.csr_array(whole), least, most))

    free = np.inf
    starts = [0, *np.cumsum([0, *network.sizes])]  # of each hidden layer's units

    def value(weights: dict[int, Tensor]) -> dict[int, np.ndarray]:
        """A layer's blocks: of the displacement, of the units' values after."""
        return {
            moves + units + int(starts[j]) if j else 0: w.numpy() if j else w.numpy() @ unit
            for j, w in weights.items()
        }

    for k, (size, bias) in enumerate(zip(network.sizes, network.biases[:-1], strict=True)):
        at = moves + int(starts[k + 1])
        add({**value(network.weights[k]), at: -np.eye(size)}, -bias.numpy(), -bias.numpy())
    lead = {j: w[[rival]] - w[[relaxation.label]] for j, w in network.weights[-1].items()}
    ahead = float(network.biases[-1][rival] - network.biases[-1][relaxation.label])
    add(value(lead), np.array([-ahead]), np.array([free]))
    if units:
        eye, h, v, d = np.eye(units), moves, moves + units, moves + 2 * units
        none, rest = np.zeros(units), 1 - slope
        add({h: -eye, v: eye}, none, none + free)
        add({h: -np.diag(slope), v: eye}, none, none + free)
        add(
            {h: -eye, v: eye, d: -np.diag(rest * np.minimum(low, 0))}, none - free, -rest * np.minimum(low, 0)
        )
        add({h: -np.diag(slope), v: eye, d: -np.diag(rest * np.maximum(high, 0))}, none - free, none)
    room = [None if end is None else end[0].numpy() for end in relaxation.room]
    down = np.full(f, -radius) if room[0] is None else np.maximum(room[0], -radius)
    up = np.full(f, radius) if room[1] is None else np.minimum(room[1], radius)
    cost = np.zeros(width)
    if norm is L1:
        cost[:moves] = 1
        ends = np.r_[np.zeros(moves), low, np.full(units, -free), np.zeros(units), 0]
        tops = np.r_[up, -down, high, np.full(units, free), np.ones(units), 0]
    else:
        cost[-1] = 1
        ends = np.r_[down, low, np.full(units, -free), np.zeros(units), 0]
        tops = np.r_[up, high, np.full(units, free), np.ones(units), radius]
        add({0: np.eye(f), width - 1: -np.ones((f, 1))}, np.full(f, -free), np.zeros(f))
        add({0: -np.eye(f), width - 1: -np.ones((f, 1))}, np.full(f, -free), np.zeros(f))
    whole = np.r_[np.zeros(moves + 2 * units), np.ones(units), 0]
    found = optimize.milp(
        cost, integrality=whole, bounds=optimize.Bounds(ends, tops), constraints=rows,
        options={"time_limit": seconds, "node_limit": NODES, "mip_rel_gap": 1e-7},
    )  # fmt: skip
    if found.status == 2:
        return float("inf"), None
    proved = found.fun if found.status == 0 and found.mip_dual_bound is None else found.mip_dual_bound
    bound = 0.0 if proved is None else max(0.0, float(proved))
    return bound, None if found.x is None else unit @ found.x[:moves]
