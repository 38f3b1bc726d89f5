"""Spends a given time on a table where it narrows brackets most."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path

import numpy as np
import torch
from torch import nn

from marginkit import defaults
from marginkit.data.dataset import Batch, Bounds, Data, Source
from marginkit.distributed import find_device
from marginkit.errors import IncompatibleError, MarginkitError, UsageError
from marginkit.events import Narrowed, OnEvent, unheard
from marginkit.files.atomic import locked
from marginkit.measurement.batch import hashes
from marginkit.measurement.known_brackets import Known
from marginkit.measurement.loader import Loader
from marginkit.measurement.memory import halving
from marginkit.measurement.prepare import prepared
from marginkit.methods.exact import Exact
from marginkit.models.loading import Loading, load_subject
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

Work = dict[str, Known]  # what is known, by norm


def tighten(
    table: MarginTable,
    model: nn.Module,
    data: Data,
    seconds: float = defaults.TIME,
    *,
    device: str = defaults.DEVICE,
    out: Path | None = None,
    on_event: OnEvent = unheard,
) -> MarginTable:
    """The table with columns `exact.<norm>.lower` and `.upper`, its brackets as narrow as the time allows.

    First both ends of every sample that lacks one (`crown`, and `nearest` with effort `tight`), then `exact`
    on the open ones, those whose bracket is nearest to closed first, in rounds of ever more time a sample.

    Args:
        table: distances of the model's inputs; what bounds them is where the work starts.
        model, data: what it was measured on.
        seconds: of work; what is under way then is finished.
        device: where to compute; the model is moved there.
        out: write this file too, every half minute and at the end, in one rename each.
        on_event: hears how many brackets are closed.

    Raises:
        MarginkitError: an input is not the table's, or nothing in the table bounds a distance.
    """
    if not seconds > 0:
        raise UsageError(f"{seconds} seconds are no time to work in: give more than 0")
    work = _known(table, data)
    started = saved = time.monotonic()
    place = find_device(device)
    with prepared(model, place) as models:
        rows = _Rows(table, Loader.of(data, models.plain, place))
        on_event(Narrowed(_counts(work)))
        for norm, chosen, limit in _plan(work, started + seconds):
            left = max(0.0, started + seconds - time.monotonic())
            method = Exact(time_limit=min(limit, left), total_time_limit=left)
            _narrow(work[norm], method, models.plain, rows.batch(chosen), on_event)
            on_event(Narrowed(_counts(work)))
            if out is not None and time.monotonic() - saved > SAVED:
                write(_with(table, work, time.monotonic() - started), out)
                saved = time.monotonic()
    whole = _with(table, work, time.monotonic() - started)
    if out is not None:
        write(whole, out)
    return whole


def _known(table: MarginTable, data: Data) -> Work:
    """What the table says, in every norm in which it bounds a distance."""
    threats = {norm: Threat(NORMS[norm], *_box(table)) for norm in NORMS}
    bounded = [norm for norm in norms(table, (c.name for c in table.columns)) if norm in NORMS]
    if not bounded:
        raise MarginkitError("no column of this table bounds a distance: measure with nearest or crown first")
    return {norm: Known.of(table, threats[norm], data.shape) for norm in bounded}


def _narrow(known: Known, method: Exact, model: nn.Module, batch: Batch, on_event: OnEvent) -> None:
    """Goes on from what is known of some rows of the table, and takes over what is found."""
    rows, x, y = batch
    start = known.bracket(rows.tolist())

    def close(part: slice) -> None:
        found = method.close(model, x[part], y[part], known.threat, start.part(part))
        known.keep(rows[part].tolist(), found)

    halving(close, len(x), "exact", on_event)


def _plan(work: Work, end: float) -> Iterator[tuple[str, list[int], float]]:
    """Norm, samples and seconds for each of them, until all is closed or the clock shows `end`."""
    tolerance = Exact().tolerance
    for norm, known in work.items():
        rows = (known.open(tolerance) & known.blank()).nonzero()[0].tolist()
        for k in range(0, len(rows), BATCH):
            if time.monotonic() >= end:
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
            if time.monotonic() >= end:
                return
            yield norm, rows, limit


def _together(waiting: list[tuple[float, str, int]], most: int) -> Iterator[tuple[str, list[int]]]:
    """Neighbours of the same norm, a few at a time."""
    for norm, group in groupby(waiting, key=lambda entry: entry[1]):
        rows = [row for _, _, row in group]
        yield from ((norm, rows[k : k + most]) for k in range(0, len(rows), most))


def _counts(work: Work) -> dict[str, tuple[int, int]]:
    tolerance = Exact().tolerance
    return {norm: (int((~k.open(tolerance)).sum()), len(k.lower)) for norm, k in work.items()}


def _with(table: MarginTable, work: Work, spent: float) -> MarginTable:
    """The table with what is known now in its columns of `exact`."""
    columns = {column.name: column for column in table.columns}
    for norm, known in work.items():
        before = columns.get(f"exact.{norm}.upper")
        options = asdict(Exact()) if before is None else before.options
        columns |= {column.name: column for column in known.columns(options, table.input)}
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


@dataclass(frozen=True)
class _Rows:
    """A table's rows with the inputs that they were measured on."""

    table: MarginTable
    loader: Loader

    def __post_init__(self) -> None:
        data, index = self.loader.data, self.table.index
        if len(index) and int(index.max()) >= len(data):
            raise IncompatibleError(f"the table has sample {index.max()}, but {data.name} has {len(data)}")

    def batch(self, rows: list[int]) -> Batch:
        """(rows, x, y), inputs found at their positions in the data and checked by their hashes."""
        index, y = self.table.index[rows], torch.from_numpy(self.table.label[rows]).long()
        ((_, x, _),) = self.loader([index.tolist()])
        kept = self.table.hash
        if kept is not None and (wrong := np.flatnonzero(hashes(x) != kept[rows])).size:
            raise IncompatibleError(
                f"sample {index[wrong[0]]} of {self.loader.data.name} has another hash than in the table:"
                " give the data it was measured on"
            )
        return torch.tensor(rows), x, y.to(x.device)


def tighten_file(
    path: Path,
    model: str | Path,
    seconds: float = defaults.TIME,
    out: Path | None = None,
    *,
    loading: Loading | None = None,
    source: Source | None = None,
    device: str = defaults.DEVICE,
    on_event: OnEvent = unheard,
) -> MarginTable:
    """`tighten` of a file.

    Args:
        path: the table.
        model: what it was measured on: a checkpoint, or another spec as in `load_subject`.
        seconds: as in `tighten`.
        out: where to write; the table itself by default.
        loading: what else loading the model takes.
        source: where to find the data set.
        device, on_event: as in `tighten`.

    Raises:
        IncompatibleError: the checkpoint or the data are not the table's, or it was measured under a mask, in
            a subspace or on a grid.
        MarginkitError: another process writes that file.
    """
    with locked(out or path):
        table = read(path)
        provenance, about = table.provenance, table.provenance.dataset
        for limit in provenance.threat.narrower:
            raise IncompatibleError(
                f"{path} was measured under threat.{limit}, which tighten does not know: leave it out"
            )
        names = tuple(about.classes or ())
        source = replace(source or Source(), split=about.split or "test", class_names=names)
        subject = load_subject(model, loading or Loading(), str(about.name), source, _box(table))
        _same("checkpoint.sha256", provenance.checkpoint.sha256, subject.about["sha256"], model)
        _same("dataset.fingerprint", about.fingerprint, subject.data.fingerprint, subject.data.name)
        return tighten(
            table, subject.model, subject.data, seconds, device=device, out=out or path, on_event=on_event
        )


def _same(name: str, expected: object, found: object, what: object) -> None:
    if expected != found:
        raise IncompatibleError(f"the table's {name} is {expected}, but that of {what} is {found}")
