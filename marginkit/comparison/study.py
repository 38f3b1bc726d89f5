"""Everything a report is written from: the tables, what they are called, and what was found."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from marginkit.artifacts import located
from marginkit.comparison.alignment import Aligned, align
from marginkit.comparison.compare import Comparison, compare_all
from marginkit.comparison.flags import Flag, few_samples, table_flags
from marginkit.comparison.groups import GroupComparison, GroupRobust, compare_groups
from marginkit.comparison.radii import RobustAccuracy
from marginkit.comparison.settings import Settings
from marginkit.comparison.standing import Standing, standings
from marginkit.table.brackets import ends, norms
from marginkit.table.reading import read
from marginkit.table.summary import mean
from marginkit.table.table import MarginTable, names

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

    @cached_property
    def standings(self) -> tuple[Standing, ...]:
        """The few figures that answer the question: norm by norm, the baseline first."""
        if self.groups:
            return tuple(_of_groups(self))
        first = self.pairs[0]
        models = [self.comparisons[0].baseline, *(c.other for c in self.comparisons)]
        shared = [norm for norm in first.brackets if all(norm in pair.brackets for pair in self.pairs)]
        brackets = {
            norm: [[first.brackets[norm][0]], *([pair.brackets[norm][1]] for pair in self.pairs)]
            for norm in shared
        }
        accuracies = [self.comparisons[0].accuracy[0], *(c.accuracy[1] for c in self.comparisons)]
        radii = _radii(row for c in self.comparisons for row in c.robust)
        sizes = [c.n for c in (self.comparisons[0], *self.comparisons)]
        return tuple(standings(models, sizes, accuracies, brackets, radii))

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
            "standings": [asdict(standing) for standing in self.standings],
            "comparisons": [asdict(c) for c in self.comparisons],
            "groups": [asdict(c) for c in self.groups],
            "flags": [asdict(flag) for flag in self.flags],
        }


def _of_groups(study: Study) -> list[Standing]:
    """Each group's figures are the means of its models'."""
    first = study.groups[0]
    members = {first.baseline: first.files[0]} | {g.other: g.files[1] for g in study.groups}
    right = {first.baseline: first.accuracy[0]} | {g.other: g.accuracy[1] for g in study.groups}
    tables = {name: [study.tables[file] for file in files] for name, files in members.items()}
    every = [table for group in tables.values() for table in group]
    columns = names(every)
    brackets = {
        norm: [[ends(table, norm, columns) for table in group] for group in tables.values()]
        for norm in norms(every[0], columns)
    }
    labels = [f"{name} ({len(files)} models)" for name, files in members.items()]
    sizes = [g.n for g in (first, *study.groups)]
    accuracies = [mean(np.array(right[name])) for name in members]
    return standings(labels, sizes, accuracies, brackets, _radii(r for g in study.groups for r in g.robust))


def _radii(robust: Iterable[RobustAccuracy | GroupRobust]) -> dict[str, list[float]]:
    """By norm, where robust accuracy is told, nearest first."""
    found: dict[str, set[float]] = {}
    for row in robust:
        found.setdefault(row.norm, set()).add(row.radius)
    return {norm: sorted(radii) for norm, radii in found.items()}


def _labels(paths: Sequence[Path]) -> list[str]:
    """The paths without the folder they have in common, told apart where one comes twice."""
    try:
        folder = os.path.commonpath([path.parent for path in paths])
    except ValueError:  # relative ones beside absolute ones
        folder = ""
    names = [os.path.relpath(path, folder) if folder else str(path) for path in paths]
    return [name if name not in names[:i] else f"{name} ({i + 1})" for i, name in enumerate(names)]
