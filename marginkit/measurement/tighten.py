"""Spends a given time on a table where it narrows brackets most."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from marginkit.data.dataset import Bounds, Data, Source
from marginkit.data.sources import load
from marginkit.errors import IncompatibleError, MarginkitError, UsageError
from marginkit.files.atomic import locked, sha256
from marginkit.measurement.batch import hashes
from marginkit.measurement.known_brackets import Known
from marginkit.methods.exact import Exact
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.norms import NORMS
from marginkit.table.brackets import norms
from marginkit.table.reading import read
from marginkit.table.table import MarginTable
from marginkit.table.writing import write
from marginkit.types import Threat
from marginkit.versions import versions

BATCH = 16  # samples at a time where both ends are still looked for
FIRST, GROWTH = 0.5, 4.0  # seconds for an open sample at first, and the factor from round to round
ROUNDS = 12  # the last one gives a sample 24 days
TOGETHER = 8.0  # seconds for samples that are worked on in one go
SAVED = 30.0  # seconds between two saves

Say = Callable[[dict[str, tuple[int, int]]], None]


def tighten(
    table: MarginTable,
    model: nn.Module,
    data: Data,
    seconds: float,
    *,
    save: Callable[[MarginTable], None] = lambda table: None,
    say: Say = lambda counts: None,
) -> MarginTable:
    """The table with columns `exact.<norm>.lower` and `.upper`, its brackets as narrow as the time allows.

    First both ends of every sample that lacks one (`crown`, and `nearest` with effort `tight`), then `exact`
    on the open ones, those whose bracket is nearest to closed first, in rounds of ever more time a sample.

    Args:
        table: distances of the model's inputs; what bounds them is where the work starts.
        model, data: what it was measured on.
        seconds: of work; what is under way then is finished.
        save: called with the table so far, now and then and at the end.
        say: called with each norm's count of closed samples and of all.

    Raises:
        MarginkitError: an input is not the table's, or nothing in the table bounds a distance.
    """
    if not seconds > 0:
        raise UsageError(f"{seconds} seconds are no time to work in: give more than 0")
    low, high = _box(table)
    x = _inputs(table, data)
    work = {
        norm: Known.of(table, norm, Threat(NORMS[norm], low, high), data.shape)
        for norm in norms(table, (c.name for c in table.columns))
    }
    if not work:
        raise MarginkitError("no column of this table bounds a distance: measure with nearest or crown first")
    start = saved = time.monotonic()
    for norm, rows, limit in _plan(work, lambda: seconds - (time.monotonic() - start)):
        left = max(0.0, seconds - (time.monotonic() - start))
        method = Exact(time_limit=min(limit, left), total_time_limit=left)
        y = torch.from_numpy(table.label[rows]).long()
        work[norm].keep(rows, method.close(model, x(rows), y, work[norm].threat, work[norm].bracket(rows)))
        say(_counts(work))
        if time.monotonic() - saved > SAVED:
            save(_with(table, work, time.monotonic() - start))
            saved = time.monotonic()
    whole = _with(table, work, time.monotonic() - start)
    save(whole)
    return whole


def _plan(work: dict[str, Known], left: Callable[[], float]) -> Iterator[tuple[str, list[int], float]]:
    """Norm, samples and seconds for each of them, until all is closed or the time is up."""
    tolerance = Exact().tolerance
    for norm, known in work.items():
        rows = (known.open(tolerance) & known.blank()).nonzero()[0].tolist()
        for k in range(0, len(rows), BATCH):
            if left() <= 0:
                return
            yield norm, rows[k : k + BATCH], 0.0
    for limit in (FIRST * GROWTH**k for k in range(ROUNDS)):
        waiting = [
            (float(known.lower[i] / known.upper[i]), norm, int(i))
            for norm, known in work.items()
            for i in known.open(tolerance).nonzero()[0]
            if not known.note and np.isfinite(known.upper[i])
        ]
        if not waiting:
            return
        for norm, rows in _together(sorted(waiting, reverse=True), max(1, int(TOGETHER / limit))):
            if left() <= 0:
                return
            yield norm, rows, limit


def _together(waiting: list[tuple[float, str, int]], most: int) -> Iterator[tuple[str, list[int]]]:
    """Neighbours of the same norm, a few at a time."""
    for norm, group in groupby(waiting, key=lambda entry: entry[1]):
        rows = [row for _, _, row in group]
        yield from ((norm, rows[k : k + most]) for k in range(0, len(rows), most))


def _counts(work: dict[str, Known]) -> dict[str, tuple[int, int]]:
    tolerance = Exact().tolerance
    return {norm: (int((~k.open(tolerance)).sum()), len(k.lower)) for norm, k in work.items()}


def _with(table: MarginTable, work: dict[str, Known], spent: float) -> MarginTable:
    """The table with what is known now in its columns of `exact`."""
    columns = {column.name: column for column in table.columns}
    for norm, known in work.items():
        before = columns.get(f"exact.{norm}.upper")
        options = asdict(Exact()) if before is None else before.options
        columns |= {column.name: column for column in known.columns(norm, options, table.input)}
    run = {"seconds": round(spent, 3), "closed": _counts(work), "versions": versions()}
    runs = [*(before.plain() for before in table.provenance.tightened), run]
    provenance = table.provenance.updated({"tightened": runs})
    return replace(table, columns=tuple(columns.values()), provenance=provenance)


def _box(table: MarginTable) -> Bounds:
    low, high = table.provenance.threat.low, table.provenance.threat.high
    if isinstance(low, list) or isinstance(high, list):
        raise IncompatibleError(
            "the table has a box with ends for each feature, which tighten does not know: leave it out"
        )
    return low, high


def _inputs(table: MarginTable, data: Data) -> Callable[[list[int]], Tensor]:
    """The inputs of some rows, found at their positions in the data and checked by their hashes."""
    if len(table) and int(table.index.max()) >= len(data):
        raise IncompatibleError(f"the table has sample {table.index.max()}, but {data.name} has {len(data)}")

    def inputs(rows: list[int]) -> Tensor:
        x = data.inputs([int(i) for i in table.index[rows]])
        if table.hash is not None and (wrong := np.flatnonzero(hashes(x) != table.hash[rows])).size:
            raise IncompatibleError(
                f"sample {table.index[rows[wrong[0]]]} of {data.name} has another hash than in the table:"
                " give the data it was measured on"
            )
        return x

    return inputs


def tighten_file(
    path: Path,
    model: Path,
    seconds: float,
    out: Path | None = None,
    *,
    source: Source | None = None,
    say: Say = lambda counts: None,
) -> MarginTable:
    """`tighten` of a file, saved every half minute and at the end, in one rename each.

    Args:
        path: the table.
        model: the checkpoint that it was measured on.
        seconds: as in `tighten`.
        out: where to write; the table itself by default.
        source: where to find the data set.
        say: as in `tighten`.

    Raises:
        IncompatibleError: the checkpoint or the data are not the table's, or it was measured under a mask, in
            a subspace or on a grid.
        MarginkitError: another process writes that file.
    """
    with locked(out or path):
        return _tighten_file(path, model, seconds, out or path, source or Source(), say)


def _tighten_file(
    path: Path, model: Path, seconds: float, out: Path, source: Source, say: Say
) -> MarginTable:
    table = read(path)
    _same("checkpoint.sha256", table.provenance.checkpoint.sha256, sha256(model), model)
    for limit in table.provenance.threat.narrower:
        raise IncompatibleError(
            f"{path} was measured under threat.{limit}, which tighten does not know: leave it out"
        )
    checkpoint, _ = load_checkpoint(model, None)
    about = table.provenance.dataset
    source = replace(source, split=about.split or "test")
    data = load(str(about.name), source, bounds=_box(table))
    _same("dataset.fingerprint", about.fingerprint, data.fingerprint, data.name)
    return tighten(table, checkpoint.model(), data, seconds, save=lambda found: write(found, out), say=say)


def _same(name: str, expected: object, found: object, what: object) -> None:
    if expected != found:
        raise IncompatibleError(f"the table's {name} is {expected}, but that of {what} is {found}")
