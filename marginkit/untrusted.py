"""Reads from files that may be hostile or broken only what they may hold. Imports no torch."""

from __future__ import annotations

import json
import math
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from marginkit.errors import MarginkitError
from marginkit.heap import refuse_damaged_heaps

ROOMY = 2**30  # bytes: what expands to no more than this is harmless
DENSE = 100  # what is larger may be so many times its size in the file
FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}  # HDF5 has them built in; others load a library
MOST_VALUES = 1_000_000  # in plain data
DEEPEST = 60
SURROGATE = re.compile("[\ud800-\udfff]")  # halves of characters, which no file or terminal takes


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file to read from; whatever goes wrong with it becomes one sentence."""
    refuse_damaged_heaps(path)
    try:
        with h5py.File(path, "r") as file:
            yield file
    except MarginkitError:
        raise
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, ArithmeticError, MemoryError) as error:
        reason = printable(str(error).partition("\n")[0])
        raise MarginkitError(f"{path} is not a readable HDF5 file: {reason}") from error


def datasets(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    """Every dataset of the file, if each is numbers kept in this very file, and all fit into memory."""
    found = {name: plain(file, name, path) for name in file}
    expanded = sum(max(_size(d.shape, d), _size(d.chunks or (), d)) for d in found.values())
    refuse_bomb(expanded, path)
    return found


def plain(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The dataset of that name, if it is numbers kept in this very file."""
    link, shown = file.get(name, getlink=True), printable(name)
    if not isinstance(link, h5py.HardLink):
        raise MarginkitError(f"{path}: {shown} is a {type(link).__name__}; expected data in this file")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise MarginkitError(f"{path}: {shown} is a {type(found).__name__}; expected a dataset")
    layout = found.id.get_create_plist()
    if found.external or found.is_virtual:
        raise MarginkitError(f"{path}: {shown} is stored outside this file; expected data in it")
    if found.dtype.kind not in "iuf" or found.dtype.itemsize > 8:
        raise MarginkitError(f"{path}: {shown} holds {found.dtype}; expected numbers")
    if found.shape is None:
        raise MarginkitError(f"{path}: {shown} is empty; expected numbers")
    for i in range(layout.get_nfilters()):
        if (number := layout.get_filter(i)[0]) not in FILTERS:
            raise MarginkitError(
                f"{path}: {shown} is packed by filter {number}; expected {', '.join(FILTERS.values())}"
            )
    return found


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


def text(holder: h5py.HLObject, key: str, path: Path) -> str:
    """An attribute that has to be text."""
    text = holder.attrs.get(key)
    if not isinstance(text, str):
        raise MarginkitError(f"{path}: {holder.name} lacks the attribute {key!r}")
    require_plain(text, f"{key} of {printable(holder.name)}", path)
    return text


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


def _size(shape: tuple[int, ...], dataset: h5py.Dataset) -> int:
    return math.prod(shape) * int(dataset.dtype.itemsize)
