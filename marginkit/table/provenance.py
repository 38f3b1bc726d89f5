"""What the numbers of a table depend on, and in what two such records differ. Imports no torch."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Meta = dict[str, Any]
KEPT = (
    "checkpoint",
    "model",
    "dataset",
    "choice",
    "threat",
    "dtype",
    "batch_size",
    "shard",
)  # by later columns
LATER = ("command", "versions", "device", "seed")  # that columns added later may have of their own


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


def identity(meta: Meta) -> Meta:
    """What every column of a table has in common; of a checkpoint, its bytes."""
    found = {key: meta[key] for key in KEPT if key in meta}
    if "checkpoint" in found:
        found["checkpoint"] = found["checkpoint"].get("sha256")
    return found


def added(before: Meta, now: Meta, columns: list[str]) -> Meta:
    """A table's record when a later run has added columns to it."""
    if not columns:
        return before
    about = {key: now[key] for key in LATER if key in now}
    return {**before, "added": [*before.get("added", []), {"columns": columns, **about}]}


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 60 else text[:57] + "..."
