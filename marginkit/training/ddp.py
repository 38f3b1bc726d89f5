"""One loss of one batch, computed by several processes."""

from __future__ import annotations

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from marginkit.distributed import Ranks, sharing_a_batch
from marginkit.logits import Labels
from marginkit.losses import Loss
from marginkit.norms import Vectors

Shared = Callable[[Loss, Vectors, Labels], Float[Tensor, ""]]


class LossModule(nn.Module):
    """The loss as a module's output, so that DistributedDataParallel sees one forward and one backward pass.

    A loss that reads hidden layers, or gradients with `torch.autograd.grad`, does so inside, of the plain
    model: layers keep their names, and DDP's hooks, which sit on the parameters' `.grad`, are not met
    before the one `backward()` at the end.
    """

    def __init__(self, model: nn.Module, shared: bool) -> None:
        """Of the model as it is, which stays usable by itself; whether processes share its batches."""
        super().__init__()
        self.model, self.shared = model, shared

    def forward(self, loss: Loss, x: Vectors, y: Labels) -> Float[Tensor, ""]:
        """The loss of a batch."""
        with sharing_a_batch(self.shared):
            return loss(self.model, x, y)


def shared_objective(model: nn.Module, ranks: Ranks) -> Shared:
    """(loss, x, y) -> the loss of this process's share, whose `backward()` averages gradients over all."""
    objective = LossModule(model, ranks.world > 1)
    return objective if ranks.world == 1 else DistributedDataParallel(objective)
