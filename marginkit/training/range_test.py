"""Which learning rate to train with: rates that grow until the loss does."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from marginkit import defaults
from marginkit.data.dataset import Bounds, Data, batches
from marginkit.data.regimes import augmented, limited
from marginkit.distributed import find_device
from marginkit.events import OnEvent, tracked, unheard
from marginkit.models.architectures import Normalize
from marginkit.training.building import built, refuse_untrainable, seeded
from marginkit.training.recipe import OPTIMIZERS, Recipe

LEAST, MOST = 1e-5, 1.0
SMOOTHING = 0.9  # of the losses, step by step
BROKEN = 3.0  # times the fall of the loss, by which it is above its start
SAFE = 0.1  # of the rate at which the loss is least


@dataclass(frozen=True)
class Range:
    """What a range test found.

    Attributes:
        rates: of the steps, growing.
        losses: after each, smoothed.
        suggested: a tenth of the rate with the smallest loss.
    """

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggested: float


def range_test(
    data: Data,
    *,
    architecture: str = defaults.ARCHITECTURE,
    architecture_options: Mapping[str, Any] | None = None,
    loss: str = defaults.LOSS,
    loss_options: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    bounds: Bounds = defaults.BOUNDS,
    device: torch.device | str = defaults.DEVICE,
    steps: int = 100,
    on_event: OnEvent = unheard,
) -> Range:
    """Trains for some steps with a rate that grows from 1e-5 to 1 by the same factor each (arXiv 1506.01186).

    Stops early where the loss is no number or far above its start. The suggestion is for a schedule that
    falls from it, as cosine; nothing is written.

    Args:
        data: the training split.
        architecture, architecture_options, loss, loss_options, recipe, bounds, device: as in `train`.
        steps: of training.
        on_event: hears of the progress.

    Raises:
        MarginkitError: as `train`.
    """
    recipe = recipe or Recipe()
    refuse_untrainable(data)
    data, _ = limited(data, recipe.fraction, recipe.label_noise, recipe.seed)
    place = torch.device(find_device(device))
    model, objective = built(
        data, architecture, architecture_options, loss, loss_options, bounds, recipe.seed, place
    )
    normalize = model.get_submodule("normalize")
    assert isinstance(normalize, Normalize)
    normalize.fit(x for _, x, _ in batches(data, recipe.batch_size))
    optimizer = OPTIMIZERS[recipe.optimizer](model.parameters(), recipe)
    rates, losses, average = list[float](), list[float](), 0.0
    with seeded(recipe.seed, 1, place):
        passes = math.ceil(steps * recipe.batch_size / len(data))
        order = [i for _ in range(passes) for i in torch.randperm(len(data)).tolist()]
        order = order[: steps * recipe.batch_size]
        found = batches(data, recipe.batch_size, positions=order)
        for step, (_, x, y) in enumerate(tracked(found, "learning rates", steps, on_event)):
            rate = LEAST * (MOST / LEAST) ** (step / max(1, steps - 1))
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            value = objective(model.train(), augmented(x.to(place), recipe.augment), y.to(place))
            if not math.isfinite(value.item()):
                break
            value.backward()  # type: ignore[no-untyped-call]
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            average = SMOOTHING * average + (1 - SMOOTHING) * value.item()
            rates.append(rate)
            losses.append(average / (1 - SMOOTHING ** (step + 1)))
            if losses[-1] > losses[0] + BROKEN * (losses[0] - min(losses)) > losses[0]:
                break
    least = min(range(len(losses)), key=losses.__getitem__)
    return Range(tuple(rates), tuple(losses), SAFE * rates[least])
