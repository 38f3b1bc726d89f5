"""What a measurement met on the way: times, halvings, errors. Beside the file, which has no clock in it."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from marginkit.events import BatchDone, Begun, Checked, Event, Failed, Finished, NothingNew, OutOfMemory
from marginkit.files.atomic import cannot_write

# What is worth a line, and its name there: no mere progress.
LOGGED: dict[type, str] = {
    Begun: "begun",
    BatchDone: "batch",
    OutOfMemory: "out of memory",
    Failed: "failed",
    NothingNew: "nothing new",
    Checked: "check",
    Finished: "finished",
}


@dataclass(frozen=True)
class EventLog:
    """One line of JSON an event of LOGGED, appended to `<out's stem>.log.jsonl`.

    Attributes:
        out: the file that is being measured.
        rank: of the process that writes.
    """

    out: Path
    rank: int = 0

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.out.with_name(self.out.stem + ".log.jsonl")

    def __call__(self, event: Event) -> None:
        """Appends an event, in one write: processes may share the file.

        Raises:
            MarginkitError: it can't be written.
        """
        if type(event) not in LOGGED:
            return
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        about = {"time": now, "rank": self.rank, "event": LOGGED[type(event)], **asdict(event)}
        line = json.dumps(about, default=str) + "\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise cannot_write(self.path, error) from error
