"""What a run begins with: a model and a loss, and randomness of their own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from typing import Any

import torch
from torch import nn

from marginkit.activations import evaluating
from marginkit.data.dataset import Bounds, Data, refuse_empty
from marginkit.errors import MarginkitError
from marginkit.losses import LOSSES, Loss
from marginkit.models.architectures import ARCHITECTURES
from marginkit.models.lipschitz import Constrained
from marginkit.options import choose, configure


def refuse_untrainable(data: Data) -> None:
    """Refuses data without two classes."""
    refuse_empty(data)
    present = sorted(set(data.labels.tolist()))
    if len(present) < 2:
        raise MarginkitError(
            f"every label of {data.name} is {present[0]}: training needs at least two classes"
        )


def built(
    data: Data,
    architecture: str,
    architecture_options: Mapping[str, Any] | None,
    loss: str,
    loss_options: Mapping[str, Any] | None,
    bounds: Bounds,
    seed: int,
    device: torch.device,
) -> tuple[nn.Sequential, Loss]:
    """A new model on the device, and the loss, tried on two samples: what it refuses, it refuses now."""
    with seeded(seed, 0, device):
        build = configure(
            choose(ARCHITECTURES, "architecture", architecture), architecture, architecture_options or {}
        )
        model = build(data.shape, data.classes)
        if isinstance(build, Constrained):
            build.constrain(model)
        model = model.to(device)
    objective = configure(choose(LOSSES, "loss", loss), f"loss {loss}", _boxed(loss, bounds, loss_options))
    with seeded(seed, 0, device), evaluating(model):
        objective(model, data.inputs([0, 1]).to(device), torch.from_numpy(data.labels[:2]).to(device))
    return model, objective


def _boxed(loss: str, bounds: Bounds, options: Mapping[str, Any] | None) -> dict[str, Any]:
    """A loss that knows a box takes the data's, unless the options say otherwise."""
    box = dict(zip(("low", "high"), bounds, strict=True))
    known = {f.name for f in fields(choose(LOSSES, "loss", loss))}  # type: ignore[arg-type]
    return {name: end for name, end in box.items() if name in known} | dict(options or {})


@contextmanager
def seeded(seed: int, stream: int, device: torch.device) -> Iterator[None]:
    """Randomness of its own for each epoch: resuming needs no generator's state."""
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.manual_seed(seed * 1_000_003 + stream)
        yield
