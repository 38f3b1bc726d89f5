"""Nothing is passed over in silence: what a table can't say is a doubt, or a sentence, or a refusal."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from made_up import column, exact, table
from marginkit_cli.main import main

from marginkit.comparison.compare import compare
from marginkit.comparison.flags import table_flags
from marginkit.comparison.groups import compare_groups
from marginkit.comparison.settings import Settings
from marginkit.comparison.study import Study
from marginkit.comparison.summary import figures
from marginkit.errors import MarginkitError, UsageError
from marginkit.kinds import Kind, Status
from marginkit.report import group_sentences, overview, sentences, summary
from marginkit.report.charts.curves import difference
from marginkit.report.rows import of_comparison
from marginkit.table.table import MarginTable
from marginkit.table.verdicts import CHECKS, KEY, Verdict, combined, verdicts
from marginkit.table.writing import write

SPREAD = np.linspace(1, 2, 200)
SPREAD.flags.writeable = False


def codes(made: MarginTable) -> set[str]:
    return {flag.code for flag in table_flags(made, "it")}


def with_status(kind: Kind, status: Status, samples: int, of: int = 200, note: str = "") -> MarginTable:
    """A table of one column in which so many samples have the status, and its vacuous distance."""
    vacuous = 0.0 if kind is Kind.LOWER else np.nan if kind is Kind.ESTIMATE else np.inf
    found = column(np.linspace(1, 2, of), "it", kind)
    found.distance[:samples], found.status[:samples] = vacuous, status
    return table(replace(found, note=note))


# What statuses say -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.UPPER, Kind.LOWER, Kind.ESTIMATE, Kind.SMOOTHED])
@pytest.mark.parametrize("status", [Status.FAILED, Status.NONFINITE])
def test_one_sample_that_failed_is_a_doubt(kind, status):
    assert status.name.lower() in codes(with_status(kind, status, 1))
    assert codes(with_status(kind, status, 0)) == set()


@pytest.mark.parametrize(
    "status", [Status.EXHAUSTED, Status.UNSUPPORTED, Status.TIMEOUT, Status.ZERO_GRADIENT, Status.FAILED]
)
def test_samples_without_an_answer_are_a_doubt_whatever_the_reason(status):
    assert codes(with_status(Kind.UPPER, status, 3)) == {status.name.lower()}


@pytest.mark.parametrize("status", Status)
def test_every_status_is_counted_by_its_name(status):
    made = with_status(Kind.UPPER, status, 7, note="the reason")
    (row,) = compare(made, with_status(Kind.UPPER, status, 9)).columns
    assert row.statuses[status.name.lower()] == (7, 9) if status else (200, 200)
    assert sum(first for first, _ in row.statuses.values()) == 200
    assert row.not_ok == ((0, 0) if status in (Status.OK, Status.MISCLASSIFIED) else (7, 9))
    assert figures(made)["columns"]["it.l2"][status.name.lower()] == (7 if status else 200)
    if status not in (Status.OK, Status.MISCLASSIFIED, Status.EXHAUSTED):
        words = status.name.lower().replace("_", " ")
        assert f"it.l2: 7 {words}, the reason" in list(summary(made))


def test_distances_that_are_missing_without_a_reason_are_a_doubt():
    found = column(SPREAD.copy(), "first_order", Kind.ESTIMATE)
    found.distance[4] = np.nan
    assert codes(table(found)) == {"unknown"}


@pytest.mark.parametrize("status", [Status.UNSUPPORTED, Status.FAILED, Status.NONFINITE])
@pytest.mark.parametrize("kind", [Kind.LOWER, Kind.UPPER, Kind.EXACT])
def test_a_method_that_answers_for_no_sample_is_compared_with_nothing(kind, status):
    """Its vacuous ends are neither equal to another's, nor smaller, nor a robust accuracy of 0 or 1."""
    answering, mute = with_status(kind, status, 0), with_status(kind, status, 200)
    for pair, who in (((answering, mute), "B"), ((mute, answering), "A"), ((mute, mute), "A and B")):
        found = compare(*pair)
        (row,) = found.columns
        assert (row.n, row.wilcoxon, found.robust, found.tests) == (0, None, (), 0)
        assert f"no answer for any sample of {who}." in next(sentences(found))
        assert "nan" not in " ".join(cell for rows in of_comparison(found) for r in rows.rows for cell in r)
    (groups,) = compare_groups({"a": {"x": answering, "y": answering}, "b": {"x": mute, "y": answering}})
    assert (groups.columns[0].n, groups.columns[0].welch, groups.robust) == (0, None, ())
    assert "no sample has a number in all models" in next(group_sentences(groups))


def test_partly_failing_searches_still_count_as_far_as_tau():
    a, b = with_status(Kind.UPPER, Status.OK, 0), with_status(Kind.UPPER, Status.FAILED, 50)
    (row,) = compare(a, b).columns
    assert (row.n, row.exhausted) == (200, (0, 0))
    assert row.extremes[0] < 0 < row.extremes[1]


@pytest.mark.parametrize("layer", ["input", "hidden"])
def test_searches_that_found_nothing_are_not_called_identical_without_a_reserve(layer):
    nothing = table(column([np.inf] * 40, layer=layer), column(SPREAD[:40], "pgd"))
    found = compare(nothing, nothing)
    row = found.columns[0]
    assert row.tau == 0, "nothing is known of how far they looked"
    cut = compare(*[table(column([np.inf, *SPREAD], layer=layer), column([1.0, *SPREAD], "pgd"))] * 2)
    assert cut.columns[0].extremes[0] < 0 < cut.columns[0].extremes[1]
    if layer == "input":
        assert "identical, as far as searches found any" in next(sentences(cut))


# Contradictions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["crown", "exact"])
def test_a_proof_beyond_a_distance_found_is_a_doubt_about_one_table_alone(name):
    proved = (column([*[0.5] * 39, 1.2], "crown", Kind.LOWER),)
    if name == "exact":
        proved = exact([*[0.5] * 39, 1.2], [*[2.0] * 39, 1.3])
    assert codes(table(*proved, column([1.0] * 40))) >= {"contradiction"}
    assert "contradiction" not in codes(table(*proved, column([1.2] * 40)))


def test_faithfulness_of_one_model_is_not_hidden_by_the_others_being_unknown():
    distance, shuffled = SPREAD[:40], np.roll(SPREAD[:40], 17)
    constant = table(column(distance), column(np.ones(40), "first_order", Kind.ESTIMATE))
    wrong = table(column(distance), column(shuffled, "first_order", Kind.ESTIMATE))
    for pair in ((constant, wrong), (wrong, constant)):
        assert "unfaithful-first-order" in {flag.code for flag in compare(*pair).flags}


# Accuracy --------------------------------------------------------------------------------------------


def classified(right: int, n: int, classes: int) -> MarginTable:
    label = np.arange(n) % classes
    predicted = np.where(np.arange(n) < right, label, (label + 1) % max(classes, 2))
    return replace(table(column(np.linspace(1, 2, n))), label=label, predicted=predicted)


@pytest.mark.parametrize(
    ("right", "n", "classes", "doubtful"),
    [
        (10, 100, 10, True),
        (0, 100, 10, True),
        (15, 100, 10, True),  # p = .073
        (16, 100, 10, False),  # p = .040
        (100, 1000, 10, True),
        (150, 1000, 10, False),
        (50, 100, 2, True),
        (60, 100, 2, False),
        (9, 10, 2, False),
        (7, 10, 2, True),
        (0, 3, 3, True),
        (1, 1, 1, False),  # too few to tell, and better than chance as far as can be seen
        (4, 4, 2, False),
        (2, 4, 2, True),
        (5, 5, 1, False),
        (0, 1, 1, True),
    ],
)
def test_an_accuracy_that_is_not_above_chance_is_a_doubt(right, n, classes, doubtful):
    made = classified(right, n, classes)
    assert ("at-chance" in codes(made)) == doubtful
    compared = compare(classified(n, n, classes), made).flags
    assert ("at-chance" in {flag.code for flag in compared}) == doubtful


def test_an_accuracy_at_chance_is_said_plainly_by_every_command(tmp_path):
    for name, right in (("bad.h5", 12), ("good.h5", 95)):
        write(classified(right, 100, 10), tmp_path / name)
    said = "an accuracy of 12.0% on 100 samples is not above chance, which is 10.0% for 10 classes"
    shown = run("show", tmp_path / "bad.h5").stdout
    compared = run("compare", tmp_path / "good.h5", tmp_path / "bad.h5", "--strict", code=3).stdout
    groups = [f"--group={name}={tmp_path / name}.h5" for name in ("good", "bad")]
    grouped = run("compare", *groups, "--strict", code=3).stdout
    assert all(said in " ".join(text.split()) for text in (shown, compared, grouped))
    assert "chance" not in run("show", tmp_path / "good.h5").stdout


# Checks that crash -----------------------------------------------------------------------------------


def checked(*found: Verdict, **changes) -> MarginTable:
    entries = [vars(verdict) | changes for verdict in found]
    plain = table(column(SPREAD))
    return plain.with_meta({**plain.meta, KEY: {"samples": 5, "seed": 0, "verdicts": entries}})


def test_checks_that_crash_are_one_doubt_for_each_error():
    first, second = RuntimeError("no kernel\nmore"), ValueError()
    made = checked(
        Verdict.of_crash("randomised", first),
        Verdict.of_crash("eight-bit", first),
        Verdict.of_crash("probabilities", second),
        Verdict.of("no-gradient", 0.4),
        Verdict.of("not-converged", None, note="no search at the input was measured"),
    )
    found = [flag for flag in table_flags(made, "it") if flag.code != "no-gradient"]
    assert [flag.code for flag in found] == ["check-failed", "check-failed"]
    assert "it: randomised, eight-bit: the check gave no answer (failed: no kernel)" in found[0].text
    assert "it: probabilities: the check gave no answer (failed: ValueError)" in found[1].text
    assert {v.check for v in verdicts(made.provenance) if v.crashed} == {
        "randomised",
        "eight-bit",
        "probabilities",
    }


def test_a_crashed_check_outlives_a_later_run_that_has_an_answer():
    before = checked(Verdict.of_crash("randomised", RuntimeError("no"))).provenance
    now = checked(Verdict.of("randomised", 0.0)).provenance
    (verdict,) = verdicts(combined(before, now))
    assert verdict.crashed
    assert verdict.note == "failed: no"


@pytest.mark.parametrize("note", [None, 3, ["x"]])
def test_a_note_that_is_no_text_is_refused(note):
    with pytest.raises(MarginkitError, match=r"verdicts\[0\]\.note is .*; expected text"):
        checked(Verdict.of_crash(next(iter(CHECKS)), RuntimeError("no")), note=note)


@pytest.mark.parametrize("note", ["", "\x1b[31m" + "y" * 9999])
def test_a_note_from_a_file_is_shown_safely(note):
    crash = Verdict.of_crash(next(iter(CHECKS)), RuntimeError("no"))
    (flag,) = [f for f in table_flags(checked(crash, note=note), "it") if f.code == "check-failed"]
    assert flag.text.isprintable()
    assert len(flag.text) < 500


# Settings --------------------------------------------------------------------------------------------


def bracketed(factor: float, closed: bool) -> MarginTable:
    upper = SPREAD * factor
    return table(*exact(upper if closed else upper * 0.9, upper, "linf"))


@pytest.mark.parametrize("closed", [True, False])
def test_tau_and_rope_reach_exact_columns(closed):
    settings = Settings(taus={"linf": 1.5}, ropes={"linf": 0.1})
    found = compare(bracketed(1, closed), bracketed(1.01, closed), settings=settings)
    assert [row.name for row in found.columns] == ["exact.linf.lower", "exact.linf.upper"]
    for row in found.columns:
        assert (row.tau, row.tau_is, row.rope) == (1.5, "given", 0.1)
        assert max(row.mean) < 1.5
        assert row.ties == row.n
    assert all("practically equal" in text for text in list(sentences(found))[:2])
    seeds = {"a": bracketed(1, closed), "b": bracketed(1.002, closed)}
    (groups,) = compare_groups({"a": seeds, "b": {k: bracketed(1.01, closed) for k in "cd"}}, settings)
    assert [(row.tau, row.rope) for row in groups.columns] == [(1.5, 0.1)] * 2
    assert all("practically equal" in text for text in list(group_sentences(groups))[:2])


def test_classes_and_samples_are_cut_where_only_exact_columns_are():
    found = compare(bracketed(1, True), bracketed(2, True), settings=Settings(taus={"linf": 1.5}))
    assert max(max(row.mean) for row in found.classes) <= 1.5


def test_open_brackets_are_not_called_exact(tmp_path):
    closed = compare(bracketed(1, True), bracketed(1.2, True))
    assert [str(row.answer) for row in closed.columns] == ["exact", "exact"]
    assert all("exact distances are larger" in text for text in list(sentences(closed))[:2])
    for pair in ((True, False), (False, True), (False, False)):
        found = compare(bracketed(1, pair[0]), bracketed(1.3, pair[1]))
        assert [row.unclosed for row in found.columns] == [tuple(0 if c else 200 for c in pair)] * 2
        shown = next(iter(of_comparison(found)))
        assert [row[:2] for row in shown.rows] == [
            ("exact.linf.lower", "lower"),
            ("exact.linf.upper", "upper"),
        ]
        text = " ".join(sentences(found))
        assert "certified distances are larger" in text
        assert "exact distances" not in text
    write(bracketed(1, False), tmp_path / "open.h5")
    lines = run("show", tmp_path / "open.h5", "--details").stdout.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("exact.linf")] == ["lower", "upper"]
    one_open = exact([*SPREAD[:-1], 0.0], SPREAD)
    assert compare(table(*one_open), table(*one_open)).columns[0].unclosed == (1, 1)


@pytest.mark.parametrize("ends", [("lower",), ("upper",)])
def test_one_end_alone_is_not_called_exact(ends):
    columns = dict(zip(("lower", "upper"), exact(SPREAD, SPREAD), strict=True))
    a, b = (table(*(replace(columns[e], distance=SPREAD * f) for e in ends)) for f in (1, 2))
    assert str(compare(a, b).columns[0].answer) == ends[0]


NORMS = [
    ("--tau l7=1", "--tau names the norm 'l7'; the tables share distances at the input in l2, linf"),
    ("--tau L2=1", "--tau names the norm 'L2'"),
    ("--tau l1=1", "--tau names the norm 'l1'"),
    ("--radii L2=1", "--radii names the norm 'L2'"),
    ("--radii linf,l2=1", "--radii names the norm 'linf,l2'"),
    ("--rope inf=1", "--rope names the norm 'inf'"),
]
VALUES = [
    ("--tau l2=0", "expected a number above 0"),
    ("--tau l2=-1", "expected a number above 0"),
    ("--tau l2=inf", "expected a number above 0"),
    ("--tau l2=nan", "expected a number above 0"),
    ("--tau l2=1,2", "expected one number"),
    ("--tau l2=1 --tau l2=2", "gives l2 twice"),
    ("--rope l2=-1", "expected a number 0 or more"),
    ("--rope l2=nan", "expected a number 0 or more"),
    ("--rope l2=.1,.2", "expected one number"),
    ("--radii l2=-1", "expected a number 0 or more"),
    ("--radii l2=1,inf", "expected a number 0 or more"),
    ("--radii l2=", "expected numbers"),
    ("--radii l2=1 --radii l2=2", "gives l2 twice"),
]


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    return result


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("settings")
    for i in range(4):
        columns = [column(SPREAD * (1 + 0.001 * i), norm=norm) for norm in ("l2", "linf")]
        write(table(*columns), folder / f"{i}.h5")
    return folder


@pytest.mark.parametrize(("options", "message"), NORMS + VALUES)
@pytest.mark.parametrize("grouped", [False, True])
def test_settings_that_would_be_passed_over_are_usage_errors(files, options, message, grouped):
    pair = [files / "0.h5", files / "1.h5"]
    tables = [f"--group=a={pair[0]}", f"--group=b={pair[1]}"] if grouped else pair
    assert message in " ".join(run("compare", *tables, *options.split(), code=2).stderr.split())


def test_settings_of_a_norm_that_is_there_are_taken(files, tmp_path):
    options = ["--tau", "l2=1.5", "--rope", "l2=.1", "--rope", "linf=.1", "--radii", "linf=1.2"]
    groups = [f"--group=a={files}/0.h5", f"--group=a={files}/1.h5", f"--group=b={files}/[23].h5"]
    text = run("compare", *groups, *options, "--json", tmp_path / "found.json").stdout
    (found,) = json.loads((tmp_path / "found.json").read_text())["groups"]
    assert [len(of) for of in found["files"]] == [2, 2], "a group given twice has the files of both"
    assert {(r["norm"], r["tau"], r["rope"]) for r in found["columns"]} >= {("l2", 1.5, 0.1)}
    assert [row["radius"] for row in found["robust"] if row["norm"] == "linf"] == [1.2]
    assert " ".join(text.split()).count("practically equal") == 2


def test_python_has_the_same_refusals():
    with pytest.raises(UsageError, match="names the norm 'L2'"):
        compare(table(column(SPREAD)), table(column(SPREAD)), settings=Settings(radii={"L2": [1.0]}))
    with pytest.raises(UsageError, match="none is given"):
        Settings(radii={"l2": []})


# Intervals -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("n", [2, 8, 40])
def test_shares_have_an_interval_with_width_wherever_they_are_shown(n):
    near, far = table(column(np.full(n, 1.0))), table(column(np.full(n, 2.0)))
    for pair, truth in (((near, near), 0), ((near, far), 1), ((far, near), -1)):
        found = compare(*pair, settings=Settings(radii={"l2": [1.5]}))
        (row,) = found.robust
        assert row.difference == truth
        assert row.interval[0] < row.interval[1]
        assert row.interval[0] <= truth <= row.interval[1]
        assert row.interval_method == "score"
        tables = {"a": {"x": pair[0]}}, {"b": {"y": pair[1]}}
        (groups,) = compare_groups({**tables[0], **tables[1]}, Settings(radii={"l2": [1.5]}))
        assert groups.robust[0].interval[0] < groups.robust[0].interval[1]
    study = Study.of_tables({"a": near, "b": far})
    chart = difference("l2", *study.together.brackets["l2"])
    points = list(csv.DictReader(io.StringIO(chart.spec["data"]["values"])))
    assert len(points) > 50
    assert all(float(point["low"]) < float(point["high"]) for point in points)


def test_one_sample_has_no_interval_and_says_so_without_nan():
    one = table(column([1.0])), table(column([2.0]))
    found = compare(*one, settings=Settings(radii={"l2": [1.5]}))
    assert np.isnan(found.robust[0].interval).all()
    assert np.isnan(found.columns[0].interval).all()
    texts = [*sentences(found), *(cell for rows in of_comparison(found) for row in rows.rows for cell in row)]
    texts += [text for text in overview(found) if isinstance(text, str)]
    assert not any("nan" in text.lower() for text in texts)
    assert "[-, -]" in texts
    (groups,) = compare_groups({"a": {"x": one[0], "y": one[1]}, "b": {"x": one[1], "y": one[0]}})
    assert "on one sample" in next(group_sentences(groups))


def test_few_samples_are_a_doubt_for_groups_too(tmp_path):
    for i in range(2):
        write(table(column(SPREAD[:20])), tmp_path / f"{i}.h5")
    found = Study.of_groups({"a": [tmp_path / "0.h5"], "b": [tmp_path / "1.h5"]}, Settings())
    assert "few-samples" in {flag.code for flag in found.flags}
