"""HDF5 files that may be hostile or broken: numbers kept in the very file, and text. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py

from marginkit.errors import MarginkitError
from marginkit.files.hdf5_heaps import refuse_damaged_heaps
from marginkit.files.untrusted import printable, refuse_bomb, require_plain

FILTERS = {1: "gzip", 2: "shuffle", 3: "fletcher32"}  # HDF5 has them built in; others load a library


@contextmanager
def opened(path: Path) -> Iterator[h5py.File]:
    """The file to read from, checked for what libhdf5 would trip over; read from it in `readable`."""
    with readable(path):
        refuse_damaged_heaps(path)
        file = h5py.File(path, "r")
    try:
        yield file
    finally:
        with readable(path):
            file.close()


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Whatever goes wrong with the file within becomes one sentence."""
    try:
        yield
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


def text(holder: h5py.HLObject, key: str, path: Path) -> str:
    """An attribute that has to be text."""
    text = holder.attrs.get(key)
    if not isinstance(text, str):
        raise MarginkitError(f"{path}: {holder.name} lacks the attribute {key!r}")
    require_plain(text, f"{key} of {printable(holder.name)}", path)
    return text


def _size(shape: tuple[int, ...], dataset: h5py.Dataset) -> int:
    return math.prod(shape) * int(dataset.dtype.itemsize)
