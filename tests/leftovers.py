"""What a write that failed may not leave behind."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any, NoReturn


def leftovers(folder: Path) -> list[Path]:
    """Files below a folder that are named as `marginkit.files.atomic.replacing` names what is unfinished."""
    return [path for path in folder.rglob(".*") if path.is_file()]


def full(*_: Any, **__: Any) -> NoReturn:
    """In place of a function that writes: the disk is full."""
    raise OSError(errno.ENOSPC, "No space left on device")
