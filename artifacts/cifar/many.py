"""Many small networks trained at once, by `torch.func.vmap` over their weights."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, stack_module_state, vmap

from marginkit.data.regimes import augmented
from marginkit.models import checkpoint as checkpoints
from marginkit.models.architectures import ARCHITECTURES
from marginkit.models.checkpoint import Checkpoint

WIDTHS = (4, 8, 16)
DECAYS = (0.0, 1e-3, 5e-3)
RATES = (0.02, 0.06)
MOMENTUM, BATCH = 0.9, 100


@dataclass(frozen=True)
class Pixels:
    """Images as bytes and their labels, on the device."""

    x: Tensor
    y: Tensor


def train_many(
    width: int, train: Pixels, test: Pixels, epochs: int, out: Path, about: dict[str, Any]
) -> list[dict[str, Any]]:
    """Networks of one width with every weight decay and rate, with flips and shifts and without.

    SGD with momentum and a rate that falls to 0 in a straight line; all see the same batches. Writes a
    checkpoint of each.

    Returns:
        For each its settings, and its accuracies in training and test.
    """
    options = {"channels": (width, 2 * width), "kernel": 3, "hidden": 4 * width, "halve": "stride"}
    settings = list(itertools.product(DECAYS, RATES, (False, True)))
    device, shape = train.x.device, tuple(train.x.shape[1:])
    torch.manual_seed(width)
    nets = [ARCHITECTURES["cnn"](**options)(shape, 10).to(device) for _ in settings]  # type: ignore[call-arg]
    for net in nets:
        net.normalize.fit([train.x.float() / 255])  # type: ignore[operator, union-attr]
    weights, buffers = stack_module_state(nets)
    weights = {name: value.detach() for name, value in weights.items()}
    decay, rate, moved = (torch.tensor(column, device=device) for column in zip(*settings, strict=True))

    def loss(weight: Any, buffer: Any, x: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(nets[0], (weight, buffer), (x,)), y)

    slopes = vmap(grad(loss), in_dims=(0, 0, 0, None))
    speed = {name: torch.zeros_like(value) for name, value in weights.items()}
    steps, step = epochs * (len(train.x) // BATCH), 0
    for _ in range(epochs):
        order = torch.randperm(len(train.x)).to(device)
        for rows in order.split(BATCH)[: len(train.x) // BATCH]:
            x = train.x[rows].float() / 255
            views = torch.where(moved.view(-1, 1, 1, 1, 1), augmented(x, ("shift", "flip")), x)
            found = slopes(weights, buffers, views, train.y[rows])
            share = 1 - step / steps
            for name, value in weights.items():
                size = (-1, *[1] * (value.ndim - 1))
                speed[name].mul_(MOMENTUM).add_(found[name] + decay.view(size) * value)
                value.sub_(rate.view(size) * share * speed[name])
            step += 1
    every = [{key: value[i] for key, value in {**weights, **buffers}.items()} for i in range(len(nets))]
    rows = []
    for i, (state, (d, r, m)) in enumerate(zip(every, settings, strict=True)):
        nets[0].load_state_dict(state)
        name = f"many-{width}-{i:02d}"
        figures = {"train": _accuracy(nets[0], train), "test": _accuracy(nets[0], test)}
        rows.append({"name": name, "width": width, "decay": d, "rate": r, "moved": m, **figures})
        known = Checkpoint({k: v.cpu().clone() for k, v in state.items()}, "cnn", options, shape, 10,
                           dataset=about, training={"epochs": epochs, **rows[-1]})  # fmt: skip
        checkpoints.save(known, out / f"{name}.pt")
    return rows


@torch.no_grad()
def _accuracy(net: torch.nn.Module, data: Pixels) -> float:
    right = [
        net(x.float() / 255).argmax(1) == y
        for x, y in zip(data.x.split(1000), data.y.split(1000), strict=True)
    ]
    return float(torch.cat(right).double().mean())


def pixels(x: np.ndarray, y: np.ndarray, device: str) -> Pixels:
    """From arrays."""
    return Pixels(torch.from_numpy(x).to(device), torch.from_numpy(y).to(device))
