"""The parts of a measurement, and the finished file that they add to, as one table in one file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace

from marginkit.files.atomic import cannot_write
from marginkit.measurement.resumable import Job, Todo
from marginkit.table.provenance import Provenance
from marginkit.table.reading import OpenTable, opened_table
from marginkit.table.table import Column, MarginTable
from marginkit.table.writing import write_tables


@dataclass(frozen=True)
class Assembly:
    """What a measurement has on disk when every batch is done.

    Attributes:
        job: the measurement.
        todo: what it had to do.
    """

    job: Job
    todo: Todo

    def table(self) -> MarginTable:
        """All rows without inputs and witnesses, with what is known of them so far."""
        with self._before() as before:
            whole = MarginTable.join(list(self._blocks(before, light=True)))
            return replace(whole, provenance=self._about(before))

    def write(self, provenance: Provenance) -> None:
        """Puts the file in its place, whole, and clears the parts away.

        Raises:
            MarginkitError: it can't be written.
        """
        job = self.job
        path = job.parts.folder / "whole.h5"
        with self._before() as before:
            write_tables(self._blocks(before), len(job.plan.positions), path, lambda whole: provenance)
        try:
            os.replace(path, job.target.path)
        except OSError as error:
            raise cannot_write(job.target.path, error) from error
        job.parts.clear()

    def _before(self) -> AbstractContextManager[OpenTable | None]:
        """The finished file that the parts add to."""
        return opened_table(self.job.target.path) if self.todo.adds else nullcontext()

    def _about(self, before: OpenTable | None) -> Provenance:
        """What the measurement that was begun said of itself; of a finished file, what was added to it."""
        manifest = self.job.parts.manifest()
        where = f"{self.job.parts.folder}: meta"
        about = self.job.about if manifest is None else Provenance.of(manifest["meta"], where)
        if before is None:
            return about
        asked = {name for request in self.job.requests for name in request.names}
        columns = before.rows(slice(0), light=True).columns
        return before.provenance.with_added(about, sorted(asked - {column.name for column in columns}))

    def _blocks(self, before: OpenTable | None, light: bool = False) -> Iterator[MarginTable]:
        """A batch's rows after the other, with inputs and witnesses where they are kept."""
        for number in self.job.plan.groups:
            rows = self.job.plan.rows(number)
            yield self._block(number, before.rows(rows, light=light) if before else None, light)

    def _block(self, number: int, before: MarginTable | None, light: bool = False) -> MarginTable:
        """A batch: its old columns, those measured again in their old places, then the new ones."""
        part = self.job.parts.load(number, light=light) if number in self.todo.needed else None
        if before is None or part is None:
            found = part if before is None else self._forgotten(before)
            assert found is not None
            return found
        new: dict[str, Column] = {column.name: column for column in part.columns}
        kept = [new.pop(column.name, column) for column in self._forgotten(before).columns]
        return replace(before, columns=(*kept, *new.values()))

    def _forgotten(self, table: MarginTable) -> MarginTable:
        """Without the notes of columns that were measured again."""
        needed = self.todo.needed.values()
        again = {name for wanted in needed for i in wanted for name in self.job.requests[i].names}
        columns = (replace(c, note="") if c.name in again else c for c in table.columns)
        return replace(table, columns=tuple(columns))
