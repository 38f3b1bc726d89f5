"""Randomised smoothing: what a vote over noisy copies of an input proves."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from scipy import stats
from torch import Tensor, nn

from marginkit.activations import measuring
from marginkit.guard.answer import answer
from marginkit.kinds import Kind, Status
from marginkit.logits import Labels, answered
from marginkit.methods.search.verification import bracket, classify
from marginkit.norms import Norm, Vectors
from marginkit.types import Bracket, Threat


@dataclass(frozen=True)
class Smoothing:
    """The radius within which the *smoothed* classifier keeps its answer, with probability 1 - alpha.

    The smoothed classifier answers what the model answers most often under Gaussian noise. n0 votes choose
    the class, n further ones bound its share p from below by Clopper and Pearson at level alpha; the L2
    radius is sigma Phi^-1(p) where p > 1/2, and the classifier abstains elsewhere (distance 0, status
    ABSTAINED). In L1 the same radius holds, in Linf radius / sqrt(entries). Cohen et al., arXiv 1902.02918.

    This is another classifier than the model, and a statement with a probability: its column never enters a
    bracket. Noise leaves the box. Each sample's noise is drawn from `seed` and the sample's own bytes, so
    that its radius does not depend on the batch.

    Attributes:
        sigma: standard deviation of the noise, in raw input units.
        n0, n: votes that choose, and votes that count.
        alpha: the probability that a radius is too large.
        at_once: noisy copies in one forward pass.
        seed: of the noise.
    """

    sigma: float = 0.25
    n0: int = 100
    n: int = 1000
    alpha: float = 0.001
    at_once: int = 500
    seed: int = 0
    kind: ClassVar[Kind] = Kind.SMOOTHED

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """Brackets [radius, inf] of the smoothed classifier; [0, 0] where it answers another class."""
        if not threat.norm.is_norm:
            return replace(bracket(model, x, y, threat, lambda _, part, *__: part), witness=None)
        with measuring(model, x, y) as given, torch.no_grad():
            model, x, y = given.model, given.x, given.y
            threat.require_fit(x)
            if not len(x):
                return Bracket.empty(x)
            nonfinite = classify(answer(model, x), y) == Status.NONFINITE
            found = [self._sample(model, one) for one in x]
        chosen = torch.tensor([top for top, _ in found], dtype=torch.long, device=x.device)
        radius = torch.tensor([length for _, length in found], dtype=torch.float64, device=x.device)
        status = torch.full_like(y, int(Status.OK))
        status[chosen != y] = int(Status.MISCLASSIFIED)
        status[radius == 0] = int(Status.ABSTAINED)
        status[nonfinite] = int(Status.NONFINITE)
        wrong = status == Status.MISCLASSIFIED
        scale = _share_of_l2(threat.norm, max(1, math.prod(x.shape[1:])))
        return Bracket(
            lower=torch.where(status == Status.OK, radius * scale, 0.0),
            upper=torch.where(wrong, 0.0, torch.inf).double(),
            status=status,
            rival=torch.where(wrong, chosen, -1),
            note=given.note,
        )

    def _sample(self, model: nn.Module, x: Float[Tensor, "*d"]) -> tuple[int, float]:
        """The class and the L2 radius; 0 where it abstains."""
        content = x.detach().cpu().double().numpy().tobytes()
        digest = hashlib.sha256(content + str(self.seed).encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
        top = int(self._votes(model, x, self.n0, generator).argmax())
        count = int(self._votes(model, x, self.n, generator)[top])
        return top, self.sigma * quantile(count, self.n, self.alpha)

    def _votes(
        self, model: nn.Module, x: Float[Tensor, "*d"], n: int, generator: torch.Generator
    ) -> Int[Tensor, "classes"]:
        """How often each class wins; non-finite scores win nothing."""
        votes = torch.zeros((), dtype=torch.long, device=x.device)
        for done in range(0, n, self.at_once):
            size = (min(self.at_once, n - done), *x.shape)
            scores = answer(model, x + self.sigma * torch.randn(size, generator=generator).to(x))
            won = scores.argmax(1)[answered(scores)]
            votes = votes + torch.bincount(won, minlength=scores.shape[1])
        return votes


def quantile(count: int, n: int, alpha: float) -> float:
    """Phi^-1 of the lower Clopper-Pearson bound of count / n at level alpha; 0 for a bound below 1/2."""
    share = stats.beta.ppf(alpha, count, n - count + 1) if count else 0.0
    return max(0.0, float(stats.norm.ppf(share)))


def _share_of_l2(norm: Norm, entries: int) -> float:
    """The radius of the norm's largest ball within the L2 ball of radius 1."""
    return float(entries**-0.5) if norm.p == torch.inf else 1.0
