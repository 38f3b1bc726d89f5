"""What the checks look at: a few samples, what the table says of them, and what several checks share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from marginkit.guard.answer import answer
from marginkit.guard.passes import Meter
from marginkit.logits import Labels, Scores
from marginkit.methods.nearest import Nearest
from marginkit.methods.search.linearisation import linearise
from marginkit.methods.torchattacks import TorchAttack
from marginkit.norms import Vectors
from marginkit.table.brackets import LIMIT
from marginkit.types import Bracket, Method, Threat

FEW = 16  # samples for checks that search, of as many as are checked by default


@dataclass
class Probe:
    """A model in eval mode and correctly classified samples of it.

    Attributes:
        model: gives logits.
        x, y: samples and labels; there is at least one.
        threats: one a norm that was searched in (where none was, one a norm measured), by the norm's name.
        searches: the table's methods that look for adversarial inputs.
        found: by norm, each sample's smallest distance in the table, inf where none was found.
        claimed: by norm, the radius inside which the searches say that nothing is; inf where they found
            nothing and have no limit, 0 where nobody says.
        before: by column, each sample's distance in the table.
        estimated: by norm, what the table predicts at the input, where it does.
        kept: by column, the table's adversarial inputs, where it keeps them; NaN rows where none was found.
        meter: counts what the check under way spends.
        seed: of everything random.
        absent: the share of the data set's classes of which nothing was measured; NaN where it is not known.
        again: by column, what the search answers with more effort, and for which samples: `not_converged`'s.
    """

    model: nn.Module
    x: Vectors
    y: Labels
    threats: Mapping[str, Threat]
    searches: Mapping[str, Method]
    found: Mapping[str, Float[Tensor, "n"]]
    claimed: Mapping[str, Float[Tensor, "n"]]
    before: Mapping[str, Float[Tensor, "n"]]
    estimated: Mapping[str, Float[Tensor, "n"]]
    kept: Mapping[str, Vectors]
    meter: Meter
    seed: int = 0
    absent: float = torch.nan
    again: dict[str, list[tuple[Tensor, Bracket]]] = field(default_factory=dict)

    @property
    def threat(self) -> Threat:
        """The first norm's: for checks of the model rather than of its distances."""
        return next(iter(self.threats.values()))

    @cached_property
    def scores(self) -> Scores:
        """Of the samples."""
        with torch.no_grad():
            return answer(self.model, self.x)

    @cached_property
    def slope(self) -> tuple[Int[Tensor, "n 1"], Vectors]:
        """The runner-up at each sample, and the gradient of the logit margin over it."""
        rival, _, gradient = linearise(self.model, self.x, self.y, 1)
        return rival, gradient.squeeze(1)

    @property
    def few(self) -> Int[Tensor, "k"]:
        """Rows for checks that search, evenly spread: half of them where there are more than `FEW`."""
        n = len(self.x)
        count = min(n, max(FEW, n // 2))
        return torch.linspace(0, n - 1, count, device=self.x.device).round().long()


def unlimited(searches: Mapping[str, Method]) -> Method:
    """A search for the nearest adversarial input: the table's first one, or `nearest`."""
    own = (m for m in searches.values() if not isinstance(m, TorchAttack | Nearest) and not hasattr(m, LIMIT))
    return next(own, Nearest(effort="fast"))


def share(which: Tensor) -> float:
    """How many are true; NaN of none."""
    return float(which.double().mean()) if len(which) else torch.nan
