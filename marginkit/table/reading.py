"""Reads tables from files that anybody may have made (docs/format.md). Imports no torch."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from marginkit.errors import MarginkitError
from marginkit.files import hdf5
from marginkit.files.untrusted import json_object
from marginkit.kinds import Kind
from marginkit.table.table import FORMAT, PER_SAMPLE, VERSION, Column, MarginTable
from marginkit.table.validation import require_sensible


def read(path: str | Path, rows: slice = slice(None), *, light: bool = False) -> MarginTable:
    """Reads a table and refuses whatever is not one.

    Args:
        path: of the file.
        rows: only these.
        light: leave inputs and witnesses away.

    Raises:
        MarginkitError: missing, not HDF5, another format, a newer version, or contents that a table never
            has: links, groups, external or virtual storage, objects, wrong shapes. The message names the
            file, what was found and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise MarginkitError(f"no such table: {path}")
    with hdf5.opened(path) as file:
        return require_sensible(_read(file, path, rows, light), path)


def _read(file: h5py.File, path: Path, rows: slice, light: bool) -> MarginTable:
    if file.attrs.get("format") != FORMAT:
        raise MarginkitError(f"{path} has format {file.attrs.get('format')!r}; expected {FORMAT!r}")
    if file.attrs.get("version") != VERSION:
        raise MarginkitError(
            f"{path} has version {file.attrs.get('version')}; this marginkit reads {VERSION}"
        )
    datasets = hdf5.datasets(file, path)
    if "sample" not in datasets:
        raise MarginkitError(f"{path} has no dimension 'sample'")
    n = len(datasets["sample"])
    missing = [name for name in PER_SAMPLE if name not in datasets]
    if missing:
        raise MarginkitError(f"{path} lacks {', '.join(missing)}")

    def values(name: str, expected: str) -> np.ndarray:
        if name not in datasets:
            raise MarginkitError(f"{path} lacks {name}")
        found = datasets[name]
        if found.shape != (n,) or found.dtype.kind not in expected:
            raise MarginkitError(
                f"{path}: {name} is {found.dtype} {found.shape}; expected one number for each of {n}"
            )
        return np.asarray(found[rows])

    def inputs(name: str) -> np.ndarray | None:
        found = datasets.get(name)
        if found is None or light:
            return None
        if found.ndim < 2 or len(found) != n or found.dtype.kind != "f":
            raise MarginkitError(f"{path}: {name} is {found.dtype} {found.shape}; expected {n} inputs")
        return np.asarray(found[rows])

    columns = []
    for name, dataset in datasets.items():
        if "kind" not in dataset.attrs:
            continue
        about = {key: hdf5.text(dataset, key, path) for key in ("method", "norm", "layer", "kind", "options")}
        if about["kind"] not in set(Kind):
            raise MarginkitError(
                f"{path}: {name} has kind {about['kind']!r}; expected one of {', '.join(Kind)}"
            )
        columns.append(
            Column(
                method=about["method"],
                norm=about["norm"],
                layer=about["layer"],
                kind=Kind(about["kind"]),
                options=json_object(about["options"], f"options of {name}", path),
                distance=values(name, "f"),
                status=values(f"{name}.status", "iu"),
                rival=values(f"{name}.rival", "iu"),
                witness=inputs(f"witness.{name}"),
                note=hdf5.text(dataset, "note", path) if "note" in dataset.attrs else "",
            )
        )
    return MarginTable(
        **{name: values(name, "f" if name == "logit_margin" else "iu") for name in PER_SAMPLE},
        columns=tuple(columns),
        meta=json_object(hdf5.text(file, "meta", path), "meta", path),
        complete=bool(file.attrs.get("complete", 0)),
        hash=values("hash", "u") if "hash" in datasets else None,
        input=inputs("input"),
    )
