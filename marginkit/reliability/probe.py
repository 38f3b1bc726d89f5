"""What the checks look at: a few samples, and what the searches found on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from marginkit.logits import Labels
from marginkit.methods.nearest import Nearest
from marginkit.methods.torchattacks import TorchAttack
from marginkit.norms import Vectors
from marginkit.table.brackets import LIMIT
from marginkit.types import Bracket, Method, Threat


@dataclass(frozen=True)
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
        again: by column, what the search with its effort doubled answers.
        seed: of everything random.
        absent: the share of the data set's classes of which nothing was measured; NaN where it is not known.
    """

    model: nn.Module
    x: Vectors
    y: Labels
    threats: Mapping[str, Threat]
    searches: Mapping[str, Method]
    found: Mapping[str, Float[Tensor, "n"]]
    claimed: Mapping[str, Float[Tensor, "n"]]
    before: Mapping[str, Float[Tensor, "n"]]
    again: Mapping[str, Bracket]
    seed: int = 0
    absent: float = torch.nan

    @property
    def threat(self) -> Threat:
        """The first norm's: for checks of the model rather than of its distances."""
        return next(iter(self.threats.values()))


def doubled(method: Method) -> Method | None:
    """The same search with twice the steps (`nearest`: and two more starts); None where it has no steps."""
    if isinstance(method, TorchAttack):
        given = dict(method.arguments)
        if not isinstance(given.get("steps"), int):
            return None
        return replace(method, arguments=tuple(sorted({**given, "steps": 2 * given["steps"]}.items())))
    if isinstance(method, Nearest):
        stages = tuple((2 * steps, keep, within) for steps, keep, within in method.stages)
        return replace(method, stages=stages, starts=(*method.starts, "noise:8", "noise:9"))
    steps = getattr(method, "steps", None)
    return replace(method, steps=2 * steps) if isinstance(steps, int) else None  # type: ignore[type-var]


def unlimited(searches: Mapping[str, Method]) -> Method:
    """A search for the nearest adversarial input: the table's first one, or `nearest`."""
    own = (m for m in searches.values() if not isinstance(m, TorchAttack) and not hasattr(m, LIMIT))
    return next(own, Nearest(effort="fast"))


def share(which: Tensor) -> float:
    """How many are true; NaN of none."""
    return float(which.double().mean()) if len(which) else torch.nan
