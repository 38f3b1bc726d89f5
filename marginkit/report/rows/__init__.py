"""The tables of a report as plain text cells: the terminal, Markdown, LaTeX and HTML show the same ones."""

from marginkit.report.rows.cells import Rows, interval, number, p_value
from marginkit.report.rows.comparison import against_baseline, of_comparison
from marginkit.report.rows.depth import in_depth, of_samples
from marginkit.report.rows.groups import of_groups
from marginkit.report.rows.standing import of_standings
from marginkit.report.rows.table import of_attacks, of_brackets
from marginkit.report.rows.verified import of_verified

__all__ = [
    "Rows",
    "against_baseline",
    "in_depth",
    "interval",
    "number",
    "of_attacks",
    "of_brackets",
    "of_comparison",
    "of_groups",
    "of_samples",
    "of_standings",
    "of_verified",
    "p_value",
]
