"""Reads from files that may be hostile or broken only what they may hold. Imports no torch."""

from __future__ import annotations

import json
import re
import zipfile
from pathlib import Path
from typing import Any

from marginkit.errors import MarginkitError

ROOMY = 2**30  # bytes: what expands to no more than this is harmless
DENSE = 100  # what is larger may be so many times its size in the file
MOST_VALUES = 1_000_000  # in plain data
DEEPEST = 60
SURROGATE = re.compile("[\ud800-\udfff]")  # halves of characters, which no file or terminal takes


def refuse_bomb(expanded: int, path: Path) -> None:
    """Refuses a file that would take far more memory than disk."""
    stored = path.stat().st_size
    if expanded > max(ROOMY, DENSE * stored):
        raise MarginkitError(
            f"{path} has {stored:,} bytes that expand to {expanded:,}: more than {DENSE} times its size and"
            f" {ROOMY // 2**20} MiB; if that is meant, store it less compressed"
        )


def refuse_zip_bomb(path: Path) -> None:
    """The same for an archive, before anything in it is read; what is no archive passes."""
    try:
        with zipfile.ZipFile(path) as archive:
            expanded = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return
    refuse_bomb(expanded, path)


def refuse_path(named: str, where: str, instead: str) -> None:
    """Refuses a path that comes from a file's content and leads out of the folder one is in."""
    parts = named.replace("\\", "/").split("/")
    absolute = parts[0] == "" and len(parts) > 1
    if absolute or ".." in parts or ":" in named or not named.isprintable():
        raise MarginkitError(
            f"{where}, which is outside the current folder: a file's content may not lead there; say so"
            f" yourself with {instead}"
        )


def printable(text: str) -> str:
    """The text with all that could steer a terminal (escapes, bidirectional marks) spelt out."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def json_object(text: str, what: str, path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MarginkitError(f"{path}: {what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise MarginkitError(f"{path}: {what} is a JSON {type(found).__name__}; expected an object")
    require_plain(found, what, path)
    return found


def require_plain(value: Any, what: str, path: Path) -> None:
    """Refuses what is not plain data of a bearable size: text, numbers, lists, and dicts with text as keys.

    Pickles can repeat a part at no cost, so that a small file expands without end where it is walked.
    """
    pending, seen = [(value, 0)], 0
    while pending:
        entry, depth = pending.pop()
        seen += 1
        if seen > MOST_VALUES or depth > DEEPEST:
            raise MarginkitError(f"{path}: {what} has more than {MOST_VALUES:,} values or {DEEPEST} levels")
        if isinstance(entry, dict) and all(isinstance(key, str) for key in entry):
            pending += [(part, depth + 1) for part in (*entry, *entry.values())]
        elif isinstance(entry, list | tuple):
            pending += [(part, depth + 1) for part in entry]
        elif isinstance(entry, str) and SURROGATE.search(entry):
            raise MarginkitError(f"{path}: {what} has text that is not UTF-8: {ascii(entry)[:60]}")
        elif isinstance(entry, int) and abs(entry) >= 2**64:
            raise MarginkitError(f"{path}: {what} has a number of {entry.bit_length()} bits; expected 64")
        elif not isinstance(entry, str | int | float | None):
            raise MarginkitError(f"{path}: {what} has a {type(entry).__name__}; expected plain data")
