"""What is asked of a source of models, and what it gives."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from marginkit.errors import MarginkitError
from marginkit.options import parse

NOT_CACHED = "; add --download to fetch what is missing"


@dataclass(frozen=True)
class Request:
    """What is asked of a source.

    Attributes:
        name: what follows the colon; the whole spec of a factory.
        options: may be text.
        classes: of the data set; for models that are built for their own weights.
        weights: the user's file of weights, which the caller loads; None for the library's own.
        app_dir, trust, download: as in `Loading`.
        look: gives a few of the data's inputs, for what has to be tried on them.
    """

    name: str
    options: dict[str, Any]
    classes: int
    weights: Path | None = None
    app_dir: Path | None = None
    trust: bool = False
    download: bool = False
    look: Callable[[], Tensor] = field(default=lambda: torch.empty(0), compare=False)

    @property
    def parsed(self) -> dict[str, Any]:
        """The options as values."""
        return {name: parse(value) for name, value in self.options.items()}

    def built(self, name: str) -> dict[str, Any]:
        """The options of a library's model; the number of classes, its `name` there, may be called `classes`.

        By default it is the data's, for the user's own weights.
        """
        options = self.parsed
        if "classes" in options:
            options[name] = options.pop("classes")
        return options if self.weights is None else {name: self.classes, **options}


@dataclass(frozen=True)
class Found:
    """A model, and how its source normalises inputs, where it says so.

    Attributes:
        model: gives logits for (normalised) inputs.
        mean, std: a number a channel, for inputs in [0, 1].
        remarks: for the user.
    """

    model: nn.Module
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    remarks: tuple[str, ...] = ()


@contextmanager
def failing(what: str, hint: str = "") -> Iterator[None]:
    """Whatever other people's code raises becomes one sentence."""
    try:
        yield
    except MarginkitError:
        raise
    except Exception as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise MarginkitError(f"{what} can't be made: {type(error).__name__}: {reason[:300]}{hint}") from error
