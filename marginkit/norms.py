"""The three norms, the geometry that every method shares, and L0, which counts.

Vectors are [n, *d], one per sample, and every function treats the samples independently. A box is a pair
of tensors `low <= 0 <= high` that bound each entry of a *displacement* (entries may be infinite), or
`None, None` for no box. A frozen entry is one whose box is [0, 0].
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor

from marginkit.errors import UsageError
from marginkit.kinds import NORM_NAMES

COUNTS = "l0 and l0_pixels count changes and have no geometry: nearest alone measures in them, from above"
Vectors = Float[Tensor, "n *d"]
Box = Float[Tensor, "n *d"] | None


@dataclass(frozen=True)
class Norm:
    """A p-norm with the operations that searches and bounds are made of.

    Attributes:
        name: one of DISTANCES.
        p: the exponent; 0 counts entries that are not 0, which is no norm: it has a length only.
        length: [n, *d] -> [n]; has a (sub)gradient everywhere, 0 at the origin.
        steepest: g -> the u of length 1 that maximises <g, u>; then <g, u> is the dual length of g.
        project: v, radius [n], box -> the Euclidean-nearest point of {|z| <= radius} within the box.
        reach: a, c [n], box -> the shortest z with <a, z> = c within the box; where the hyperplane misses
            the box, the box's corner that comes nearest to it.
        pixels: whether entries that differ in the first axis only (an image's channels) count once.
    """

    name: str
    p: float
    length: Callable[[Tensor], Tensor]
    steepest: Callable[[Tensor], Tensor]
    project: Callable[..., Tensor]
    reach: Callable[..., Tensor]
    pixels: bool = False

    @property
    def is_norm(self) -> bool:
        """Whether it has a geometry: convex balls, gradients, duals."""
        return self.p >= 1

    @property
    def dual(self) -> Norm:
        """The norm of gradients: 1/p + 1/q = 1."""
        if not self.is_norm:
            _no_geometry()
        return {1.0: LINF, 2.0: L2, torch.inf: L1}[self.p]

    def __repr__(self) -> str:
        return self.name


def along(scale: Float[Tensor, "n"], vectors: Vectors) -> Vectors:
    """Each sample's vector times its own number."""
    return column(scale, vectors) * vectors


def column(values: Shaped[Tensor, "n"], like: Vectors) -> Tensor:
    """One value a sample, shaped to broadcast over that sample's features."""
    return values.view(-1, *[1] * (like.ndim - 1))


def dot(a: Vectors, b: Vectors) -> Float[Tensor, "n"]:
    """Each sample's inner product."""
    return (a * b).flatten(1).sum(1)


# Lengths and directions ----------------------------------------------------------------------------


def _length(p: float) -> Callable[[Tensor], Tensor]:
    def length(v: Vectors) -> Float[Tensor, "n"]:
        found: Tensor = torch.linalg.vector_norm(v.flatten(1), p, dim=1)
        return found

    return length


def _l1_steepest(g: Vectors) -> Vectors:
    flat = g.flatten(1)
    best = flat.abs().argmax(1, keepdim=True)
    return torch.zeros_like(flat).scatter(1, best, flat.gather(1, best).sign()).view_as(g)


def _l2_steepest(g: Vectors) -> Vectors:
    length = L2.length(g)
    return along(torch.where(length > 0, 1 / length, 0), g)


# Projections: {|z| <= radius} within the box ---------------------------------------------------------


def _linf_project(v: Vectors, radius: Float[Tensor, "n"], low: Box = None, high: Box = None) -> Vectors:
    bound = column(radius, v)
    return _clip(v.clamp(-bound, bound), low, high)


def _l2_project(v: Vectors, radius: Float[Tensor, "n"], low: Box = None, high: Box = None) -> Vectors:
    """The optimum has the form clip(s v), and |clip(s v)|^2 = sum min(s^2 v_i^2, room_i^2)."""
    if low is None or high is None:
        length = L2.length(v)
        return along(torch.where(length > radius, radius / length, 1), v)
    square = v.square().flatten(1)
    room = torch.where(v > 0, high, -low).flatten(1)
    level = _fill(square, torch.where(square > 0, room.square(), 0), radius.square())
    return _clip(along(level.sqrt().clamp(max=1), v), low, high)


def _l1_project(v: Vectors, radius: Float[Tensor, "n"], low: Box = None, high: Box = None) -> Vectors:
    """The optimum has the form clip(soft-threshold(v, t)).

    Its length, sum max(|v_i| - t, 0) - sum max(|v_i| - room_i - t, 0), is piecewise linear in t with
    slopes that change at the |v_i| and |v_i| - room_i: sort those and solve on the right piece.
    """
    size = v.abs().flatten(1)
    breaks, step = size, torch.ones_like(size)
    if low is not None and high is not None:
        room = torch.where(v > 0, high, -low).flatten(1)
        breaks = torch.cat([size, (size - room).clamp(min=0)], 1)
        step = torch.cat([step, -step], 1)
    breaks, order = breaks.sort(dim=1, descending=True)
    step = step.gather(1, order)
    slope, total = step.cumsum(1), (step * breaks).cumsum(1)
    reached = total - slope * breaks  # the length where t is each break
    piece = (reached < radius.unsqueeze(1)).sum(1, keepdim=True).sub(1).clamp(min=0)
    excess = total.gather(1, piece) - radius.unsqueeze(1)
    threshold = torch.where(excess > 0, excess / slope.gather(1, piece).clamp(min=1), 0)
    shrunk = (size - threshold).clamp(min=0)
    return _clip(v.sign() * shrunk.view_as(v), low, high)


def _clip(v: Vectors, low: Box, high: Box) -> Vectors:
    return v if low is None or high is None else torch.minimum(torch.maximum(v, low), high)


# The nearest point of a hyperplane within the box ----------------------------------------------------


def _l1_reach(a: Vectors, c: Float[Tensor, "n"], low: Box = None, high: Box = None) -> Vectors:
    """Fill the entries of largest weight first."""
    if low is None or high is None:
        return _unbounded_reach(L1, a, c)
    toward, weight, room, total = _oriented(a, c, low, high)
    weight, order = weight.sort(dim=1, descending=True)
    room = room.gather(1, order)
    gain = torch.where(weight > 0, weight * room, 0)
    before = F.pad(gain.cumsum(1)[:, :-1], (1, 0))
    used = torch.where(weight > 0, (total.unsqueeze(1) - before).clamp(min=0) / weight, 0)
    used = torch.minimum(used, room)
    return toward * torch.zeros_like(used).scatter(1, order, used).view_as(a)


def _l2_reach(a: Vectors, c: Float[Tensor, "n"], low: Box = None, high: Box = None) -> Vectors:
    """z_i = min(t a_i, room_i)."""
    if low is None or high is None:
        return _unbounded_reach(L2, a, c)
    toward, weight, room, total = _oriented(a, c, low, high)
    level = _fill(weight.square(), torch.where(weight > 0, weight * room, 0), total)
    return toward * torch.minimum(level.unsqueeze(1) * weight, room).view_as(a)


def _linf_reach(a: Vectors, c: Float[Tensor, "n"], low: Box = None, high: Box = None) -> Vectors:
    """z_i = min(t, room_i)."""
    if low is None or high is None:
        return _unbounded_reach(LINF, a, c)
    toward, weight, room, total = _oriented(a, c, low, high)
    level = _fill(weight, torch.where(weight > 0, weight * room, 0), total)
    return toward * torch.minimum(level.unsqueeze(1), room).view_as(a)


def _unbounded_reach(norm: Norm, a: Vectors, c: Float[Tensor, "n"]) -> Vectors:
    dual = norm.dual.length(a)
    return along(torch.where(dual > 0, c / dual, 0), norm.steepest(a))


def _oriented(
    a: Vectors, c: Float[Tensor, "n"], low: Tensor, high: Tensor
) -> tuple[Vectors, Float[Tensor, "n f"], Float[Tensor, "n f"], Float[Tensor, "n"]]:
    """The signs that move <a, z> towards c, |a|, the room that way, and |c|; scaled so that max |a| = 1."""
    toward = along(c.sign(), a.sign())
    largest = LINF.length(a).clamp(min=torch.finfo(a.dtype).tiny)
    weight = along(1 / largest, a.abs()).flatten(1)
    return toward, weight, torch.where(toward > 0, high, -low).flatten(1), c.abs() / largest


def _fill(
    slope: Float[Tensor, "n f"], cap: Float[Tensor, "n f"], total: Float[Tensor, "n"]
) -> Float[Tensor, "n"]:
    """The level t with sum_i min(t slope_i, cap_i) = total; the largest number where the caps fall short.

    Newton's method on a concave piecewise-linear function comes from below and meets the root exactly
    after finitely many steps, in practice a few: each step only adds to the entries that are full.
    """
    most = torch.finfo(slope.dtype).max
    full = cap <= 0
    while True:
        missing = total - torch.where(full, cap, 0).sum(1)
        open_slope = torch.where(full, 0, slope).sum(1)
        level = torch.where(open_slope > 0, missing.clamp(min=0) / open_slope, most).clamp(max=most)
        fuller = full | (level.unsqueeze(1) * slope >= cap)
        if torch.equal(full, fuller):
            return level
        full = fuller


L1 = Norm(NORM_NAMES[0], 1.0, _length(1.0), _l1_steepest, _l1_project, _l1_reach)
L2 = Norm(NORM_NAMES[1], 2.0, _length(2.0), _l2_steepest, _l2_project, _l2_reach)
LINF = Norm(NORM_NAMES[2], torch.inf, _length(torch.inf), torch.sign, _linf_project, _linf_reach)

NORMS = {norm.name: norm for norm in (L1, L2, LINF)}


# Counting ------------------------------------------------------------------------------------------


def _count(v: Vectors) -> Float[Tensor, "n"]:
    return (v != 0).flatten(1).sum(1).to(v.dtype)


def _count_pixels(v: Vectors) -> Float[Tensor, "n"]:
    """Of inputs without a second axis every entry is a pixel."""
    return _count(v) if v.ndim < 3 else (v != 0).any(1).flatten(1).sum(1).to(v.dtype)


def _no_geometry(*_: object) -> Tensor:
    raise UsageError(COUNTS)


L0 = Norm("l0", 0.0, _count, _no_geometry, _no_geometry, _no_geometry)
L0_PIXELS = Norm("l0_pixels", 0.0, _count_pixels, _no_geometry, _no_geometry, _no_geometry, pixels=True)
DISTANCES = {**NORMS, L0.name: L0, L0_PIXELS.name: L0_PIXELS}
