"""What does not fit into memory, in smaller pieces."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TypeVar

import torch

from marginkit.events import OnEvent, OutOfMemory, unheard
from marginkit.guard.answer import out_of_memory

T = TypeVar("T")


def halving(compute: Callable[[slice], T], n: int, column: str = "", on_event: OnEvent = unheard) -> list[T]:
    """What `compute` gives for the samples 0..n, asked for in ever smaller pieces while memory runs out.

    Args:
        compute: answers for a slice of the samples.
        n: how many there are.
        column: what is computed, for the event.
        on_event: hears of every halving.

    Raises:
        RuntimeError: even one sample does not fit, or anything else that `compute` raises.
    """

    def piece(start: int, stop: int) -> list[T]:
        try:
            return [compute(slice(start, stop))]
        except RuntimeError as error:
            if stop - start < 2 or not out_of_memory(error):
                raise
        # not within the except block, where the error's traceback still holds the tensors
        on_event(OutOfMemory(column, stop - start))
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        middle = (start + stop) // 2
        return piece(start, middle) + piece(middle, stop)

    return piece(0, n)
