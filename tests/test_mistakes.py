"""Kinds of mistakes, each with every command and option that it can be made with: one clear sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from leftovers import leftovers
from made_up import model as made_up
from marginkit_cli.main import main

from marginkit.table.writing import write

GIVEN = {  # what a command can't do without; a.h5 and b.h5 are tables, model.pt is none
    "train": "", "evaluate": "--model model.pt", "measure": "--model model.pt", "merge": "new.h5 a.h5",
    "tighten": "a.h5 --model model.pt", "compare": "a.h5 b.h5", "show": "a.h5",
    "export": "a.h5 --csv new.csv", "demo": "", "methods": "", "datasets": "",
}  # fmt: skip
INPUTS = {  # where a path is read, and what it should be
    "evaluate --model": "checkpoint", "measure --model": "checkpoint", "tighten --model": "checkpoint",
    "merge shards": "table", "tighten table": "table", "compare tables": "table", "show table": "table",
    "export table": "table", "compare --baseline": "table",
}  # fmt: skip
OUTPUTS = (  # of commands that need no model; the first two look at more before they write
    "train --out", "merge out", "compare --html", "compare --markdown", "compare --latex", "compare --json",
    "show --json", "export --csv",
)  # fmt: skip
NUMBERS = (click.IntRange, click.FloatRange, click.types.IntParamType, click.types.FloatParamType)


def options(*kinds: type) -> Iterator[tuple[str, click.Option]]:
    """Every option of these types, with its command."""
    for name, command in main.commands.items():
        for option in command.params:
            if isinstance(option, click.Option) and isinstance(option.type, kinds) and not option.count:
                yield name, option


def longest(option: click.Option) -> str:
    return max(option.opts, key=len)


def below(option: click.Option) -> list[str]:
    """A number under the least one."""
    least = getattr(option.type, "min", None)
    return [] if least is None else [str(least - 1)]


def mistakes() -> Iterator[tuple[str, str, int, str]]:
    """A name, arguments, an exit code and what is said."""
    for name, given in GIVEN.items():
        yield f"{name}: unknown option", f"{name} {given} --nonsense", 2, "No such option.*--nonsense"
        if any(isinstance(p, click.Argument) and p.required for p in main.commands[name].params):
            yield f"{name}: nothing given", name, 2, "Missing argument"
        if not any(p.nargs < 0 for p in main.commands[name].params):
            yield f"{name}: too much given", f"{name} {given} surplus", 2, "unexpected extra argument"
    for name, option in options(*NUMBERS):
        for value in ("many", *below(option)):
            text = f"{name} {longest(option)} {value} {GIVEN[name]}"
            yield f"{name} {longest(option)}={value}", text, 2, "is not (in the range|a valid)"
    for name, option in options(click.Choice):
        text = f"{name} {longest(option)} nonsense {GIVEN[name]}"
        yield f"{name} {longest(option)}=nonsense", text, 2, "'nonsense' is not (one of|'8bit')"
    for name, option in options(*NUMBERS, click.Choice, click.Path):
        yield f"{name} {longest(option)} at the end", f"{name} {GIVEN[name]} {longest(option)}", 2, "requires"
    for place, what in INPUTS.items():
        for path, said in (("absent", f"no such {what}: absent"), ("page", "page is not a")):
            yield f"{place}={path}", _put(place, path), 1, said
        clicks = isinstance(_parameter(place).type, click.Path)
        said = "File 'folder' is a directory" if clicks else "folder is a folder; expected a checkpoint"
        yield f"{place}=folder", _put(place, "folder"), 2 if clicks else 1, said
    for place in OUTPUTS:
        yield (
            f"{place} is there",
            _put(place, "page"),
            1,
            "page exists: choose another name, or add --overwrite",
        )
    for place in OUTPUTS[2:]:
        yield f"{place} in no folder", _put(place, "absent/new"), 1, "can't write absent/new"


def _parameter(place: str) -> click.Parameter:
    name, where = place.split()
    return next(p for p in main.commands[name].params if where in (*p.opts, p.name))


def _put(place: str, path: str) -> str:
    """The command with a path in one place."""
    name, where = place.split()
    if where == "out":
        return f"{name} {path} a.h5"
    if where[0] == "-":
        given = re.sub(f"{where} \\S+", "", GIVEN[name])
        return f"{name} {given} {where} {path}"
    return f"{name} {re.sub(r'a.h5$|a.h5(?= [-b])', path, GIVEN[name])}"


EVERY = list(mistakes())


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Two tables, and what is neither table nor checkpoint."""
    path = tmp_path_factory.mktemp("mistakes")
    for seed, name in enumerate("ab"):
        write(made_up(20, seed), path / f"{name}.h5")
    (path / "page").write_text("<html>")
    (path / "model.pt").write_text("<html>")
    (path / "folder").mkdir()
    return path


@pytest.mark.parametrize(("arguments", "code", "said"), [m[1:] for m in EVERY], ids=[m[0] for m in EVERY])
def test_a_mistake_is_one_sentence_the_right_code_and_no_file(arguments, code, said, folder, monkeypatch):
    monkeypatch.chdir(folder)
    before = sorted(folder.rglob("*"))
    result = CliRunner().invoke(main, arguments.split())
    flat = " ".join(result.stderr.split())
    assert result.exit_code == code, result.output
    assert re.search(said, flat), flat
    assert "Traceback" not in flat
    assert "unexpected " not in flat.replace("unexpected extra argument", "")
    assert flat.count("Error: ") == 1
    assert len(flat) < 500
    assert result.stdout == ""
    assert sorted(folder.rglob("*")) == before
    assert not leftovers(folder)


def test_every_command_is_tried():
    assert set(GIVEN) == set(main.commands)
    read = {
        f"{name} {max(p.opts, key=len)}"
        for name, command in main.commands.items()
        for p in command.params
        if isinstance(p.type, click.Path) and (isinstance(p, click.Argument) or "--model" in p.opts)
    }
    assert read - {"merge out"} <= set(INPUTS)
