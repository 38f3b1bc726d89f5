"""A measurement whose table is only returned."""

from __future__ import annotations

import platform

from marginkit.events import Begun
from marginkit.measurement.batch import BatchRunner
from marginkit.measurement.loader import Loader
from marginkit.measurement.plan import Plan
from marginkit.table.table import MarginTable
from marginkit.versions import versions


def run_in_memory(plan: Plan, runner: BatchRunner, loader: Loader) -> MarginTable:
    """All batches, one after the other."""
    samples = {request.name: len(plan.positions) for request in runner.requests}
    runner.on_event(Begun(samples, len(plan.groups), 0, platform.node(), versions()))
    return MarginTable.join([runner(batch) for batch in loader(plan.groups.values())])
