"""Files, locks, configuration and streams: what a job meets on other people's machines."""

from __future__ import annotations

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner
from marginkit_cli.config import as_given
from marginkit_cli.main import main

from marginkit.errors import MarginkitError, UsageError
from marginkit.files.atomic import locked, replacing
from marginkit.layers import resolve_layers
from marginkit.losses import LOSSES
from marginkit.measurement.parts import Parts
from marginkit.measurement.tighten import tighten_file


def put(path: Path, text: str) -> None:
    with replacing(path) as temporary:
        temporary.write_text(text)


# Files ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["absolute", "relative", "chain", "dangling"])
def test_writing_to_a_link_writes_its_target(tmp_path, kind):
    (tmp_path / "there").mkdir()
    target, link = tmp_path / "there/real.json", tmp_path / "link.json"
    if kind != "dangling":
        target.write_text("old")
    if kind == "chain":
        (tmp_path / "between").symlink_to(target)
        link.symlink_to("between")
    else:
        link.symlink_to(target if kind != "relative" else "there/real.json")
    put(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664, 0o666, 0o755])
def test_a_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "shared.csv"
    path.write_text("old")
    path.chmod(mode)
    put(path, "new")
    assert stat.S_IMODE(path.stat().st_mode) == mode


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o002])
def test_a_new_file_has_the_mode_that_the_umask_leaves(tmp_path, mask):
    before = os.umask(mask)
    try:
        put(tmp_path / "new", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "new").stat().st_mode) == 0o666 & ~mask


def test_what_is_no_file_is_written_to_and_stays(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    put(pipe, "figures")
    assert os.read(reader, 100) == b"figures"
    os.close(reader)
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    put(Path("/dev/null"), "nothing")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


# Locks ----------------------------------------------------------------------------------------------


def test_a_lock_outlives_the_folder_of_parts(tmp_path):
    parts = Parts(tmp_path / "a.h5")
    with parts.alone():
        parts.folder.rmdir()
        parts.folder.mkdir()
        with pytest.raises(MarginkitError, match="being written by another process"), parts.alone():
            pass
    with parts.alone():
        pass
    assert not list(tmp_path.iterdir()), "nothing is left"


def test_a_lock_of_a_file_that_was_taken_away_is_none(tmp_path, monkeypatch):
    """The holder takes its lock file away between our opening and our locking: we lock the next one."""
    out, tries = tmp_path / "a.h5", []
    real = os.open

    def opens(path, *rest, **named):
        handle = real(path, *rest, **named)
        if str(path).endswith(".lock"):
            tries.append(path)
            if len(tries) == 1:
                os.unlink(path)
        return handle

    monkeypatch.setattr(os, "open", opens)
    with locked(out):
        assert len(tries) == 2
        with pytest.raises(MarginkitError, match="being written by another process"), locked(out):
            pass


def test_a_link_and_its_target_have_one_lock(tmp_path):
    (tmp_path / "link.h5").symlink_to("real.h5")
    with (
        locked(tmp_path / "real.h5"),
        pytest.raises(MarginkitError, match="being written by another process"),
        locked(tmp_path / "link.h5"),
    ):
        pass


def test_tighten_waits_for_nobody_who_measures(tmp_path):
    with (
        Parts(tmp_path / "a.h5").alone(),
        pytest.raises(MarginkitError, match=r"a\.h5 is being written by another process"),
    ):
        tighten_file(tmp_path / "a.h5", tmp_path / "m.pt", 1.0)


# Configuration --------------------------------------------------------------------------------------

CONFIGURED = [
    (command, option)
    for command in main.commands.values()
    if any(option.name == "config" or "--config" in option.opts for option in command.params)
    for option in command.params
    if isinstance(option, click.Option) and option.expose_value  # --config and --recipe name sets of options
]


def value_for(option: click.Option) -> object:
    if option.is_flag or option.count:
        return True
    if isinstance(option.type, click.Choice):
        return option.type.choices[0]
    if isinstance(option.type, click.types.IntParamType | click.types.FloatParamType):
        return 3
    if option.multiple:
        return ["l2=1", "linf=0.5"]
    if option.name == "array_keys":
        return "x=images,y=labels"
    if option.name == "bounds":
        return [0, 2]
    if option.name == "batch_size":
        return "auto"
    return "0.5" if option.name in ("noise", "clip") else "text"


@pytest.mark.parametrize(
    ("command", "option"), CONFIGURED, ids=[f"{c.name}{max(o.opts, key=len)}" for c, o in CONFIGURED]
)
def test_every_option_of_every_command_can_be_configured(tmp_path, command, option):
    """The same is parsed from the file as from the command line."""
    name, value = max(option.opts, key=len), value_for(option)
    words = {bool: [], list: value}.get(type(value), [value])
    words = [",".join(map(str, value))] if option.name == "bounds" else words
    given = [part for word in (words or [None]) for part in ([name] if word is None else [name, str(word)])]
    text = json.dumps(value)
    (tmp_path / "run.toml").write_text(f"[{command.name}]\n{name.lstrip('-')} = {text}\n")
    arguments = ["table.h5"] if command.name in ("tighten", "show", "predict") else []
    group = click.Context(main, info_name="marginkit")
    by_hand, by_file = (
        command.make_context(command.name, [*arguments, *more], parent=group).params
        for more in (given, ["--config", str(tmp_path / "run.toml")])
    )
    assert by_file == by_hand
    assert (
        by_file[option.name]
        != command.make_context(command.name, [*arguments], parent=group).params[option.name]
        or value in (option.default, True)
        or isinstance(option.type, click.Choice)
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('option = ["nearest.effort=tight", "pgd.steps=3"]', ("nearest.effort=tight", "pgd.steps=3")),
        ('[measure.option]\n"nearest.effort" = "tight"', ("nearest.effort=tight",)),
        ("[measure.option.fgsm]\neps = [0.1, 0.2]", ("fgsm.eps=0.1,0.2",)),
        ('option = "pgd.steps=3"', ("pgd.steps=3",)),
    ],
    ids=["list", "table", "tables", "text"],
)
def test_options_of_methods_are_a_list_or_a_table(tmp_path, text, expected):
    (tmp_path / "run.toml").write_text("[measure]\n" + text)
    group = click.Context(main, info_name="marginkit")
    arguments = ["--config", str(tmp_path / "run.toml")]
    found = main.commands["measure"].make_context("measure", arguments, parent=group).params["options"]
    assert found == tuple(tuple(pair.split("=", 1)) for pair in expected)


def test_one_file_configures_several_commands_and_may_begin_with_a_mark(tmp_path):
    text = "seed = 4\n[train]\nepochs = 3\n[measure]\nlimit = 5\nseed = 6\n[compare]\nstrict = true\n"
    (tmp_path / "run.toml").write_bytes(b"\xef\xbb\xbf" + text.encode())
    group = click.Context(main, info_name="marginkit")
    arguments = ["--config", str(tmp_path / "run.toml")]
    train, measure, compare = (
        main.commands[name].make_context(name, list(arguments), parent=group).params
        for name in ("train", "measure", "compare")
    )
    assert (train["seed"], train["epochs"], measure["seed"], measure["limit"]) == (4, 3, 6, 5)
    assert (compare["seed"], compare["strict"]) == (4, True)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("limits = 5", "sets 'limits', which measure does not have"),
        ("[measure]\nconfig = 'x'", "sets 'config', which measure does not have"),
        ("[measurement]\nlimit = 5", "sets 'measurement', which measure does not have"),
        ("resume = 'yes'", "sets 'resume' to 'yes'; expected true or false"),
        ("limit = {a = 1}", "sets 'limit' to {'a': 1}; expected a number, text, or a list of those"),
        ("limit = 'many'", "'many' is not a valid integer"),
        ("measure = 3", "sets 'measure', which measure does not have"),
    ],
)
def test_what_a_file_may_not_set_is_one_sentence(tmp_path, text, message):
    (tmp_path / "run.toml").write_text(text)
    found = CliRunner().invoke(main, ["measure", "--config", str(tmp_path / "run.toml")])
    assert found.exit_code == 2
    assert message in " ".join(found.output.split())


def test_truth_in_lists_is_written_as_options_take_it():
    option = click.Option(["--option"], multiple=True)
    assert as_given(option, {"large-margin": {"differentiate_norm": True}}) == [
        "large-margin.differentiate_norm=true"
    ]


@pytest.mark.parametrize("command", ["train", "measure", "evaluate", "compare", "show", "tighten"])
def test_figures_are_not_written_over_and_nothing_is_done_before(tmp_path, command, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("old.json").write_text("{}")
    arguments = ["t.h5"] if command in ("show", "tighten") else []
    found = CliRunner().invoke(main, [command, *arguments, "--json", "old.json"])
    assert found.exit_code == 1
    assert "old.json exists: choose another name, or add --overwrite" in " ".join(found.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["old.json"]


def test_evaluate_looks_at_the_bounds_given(tmp_path, checkpoint_path):
    def told(*more):
        arguments = ["evaluate", "--model", str(checkpoint_path), "--noise", "0,0.3", "--json", "-", *more]
        found = CliRunner().invoke(main, arguments)
        assert found.exit_code == 0, found.output
        return json.loads(found.stdout)["accuracy"]["0.3"]

    assert told("--bounds", "none") != told("--bounds", "0,1") == told()


# Streams --------------------------------------------------------------------------------------------


def run(command: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    given = f'marginkit() {{ "{sys.executable}" -m marginkit_cli "$@"; }}; {command}'
    env = {**os.environ, **environment}
    return subprocess.run(["bash", "-c", given], cwd=cwd, env=env, capture_output=True, check=False)


@pytest.mark.parametrize(
    "command",
    [
        "marginkit methods | true; exit ${PIPESTATUS[0]}",
        "marginkit methods 2>&-",
        "marginkit show missing.h5 2>&-; test $? = 1",
        "marginkit methods >&-",
    ],
    ids=["closed pipe", "no stderr", "error without stderr", "no stdout"],
)
def test_streams_that_are_closed_are_no_errors(tmp_path, command):
    done = run(command, tmp_path)
    assert done.returncode == 0, done.stderr
    assert b"Traceback" not in done.stderr
    assert b"rror" not in done.stderr


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_of_ascii_shows_every_name(tmp_path, environment):
    done = run("marginkit show Größe.h5", tmp_path, PYTHONCOERCECLOCALE="0", **environment)
    assert done.returncode == 1
    assert b"no such table" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.parametrize("missing", ["stdout", "stderr"])
def test_a_program_without_streams_may_call_the_command(monkeypatch, missing):
    monkeypatch.setattr(sys, missing, None)
    with pytest.raises(SystemExit) as ended:
        main(["methods"])
    assert ended.value.code == 0
    assert getattr(sys, missing) is None


def test_rich_output_survives_a_reader_that_leaves(monkeypatch):
    class Gone(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    from marginkit_cli.output import show

    monkeypatch.setattr(sys, "stdout", Gone())
    show(["one", "two"], quiet=False)


# Layers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [LOSSES["large-margin"](layers=("hidden",))])
def test_hidden_layers_of_a_network_without_any_are_one_sentence(loss):
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    x, y = torch.rand(2, 4), torch.tensor([0, 1])
    with pytest.raises(UsageError, match="layers are hidden, but this model has no hidden stage"):
        loss(model, x, y)
    with pytest.raises(UsageError, match="this model has no hidden stage"):
        resolve_layers(model, (), x)
    assert resolve_layers(model, ("input", "hidden"), x) == ("input",)


@pytest.mark.parametrize("option", ["--layers", "--search-at"])
def test_so_they_are_on_the_command_line(tmp_path, monkeypatch, option):
    monkeypatch.chdir(tmp_path)
    few = ["--arch", "linear", "--epochs", "1", "--loss", "cross-entropy", "-q"]
    assert CliRunner().invoke(main, ["train", *few]).exit_code == 0
    found = CliRunner().invoke(main, ["measure", option, "hidden", "--limit", "3", "--checks", "0"])
    assert found.exit_code == 2
    assert "this model has no hidden stage" in " ".join(found.output.split())
