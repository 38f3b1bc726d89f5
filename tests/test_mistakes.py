"""Mistakes at the command: kinds of them with every command and option, and single ones."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import click
import numpy as np
import pytest
import torch
from click.testing import CliRunner
from leftovers import full, leftovers
from made_up import model as made_up
from marginkit_cli.main import main

from marginkit.data.sources import load
from marginkit.models.checkpoint import load as load_checkpoint
from marginkit.table.writing import write

GIVEN = {  # what a command can't do without; a.h5 and b.h5 are tables, model.pt is none
    "train": "", "evaluate": "--model model.pt", "measure": "--model model.pt", "merge": "new.h5 a.h5",
    "tighten": "a.h5 --model model.pt", "compare": "a.h5 b.h5", "show": "a.h5",
    "export": "a.h5 --csv new.csv", "predict": "a.h5", "demo": "", "methods": "", "datasets": "",
}  # fmt: skip
INPUTS = {  # where a path is read, and what it should be
    "evaluate --model": "checkpoint", "measure --model": "checkpoint", "tighten --model": "checkpoint",
    "merge shards": "table", "tighten table": "table", "compare tables": "table", "show table": "table",
    "export table": "table", "predict tables": "table", "compare --baseline": "table",
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


def needed(name: str) -> str:
    """What makes the command do something; a new one's is missed by `test_every_command_is_tried`."""
    return GIVEN.get(name, "")


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
            text = f"{name} {longest(option)} {value} {GIVEN.get(name, '')}"
            yield f"{name} {longest(option)}={value}", text, 2, "is not (in the range|a valid)"
    for name, option in options(click.Choice):
        text = f"{name} {longest(option)} nonsense {GIVEN.get(name, '')}"
        yield f"{name} {longest(option)}=nonsense", text, 2, "'nonsense' is not (one of|'8bit')"
    for name, option in options(*NUMBERS, click.Choice, click.Path):
        yield (
            f"{name} {longest(option)} at the end",
            f"{name} {GIVEN.get(name, '')} {longest(option)}",
            2,
            "requires",
        )
    for place, what in INPUTS.items():
        for path, said in (("absent", f"no such {what}: absent"), ("page", "page is not a")):
            yield f"{place}={path}", _put(place, path), 1, said
        kind = _parameter(place).type
        files = isinstance(kind, click.Path) and not kind.dir_okay
        said = "File 'folder' is a directory" if files else f"folder (is a folder; expected a|has no) {what}"
        yield f"{place}=folder", _put(place, "folder"), 2 if files else 1, said
    for place in OUTPUTS:
        said = "page exists: choose another name, or add --overwrite"
        yield f"{place} is there", _put(place, "page"), 1, said
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
        given = re.sub(f"{where} \\S+", "", needed(name))
        return f"{name} {given} {where} {path}"
    return f"{name} {re.sub(r'a.h5$|a.h5(?= [-b])', path, GIVEN.get(name, ''))}"


QUICK = ["--methods", "first_order,deepfool", "--limit", 20, "--checks", 0]
EVERY = list(mistakes())


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


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


# Mistakes of one command each -----------------------------------------------------------------


@pytest.fixture
def bad(tmp_path, monkeypatch, checkpoint_path):
    """A folder of good and bad files."""
    monkeypatch.chdir(tmp_path)
    digits = load("digits")
    x, y = digits.inputs(list(range(20))).numpy(), digits.labels[:20]
    arrays = {
        "good": (x, y),
        "nan": (np.where(x > 0.9, np.nan, x), y),
        "outside": (x * 255, y),
        "labels": (x, y + 5),
        "negative": (x, y - 20),
        "one-class": (x, y * 0),
        "flat": (x.reshape(20, 64), y),
    }
    for name, (inputs, labels) in arrays.items():
        np.savez(f"{name}.npz", x=inputs, y=labels)
    Path("model.pt").write_bytes(checkpoint_path.read_bytes())
    torch.save(load_checkpoint(checkpoint_path)[0].state, "weights.pt")
    Path("page.pt").write_text("<html>")
    Path("text.h5").write_text("text")
    Path("bad.toml").write_text("limit = ")
    Path("unknown.toml").write_text("limits = 3")
    run("measure", *QUICK, "--out", "a.h5", "-q")
    run("measure", *QUICK, "--out", "steps.h5", "--option", "deepfool.steps=3", "-q")
    run("measure", *QUICK, "--out", "box.h5", "--bounds", "none", "-q")
    run("measure", *QUICK, "--out", "train.h5", "--split", "train", "-q")
    return tmp_path


MISTAKES = [
    ("measure --model absent.pt", 1, "no such checkpoint: absent.pt"),
    ("measure --model page.pt", 1, "page.pt is not a checkpoint that loads safely"),
    ("measure --model weights.pt", 1, "weights.pt holds weights only: say which architecture"),
    (
        "measure --model weights.pt --arch cnn --dataset digits",
        1,
        "the weights do not fit cnn.*missing conv1",
    ),
    ("measure --model weights.pt --arch cnn", 2, "give --dataset too"),
    ("measure --model weights.pt --arch vgg --dataset digits", 2, "unknown architecture 'vgg'"),
    ("measure --model torchvision:resnet19 --dataset digits", 2, "torchvision has no classifier 'resnet19'"),
    ("measure --model nowhere_at_all:make --dataset digits", 1, "no module 'nowhere_at_all'"),
    ("measure --model nowhere_at_all:make", 2, "does not say what it was trained on: give --dataset"),
    ("measure --weights weights.pt", 2, "--weights is for a factory"),
    ("measure --checks -1", 2, "-1 is not in the range x>=0"),
    ("measure --mask model.pt", 1, "model.pt is no mask for inputs of shape"),
    ("show page.pt", 1, "page.pt is not a readable HDF5 file"),
    ("measure --dataset npz:absent.npz", 1, "no such file: absent.npz"),
    ("measure --dataset npz:nan.npz", 1, "nan.npz has NaN or infinite values"),
    ("measure --dataset npz:outside.npz", 1, r"runs from 0 to 255, outside the box \[0, 1\].*--bounds"),
    ("measure --dataset npz:labels.npz", 1, "the model has 10 scores"),
    ("measure --dataset npz:negative.npz", 1, "labels must count from 0"),
    ("measure --dataset npz:flat.npz", 1, r"has inputs \[64\], but model.pt takes \[1, 8, 8\]"),
    ("measure --dataset mnist", 1, "mnist is not in data: add --download"),
    ("measure --dataset digit", 2, "unknown data set 'digit'"),
    ("measure --layers conv9", 2, "unknown layer 'conv9'; this model has input, normalize"),
    ("measure --methods deepfol", 2, "unknown method 'deepfol'; choose from first_order"),
    ("measure --methods ,", 2, "give at least one name"),
    ("measure --norms l7", 2, "unknown norm 'l7'"),
    ("measure --limit 0", 2, "0 is not in the range x>=1"),
    ("measure --option nearest.step=3", 2, "nearest has no option 'step'"),
    ("measure --option nearest.rivals=many", 2, "nearest: option rivals is 'many'"),
    ("measure --option steps=3", 2, "names no method"),
    ("measure --option steps", 2, "'steps' is not NAME=VALUE"),
    ("measure --bounds 1,0", 2, "the lower bound 1 is not below"),
    ("measure --bounds low", 2, "'low' is not LOW,HIGH or none"),
    ("measure --device quantum", 2, "no device 'quantum' here"),
    ("measure --config bad.toml", 2, "bad.toml is not readable TOML"),
    ("measure --config unknown.toml", 2, "unknown.toml sets 'limits', which measure does not have"),
    ("measure --shard 3/2", 2, "there is no shard 3/2"),
    ("measure --shard half", 2, "'half' is not a shard: give i/n"),
    ("measure --time-limit nearest=soon", 2, "expected seconds"),
    ("measure --time-limit pgd=5", 2, "a time limit is given for 'pgd'"),
    ("measure --dtype float8", 2, "'float8' is not one of"),
    ("measure --resume --overwrite", 2, "give one"),
    ("measure --batch-size many", 2, "neither auto nor a number from 1 up"),
    ("measure --batch-size 0", 2, "neither auto nor a number from 1 up"),
    ("evaluate --batch-size auto", 2, "'auto' is not a valid integer"),
    (
        "measure --resume --out a.h5 --methods deepfool --limit 20 --option deepfool.steps=3",
        1,
        r"a.h5 has deepfool.l2.steps 50, this run has 3: measure into another file",
    ),
    ("merge m.h5 a.h5", 4, "a.h5 is no shard"),
    ("merge m.h5 absent.h5", 1, "no such table: absent.h5"),
    ("merge a.h5 steps.h5", 1, "a.h5 exists: choose another name, or add --overwrite"),
    ("measure --out a.h5", 1, "a.h5 exists: choose another name, or add --overwrite"),
    ("measure --methods first_order --limit 2 --out absent/a.h5", 1, "can't write absent/a.h5"),
    ("train --dataset npz:one-class.npz --out o.pt", 1, "every label of npz:one-class.npz is 0"),
    ("train --dataset npz:nan.npz --out o.pt", 1, "NaN or infinite"),
    ("train --dataset npz:flat.npz --out o.pt", 1, r"cnn takes images.*these inputs are \[64\]"),
    ("train --loss mse --out o.pt", 2, "unknown loss 'mse'"),
    ("train --loss-option gama=1 --out o.pt", 2, "loss large-margin has no option 'gama'"),
    ("train --loss-option top_k=10 --out o.pt", 1, "top_k is 10, but there are 9 rivals"),
    ("train --optimizer lion --out o.pt", 2, "train: option optimizer is 'lion'"),
    ("train --validation 2 --out o.pt", 1, "the validation share is 2"),
    ("compare a.h5", 2, "one table can't be compared"),
    ("compare a.h5 absent.h5", 1, "no such table: absent.h5"),
    ("compare a.h5 text.h5", 1, "text.h5 is not a readable HDF5 file"),
    ("compare a.h5 steps.h5", 4, "options of deepfool.l2 differ"),
    ("compare a.h5 box.h5", 4, "the threat differ"),
    ("compare a.h5 train.h5", 4, "data set's fingerprint differ"),
    ("compare a.h5 a.h5 --radii l2=near", 2, "expected numbers"),
    ("compare", 2, "Missing argument"),
    ("measur", 2, "No such command 'measur'"),
]


FULL_DISK = [
    ("export a.h5 --csv o.csv", 1, "can't write o.csv: No space left on device"),
    ("show a.h5 --json o.json", 1, "can't write o.json: No space left on device"),
    ("train --epochs 1 --out o.pt", 1, "can't write .*: No space left on device"),
]


def test_every_mistake_is_one_sentence_and_the_right_code(bad, monkeypatch):
    for number, (arguments, code, message) in enumerate(MISTAKES + FULL_DISK):
        if number == len(MISTAKES):
            monkeypatch.setattr("marginkit.files.atomic.os.fsync", full)
        result = run(*arguments.split(), code=code)
        flat = " ".join(result.stderr.split())
        assert re.search(message, flat), (arguments, flat)
        assert len(result.stderr) < 600, arguments
        assert result.stdout == "", arguments
    assert not leftovers(bad), "nothing half-written is left"
    assert not list(bad.glob("o.*")), "nothing that failed is there"
