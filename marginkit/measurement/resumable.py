"""A measurement that survives being killed: every batch is on disk as soon as it is done."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

from marginkit.distributed import Ranks
from marginkit.errors import MarginkitError
from marginkit.events import Begun, Event, NothingNew
from marginkit.files.atomic import require_absent, sha256
from marginkit.measurement.batch import BatchRunner
from marginkit.measurement.loader import Loader
from marginkit.measurement.parts import Parts
from marginkit.measurement.plan import Plan
from marginkit.measurement.requests import Request, unfinished
from marginkit.measurement.settings import Target
from marginkit.table.provenance import Provenance, difference, plain
from marginkit.table.reading import opened_table
from marginkit.table.records import Meta
from marginkit.table.table import MarginTable
from marginkit.versions import versions

Needed = dict[int, list[int]]  # a batch's number -> which requests it has to answer


@dataclass(frozen=True)
class Todo:
    """What a measurement into a file has to do.

    Attributes:
        needed: what the file lacks.
        pending: what of it no part has yet.
        adds: whether the parts add to a finished file.
    """

    needed: Needed
    pending: Needed
    adds: bool


@dataclass(frozen=True)
class Job:
    """A measurement into a file.

    Attributes:
        target: the file, and what to do where there is one.
        plan: which batches there are.
        requests: what is asked.
        depends: what the numbers depend on: where it changed, nothing is resumed.
        about: what the file is to say of itself.
        checks: whether it is to say whether it can be believed.
    """

    target: Target
    plan: Plan
    requests: Sequence[Request]
    depends: Meta
    about: Provenance
    checks: bool = False

    @property
    def parts(self) -> Parts:
        """The finished batches."""
        return Parts(self.target.path)

    @contextmanager
    def alone(self, ranks: Ranks) -> Iterator[None]:
        """Refuses another measurement into the same file; when it ends, every process is here."""
        if ranks.first:
            with self.parts.alone():
                yield
                ranks.wait()
        else:
            yield
            ranks.wait()

    def incomplete(self, todo: Todo) -> bool:
        """Whether there is anything to put into the file: measured now, or checks that it does not have."""
        if todo.needed or not self.checks:
            return bool(todo.needed)
        with opened_table(self.target.path) as file:
            return file.provenance.reliability is None

    def begun(self, todo: Todo) -> Event:
        """What to tell of the work ahead."""
        if not todo.needed:
            return NothingNew(str(self.target.path))
        samples: dict[str, int] = {}
        for number, wanted in todo.pending.items():
            for name in {self.requests[i].name: None for i in wanted}:
                samples[name] = samples.get(name, 0) + len(self.plan.groups[number])
        kept = len(todo.needed) - len(todo.pending)
        command = tuple(self.about.command)
        return Begun(samples, len(todo.pending), kept, platform.node(), versions(), command)

    # What is to be done --------------------------------------------------------------------------------

    def prepare(self) -> Todo:
        """Finds out what is there, refuses what does not fit, and clears away what does not count.

        Raises:
            MarginkitError: there is a file already, or the run to resume was another.
        """
        out, resume = self.target.path, self.target.resume
        if not resume:
            require_absent(out, self.target.overwrite)
        begun = self.parts.manifest() if self.parts.numbers() else None
        if begun is not None and not (resume or self.target.overwrite):
            raise MarginkitError(
                f"{self.parts.folder} holds an unfinished measurement: go on with --resume, or start again"
                " with --overwrite"
            )
        replaces = begun is not None and begun["provenance"]["onto"] is None  # what --overwrite began
        adds = resume and out.exists() and not replaces
        needed = self._lacking() if adds else dict.fromkeys(self.plan.groups, self._all)
        depends = plain({**self.depends, "onto": sha256(out) if adds else None})
        if begun is None or not resume or not needed:
            self.parts.clear()
        elif found := difference(begun["provenance"], depends):
            raise MarginkitError(
                f"{self.parts.folder} was begun with {found}: go on with the same, or start again with"
                " --overwrite"
            )
        if needed and self.parts.manifest() is None:
            self.parts.begin({"provenance": depends, "meta": self.about.plain()})
        done = self.parts.numbers()
        return Todo(needed, {number: wanted for number, wanted in needed.items() if number not in done}, adds)

    @property
    def _all(self) -> list[int]:
        return list(range(len(self.requests)))

    def _lacking(self) -> Needed:
        """What a finished file does not have yet."""
        with opened_table(self.target.path) as file:
            table = file.rows(light=True)
            self._refuse_another(table, file.keeps_inputs)
        columns = {column.name: column for column in table.columns}
        needed = Needed()
        for number in self.plan.groups:
            rows = self.plan.rows(number)
            wanted = [
                i
                for i, request in enumerate(self.requests)
                if any(n not in columns or unfinished(columns[n])[rows].any() for n in request.names)
            ]
            if wanted:
                needed[number] = wanted
        return needed

    def _refuse_another(self, table: MarginTable, keeps: bool) -> None:
        """Refuses to add to a file that another model, data set, threat or option gave."""
        path = self.target.path
        before = {"choice": None, "samples": len(table), "witnesses": keeps, **table.provenance.identity()}
        now = {
            "choice": None,
            "samples": len(self.plan.positions),
            "witnesses": self.depends["witnesses"],
            **{key: value for key, value in self.about.identity().items() if key in before},
        }
        names = {column.name: column for column in table.columns}
        for request in self.requests:
            for name in names.keys() & request.names:
                before[name], now[name] = names[name].measured_with, request.options
        if found := difference(plain(before), plain(now)):
            raise MarginkitError(f"{path} has {found}: measure into another file, or --overwrite")


def run_resumable(job: Job, runner: BatchRunner, loader: Loader, ranks: Ranks) -> Todo:
    """Measures what is missing, batch by batch, each into a part as it is done.

    Raises:
        MarginkitError: as `Job.prepare`, as the model and the methods do, or a part can't be written.
    """
    todo: Todo = ranks.agree(job.prepare)
    if ranks.first:
        runner.on_event(job.begun(todo))
    try:
        with opened_table(job.target.path) if todo.adds else nullcontext() as before:
            for batch in loader(job.plan.groups[number] for number in ranks.share(sorted(todo.pending))):
                number = job.plan.number(int(batch[0][0]))
                known = before.rows(job.plan.rows(number)) if before else None
                job.parts.save(number, runner(batch, todo.pending[number], known))
    finally:
        if ranks.world == 1 and not job.parts.numbers():
            job.parts.clear()  # a mistake seen in the first batch leaves nothing to go on with
    ranks.wait()
    return todo
