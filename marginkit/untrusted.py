"""Reads from HDF5 files that may be hostile or broken only what a table may hold. Imports no torch."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py

from marginkit.errors import MarginkitError


def plain(file: h5py.File, name: str, path: Path) -> h5py.Dataset:
    """The dataset of that name, if it is numbers kept in this very file."""
    link = file.get(name, getlink=True)
    if not isinstance(link, h5py.HardLink):
        raise MarginkitError(f"{path}: {name} is a {type(link).__name__}; expected data in this file")
    found = file[name]
    if not isinstance(found, h5py.Dataset):
        raise MarginkitError(f"{path}: {name} is a {type(found).__name__}; expected a dataset")
    if found.external or found.is_virtual:
        raise MarginkitError(f"{path}: {name} is stored outside this file; expected data in it")
    if found.dtype.kind not in "iuf":
        raise MarginkitError(f"{path}: {name} holds {found.dtype}; expected numbers")
    return found


def text(holder: h5py.HLObject, key: str, path: Path) -> str:
    """An attribute that has to be text."""
    text = holder.attrs.get(key)
    if not isinstance(text, str):
        raise MarginkitError(f"{path}: {holder.name} lacks the attribute {key!r}")
    return text


def json_object(text: str, what: str, path: Path) -> dict[str, Any]:
    """A JSON object."""
    try:
        found = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise MarginkitError(f"{path}: {what} is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise MarginkitError(f"{path}: {what} is a JSON {type(found).__name__}; expected an object")
    return found
