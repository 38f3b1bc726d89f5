"""How many samples pass through a model; a word to the listener while they do."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from marginkit.events import OnEvent, Working, unheard

FORWARD, BACKWARD = 0.37, 0.63  # of one pass forward and back, as on convolutional networks
EVERY = 1.0  # seconds between two words


class Meter:
    """Counts sample-passes: one sample once forward and back to the input is one.

    Attributes:
        task: what the passes are for.
        limit: how many it may take, if there is a limit; whoever works asks `has`.
        spent, total: passes so far, of this task and of all.
    """

    def __init__(self, on_event: OnEvent = unheard) -> None:
        """With nothing spent."""
        self.task = ""
        self.limit: float | None = None
        self.spent = self.total = 0.0
        self.on_event, self._told = on_event, time.monotonic()

    def begin(self, task: str, limit: float | None = None) -> None:
        """Counts anew, for another task."""
        self.task, self.limit, self.spent = task, limit, 0.0

    def has(self, passes: float) -> bool:
        """Whether so many more are within the limit."""
        return self.limit is None or self.spent + passes < self.limit

    def fitting(self, times: int, passes: float) -> int:
        """How often so many more are within the limit: at most `times`, and once in any case."""
        return times if self.limit is None else max(1, min(times, int((self.limit - self.spent) / passes)))

    @contextmanager
    def counting(self, *models: nn.Module) -> Iterator[None]:
        """Counts what passes through the models, and their copies; scripted models can't be seen."""

        def back(gradient: Tensor) -> None:
            self._add(BACKWARD * len(gradient))

        def forward(_: nn.Module, inputs: tuple[Any, ...]) -> None:
            if inputs and isinstance(inputs[0], Tensor):
                self._add(FORWARD * len(inputs[0]))
                if inputs[0].requires_grad:
                    inputs[0].register_hook(back)  # type: ignore[no-untyped-call]

        with ExitStack() as hooks:
            for model in {id(model): model for model in models}.values():
                if not isinstance(model, torch.jit.ScriptModule):
                    hooks.callback(model.register_forward_pre_hook(forward).remove)
            yield

    def _add(self, passes: float) -> None:
        self.spent += passes
        self.total += passes
        if time.monotonic() - self._told >= EVERY:
            self._told = time.monotonic()
            limit = None if self.limit is None else round(self.limit)
            self.on_event(Working(self.task, round(self.spent), limit))
