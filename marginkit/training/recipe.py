"""How to train, whatever the loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from marginkit import defaults
from marginkit.data.regimes import Augmentation
from marginkit.errors import MarginkitError

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": lambda parameters, recipe: torch.optim.Adam(
        parameters, recipe.learning_rate, weight_decay=recipe.weight_decay
    ),
    "sgd": lambda parameters, recipe: torch.optim.SGD(
        parameters, recipe.learning_rate, recipe.momentum, weight_decay=recipe.weight_decay
    ),
    "rmsprop": lambda parameters, recipe: torch.optim.RMSprop(
        parameters, recipe.learning_rate, momentum=recipe.momentum, weight_decay=recipe.weight_decay
    ),
}

# The factor on the learning rate when a share t of all steps is done.
SCHEDULES: dict[str, Callable[[float], float]] = {
    "constant": lambda t: 1.0,
    "cosine": lambda t: (1 + math.cos(math.pi * t)) / 2,
    "linear": lambda t: 1 - t,
    "step": lambda t: 0.1 ** math.floor(3 * t),
}


@dataclass(frozen=True)
class Recipe:
    """How to train, whatever the loss.

    Attributes:
        epochs: passes over the training samples.
        batch_size: samples a step.
        optimizer: a name from OPTIMIZERS.
        learning_rate: at the start.
        momentum: for sgd and rmsprop.
        weight_decay: L2, inside the gradient.
        schedule: of the learning rate, a name from SCHEDULES.
        clip: the length at which the gradient of all parameters together is cut; None for never.
        noise: standard deviation of Gaussian noise on training inputs, in raw units: for `smoothing`.
        fraction: of the training split to use, each class's share kept.
        label_noise: share of these samples that get a wrong label, held-out ones among them.
        augment: what to do to each training image, anew in every epoch: `shift`, `flip`, `crop`.
        amp: forward passes in bfloat16 where that is precise enough; weights and losses stay float32.
        ema: decay of the average over the weights' course that is validated and kept; 0 keeps the weights.
        validation: the share of the training split held out to choose the best epoch by; 0 keeps the last.
        seed: of everything random.
    """

    epochs: int = defaults.EPOCHS
    batch_size: int = defaults.BATCH_SIZE
    optimizer: Literal["adam", "sgd", "rmsprop"] = defaults.OPTIMIZER
    learning_rate: float = defaults.LEARNING_RATE
    momentum: float = defaults.MOMENTUM
    weight_decay: float = defaults.WEIGHT_DECAY
    schedule: Literal["constant", "cosine", "linear", "step"] = defaults.SCHEDULE
    clip: float | None = defaults.CLIP
    noise: float = defaults.NOISE
    fraction: float = defaults.FRACTION
    label_noise: float = defaults.LABEL_NOISE
    augment: tuple[Augmentation, ...] = ()
    amp: bool = False
    ema: float = defaults.EMA
    validation: float = defaults.VALIDATION
    seed: int = defaults.SEED

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if self.epochs < 1 or self.batch_size < 2 or self.learning_rate <= 0:
            raise MarginkitError(
                f"epochs {self.epochs}, batch size {self.batch_size}, learning rate {self.learning_rate}:"
                " expected at least 1, at least 2, and more than 0"
            )
        if not 0 <= self.ema < 1:
            raise MarginkitError(f"the decay of averaged weights is {self.ema}; expected 0 <= decay < 1")
        if not 0 <= self.validation < 1:
            raise MarginkitError(f"the validation share is {self.validation}; expected 0 <= share < 1")
        if not (0 < self.fraction <= 1 and 0 <= self.label_noise <= 1):
            raise MarginkitError(
                f"fraction {self.fraction}, label noise {self.label_noise}: expected 0 < fraction <= 1 and"
                " 0 <= noise <= 1"
            )
