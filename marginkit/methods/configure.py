"""Methods by name, with their options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from marginkit.errors import UsageError
from marginkit.methods import METHODS
from marginkit.methods.torchattacks import PREFIX, TorchAttack
from marginkit.options import choose, configure, parse
from marginkit.types import Method


def configure_methods(
    names: Sequence[str],
    options: Mapping[str, Mapping[str, Any]] | None = None,
    common: Mapping[str, Any] | None = None,
) -> dict[str, Method]:
    """Methods by name, each with its options.

    Args:
        names: from METHODS, or `torchattacks:NAME`; `column=method` gives a column a name of its own, so
            that one method can stand in a table twice.
        options: by column; may be text.
        common: for every method that has an option of that name.

    Raises:
        UsageError: an unknown method or option, or options for a method that is not asked for.
    """
    options = options or {}
    columns = {alias or method: method for alias, _, method in (name.rpartition("=") for name in names)}
    for name in options:
        if name not in columns:
            raise UsageError(
                f"options are given for {name!r}, which is not among the methods {', '.join(columns)}"
            )
    return {
        column: _configured(column, method, options.get(column, {}), common or {})
        for column, method in columns.items()
    }


def _configured(column: str, method: str, options: Mapping[str, Any], common: Mapping[str, Any]) -> Method:
    if not re.fullmatch(r"[\w:-]+", column):
        raise UsageError(f"{column!r} can't name a column: use letters, digits, _, - and :")
    if method.startswith(PREFIX):
        given = tuple(sorted((key, parse(value)) for key, value in options.items()))
        return TorchAttack(method.removeprefix(PREFIX), given, seed=common.get("seed", 0))
    cls = choose(METHODS, "method", method)
    fields_ = {field.name for field in fields(cls)}  # type: ignore[arg-type]
    shared = {key: value for key, value in common.items() if key in fields_}
    return configure(cls, column, {**shared, **options})
