"""Finished batches of an unfinished measurement, one file each, in the folder `<out>.parts`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from marginkit.errors import MarginkitError
from marginkit.files.atomic import cannot_write, locked, replacing
from marginkit.kinds import Kind
from marginkit.table.schema import attributes, per_sample_fields, present
from marginkit.table.table import Column, MarginTable

SUFFIX = ".safetensors"
HEAVY = ("input", "witness")


@dataclass(frozen=True)
class Parts:
    """The parts of one measurement.

    A part takes its place in one rename, so that whatever is there is whole. The manifest says what they
    are parts of.

    Attributes:
        out: the file they are to become.
    """

    out: Path

    @property
    def folder(self) -> Path:
        """Where they lie."""
        return self.out.with_name(self.out.name + ".parts")

    def begin(self, manifest: Mapping[str, Any]) -> None:
        """Says what the parts are for."""
        with replacing(self._manifest) as temporary:
            temporary.write_text(json.dumps(manifest))

    def manifest(self) -> dict[str, Any] | None:
        """What the parts are parts of; None where there are none."""
        try:
            found = json.loads(self._manifest.read_text())
            if isinstance(found, dict) and isinstance(found.get("provenance"), dict) and "meta" in found:
                return {**found, "provenance": {"onto": None, **found["provenance"]}}
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise MarginkitError(f"{self._manifest} is not readable: {error}") from error
        raise MarginkitError(f"{self._manifest} is no manifest of parts")

    def numbers(self) -> set[int]:
        """The batches that are finished."""
        return {int(path.stem) for path in self.folder.glob(f"[0-9]*{SUFFIX}")}

    def save(self, number: int, table: MarginTable) -> None:
        """Keeps a batch, whole or not at all."""
        arrays = {spec.name: array for spec, array in present(table)}
        for i, column in enumerate(table.columns):
            arrays |= {f"{i}.{spec.name}": array for spec, array in present(column)}
        given = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
        about = [{name: getattr(column, name) for name in attributes(Column)} for column in table.columns]
        with replacing(self._part(number)) as temporary:
            try:
                save_file(given, temporary, {"columns": json.dumps(about)})
            except SafetensorError as error:
                raise cannot_write(self._part(number), error) from error

    def load(self, number: int, *, light: bool = False) -> MarginTable:
        """The batch as it was saved; `light` leaves inputs and witnesses away."""
        path = self._part(number)
        try:
            with safe_open(path, "numpy") as file:
                names = [n for n in file.keys() if not (light and n.rpartition(".")[2] in HEAVY)]  # noqa: SIM118
                found = {name: file.get_tensor(name) for name in names}
                about = json.loads(file.metadata()["columns"])
            fields = [spec.name for spec in per_sample_fields(Column)]
            columns = [
                Column(
                    **{**column, "kind": Kind(column["kind"])},
                    **{name: found.pop(f"{i}.{name}") for name in fields if f"{i}.{name}" in found},
                )
                for i, column in enumerate(about)
            ]
            return MarginTable(**found, columns=tuple(columns))
        except (SafetensorError, OSError, ValueError, KeyError, TypeError) as error:
            raise MarginkitError(
                f"{path} is not a part of a measurement: {error}; delete it and --resume"
            ) from error

    def clear(self) -> None:
        """Deletes them all, the manifest first: what a kill leaves of them is nothing to go on with."""
        for path in sorted(self.folder.glob("*"), key=lambda path: path != self._manifest):
            path.unlink(missing_ok=True)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Refuses a second process that would write the same file; the lock dies with its process."""
        with locked(self.out):
            try:
                self.folder.mkdir(exist_ok=True)
            except OSError as error:
                raise cannot_write(self.out, error) from error
            try:
                yield
            finally:
                with suppress(OSError):
                    self.folder.rmdir()  # only where it is empty

    @property
    def _manifest(self) -> Path:
        return self.folder / "manifest.json"

    def _part(self, number: int) -> Path:
        return self.folder / f"{number:06d}{SUFFIX}"
