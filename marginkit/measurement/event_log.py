"""What a measurement met on the way: times, halvings, errors. Beside the file, which has no clock in it."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from marginkit.files.atomic import cannot_write


@dataclass(frozen=True)
class Journal:
    """One line of JSON an event, appended to `<out's stem>.log.jsonl`.

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

    def __call__(self, event: str, **about: Any) -> None:
        """Appends an event, in one write: processes may share the file.

        Raises:
            MarginkitError: it can't be written.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "rank": self.rank, "event": event, **about}, default=str) + "\n"
        try:
            handle = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
            try:
                os.write(handle, line.encode())
            finally:
                os.close(handle)
        except OSError as error:
            raise cannot_write(self.path, error) from error
