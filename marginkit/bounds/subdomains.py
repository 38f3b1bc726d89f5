"""Parts of a network's domain, in which some of its units are known."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Subdomains:
    """Parts of the domain, a row each: one rival, some units known to be on or off.

    Attributes:
        rival: the class to cross to [n].
        low, high: what goes into each hidden unit [n, units]; holds in the part, within the search's ball.
        split: 1 on, -1 off, 0 not split [n, units].
        alpha: slopes of the lower lines of units that are undecided [n, units].
        beta: multipliers of the splits [n, units].
        weight: of envelopes' planes in the upper lines [n, units].
        toward: where these planes are low, a point of the cube [-1, 1]^d [n, d].
        bound: no adversarial input of the part is nearer [n].
        pick: the unit to split next, -1 where all are decided [n].
    """

    rival: Tensor
    low: Tensor
    high: Tensor
    split: Tensor
    alpha: Tensor
    beta: Tensor
    weight: Tensor
    toward: Tensor
    bound: Tensor
    pick: Tensor

    def __len__(self) -> int:
        return len(self.rival)

    def __getitem__(self, rows: Tensor | slice) -> Subdomains:
        return Subdomains(*(getattr(self, field.name)[rows] for field in fields(self)))

    def each(self) -> Iterator[Subdomains]:
        """One at a time."""
        return (self[i : i + 1] for i in range(len(self)))

    @staticmethod
    def join(parts: Sequence[Subdomains]) -> Subdomains:
        """One after the other."""
        return Subdomains(*(torch.cat([getattr(part, f.name) for part in parts]) for f in fields(Subdomains)))

    def double(self) -> Subdomains:
        """In float64, but for the bounds."""
        names = ("low", "high", "split", "alpha", "beta", "weight", "toward")
        return replace(self, **{name: getattr(self, name).double() for name in names})

    @property
    def undecided(self) -> Tensor:
        """Units that may be on or off."""
        return (self.low < 0) & (self.high > 0)

    def halves(self) -> Subdomains:
        """Both halves of each at its `pick`: first all with the unit on, then all with it off."""
        column = self.pick.unsqueeze(1)
        on = replace(self, low=self.low.scatter(1, column, 0.0), split=self.split.scatter(1, column, 1.0))
        off = replace(self, high=self.high.scatter(1, column, 0.0), split=self.split.scatter(1, column, -1.0))
        return Subdomains.join([on, off])
