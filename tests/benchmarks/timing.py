"""Interleaved timing: on a noisy machine only ratios taken side by side mean anything."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

from rich.console import Console
from rich.table import Table


def interleaved(tasks: Mapping[str, Callable[[], object]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each task, run in turn, after one run of each that does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for repeat in range(repeats + 1):
        for name, task in tasks.items():
            start = time.perf_counter()
            task()
            if repeat:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def show(title: str, seconds: Mapping[str, list[float]], baseline: str) -> None:
    """Median times, and the median of the ratios to the baseline's run beside each."""
    table = Table("", "ms", "ratio", title=title)
    for name, runs in seconds.items():
        ratio = median(run / base for run, base in zip(runs, seconds[baseline], strict=True))
        table.add_row(name, f"{1000 * median(runs):.1f}", f"{ratio:.2f}")
    Console().print(table)
