"""Options given as text, checked against the fields of the dataclass that takes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

from pydantic import TypeAdapter, ValidationError

from marginkit.errors import UsageError

T = TypeVar("T")


def choose(registry: Mapping[str, T], what: str, name: str) -> T:
    """The registry's entry, or an error that lists what there is."""
    if name not in registry:
        raise UsageError(f"unknown {what} {name!r}; choose from {', '.join(registry)}")
    return registry[name]


def configure(cls: type[T], what: str, options: Mapping[str, Any]) -> T:
    """An instance of a dataclass from options that may be text, as a command line gives them.

    Text is read as JSON where it is JSON (`12`, `0.5`, `null`, `["a", "b"]`), as a list where it has commas,
    and as itself otherwise.
    """
    hints = get_type_hints(cls)
    names = [field.name for field in fields(cls) if field.init]  # type: ignore[arg-type]
    values = {}
    for name, given in options.items():
        if name not in names:
            raise UsageError(f"{what} has no option {name!r}; it has {', '.join(names) or 'none'}")
        values[name] = _validated(hints[name], f"{what}: option {name}", given)
    return cls(**values)


def completed(cls: type, record: Mapping[str, Any]) -> dict[str, Any]:
    """A record of a dataclass's options; one that was written before an option came has its default."""
    known = {field.name: field.default for field in fields(cls) if field.default is not MISSING}
    return {**known, **record}


def _validated(hint: Any, what: str, given: Any) -> Any:
    adapter, value = TypeAdapter(hint), parse(given)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        with suppress(ValidationError):
            return adapter.validate_python([value])  # a list of one
        raise UsageError(f"{what} is {given!r}: {error.errors()[0]['msg']}") from error


def parse(given: Any) -> Any:
    """Text as JSON, as a list where it has commas, or as itself; what is not text stays."""
    if not isinstance(given, str):
        return given
    if given.lower() == "none":
        return None
    try:
        return json.loads(given)
    except json.JSONDecodeError:
        return [parse(part.strip()) for part in given.split(",")] if "," in given else given
