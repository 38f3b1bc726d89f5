"""Planes above rectifiers over a box, in which every entry of the input has a slope of its own.

Let z <= p(u) = <g, u> + b on the cube [-1, 1]^d, U be the largest p, m_i = 2 |g_i| and
t_i = (1 + sign(g_i) u_i) / 2, so that p = U - sum m_i (1 - t_i). Then for all shares s_i in [0, 1]

    relu(z) <= relu(p) <= sum s_i m_i t_i + max(0, U - sum s_i m_i),

since the sum is not below 0, and p less the sum is largest at t = 1. Equal shares U / sum m_i give the chord
of a ReLU; the least of all such planes at a point is the concave envelope of relu(p), and so in a corner of
the cube relu(p) itself. (The hull of a ReLU over its inputs' box: Anderson et al., arXiv 1811.01988; its use
in bounds: Tjandraatmadja et al., arXiv 2006.14076. There the box is that of the layer before.) A rectifier of
slope a below 0, LeakyReLU and |z| among them, is a z + (1 - a) relu(z): the first part is linear.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

TINY = 1e-30


@dataclass(frozen=True, eq=False)
class Envelope:
    """Planes above what goes into one node's k undecided units, over the cube [-1, 1]^d.

    Attributes:
        support: entries outside which a plane's coefficients are zero [k, s].
        slope: coefficients there [k, s].
        most: the largest value of each plane [k].
        useful: whether a unit's planes are worth their time [k].
        first: whether the planes are what goes into the units, because no nonlinear node comes before.
        entries: d.
        negative: the rectifiers' slope below 0, at most 1.
    """

    support: Tensor
    slope: Tensor
    most: Tensor
    useful: Tensor
    first: bool
    entries: int
    negative: float = 0.0

    @staticmethod
    def of(normal: Tensor, level: Tensor, first: bool, negative: float = 0.0) -> Envelope:
        """Of planes <normal, u> + level [k, d], [k]."""
        widest = max(1, int((normal != 0).sum(1).amax()))
        support = normal.abs().topk(widest, dim=1).indices.sort(1).values
        most, useful = level + normal.abs().sum(1), torch.ones_like(level, dtype=torch.bool)
        return Envelope(support, normal.gather(1, support), most, useful, first, normal.shape[1], negative)

    def single(self) -> Envelope:
        """In float32."""
        return replace(self, slope=self.slope.float(), most=self.most.float())

    def __getitem__(self, rows: Tensor) -> Envelope:
        names = (f.name for f in fields(self) if f.name not in ("first", "entries", "negative"))
        return replace(self, **{name: getattr(self, name)[rows] for name in names})

    @property
    def dense(self) -> bool:
        """Whether the planes' support is everything."""
        return self.support.shape[1] == self.entries

    def at(self, points: Tensor) -> Tensor:
        """Entries of points [m, d] on the planes' support [m, k, s]; [m, 1, s] where that is everything."""
        if self.dense:
            return points.unsqueeze(1)
        return points.index_select(1, self.support.flatten()).view(len(points), *self.support.shape)

    def dot(self, slope: Tensor, near: Tensor) -> Tensor:
        """Products of slopes [k, s] or [m, k, s] with points on the support, as `at` has them [m, k]."""
        found: Tensor
        if not self.dense:
            found = torch.linalg.vecdot(slope, near)
        else:
            found = (slope @ near.mT).squeeze(2) if slope.ndim == 3 else near.squeeze(1) @ slope.T
        return found

    def shares(self, toward: Tensor) -> Shares:
        """For planes that are low near points [m, d].

        From equal ones on, those of terms that are large there fall and those of small ones rise; then all
        are scaled until the plane has no constant.
        """
        sign, total = self.slope.sign(), 2 * self.slope.abs().sum(1).clamp(min=TINY)
        most, near = torch.minimum(self.most, total).clamp(min=0), self.at(toward)
        mean = (most + self.dot(self.slope, near)) / total
        terms = torch.addcmul(mean.unsqueeze(2), near, sign, value=-0.5).clamp_(0, 1).mul_(self.slope)
        sums = 2 * terms.abs().sum(2)
        fall = most / sums.clamp(min=TINY)
        rise = ((total - most) / (total - sums).clamp(min=TINY)).clamp(max=1)
        scale = torch.where(sums > most, fall, rise)
        shift = torch.where(sums > most, 0, 1 - rise)
        return Shares(terms, scale, shift, scale * sums + shift * total)


@dataclass(frozen=True, eq=False)
class Shares:
    """Shares `scale` s + `shift` of k planes' terms, with s in [0, 1], for m points.

    Attributes:
        terms: s times the planes' coefficients on their support [m, k, s].
        scale, shift: [m, k].
        sums: of the shares times the lengths of their terms [m, k].
    """

    terms: Tensor
    scale: Tensor
    shift: Tensor
    sums: Tensor


@dataclass(frozen=True, eq=False)
class Blend:
    """How much of each unit's upper line is an envelope's plane, and where those planes are low.

    Attributes:
        weight: of the planes [m, units].
        undecided: units for which planes count [m, units].
        toward: points [m, d].
    """

    weight: Tensor
    undecided: Tensor
    toward: Tensor

    def within(self, place: slice) -> Blend:
        """Of some units."""
        return replace(self, weight=self.weight[:, place], undecided=self.undecided[:, place])


@dataclass(frozen=True, eq=False)
class Hull:
    """An envelope's planes for one node of m parts, those that coefficients below 0 ask for.

    Attributes:
        envelope: of the units asked for.
        rows: these, among the node's units.
        asked: [m, k].
        weight: of the planes, 0 where they aren't asked for [m, k].
        taken: the part of the coefficients that goes to the planes [m, k].
        shares: of these planes.
    """

    envelope: Envelope
    rows: Tensor
    asked: Tensor
    weight: Tensor
    taken: Tensor
    shares: Shares

    @staticmethod
    def of(envelope: Envelope, coefficients: Tensor, blend: Blend) -> Hull:
        """For a node's coefficients [m, k]."""
        asked = blend.undecided & (coefficients < 0) & envelope.useful
        rows = asked.any(0).nonzero().squeeze(1)
        some, weight = envelope[rows], torch.where(asked, blend.weight, 0)
        return Hull(some, rows, asked, weight, weight * coefficients, some.shares(blend.toward))

    @property
    def offsets(self) -> Tensor:
        """Of the planes [m, len(rows)]."""
        sums = self.shares.sums
        return (self.envelope.most - sums).clamp(min=0) + sums / 2

    @property
    def linear(self) -> Tensor | float:
        """The part of what is taken that stays a function of what goes into the units [m, k]."""
        return self.envelope.negative * self.taken if self.envelope.negative else 0.0

    def back(self) -> tuple[Tensor, Tensor]:
        """The rest of what is taken as functions of the cube: normals [m, d] and levels [m]."""
        envelope, shares = self.envelope, self.shares
        taken = (1 - envelope.negative) * self.taken[:, self.rows]
        level, scaled, shifted = (taken * self.offsets).sum(1), taken * shares.scale, taken * shares.shift
        if envelope.dense:
            return (scaled.unsqueeze(1) @ shares.terms).squeeze(1) + shifted @ envelope.slope, level
        terms = (shares.terms * scaled.unsqueeze(2)).addcmul_(envelope.slope, shifted.unsqueeze(2))
        normal, support = terms.new_zeros(len(taken), envelope.entries), envelope.support.view(1, -1)
        return normal.scatter_add_(1, support.expand(len(taken), -1), terms.flatten(1)), level

    def above(self, point: Tensor, entering: Tensor, lines: Tensor) -> Tensor:
        """The planes' values at points [m, d], for units asked for; the lines' for all others [m, k].

        With what goes into the units there [m, k], which a slope below 0 asks for.
        """
        envelope, shares, at = self.envelope, self.shares, self.envelope.at(point)
        values = shares.scale * envelope.dot(shares.terms, at) + shares.shift * envelope.dot(
            envelope.slope, at
        )
        values = values + self.offsets
        if envelope.negative:
            entering = envelope.negative * entering[:, self.rows]
            values = torch.add(entering, values, alpha=1 - envelope.negative)
        return torch.where(self.asked, lines.index_copy(1, self.rows, values), lines)
