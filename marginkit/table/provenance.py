"""What a table says of where its numbers come from, and in what two such records differ. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from pydantic import Field, StrictInt, StrictStr, ValidationError

from marginkit.errors import MarginkitError
from marginkit.table.records import (
    Added,
    Checkpoint,
    Choice,
    Dataset,
    Meta,
    Number,
    Perturbations,
    Record,
    Reliability,
    Tightened,
)

KEPT = (  # by columns added later
    "checkpoint", "model", "dataset", "choice", "threat", "dtype", "batch_size", "shard"
)  # fmt: skip
LATER = ("command", "versions", "device", "seed")  # that columns added later may have of their own
OWN = ("shard", "activation_variance", "robust_accuracy")  # what shards need not have in common
EXPECTED = {
    "model_type": "an object", "dict_type": "an object", "list_type": "a list", "string_type": "text",
    "bool_type": "true or false", "int_type": "a number", "float_type": "a number",
    "finite_number": "a number", "too_short": "two numbers", "too_long": "two numbers",
}  # fmt: skip  # in our words, by pydantic's


class Provenance(Record):
    """What was measured, with what, on what (docs/format.md); frozen, and checked when it is made.

    `plain()` gives back what it was made of, so that a file read and written again says the same.
    """

    command: list[StrictStr] = Field(default_factory=list)
    versions: dict[str, StrictStr] = Field(default_factory=dict)
    seed: StrictInt | None = None
    device: StrictStr | None = None
    checkpoint: Checkpoint = Checkpoint()
    model: StrictStr | None = None
    dataset: Dataset = Dataset()
    choice: Choice | None = None
    threat: Perturbations = Perturbations()
    dtype: StrictStr | None = None
    batch_size: StrictInt | None = None
    shard: Annotated[list[StrictInt], Field(min_length=2, max_length=2)] | None = None
    activation_variance: dict[str, Number] = Field(default_factory=dict)
    added: list[Added] = Field(default_factory=list)
    reliability: Reliability | None = None
    tightened: list[Tightened] = Field(default_factory=list)
    robust_accuracy: list[dict[str, Any]] = Field(default_factory=list)

    @classmethod
    def of(cls, meta: Mapping[str, Any], where: str = "the provenance") -> Provenance:
        """From plain data.

        Raises:
            MarginkitError: something has another form; the message names the place, below `where`.
        """
        try:
            return cls.model_validate(dict(meta))
        except ValidationError as error:
            raise MarginkitError(_sentence(error, meta, where)) from error

    def updated(self, meta: Mapping[str, Any]) -> Provenance:
        """With other values for some keys."""
        return Provenance.of({**self.plain(), **meta})

    def without(self, keys: Iterable[str]) -> Provenance:
        """Without some keys."""
        dropped = set(keys)
        return Provenance.of({key: value for key, value in self.plain().items() if key not in dropped})

    def identity(self) -> Meta:
        """What every column of a table has in common; of a checkpoint, its bytes."""
        given = self.plain()
        found = {key: given[key] for key in KEPT if key in given}
        return found | ({"checkpoint": self.checkpoint.sha256} if "checkpoint" in found else {})

    def with_added(self, now: Provenance, columns: list[str]) -> Provenance:
        """The record when a later run has added columns."""
        if not columns:
            return self
        about = {key: value for key, value in now.plain().items() if key in LATER}
        return self.updated({"added": [*self.plain().get("added", []), {"columns": columns, **about}]})


def difference(before: Any, now: Any, at: str = "") -> str | None:
    """Where two plain values first differ, in words; None where they don't."""
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in dict.fromkeys([*before, *now]):
            if found := difference(before.get(key), now.get(key), f"{at}.{key}" if at else str(key)):
                return found
        return None
    return None if before == now else f"{at} {_short(before)}, this run has {_short(now)}"


def plain(value: Any) -> Any:
    """The value as JSON brings it back."""
    return json.loads(json.dumps(value))


def _sentence(error: ValidationError, meta: Any, where: str) -> str:
    """The first thing wrong: where it stands, what is there, and every form that it might have."""
    first, *others = error.errors(include_url=False)
    place, found = _place(first["loc"], meta)
    alike = [e for e in others if _place(e["loc"], meta)[0] == place]
    words = dict.fromkeys(_expected(e["type"], e["loc"]) for e in (first, *alike))
    named = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in place)
    return f"{where}'s {named[1:][:80]} is {str(found)[:40]!r}; expected {' or '.join(words)}"


def _expected(kind: str, loc: tuple[int | str, ...]) -> str:
    return f"an object with {loc[-1]!r}" if kind == "missing" else EXPECTED.get(kind, f"no {kind}")


def _place(loc: tuple[int | str, ...], data: Any) -> tuple[tuple[int | str, ...], Any]:
    """The part of pydantic's path that leads through the data (the rest names members of a union)."""
    for i, part in enumerate(loc):
        inside = (
            part in data if isinstance(data, Mapping) else isinstance(data, list) and isinstance(part, int)
        )
        if not inside:
            return loc[:i], data
        data = data[part]
    return loc, data


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
