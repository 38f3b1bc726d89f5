"""Every command that README and docs show: bash expands it, marginkit takes it, and what is quick runs.

A block after a line `<!-- long -->` is expanded and parsed, and not run.
"""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from made_up import model
from marginkit_cli.main import main

from marginkit.table.writing import write

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "artifacts/README.md"]
LAUNCHERS = r"""
marginkit() { printf '%s\036' marginkit "$@"; printf '\035'; }
launch() { while [ "$1" != marginkit ] && [ "$1" != marginkit_cli ]; do shift; done; shift; marginkit "$@"; }
srun() { launch "$@"; }; torchrun() { launch "$@"; }; mkdocs() { :; }; python() { :; }; pip() { :; }
"""
SETTING_UP = ("python3 -m venv", ".venv/bin/")
TABLES = (
    "base",
    "margins",
    "large",
    "a",
    "b",
    "ce-1",
    "ce-2",
    "lm-1",
    "lm-2",
    "cross-entropy",
    "large-margin",
)


@dataclass(frozen=True)
class Block:
    page: str
    text: str
    long: bool


def found() -> list[Block]:
    pattern = re.compile(r"(<!-- long -->\n+)?^```bash\n(.*?)^```", re.DOTALL | re.MULTILINE)
    return [
        Block(page.name, match[2], bool(match[1]))
        for page in PAGES
        for match in pattern.finditer(page.read_text())
    ]


def expanded(text: str, folder: Path) -> list[list[str]]:
    """The marginkit commands that bash would run there."""
    lines = [line for line in text.splitlines() if not line.startswith(SETTING_UP)]
    environment = os.environ | {"SLURM_ARRAY_TASK_ID": "1", "HOST": "node0"}
    script = LAUNCHERS + "\n".join(lines)
    done = subprocess.run(
        ["bash", "-eu"],
        input=script,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [command.split("\x1e")[1:-1] for command in done.stdout.split("\x1d")[:-1]]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shown")
    for seed, name in enumerate(TABLES):
        write(model(40, seed, of=1), folder / f"{name}.h5")
    return folder


@pytest.mark.parametrize("block", found(), ids=lambda block: block.page)
def test_a_command_that_is_shown_works(block, here, monkeypatch):
    monkeypatch.chdir(here)
    commands = expanded(block.text, here)
    assert commands or block.text.startswith(SETTING_UP) or "mkdocs" in block.text or "python" in block.text
    for arguments in commands:
        name, *rest = arguments
        command = main.commands[name]
        if block.long:
            with click.Context(main, info_name="marginkit") as parent:
                command.make_context(name, list(rest), parent=parent)
            continue
        again = [] if name in ("show", "methods", "datasets") else ["--overwrite"]
        result = CliRunner().invoke(main, [name, *rest, *again])
        assert result.exit_code == 0, (arguments, result.output)
