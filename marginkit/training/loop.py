"""One training loop for every loss."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginkit import defaults
from marginkit.activations import evaluating
from marginkit.data.dataset import Bounds, Data, grouped
from marginkit.data.regimes import augmented, limited
from marginkit.distributed import ALONE, Ranks, find_device
from marginkit.errors import MarginkitError
from marginkit.events import EpochDone, OnEvent, tracked, unheard
from marginkit.files.atomic import replacing
from marginkit.guard.answer import answer
from marginkit.logits import right
from marginkit.losses import Loss, Scheduled
from marginkit.methods.first_order import FirstOrder
from marginkit.models import checkpoint as checkpoints
from marginkit.models.architectures import Normalize
from marginkit.models.checkpoint import Checkpoint
from marginkit.models.one_lipschitz import plain_state
from marginkit.norms import L2
from marginkit.training.averaging import Averaged
from marginkit.training.building import built, refuse_untrainable, seeded
from marginkit.training.ddp import Shared, shared_objective
from marginkit.training.recipe import OPTIMIZERS, SCHEDULES, Recipe
from marginkit.training.resuming import progress, restore
from marginkit.types import Threat
from marginkit.versions import versions

Metrics = dict[str, float | int]


def train(
    data: Data,
    out: str | Path,
    *,
    architecture: str = defaults.ARCHITECTURE,
    architecture_options: Mapping[str, Any] | None = None,
    loss: str = defaults.LOSS,
    loss_options: Mapping[str, Any] | None = None,
    recipe: Recipe | None = None,
    bounds: Bounds = defaults.BOUNDS,
    device: torch.device | str = defaults.DEVICE,
    workers: int = defaults.WORKERS,
    resume: bool = False,
    on_event: OnEvent = unheard,
    ranks: Ranks = ALONE,
) -> Checkpoint:
    """Trains a model and returns its best checkpoint.

    Writes, each whole or not at all, after every epoch: `out`, the epoch of highest validation accuracy;
    `<stem>.last.pt`, from which `resume` continues to the same numbers as an uninterrupted run; and
    `<stem>.metrics.jsonl`, one line an epoch: training loss, validation accuracy, and the median first-order
    L2 margin of the first 1,000 validation samples.

    Args:
        data: the training split.
        out: where the best checkpoint goes; `.pt` or `.safetensors`.
        architecture, architecture_options: a name from ARCHITECTURES, and its options.
        loss, loss_options: a name from LOSSES, and its options; `bounds` are its box where it has one.
        recipe: how to train.
        bounds: the box the inputs live in, kept in the checkpoint.
        device: where to train; `auto` is the GPU where there is one.
        workers: processes that load images ahead.
        resume: go on from `<stem>.last.pt` where there is one.
        on_event: hears of the progress and of every epoch's figures.
        ranks: the processes that share each batch; the first one writes.

    Raises:
        MarginkitError: the data has one class, the loss is not finite, or the run to resume was another.
    """
    recipe = recipe or Recipe()
    refuse_untrainable(data)
    data, regime = limited(data, recipe.fraction, recipe.label_noise, recipe.seed)
    device = torch.device(ranks.device(find_device(device)))
    run = _Run(data, Path(out), recipe, device, workers, on_event if ranks.first else unheard, ranks)
    model, objective = built(
        data, architecture, architecture_options, loss, loss_options, bounds, recipe.seed, device
    )
    record = {
        "loss": loss,
        "loss_options": asdict(objective),  # type: ignore[call-overload]
        "recipe": asdict(recipe),
        "versions": versions(),
        "regime": regime,
    }
    start = Checkpoint(
        state={},
        architecture=architecture,
        options=dict(architecture_options or {}),
        shape=data.shape,
        classes=data.classes,
        bounds=bounds,
        dataset=data.about(),
        training=record | {"history": []},
    )
    return run(model, objective, start, resume)


@dataclass(frozen=True)
class _Run:
    """The loop, with what stays the same throughout."""

    data: Data
    out: Path
    recipe: Recipe
    device: torch.device
    workers: int
    on_event: OnEvent
    ranks: Ranks = ALONE

    def __call__(self, model: nn.Sequential, loss: Loss, start: Checkpoint, resume: bool) -> Checkpoint:
        fitting, held_out = self._split()
        optimizer = OPTIMIZERS[self.recipe.optimizer](model.parameters(), self.recipe)
        last = self.out.with_name(self.out.stem + ".last.pt")
        history, best = [], start
        averaged = Averaged(model, self.recipe.ema) if self.recipe.ema else None
        if resume and last.exists():
            history = restore(last, start, model, optimizer, averaged)
            best = checkpoints.load(self.out)[0]
        else:
            normalize = model.get_submodule("normalize")
            assert isinstance(normalize, Normalize)
            normalize.fit(x for _, x, _ in self._batches(fitting, "reading the data"))
            averaged = Averaged(model, self.recipe.ema) if self.recipe.ema else None
        kept = averaged.model if averaged else model
        shared = shared_objective(model, self.ranks)
        epochs = range(len(history), self.recipe.epochs)
        for epoch in tracked(epochs, "training", len(epochs), self.on_event):
            with seeded(self.recipe.seed, 1 + epoch, self.device):
                average = self._epoch(model, shared, loss, optimizer, averaged, fitting, epoch)
            metrics = {"epoch": epoch + 1, "loss": average, **self._validate(kept, held_out)}
            best_before = max((m["accuracy"] for m in history), default=0.0) if held_out else 0.0
            history = [*history, metrics]
            now = replace(start, state=plain_state(kept), training=start.training | {"history": history})
            better = not held_out or metrics["accuracy"] >= best_before
            best = now if better else best
            if self.ranks.first:
                self._write(now, better, progress(model, optimizer, averaged), last)
            self.on_event(EpochDone(metrics))
        self.ranks.wait()
        return best

    def _write(self, now: Checkpoint, better: bool, going_on: dict[str, Any], last: Path) -> None:
        if better:
            checkpoints.save(now, self.out)
        checkpoints.save(replace(now, progress=going_on), last)
        _write_lines(now.training["history"], self.out.with_name(self.out.stem + ".metrics.jsonl"))

    def _epoch(
        self,
        model: nn.Module,
        shared: Shared,
        loss: Loss,
        optimizer: torch.optim.Optimizer,
        averaged: Averaged | None,
        fitting: list[int],
        epoch: int,
    ) -> float:
        recipe = self.recipe
        order = [fitting[i] for i in torch.randperm(len(fitting)).tolist()]
        rest = len(order) % recipe.batch_size
        if rest < min(2 * self.ranks.world, len(order)):
            order = order[: len(order) - rest]  # BatchNorm can't train on a batch of one
        steps = math.ceil(len(order) / recipe.batch_size)
        total = 0.0
        if not self.ranks.first:
            torch.manual_seed(torch.initial_seed() + self.ranks.rank)  # other noise, other dropout
        model.train()
        for step, (_, x, y) in enumerate(
            self._batches(order, f"epoch {epoch + 1}/{recipe.epochs}", split=True)
        ):
            for group in optimizer.param_groups:
                share = (epoch + step / steps) / recipe.epochs
                group["lr"] = recipe.learning_rate * SCHEDULES[recipe.schedule](share)
            optimizer.zero_grad(set_to_none=True)
            x, y = augmented(x.to(self.device), recipe.augment), y.to(self.device)
            if recipe.noise:
                x = x + recipe.noise * torch.randn_like(x)
            now = loss.at((epoch + step / steps) / recipe.epochs) if isinstance(loss, Scheduled) else loss
            with torch.autocast(self.device.type, torch.bfloat16, enabled=recipe.amp):
                value = shared(now, x, y)
            whole = min(recipe.batch_size, len(order) - step * recipe.batch_size)
            scaled = value * (len(y) * self.ranks.world / whole)
            scaled.backward()  # type: ignore[no-untyped-call]  # DDP averages over processes
            if recipe.clip is not None:
                nn.utils.clip_grad_norm_(model.parameters(), recipe.clip)
            optimizer.step()
            if averaged:
                averaged.update(model)
            total += value.item() * len(y)
            if not math.isfinite(total):
                raise MarginkitError(
                    f"the loss became {value.item()} in epoch {epoch + 1}, step {step + 1}: lower the"
                    " learning rate (--learning-rate) or clip the gradient shorter (--clip)"
                )
        return self.ranks.total(total, self.device) / len(order)

    def _validate(self, model: nn.Module, held_out: list[int]) -> Metrics:
        if not held_out:
            return {}
        correct, margins = 0, list[Tensor]()
        with evaluating(model):
            for _, x, y in self._batches(held_out, "validating", split=False):
                x, y = x.to(self.device), y.to(self.device)
                with torch.no_grad():
                    correct += int(right(answer(model, x), y).sum())
                if sum(map(len, margins)) < 1000:
                    margins.append(FirstOrder(layers=("input",))(model, x, y, Threat(L2)).distance[:, 0])
        return {
            "accuracy": correct / len(held_out),
            "median_first_order_l2": torch.cat(margins)[:1000].median().item(),
        }

    def _split(self) -> tuple[list[int], list[int]]:
        generator = torch.Generator().manual_seed(self.recipe.seed)
        order = torch.randperm(len(self.data), generator=generator).tolist()
        count = round(self.recipe.validation * len(order))
        if len(order) - count < 2:
            raise MarginkitError(
                f"{self.data.name} leaves {len(order) - count} samples to train on: give more"
            )
        return sorted(order[count:]), sorted(order[:count])

    def _batches(self, positions: list[int], description: str, split: bool = False) -> Iterator[Any]:
        """Batches of the positions, or this process's share of each: every one once, with no duplicates.

        (`DistributedSampler` fills the last batch up with samples that were there already.)
        """
        size = self.recipe.batch_size
        groups = [positions[i : i + size] for i in range(0, len(positions), size)]
        mine = [group[self.ranks.rank :: self.ranks.world] for group in groups] if split else groups
        found = grouped(self.data, mine, workers=self.workers)
        return tracked(found, description, len(groups), self.on_event)


def _write_lines(history: list[Metrics], path: Path) -> None:
    with replacing(path) as temporary:
        temporary.write_text("".join(json.dumps(metrics) + "\n" for metrics in history))
