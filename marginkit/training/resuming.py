"""What a run needs to go on where it was stopped, to the same numbers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from marginkit.errors import MarginkitError
from marginkit.losses import LOSSES
from marginkit.models import checkpoint as checkpoints
from marginkit.models.checkpoint import Checkpoint
from marginkit.models.one_lipschitz import is_constrained
from marginkit.options import completed
from marginkit.training.averaging import Averaged
from marginkit.training.recipe import Recipe


def progress(model: nn.Module, optimizer: torch.optim.Optimizer, averaged: Averaged | None) -> dict[str, Any]:
    """What a checkpoint keeps besides; its state is another where weights are averaged or constrained."""
    found: dict[str, Any] = {"optimizer": optimizer.state_dict()}
    if averaged or is_constrained(model):
        found["state"] = model.state_dict()
    if averaged:
        found["averaged"] = averaged.progress()
    return found


def restore(
    last: Path,
    start: Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaged: Averaged | None,
) -> list[dict[str, float | int]]:
    """Puts everything back, and gives the history of the epochs done.

    Raises:
        MarginkitError: the run to go on with was another.
    """
    before = checkpoints.load(last)[0]
    for name in (f.name for f in fields(start) if f.name not in ("state", "training", "progress")):
        _same(last, name, getattr(before, name), getattr(start, name))
    _same(last, "loss", before.training["loss"], start.training["loss"])
    kinds = {"loss_options": LOSSES[start.training["loss"]], "recipe": Recipe}
    for name, kind in kinds.items():
        _same(last, name, completed(kind, before.training[name]), start.training[name])
    model.load_state_dict(before.progress.get("state", before.state))
    if averaged:
        averaged.restore(before.progress["averaged"])
    optimizer.load_state_dict(before.progress["optimizer"])
    return list(before.training["history"])


def _same(path: Path, name: str, before: Any, now: Any) -> None:
    if before != now:
        raise MarginkitError(
            f"{path} has {name} {before}, this run {now}: resume with the same, or --overwrite"
        )
