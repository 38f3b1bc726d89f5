"""Attacks of torchattacks under our verification, so that like is compared with like."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from marginkit.errors import MethodError, UsageError
from marginkit.guard.answer import answer
from marginkit.kinds import Kind
from marginkit.logits import Labels
from marginkit.methods.search.verification import bracket
from marginkit.norms import Vectors
from marginkit.types import Bracket, Threat

PREFIX = "torchattacks:"


@dataclass(frozen=True)
class TorchAttack:
    """An attack of the torchattacks library, `torchattacks:CW` and so on; what it returns is verified.

    Its own idea of the norm stands in its `arguments`; distances are measured in ours. A sample whose
    answer is not misclassified by more than rounding, or not inside the box, is EXHAUSTED, not a distance.
    Attacks at a radius (`eps`) bound from above like any other. The library works on [0, 1]: another box
    is mapped onto it, and lengths among the arguments count in shares of the box.

    Attributes:
        attack: the class's name.
        arguments: its keyword arguments.
        seed: of torch's global generator while it runs; the generator's state is put back.
    """

    attack: str
    arguments: tuple[tuple[str, Any], ...] = ()
    seed: int = 0
    kind: ClassVar[Kind] = Kind.UPPER

    def __post_init__(self) -> None:
        """Refuses attacks and arguments that the library does not have."""
        known = inspect.signature(_library(self.attack).__init__).parameters
        for name, _ in self.arguments:
            if name not in known or name in ("self", "model"):
                options = ", ".join(n for n in known if n not in ("self", "model"))
                raise UsageError(f"{PREFIX}{self.attack} has no option {name!r}; it has {options}")

    def __call__(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Bracket:
        """The verified bracket [0, found]."""
        return bracket(model, x, y, threat, self._search)

    def _search(self, model: nn.Module, x: Vectors, y: Labels, threat: Threat) -> Vectors:
        low, width = _box(threat)
        library = _library(self.attack)
        arguments = dict(self.arguments)
        if "seed" in inspect.signature(library.__init__).parameters:
            arguments.setdefault("seed", self.seed)  # by default the library takes the time of day
        attack = library(_Scaled(model, low, width), **arguments)
        attack.set_model_training_mode(False, False, False)
        with _frozen(model), torch.random.fork_rng(), torch.enable_grad():
            torch.manual_seed(self.seed)
            try:
                found: Tensor = attack(((x - low) / width).clamp(0, 1), y)
            except torch.OutOfMemoryError:
                raise  # a smaller batch may do
            except (RuntimeError, ValueError, IndexError, TypeError) as error:
                reason = str(error).splitlines()[0] if str(error) else type(error).__name__
                raise MethodError(f"{PREFIX}{self.attack} fails on this model: {reason}") from error
        return low + width * found.to(x)


class _Scaled(nn.Module):
    """The model for inputs in [0, 1]."""

    def __init__(self, model: nn.Module, low: float, width: float) -> None:
        super().__init__()
        self.model, self.low, self.width = model, low, width
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = answer(self.model, self.low + self.width * x)
        return scores


def _library(attack: str) -> Any:
    import torchattacks  # late: it is slow, and needed by few

    names = [name for name in torchattacks.__all__ if inspect.isclass(getattr(torchattacks, name, None))]
    if attack not in names:
        raise UsageError(f"torchattacks has no attack {attack!r}; choose from {', '.join(sorted(names))}")
    return getattr(torchattacks, attack)


def _box(threat: Threat) -> tuple[float, float]:
    if (
        threat.mask is not None
        or not isinstance(threat.low, float | int)
        or not isinstance(threat.high, float | int)
    ):
        raise UsageError(
            "torchattacks needs a box of two numbers and no mask (--bounds LOW,HIGH): it clips to one box"
        )
    return float(threat.low), float(threat.high) - float(threat.low)


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Parameters take no gradients, or the library's backward passes would write them."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
