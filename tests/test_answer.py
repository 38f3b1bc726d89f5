"""The answer first: short, whole words, in every width."""

from __future__ import annotations

import io
import json
from functools import cache

import numpy as np
import pytest
from click.testing import CliRunner
from made_up import column, exact, model, table
from marginkit_cli.main import main
from rich.console import Console

from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.kinds import Kind
from marginkit.report.answer import LINES, Answer, spark
from marginkit.report.rows import Rows
from marginkit.report.sheet import Sheet
from marginkit.table.writing import write

NAMES = ("cross-entropy", "large-margin", "adversarial-training", "trades", "mma", "hinge", "certified")


def printed(shown, width: int = 80, terminal: bool = False) -> list[str]:
    console = Console(
        width=width, file=io.StringIO(), force_terminal=terminal, color_system=None, _environ={}
    )
    with console.capture() as said:
        console.print(shown)
    return [line.rstrip() for line in said.get().splitlines()]


@cache
def study(models: int, norms: int = 2) -> Study:
    def of(seed: int):
        made = model(60, seed, 1 + 0.1 * seed)
        kept = [c for c in made.columns if norms == 2 or c.norm == "l2"]
        extra = [column(c.distance * 8, c.method, c.kind, "l1") for c in kept if c.name == "pgd.l2"]
        return table(*kept, *(extra if norms == 3 else []), hash=made.hash, meta=made.meta)

    return Study.of_tables({name: of(seed) for seed, name in enumerate(NAMES[:models])})


@cache
def words(models: int) -> frozenset[str]:
    """All that is said of so many models where there is room."""
    whole = [" ".join(printed(Answer.of_study(study(models, k)), 500)) for k in (1, 2, 3)]
    return frozenset(word.rstrip(",") for text in whole for word in text.split())


@pytest.mark.parametrize("width", [60, 80, 140])
@pytest.mark.parametrize(("models", "norms"), [(2, 1), (2, 2), (2, 3), (3, 2), (4, 2), (7, 2)])
def test_at_most_twelve_lines_of_whole_words(models, norms, width):
    made = study(models, norms)
    lines = printed(Answer.of_study(made), width)
    assert len(lines) <= LINES
    assert max(map(len, lines)) <= width
    known = words(models)
    known |= {*(f"{name};" for name in NAMES), "...", "L2", "Linf", "L1", "everything"}
    assert {word.rstrip(",") for line in lines for word in line.split()} <= known
    assert sum(line.startswith(("A ", "B ")) for line in lines) >= 2


def test_it_says_who_is_farther_by_how_much_and_what_is_doubted():
    lines = printed(Answer.of_study(study(2)))
    assert lines[0].split() == ["model", "accuracy", "norm", "found", "proved", "robust", "accuracy"]
    (found,) = [line for line in lines if line.startswith("l2: ")]
    assert found.startswith("l2: no difference between B and A is established (95 %: ")
    clear = table(column(np.linspace(1, 2, 60))), table(column(np.linspace(1.1, 2.1, 60)))
    (found,) = [
        line
        for line in printed(Answer.of_study(Study.of_tables(dict(zip("xy", clear, strict=True)))))
        if line.startswith("l2: ")
    ]
    assert "B's distances are larger than A's by 0.1 (95 %: " in found
    turned = dict(zip("xy", reversed(clear), strict=True))
    assert found.replace("larger", "smaller") in printed(Answer.of_study(Study.of_tables(turned)))
    assert "60 samples." in " ".join(lines)
    assert "Doubts: " in " ".join(lines)


def test_the_figures_are_the_medians_and_shares():
    made = table(
        column([1.0, 2.0, 4.0, 0.0]), column([0.5, 1.0, 3.0, 0.0], "crown", Kind.LOWER),
        wrong=[False, False, False, True],
    )  # fmt: skip
    (standing,) = Answer.of_table(made).standings
    assert (standing.found, standing.certified, standing.accuracy) == (1.5, 0.75, 0.75)
    assert [(r.found, r.certified) for r in standing.robust] == [
        (
            float((np.array([1, 2, 4, 0]) > r.radius).mean()),
            float((np.array([0.5, 1, 3, 0]) > r.radius).mean()),
        )
        for r in standing.robust
    ]


def test_what_nothing_bounds_is_said_so():
    estimates = table(column([1.0, 2.0], "first_order", Kind.ESTIMATE))
    assert "No distance was found or proved" in str(Answer.of_table(estimates))
    assert "proved" in str(Answer.of_table(table(column([1.0, 2.0], "crown", Kind.LOWER))))
    assert "inf" in str(Answer.of_table(table(column([np.inf, np.inf]))))


def test_a_curve_is_drawn_where_a_terminal_can_show_it():
    answer = Answer.of_study(study(2))
    assert not any("█" in line for line in printed(answer, 120))
    assert sum("█" in line for line in printed(answer, 120, terminal=True)) == 4
    assert spark([1.0, 0.5, 0.0], 3) == "█▅▁"


def test_groups_have_an_answer_too(tmp_path):
    for seed in range(4):
        write(model(80, seed, 1 + 0.2 * (seed > 1), of=3), tmp_path / f"{seed}.h5")
    groups = {"low": [tmp_path / "0.h5", tmp_path / "1.h5"], "high": [tmp_path / "2.h5", tmp_path / "3.h5"]}
    text = " ".join(str(Answer.of_study(Study.of_groups(groups, Settings()))).split())
    assert "A low (2 models)" in text
    assert "no difference is established (" in text


def test_a_table_goes_on_below_where_it_is_too_wide():
    rows = Rows("", "", ("column", *("heading",) * 9), (("first_order.linf.hidden", *("0.123456",) * 9),))
    for width in (60, 80, 200):
        lines = printed(Sheet(rows), width)
        assert max(map(len, lines)) <= width
        assert sum(line.count("0.123456") for line in lines) == 9
        assert all("first_order.linf.hidden" in line for line in lines if "0.1" in line)
    assert len(printed(Sheet(rows), 200)) == 2


def test_the_commands_print_it_last_and_alone_where_quiet(tmp_path):
    files = []
    for name, made in study(2).tables.items():
        files.append(str(tmp_path / f"{name}.h5"))
        write(made, tmp_path / f"{name}.h5")

    def out(*arguments: str) -> str:
        result = CliRunner().invoke(main, [*arguments])
        assert result.exit_code == 0, result.output
        return result.output

    for command in (("compare", *files), ("show", files[0])):
        usual, quiet, everything = out(*command), out(*command, "-q"), out(*command, "--details")
        assert usual == quiet
        assert len(quiet.splitlines()) <= LINES
        assert everything.endswith(quiet)
        assert len(everything) > 2 * len(quiet)
        assert out(*command, "-qq") == ""
    assert "355 samples" in out("show", "artifact:digits/hinge")
    figures = json.loads(out("compare", *files, "--json", "-"))
    assert [s["norm"] for s in figures["standings"]] == ["l2", "l2", "linf", "linf"]


def test_exact_ends_count_as_found_and_proved():
    (standing,) = Answer.of_table(table(*exact([1.0, 2.0, 3.0], [1.5, 2.5, 3.5]))).standings
    assert (standing.certified, standing.found) == (2.0, 2.5)
