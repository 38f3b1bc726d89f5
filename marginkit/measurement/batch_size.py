"""How many samples at a time: a number, or by a short trial the one with which they pass fastest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from marginkit.activations import capture, measuring
from marginkit.distributed import Ranks
from marginkit.errors import UsageError
from marginkit.events import Noted, OnEvent, unheard
from marginkit.guard.answer import out_of_memory
from marginkit.guard.folding import folded
from marginkit.kinds import INPUT
from marginkit.measurement.parts import Parts
from marginkit.measurement.settings import Measurement
from marginkit.norms import Vectors
from marginkit.table.reading import opened_table

AUTO: Literal["auto"] = "auto"
SIZES = (16, 32, 64, 128, 256, 512)
GAIN = 0.95  # of the best time a sample so far: a larger batch, which takes more memory, has to be below
LONGEST = 0.5  # seconds of a pass, behind which no larger batch is tried
TWICE = 2  # the second pass counts: the first sets things up


def checked(size: Any, shard: tuple[int, int]) -> int | None:
    """The number, or None for `auto`.

    Raises:
        UsageError: it is neither, or `auto` for one of several shards.
    """
    if size == AUTO:
        if shard[1] > 1:
            raise UsageError("each shard would choose its own batch size: give a number")
        return None
    if not isinstance(size, int) or isinstance(size, bool) or size < 1:
        raise UsageError(f"batch_size = {size!r}: give at least 1, or {AUTO}")
    return size


def sized(
    measurement: Measurement, model: nn.Module, few: Vectors, ranks: Ranks, on_event: OnEvent = unheard
) -> Measurement:
    """In batches as large as those of the file to go on with, else of the size that a trial finds fastest.

    Args:
        measurement: with any batch size.
        model: as searches see it.
        few: samples [n, *d], which the trial repeats.
        ranks: the first process tries.
        on_event: hears what was taken.
    """
    plan, target = measurement.plan, measurement.target

    def tried() -> tuple[int, str]:
        size = known(target.path) if target and target.resume else None
        if size is not None:
            return size, "as before"
        return _fastest(model, few, plan.count), "the fastest of a short trial"

    size, reason = ranks.agree(tried)
    on_event(Noted(f"samples are measured {size} at a time: {reason}"))
    return replace(measurement, plan=replace(plan, batch_size=size))


def _fastest(model: nn.Module, few: Vectors, samples: int) -> int:
    """For one pass, in the copy that searches run in."""
    with measuring(model, few, torch.zeros(len(few), dtype=torch.long)) as given:
        x = given.x
        copy = folded(given.model, x.shape[1:]) or given.model
        return chosen(lambda n: seconds(copy, x[torch.arange(n, device=x.device) % len(x)]), samples)


def chosen(cost: Callable[[int], float], samples: int) -> int:
    """Of `SIZES` the smallest that none of the larger ones tried beats by more than a twentieth a sample.

    Args:
        cost: seconds for a batch of so many; inf where it does not fit into memory.
        samples: there are no more; a size is tried while the one before has not taken all.
    """
    best, least, last = SIZES[0], torch.inf, 0
    for size in SIZES:
        if last >= samples:
            break
        taken = cost(size)
        if taken / size < GAIN * least:
            best, least = size, taken / size
        if taken > LONGEST:
            break
        last = size
    return best


def seconds(model: nn.Module, x: Vectors) -> float:
    """One pass of the batch, forward and back to the input; inf where it does not fit into memory."""
    taken = torch.inf
    for _ in range(TWICE):
        began = time.perf_counter()
        try:
            scores, activations = capture(model, x, (INPUT,))
            torch.autograd.grad(scores.sum(), activations, materialize_grads=True)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            return torch.inf
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
        taken = time.perf_counter() - began
        if taken > LONGEST:
            break
    return taken


def known(path: Path) -> int | None:
    """The batch size of the parts that lie there, else of the finished file; None where there is neither."""
    parts = Parts(path)
    if parts.numbers() and (begun := parts.manifest()):
        found: int | None = begun["provenance"].get("batch_size")
        return found
    if not path.exists():
        return None
    with opened_table(path) as file:
        return file.provenance.batch_size
