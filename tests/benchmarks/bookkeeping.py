"""What keeping parts and files costs in a `deepfool` run, and whether memory grows with the samples.

    python tests/benchmarks/bookkeeping.py --data-root data --limits 1000 10000
    python tests/benchmarks/bookkeeping.py --data-root data --limits 1000 50000 --witnesses --cheap
    python tests/benchmarks/bookkeeping.py --reading 20000

Trains a small network on MNIST, measures training samples, and times within the run the keeping of parts, the
log, and the putting together of the file. Each limit is a process of its own, whose peak memory is told.
`--cheap` takes `fgsm`, for the memory of many samples. `--reading N` needs no data: it makes up a file of N
samples with witnesses and tells what a batch of its rows costs, the file opened for each or once.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from marginkit.data.dataset import Source
from marginkit.data.sources import load
from marginkit.kinds import Kind
from marginkit.measurement.assembly import Assembly
from marginkit.measurement.event_log import EventLog
from marginkit.measurement.measure import measure
from marginkit.measurement.parts import Parts
from marginkit.methods.configure import configure_methods
from marginkit.table.reading import opened_table, read
from marginkit.table.table import Column, MarginTable
from marginkit.table.writing import write
from marginkit.training.loop import train
from marginkit.training.recipe import Recipe

TOOK = {"parts": 0.0, "log": 0.0, "file": 0.0}


def timed(cls: Any, name: str, label: str) -> None:
    """Adds up the seconds spent in a method."""
    plain = getattr(cls, name)

    def call(*arguments: Any, **options: Any) -> Any:
        began = time.perf_counter()
        try:
            return plain(*arguments, **options)
        finally:
            TOOK[label] += time.perf_counter() - began

    setattr(cls, name, call)


def once(limit: int, options: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    data = load("mnist", Source(split="train", root=options.data_root))
    few = replace(data, labels=data.labels[:4000])
    timed(Parts, "save", "parts")
    timed(EventLog, "__call__", "log")
    timed(Assembly, "table", "file")
    timed(Assembly, "write", "file")
    methods = (
        configure_methods(["fgsm"], {"fgsm": {"eps": 0.1}})
        if options.cheap
        else configure_methods(["deepfool"])
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "a.h5"
        recipe = Recipe(epochs=1, validation=0)
        at = Path(folder) / "model.pt"
        model = train(few, at, loss="cross-entropy", recipe=recipe, device="cpu").model()
        began = time.perf_counter()
        settings = {"first": limit, "out": out, "witnesses": options.witnesses, "light": True, "checks": 0}
        measure(model, data, methods, ["l2"], device="cpu", **settings)
        whole = time.perf_counter() - began
        size = out.stat().st_size / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    shares = ", ".join(f"{name} {seconds / whole:.2%}" for name, seconds in TOOK.items())
    print(
        f"{limit} samples: {whole:.1f} s, of which {sum(TOOK.values()) / whole:.2%} ({shares});"
        f" file {size:.1f} MiB; peak {peak:.0f} MiB, {before:.0f} before measuring",
        flush=True,
    )


def reading(samples: int, batch: int = 128, batches: int = 40) -> None:
    generator = np.random.default_rng(0)
    inputs = generator.random((samples, 1, 28, 28), np.float32)
    distance, label = generator.random(samples) + 0.1, np.zeros(samples, int)
    about = ("nearest", "l2", "input", Kind.UPPER, {})
    column = Column(*about, distance, np.zeros(samples, int), label, inputs[::-1])
    margins = np.ones(samples)
    table = MarginTable(np.arange(samples), label, label, margins, (column,), input=inputs)
    groups = [slice(i * batch, (i + 1) * batch) for i in range(batches)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.h5"
        write(table, path)
        start = time.process_time()
        for rows in groups:
            read(path, rows)
        each = time.process_time() - start
        start = time.process_time()
        with opened_table(path) as file:
            opened = time.process_time() - start
            for rows in groups:
                file.rows(rows)
        once = time.process_time() - start - opened
        size, each, once = path.stat().st_size / 2**20, 1000 * each / batches, 1000 * once / batches
        print(
            f"{size:.0f} MiB, a batch of {batch}: {each:.1f} ms when opened for each; when opened once"
            f" {once:.1f} ms, and {1000 * opened:.1f} ms to open"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data-root", type=Path, default=Path("data"))
    parser.add_argument("--limits", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--witnesses", action="store_true")
    parser.add_argument("--cheap", action="store_true")
    parser.add_argument("--reading", type=int)
    options = parser.parse_args()
    if options.reading:
        reading(options.reading)
        return
    if len(options.limits) == 1:
        once(options.limits[0], options)
        return
    arguments = [a for a in sys.argv[1:] if a != "--limits" and not a.isdecimal()]
    for limit in options.limits:
        subprocess.run([sys.executable, __file__, *arguments, "--limits", str(limit)], check=True)


if __name__ == "__main__":
    main()
