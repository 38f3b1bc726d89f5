"""The parts of a table's provenance, with names and types (docs/format.md). Imports no torch."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictFloat, StrictInt, StrictStr

Meta = dict[str, Any]  # plain data, as JSON has it
Number = StrictInt | Annotated[StrictFloat, Field(allow_inf_nan=False)]
Limit = Number | list[Any] | None  # of a box: for all features, for each, or none


class Record(BaseModel):
    """Plain data with names and types, frozen; what it does not know is kept: newer files have more."""

    model_config = ConfigDict(frozen=True, extra="allow")

    def plain(self) -> Meta:
        """The same as plain data: what was given, and no more."""
        return self.model_dump(exclude_unset=True)


class Checkpoint(Record):
    """The model's file, or the spec it came from; further keys say how it was made."""

    file: StrictStr | None = None
    sha256: StrictStr | None = None


class Properties(Record):
    """The files that say of each sample that its label stays, and within which Linf radii."""

    files: list[StrictStr]
    inner: list[Number]
    outer: list[Number]


class Dataset(Record):
    """What was measured on."""

    name: StrictStr | None = None
    split: StrictStr | None = None
    fingerprint: StrictStr | None = None
    classes: list[StrictStr] | None = None
    properties: Properties | None = None


class Choice(Record):
    """How many samples were chosen, evenly over the classes, and with which seed."""

    samples: StrictInt
    seed: StrictInt | None = None


class Perturbations(Record):
    """The box, null for no bound; and a mask, a subspace or a grid, where there is one."""

    low: Limit = None
    high: Limit = None
    mask: dict[str, Any] | None = None
    subspace: dict[str, Any] | None = None
    levels: StrictInt | None = None

    @property
    def narrower(self) -> list[str]:
        """Which of mask, subspace and levels limit what may change within the box."""
        return [name for name in ("mask", "subspace", "levels") if getattr(self, name) is not None]


class Added(Record):
    """A later run that added columns."""

    columns: list[StrictStr]
    command: list[StrictStr] = Field(default_factory=list)
    versions: dict[str, StrictStr] = Field(default_factory=dict)
    device: StrictStr | None = None
    seed: StrictInt | None = None


class Judged(Record):
    """What one check said; see `marginkit.table.verdicts`."""

    check: StrictStr
    raised: StrictBool = False
    figure: Number | None = None
    where: StrictStr = ""
    note: StrictStr = ""


class Reliability(Record):
    """What the checks said, and of how many samples."""

    samples: StrictInt | None = None
    seed: StrictInt | None = None
    verdicts: list[Judged] = Field(default_factory=list)


class Tightened(Record):
    """A run of `tighten`: seconds, and each norm's [closed, of how many]."""

    seconds: Number
    closed: dict[str, list[StrictInt]]
    versions: dict[str, StrictStr] = Field(default_factory=dict)
