"""What a model can be trained to lower; one file each."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor, nn

from marginkit.logits import Labels
from marginkit.losses.adversarial import Adversarial
from marginkit.losses.certified import Certified
from marginkit.losses.certified_margin import CertifiedMargin
from marginkit.losses.cross_entropy import CrossEntropy
from marginkit.losses.gradient_penalty import GradientPenalty
from marginkit.losses.hinge import Hinge
from marginkit.losses.large_margin import LargeMargin
from marginkit.losses.lipschitz_margin import LipschitzMargin
from marginkit.losses.mma import MaxMargin
from marginkit.losses.trades import Trades
from marginkit.norms import Vectors


@runtime_checkable
class Loss(Protocol):
    """A frozen dataclass of options, called on a model and a batch."""

    def __call__(self, model: nn.Module, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch, ready for `backward()`."""
        ...


@runtime_checkable
class Scheduled(Protocol):
    """A loss that changes in the course of training."""

    def at(self, share: float) -> Loss:
        """The loss when this share of all steps is done."""
        ...


LOSSES: dict[str, type[Loss]] = {
    "cross-entropy": CrossEntropy,
    "hinge": Hinge,
    "large-margin": LargeMargin,
    "adversarial": Adversarial,
    "trades": Trades,
    "mma": MaxMargin,
    "gradient-penalty": GradientPenalty,
    "certified": Certified,
    "lipschitz-margin": LipschitzMargin,
    "certified-margin": CertifiedMargin,
}
