"""A measurement that survives being killed: batches become parts, parts become the file."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

from marginkit.data.dataset import Batch
from marginkit.distributed import ALONE, Ranks
from marginkit.errors import MarginkitError
from marginkit.files.atomic import cannot_write, require_absent, sha256
from marginkit.measurement.batch import Work
from marginkit.measurement.parts import Parts
from marginkit.measurement.plan import Plan
from marginkit.measurement.requests import unfinished
from marginkit.table.provenance import Provenance, difference, plain
from marginkit.table.reading import OpenTable, opened_table, read
from marginkit.table.records import Meta
from marginkit.table.table import Column, MarginTable
from marginkit.table.verdicts import combined
from marginkit.table.writing import write_tables

Needed = dict[int, list[int]]  # a batch's number -> which requests it has to answer


@dataclass(frozen=True)
class Job:
    """Measures into a file.

    Attributes:
        out: the file.
        work: what is done with a batch.
        plan: which batches there are.
        provenance: what the numbers depend on: where it changed, nothing is resumed.
        meta: what the file is to say of itself.
        resume: go on with unfinished parts, or add to a finished file what it lacks.
        overwrite: replace what is there.
        ranks: the processes that share the work.
        owes: what `describe` is to say of a finished file, where that does not say it yet.
    """

    out: Path
    work: Work
    plan: Plan
    provenance: Meta
    meta: Meta
    resume: bool = False
    overwrite: bool = False
    ranks: Ranks = ALONE
    owes: tuple[str, ...] = ()

    def __call__(
        self,
        fetch: Callable[[Iterable[range]], Iterator[Batch]],
        describe: Callable[[MarginTable], Meta],
    ) -> None:
        """Measures what is missing and puts the file in its place.

        Args:
            fetch: positions -> batches.
            describe: the part of `meta` that follows from the whole table.

        Raises:
            MarginkitError: there is a file already, or the run to resume was another, or can't write.
        """
        with self._parts.alone() if self.ranks.first else nullcontext():
            needed, pending, adds = self.ranks.agree(self._prepare)
            if self.ranks.first:
                self._announce(needed, pending)
            try:
                with self._before(adds and bool(pending)) as file:
                    for batch in fetch(self.plan.groups[n] for n in self.ranks.share(sorted(pending))):
                        number = int(batch[0][0]) // self.plan.batch_size
                        known = file.rows(self.plan.rows(number)) if file else None
                        self._parts.save(number, self.work(batch, pending[number], known))
            finally:
                if self.ranks.world == 1 and not self._parts.numbers():
                    self._parts.clear()  # a mistake seen in the first batch leaves nothing to go on with
            self.ranks.wait()
            if self.ranks.first and needed:
                self._assemble(needed, describe)
            elif self.ranks.first and not set(self.owes) <= set(
                (before := read(self.out, light=True).provenance).plain()
            ):
                self._put(self._tables(needed, adds=True), before, describe)
            self.ranks.wait()

    @property
    def _parts(self) -> Parts:
        return Parts(self.out)

    def _before(self, adds: bool) -> AbstractContextManager[OpenTable | None]:
        """The finished file that is added to, open for reading; None where there is none."""
        return opened_table(self.out) if adds else nullcontext()

    def _announce(self, needed: Needed, pending: Needed) -> None:
        if not needed:
            self.work.tell("nothing new", file=str(self.out))
            return
        totals: dict[str, int] = {}
        for number, wanted in pending.items():
            for name in {self.work.requests[i].name for i in wanted}:
                totals[name] = totals.get(name, 0) + len(self.plan.groups[number])
        about = {key: self.meta[key] for key in ("command", "versions") if key in self.meta}
        kept = len(needed) - len(pending)
        self.work.tell(
            "begun", samples=totals, batches=len(pending), kept=kept, host=platform.node(), **about
        )

    # What is to be done --------------------------------------------------------------------------------

    def _prepare(self) -> tuple[Needed, Needed, bool]:
        """What the file lacks, what of it the parts lack, and whether there is a file."""
        if not self.resume:
            require_absent(self.out, self.overwrite)
        begun = self._parts.manifest() if self._parts.numbers() else None
        if begun is not None and not (self.resume or self.overwrite):
            raise MarginkitError(
                f"{self._parts.folder} holds an unfinished measurement: go on with --resume, or start again"
                " with --overwrite"
            )
        replaces = begun is not None and begun["provenance"]["onto"] is None  # what --overwrite began
        adds = self.resume and self.out.exists() and not replaces
        needed = self._lacking() if adds else dict.fromkeys(self.plan.groups, self._all)
        provenance = plain({**self.provenance, "onto": sha256(self.out) if adds else None})
        if begun is None or not self.resume or not needed:
            self._parts.clear()
        elif found := difference(begun["provenance"], provenance):
            raise MarginkitError(
                f"{self._parts.folder} was begun with {found}: go on with the same, or start again with"
                " --overwrite"
            )
        if needed and self._parts.manifest() is None:
            self._parts.begin({"provenance": provenance, "meta": self.meta})
        done = self._parts.numbers()
        return needed, {number: wanted for number, wanted in needed.items() if number not in done}, adds

    @property
    def _all(self) -> list[int]:
        return list(range(len(self.work.requests)))

    def _lacking(self) -> Needed:
        """What a finished file does not have yet."""
        with opened_table(self.out) as file:
            table = file.rows(light=True)
            self._refuse_another(table, file.keeps_inputs)
        columns = {column.name: column for column in table.columns}
        needed = Needed()
        for number in self.plan.groups:
            rows = self.plan.rows(number)
            wanted = [
                i
                for i, request in enumerate(self.work.requests)
                if any(n not in columns or unfinished(columns[n])[rows].any() for n in request.names)
            ]
            if wanted:
                needed[number] = wanted
        return needed

    def _refuse_another(self, table: MarginTable, keeps: bool) -> None:
        """Refuses to add to a file that another model, data set, threat or option gave."""
        before = {"samples": len(table), "witnesses": keeps, **table.provenance.identity()}
        now = {
            "samples": len(self.plan.positions),
            "witnesses": self.work.witnesses,
            **{key: value for key, value in Provenance.of(self.meta).identity().items() if key in before},
        }
        names = {column.name: column for column in table.columns}
        for request in self.work.requests:
            for name in names.keys() & request.names:
                before[name], now[name] = names[name].options, request.options
        if found := difference(plain(before), plain(now)):
            raise MarginkitError(f"{self.out} has {found}: measure into another file, or --overwrite")

    # The file ------------------------------------------------------------------------------------------

    def _assemble(self, needed: Needed, describe: Callable[[MarginTable], Meta]) -> None:
        """One file out of the parts, and of the finished file that they add to."""
        manifest = self._parts.manifest()
        assert manifest is not None
        before = None if manifest["provenance"]["onto"] is None else read(self.out, light=True)
        provenance = Provenance.of(manifest["meta"], f"{self._parts.folder}: meta")
        if before is not None:
            asked = {name for request in self.work.requests for name in request.names}
            new = sorted(asked - {column.name for column in before.columns})
            provenance = before.provenance.with_added(provenance, new)
        self._put(self._tables(needed, before is not None), provenance, describe)

    def _put(
        self, tables: Iterator[MarginTable], before: Provenance, describe: Callable[[MarginTable], Meta]
    ) -> None:
        """The file in its place, whole."""

        def about(table: MarginTable) -> Provenance:
            return combined(before, before.updated(describe(table)))

        path = self._parts.folder / "whole.h5"
        whole = write_tables(tables, len(self.plan.positions), path, about)
        try:
            os.replace(path, self.out)
        except OSError as error:
            raise cannot_write(self.out, error) from error
        self._parts.clear()
        self.work.tell("finished", samples=len(whole), columns=[column.name for column in whole.columns])

    def _tables(self, needed: Needed, adds: bool) -> Iterator[MarginTable]:
        again = {name for wanted in needed.values() for i in wanted for name in self.work.requests[i].names}
        with self._before(adds) as file:
            for number in self.plan.groups:
                part = self._parts.load(number) if number in needed else None
                before = _forgotten(file.rows(self.plan.rows(number)), again) if file else None
                yield _combined(before, part)


def _forgotten(table: MarginTable, again: set[str]) -> MarginTable:
    """Without the notes of columns that were measured again."""
    columns = (replace(c, note="") if c.name in again else c for c in table.columns)
    return replace(table, columns=tuple(columns))


def _combined(before: MarginTable | None, part: MarginTable | None) -> MarginTable:
    """The old columns, those measured again in their old places, then the new ones."""
    if before is None or part is None:
        found = before or part
        assert found is not None
        return found
    new: dict[str, Column] = {column.name: column for column in part.columns}
    kept = [new.pop(column.name, column) for column in before.columns]
    return replace(before, columns=(*kept, *new.values()))
