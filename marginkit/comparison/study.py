"""Everything a report is written from: the tables, what they are called, and what was found."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from marginkit.artifacts import located
from marginkit.comparison.alignment import Aligned, align
from marginkit.comparison.compare import Comparison, compare_all
from marginkit.comparison.flags import Flag, few_samples, table_flags
from marginkit.comparison.groups import GroupComparison, compare_groups
from marginkit.comparison.settings import Settings
from marginkit.table.reading import read
from marginkit.table.table import MarginTable

FORMAT = "marginkit.comparison"
VERSION = 1


@dataclass(frozen=True)
class Study:
    """Tables by label, and their comparisons: of models with the first one, or of groups of models.

    Attributes:
        tables: as they were given.
        pairs: what the comparisons are of, one each: baseline and other on the samples they share.
        comparisons, groups: the figures.
    """

    tables: Mapping[str, MarginTable]
    pairs: tuple[Aligned, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    groups: tuple[GroupComparison, ...] = ()

    @staticmethod
    def of_files(paths: Sequence[Path], settings: Settings) -> Study:
        """Compares every file with the first; one file given twice is two."""
        tables = [read(located(path)) for path in paths]
        return Study.of_tables(dict(zip(_labels(paths), tables, strict=True)), settings)

    @staticmethod
    def of_tables(tables: Mapping[str, MarginTable], settings: Settings | None = None) -> Study:
        """Compares every table with the first."""
        first, *others = tables.items()
        pairs = [align((first[0], label), (first[1], table)) for label, table in others]
        return Study(tables, tuple(pairs), tuple(compare_all(pairs, settings)))

    @staticmethod
    def of_groups(paths: Mapping[str, Sequence[Path]], settings: Settings) -> Study:
        """Compares every group of files with the first."""
        labels = iter(_labels([path for files in paths.values() for path in files]))
        tables = {
            name: {next(labels): read(located(path)) for path in files} for name, files in paths.items()
        }
        every = {label: table for members in tables.values() for label, table in members.items()}
        return Study(every, groups=tuple(compare_groups(tables, settings)))

    @cached_property
    def together(self) -> Aligned:
        """All tables, on the samples that every one has.

        Raises:
            IncompatibleError: all of them share no sample or no column, though pairs of them do.
        """
        return self.pairs[0] if len(self.pairs) == 1 else align([*self.tables], [*self.tables.values()])

    @property
    def flags(self) -> tuple[Flag, ...]:
        """All doubts, each once."""
        found = [flag for c in self.comparisons for flag in c.flags]
        if self.groups:
            found += [flag for label, table in self.tables.items() for flag in table_flags(table, label)]
            found += [flag for c in self.groups for flag in few_samples(c.n, f"{c.other} shares")]
        return tuple(dict.fromkeys(found))

    def figures(self) -> dict[str, Any]:
        """All figures as plain data: docs/compare.schema.json."""
        return {
            "format": FORMAT,
            "version": VERSION,
            "comparisons": [asdict(c) for c in self.comparisons],
            "groups": [asdict(c) for c in self.groups],
            "flags": [asdict(flag) for flag in self.flags],
        }


def _labels(paths: Sequence[Path]) -> list[str]:
    """The paths without the folder they have in common, told apart where one comes twice."""
    try:
        folder = os.path.commonpath([path.parent for path in paths])
    except ValueError:  # relative ones beside absolute ones
        folder = ""
    names = [os.path.relpath(path, folder) if folder else str(path) for path in paths]
    return [name if name not in names[:i] else f"{name} ({i + 1})" for i, name in enumerate(names)]
