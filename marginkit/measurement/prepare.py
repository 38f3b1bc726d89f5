"""The model as a measurement uses it: the one place where it is made ready, and left again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from marginkit.activations import evaluating
from marginkit.guard.answer import original
from marginkit.guard.given import refuse_quantised
from marginkit.measurement.precision import Models, in_precision


@contextmanager
def prepared(model: nn.Module, device: str, dtype: str | None = None) -> Iterator[Models]:
    """The model on the device, in eval mode, in its precisions; its modules' modes come back afterwards.

    Raises:
        UsageError: there is no such precision.
        MarginkitError: the model is quantised.
    """
    model = original(model)
    refuse_quantised(model)
    with evaluating(model):
        yield in_precision(model.to(device), dtype)
