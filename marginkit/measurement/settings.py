"""The options of a measurement: what is asked, where it runs, what is kept, and in which file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from marginkit import defaults
from marginkit.distributed import Ranks
from marginkit.measurement.plan import Plan
from marginkit.methods.asked import Asked
from marginkit.norms import Vectors


@dataclass(frozen=True)
class Execution:
    """Where and how a measurement runs.

    Attributes:
        device: where to compute.
        dtype: float32, float64 or bfloat16; None for the model's own.
        workers: processes that load ahead.
        time_limits: seconds by method's name.
    """

    device: str = "cpu"
    dtype: str | None = None
    workers: int = defaults.WORKERS
    time_limits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Kept:
    """What is kept of a measurement.

    Attributes:
        meta: provenance for the table.
        witnesses: whether adversarial inputs, and the inputs they come from, are.
        checks: on how many samples to check whether it can be believed.
        light: whether the table is returned without inputs and witnesses.
    """

    meta: Mapping[str, Any]
    witnesses: bool = False
    checks: int = 0
    light: bool = False


@dataclass(frozen=True)
class Target:
    """The file to measure into.

    Attributes:
        path: of the file.
        resume: go on with unfinished parts, or add to a finished file what it lacks.
        overwrite: replace what is there.
    """

    path: Path
    resume: bool = False
    overwrite: bool = False


@dataclass(frozen=True)
class Measurement:
    """A whole measurement, before it is run: what is asked of which samples, where, and what is kept of it.

    Attributes:
        asked, plan, execution, kept: see there.
        target: the file; None for a table in memory.
    """

    asked: Asked
    plan: Plan
    execution: Execution
    kept: Kept
    target: Target | None = None

    def here(self, ranks: Ranks) -> Measurement:
        """On this process's own device."""
        return replace(self, execution=replace(self.execution, device=ranks.device(self.execution.device)))

    def resolved(self, model: nn.Module, x: Vectors) -> Measurement:
        """With the model's own names of the layers that it is measured at."""
        return replace(self, asked=self.asked.resolved(model, x))
