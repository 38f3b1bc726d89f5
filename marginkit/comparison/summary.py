"""What a table says, for machines."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from marginkit.comparison.standing import of_table
from marginkit.kinds import Status
from marginkit.table.attacks import attacked
from marginkit.table.brackets import closed, ends, norms, unclosed
from marginkit.table.summary import accuracy, median
from marginkit.table.table import MarginTable


def figures(table: MarginTable) -> dict[str, Any]:
    """What `summary` shows, for machines."""
    columns = {
        column.name: {
            "kind": str(column.kind),
            "median": median(column.distance),
            "unclosed": int(unclosed(table, column).sum()),
            **{status.name.lower(): int((column.status == status).sum()) for status in Status},
        }
        for column in table.columns
    }
    return {
        "n": len(table),
        "accuracy": accuracy(table),
        "columns": columns,
        "brackets": {
            norm: {"certified": median(e.lower), "found": median(e.upper), "closed": closed(e)}
            for norm in norms(table, list(columns))
            if (e := ends(table, norm)).certified and e.searched
        },
        "standings": [asdict(standing) for standing in of_table("model", table)],
        "attacks": [asdict(row) for row in attacked(table)],
    }
