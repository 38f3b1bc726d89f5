"""What is kept of every sample: a field of a table or a column says it in its own line. Imports no torch.

Reading, writing, parts, joining, frames and validation go by these lines; a new field is one of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import MISSING, Field, dataclass, fields
from enum import StrEnum
from typing import Any

import numpy as np

KEY = "per sample"  # of a dataclass field's metadata


class Role(StrEnum):
    """What the entries of a field are."""

    IDENTITY = "identity"  # which sample it is: no column of a frame
    NUMBER = "number"
    STATUS = "status"  # a `Status` code
    INPUT = "input"  # something of the model's input's shape: on request, and in no frame


@dataclass(frozen=True)
class PerSample:
    """A field with an entry a sample.

    Attributes:
        name: of the field.
        dtype: in the file.
        role: what its entries are.
        dataset: its name in the file; `{}` stands for the column's.
        least: the smallest entry that means something; None where any does.
        required: whether every table has it; where not, it may be None.
    """

    name: str
    dtype: np.dtype[Any]
    role: Role
    dataset: str
    least: int | None
    required: bool

    @property
    def accepts(self) -> str:
        """The kinds of numbers that a file may have there."""
        return {"f": "f", "i": "iu"}.get(self.dtype.kind, "u" if self.dtype.itemsize == 8 else "iu")

    def named(self, column: str = "") -> str:
        """The dataset's name, of that column's."""
        return self.dataset.format(column)

    def fits(self, shape: tuple[int, ...], kind: str, n: int) -> bool:
        """Whether an array of that shape and kind of numbers has an entry for each of n samples."""
        deep = len(shape) > 1 if self.role is Role.INPUT else len(shape) == 1
        return deep and shape[0] == n and kind in self.accepts

    @property
    def nothing(self) -> float:
        """The entry that says nothing."""
        return np.nan if self.dtype.kind == "f" else -1


def per_sample(
    dtype: Any, dataset: str, role: Role = Role.NUMBER, least: int | None = None
) -> dict[str, Any]:
    """The metadata of a dataclass field with an entry a sample; see `PerSample`."""
    return {KEY: (np.dtype(dtype), role, dataset, least)}


def per_sample_fields(cls: type) -> tuple[PerSample, ...]:
    """The class's, in the order of the file."""
    return tuple(_spec(f) for f in fields(cls) if KEY in f.metadata)


def attributes(cls: type) -> tuple[str, ...]:
    """The names of its other fields: what holds for all samples."""
    return tuple(f.name for f in fields(cls) if KEY not in f.metadata)


def present(holder: Any) -> Iterator[tuple[PerSample, np.ndarray]]:
    """What a table or column has of every sample."""
    for spec in per_sample_fields(type(holder)):
        if (values := getattr(holder, spec.name)) is not None:
            yield spec, values


def combined(parts: Sequence[Any], combine: Callable[[list[np.ndarray]], np.ndarray]) -> dict[str, Any]:
    """Every field's arrays, combined; where only some parts have one, it is filled up with what says nothing.

    An identity can't be: it is None unless every part has it.
    """
    found: dict[str, Any] = {}
    for spec in per_sample_fields(type(parts[0])):
        arrays = [getattr(part, spec.name) for part in parts]
        given = [array for array in arrays if array is not None]
        if given and len(given) < len(arrays) and spec.role is Role.IDENTITY:
            found[spec.name] = None
        elif given:
            found[spec.name] = combine(
                [
                    np.full((size(part), *given[0].shape[1:]), spec.nothing, spec.dtype)
                    if array is None
                    else array
                    for part, array in zip(parts, arrays, strict=True)
                ]
            )
    return found


def size(holder: Any) -> int:
    """How many samples a table or column has."""
    return len(next(values for _, values in present(holder)))


def _spec(f: Field[Any]) -> PerSample:
    dtype, role, dataset, least = f.metadata[KEY]
    return PerSample(f.name, dtype, role, dataset, least, required=f.default is MISSING)
